"""An exported CLIP: what stands beside its weights or its adapter, so that open_clip alone can ask it for classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save

from benchmark.deploy.calibration import Temperature
from benchmark.deploy.trained import Trained
from benchmark.disk import write_bytes
from benchmark.record.files import write_text
from benchmark.stream import Task
from methods.parts.backbones import WEIGHTS

SHIPPED = "phantom-clip"  # had nowhere else
ABOUT, CLASSES = "about.json", "classes.safetensors"
Place = tuple[str, int, int]  # the weight in open_clip's model, and which of its rows
USE = '''"""Classes of images: python use.py IMAGE ... (needs open_clip_torch, and nothing else)."""
import json
import sys
from pathlib import Path

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "about.json").read_text(encoding="utf-8"))
model, _, view = open_clip.create_model_and_transforms({model})
{fold}classes = load_file(HERE / "classes.safetensors")["classes"]
model.eval()
for path in sys.argv[1:]:
    with torch.no_grad():
        features = model.encode_image(view(Image.open(path)).unsqueeze(0), normalize=True)
    chances = (ABOUT["logit_scale"] / ABOUT["temperature"] * features @ classes.T).softmax(-1)[0]
    print(path, ABOUT["classes"][int(chances.argmax())]["name"], f"{{float(chances.max()):.4f}}", sep="\\t")
'''
FOLD = """weights, lora = model.state_dict(), load_file(HERE / "adapter_model.safetensors")
for path, (name, start, stop) in ABOUT["places"].items():
    A, B = (lora[f"base_model.model.{path}.lora_{side}.weight"] for side in "AB")
    weights[name][start:stop] += B @ A
"""


def add_use(
    trained: Trained, task: Task, places: dict[str, Place], to: Path, temperature: Temperature | None = None
) -> None:
    """Write ``use.py`` with the classes of a task as the method compares images with them; without labels nothing.

    Args:
        temperature: by which the logit scale is divided.
        places: of an adapter, by path of the adapted layer; empty where the weights in the folder hold all.
    """
    if not task.labels:
        return
    backbone, config = trained.method.backbone, trained.record.config
    classes = [{"name": label.name, "prompts": list(label.prompts)} for label in task.labels]
    about: dict[str, Any] = {"task": task.name, "modality": task.modality, "classes": classes}
    about["logit_scale"] = backbone.logit_scale.exp().item()
    about["temperature"] = 1.0 if temperature is None else temperature.value
    model = 'f"local-dir:{HERE}"'
    if places:
        about["places"] = places
        model = _base(config.backbone, config.pretrained, to)
    write_text(to / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_bytes(to / CLASSES, save({"classes": backbone.class_features(task.labels).float().contiguous()}))
    write_text(to / "use.py", USE.format(model=model, fold=FOLD if places else ""))


def _base(name: str, pretrained: str | None, to: Path) -> str:
    """What open_clip calls the frozen model, as Python; one that is shipped with this suite alone goes along."""
    if name == SHIPPED:
        (to / "base").mkdir()
        for file in ("open_clip_config.json", "open_clip_model.safetensors"):
            shutil.copyfile(WEIGHTS / name / file, to / "base" / file)
        return 'f"local-dir:{HERE}/base"'
    if pretrained is None and ":" not in name and name.count("/") == 1:
        name, pretrained = name.split("/")
    if name.startswith("local-dir:"):
        name = f"local-dir:{Path(name.removeprefix('local-dir:')).resolve()}"
    if pretrained is not None and Path(pretrained).is_file():
        pretrained = str(Path(pretrained).resolve())
    return f"{name!r}" if pretrained is None else f"{name!r}, pretrained={pretrained!r}"
