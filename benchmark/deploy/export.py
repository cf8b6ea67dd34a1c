"""A task's LoRA out of a run: as a PEFT adapter, or folded into open_clip weights that need nothing of this suite.

What is exported is what acts when the task is answered with its identity given (:mod:`benchmark.deploy.acting`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor

from benchmark.deploy import spoken, standalone
from benchmark.deploy.acting import Factors, factors
from benchmark.deploy.calibration import Temperature, kept
from benchmark.deploy.model_card import card
from benchmark.deploy.trained import Trained, load
from benchmark.disk import remove, write_bytes
from benchmark.errors import UserError
from benchmark.record.claim import alone_in
from benchmark.record.files import write_text
from benchmark.stream import Task
from methods.parts.backbones import opened
from methods.parts.experts import Experts

PLACES = {  # of open_clip's and timm's blocks: name of the weight, and which third of it where q, k, v are fused
    "open_clip": {"q": ("attn.in_proj_weight", 0), "k": ("attn.in_proj_weight", 1), "v": ("attn.in_proj_weight", 2),
                  "out": ("attn.out_proj.weight", None), "fc1": ("mlp.c_fc.weight", None),
                  "fc2": ("mlp.c_proj.weight", None)},
    "timm": {"q": ("attn.qkv.weight", 0), "k": ("attn.qkv.weight", 1), "v": ("attn.qkv.weight", 2),
             "out": ("attn.proj.weight", None), "fc1": ("mlp.fc1.weight", None), "fc2": ("mlp.fc2.weight", None)},
}  # fmt: skip


def export(run: Path, task: str, to: Path, format: str = "peft", method: str | None = None) -> str:
    """Write what answers a task into the folder ``to``; returns how it is asked and loaded, in one line.

    Beside the adapter or the weights stand a ``README.md`` that says what they are and, where the task has classes or
    is answered in words, a ``use.py`` that needs nothing of this suite.

    Args:
        format: ``peft`` (adapter_config.json, adapter_model.safetensors) or ``open_clip`` (open_clip_config.json,
            open_clip_model.safetensors). Of a vision-language model there is the first alone.
        method: the plug-in that made the run, ``package.module:Class``, if one did: it is imported.

    Raises:
        UserError: no such run or task, ``to`` is not empty, or the answer is more than a LoRA in the backbone.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: there is something already")
    trained = load(run, method)
    speaks, config = trained.method.backbone.speaks, trained.record.config
    if speaks and format != "peft":
        raise UserError(f"--format {format}: {run} learned on the vision-language model {config.backbone}, which is no "
                        "CLIP: --format peft")  # fmt: skip
    chosen = trained.task(task)
    found, experts = factors(trained, chosen)
    temperature = kept(run, chosen)
    building = to.with_name(f".exporting-{to.name}")
    with alone_in(to):
        remove(building)  # of a process that was killed
        try:
            building.mkdir()
            if format == "peft":
                _adapter(experts, found, building)
            if speaks:
                spoken.add_use(trained, chosen, building)
            else:
                _for_open_clip(trained, chosen, found, format, building, temperature)
            write_text(building / "README.md", card(trained.record, chosen, temperature))
            for path in building.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)  # some libraries write for their user alone
            building.replace(to)
        finally:
            remove(building)
    if speaks:
        return spoken.command(to)
    use = f"python {to / 'use.py'} IMAGE ...    or " if chosen.labels else ""
    if format == "peft":
        tower = "" if experts.tower is trained.method.backbone else ".image"
        return f"{use}PeftModel.from_pretrained(methods.parts.backbones.load({config.backbone!r}){tower}, {str(to)!r})"
    return f"{use}open_clip.create_model({'local-dir:' + str(to)!r})"


def _for_open_clip(
    trained: Trained, task: Task, found: Factors, format: str, to: Path, temperature: Temperature | None
) -> None:
    """The weights with the update folded in, or where open_clip alone has to fold it; and how it is asked."""
    config = trained.record.config
    name, model, _ = opened(config.backbone, config.pretrained)
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    places = {path: _place(path, state, len(B)) for path, (_, B) in found.items()}
    if format == "open_clip":
        for path, (A, B) in found.items():
            key, start, stop = places[path]
            state[key][start:stop] += B @ A
        write_bytes(to / "open_clip_model.safetensors", save(state))
        described = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": _preprocess(model)}
        write_text(to / "open_clip_config.json", json.dumps(described, indent=2) + "\n")
    standalone.add_use(trained, task, places if format == "peft" else {}, to, temperature)


def _adapter(experts: Experts, found: Factors, to: Path) -> None:
    tensors, rank = {}, 0
    for path, (A, B) in found.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = B.contiguous()
        rank = len(A)
    write_bytes(to / "adapter_model.safetensors", save(tensors))
    config = LoraConfig(r=rank, lora_alpha=rank, bias="none", target_modules=experts.config.target_modules)
    config.inference_mode = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_text(to / "adapter_config.json", json.dumps(plain, indent=1, sort_keys=True, default=str) + "\n")


def _place(path: str, state: dict[str, Tensor], height: int) -> standalone.Place:
    """``image.blocks.3.q``, of this height -> the weight in open_clip's model, and which of its rows."""
    found = re.fullmatch(r"(?:(image|text)\.)?blocks\.(\d+)\.(\w+)", path)
    assert found is not None, path
    tower, layer, place = found[1] or "image", found[2], found[3]
    before = {"image": ("visual.transformer.resblocks", "visual.trunk.blocks"),
              "text": ("transformer.resblocks", "text.transformer.resblocks")}[tower]  # fmt: skip
    for prefix in before:
        name, third = PLACES["timm" if "trunk" in prefix else "open_clip"][place]
        if f"{prefix}.{layer}.{name}" in state:
            return f"{prefix}.{layer}.{name}", (third or 0) * height, ((third or 0) + 1) * height
    raise UserError(f"{path}: this backbone has no such weight to fold into")


def _preprocess(model: Any) -> dict[str, Any]:
    kept = open_clip.get_model_preprocess_cfg(model)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}
