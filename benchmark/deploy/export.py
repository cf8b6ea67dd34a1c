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

from benchmark.deploy import spoken
from benchmark.deploy.acting import Factors, factors
from benchmark.deploy.trained import load
from benchmark.disk import remove, write_bytes
from benchmark.errors import UserError
from benchmark.record.claim import alone_in
from benchmark.record.files import write_text
from benchmark.record.schema import Configuration
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
    """Write what answers a task into the folder ``to``; returns how to load it, in one line.

    Args:
        format: ``peft`` (adapter_config.json, adapter_model.safetensors) or ``open_clip`` (open_clip_config.json,
            open_clip_model.safetensors). Of a vision-language model, which has the first alone, with ``use.py``.
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
    found, experts = factors(trained, trained.task(task))
    building = to.with_name(f".exporting-{to.name}")
    with alone_in(to):
        remove(building)  # of a process that was killed
        try:
            building.mkdir()
            if format == "peft":
                _adapter(experts, found, building)
            else:
                _folded(config, found, building)
            if speaks:
                spoken.add_use(trained, trained.task(task), building)
            for path in building.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)  # some libraries write for their user alone
            building.replace(to)
        finally:
            remove(building)
    if speaks:
        return spoken.command(to)
    if format == "peft":
        tower = "" if experts.tower is trained.method.backbone else ".image"
        return f"PeftModel.from_pretrained(methods.parts.backbones.load({config.backbone!r}){tower}, {str(to)!r})"
    return f"open_clip.create_model({'local-dir:' + str(to)!r})"


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


def _folded(config: Configuration, found: Factors, to: Path) -> None:
    name, model, _ = opened(config.backbone, config.pretrained)
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    for path, (A, B) in found.items():
        key, third = _place(path, state)
        update = B @ A
        rows = slice(None) if third is None else slice(third * len(update), (third + 1) * len(update))
        state[key][rows] += update
    write_bytes(to / "open_clip_model.safetensors", save(state))
    described = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": _preprocess(model)}
    write_text(to / "open_clip_config.json", json.dumps(described, indent=2) + "\n")


def _place(path: str, state: dict[str, Tensor]) -> tuple[str, int | None]:
    """``image.blocks.3.q`` -> the weight in open_clip's model, and which third of it."""
    found = re.fullmatch(r"(?:(image|text)\.)?blocks\.(\d+)\.(\w+)", path)
    assert found is not None, path
    tower, layer, place = found[1] or "image", found[2], found[3]
    before = {"image": ("visual.transformer.resblocks", "visual.trunk.blocks"),
              "text": ("transformer.resblocks", "text.transformer.resblocks")}[tower]  # fmt: skip
    for prefix in before:
        name, third = PLACES["timm" if "trunk" in prefix else "open_clip"][place]
        if f"{prefix}.{layer}.{name}" in state:
            return f"{prefix}.{layer}.{name}", third
    raise UserError(f"{path}: this backbone has no such weight to fold into")


def _preprocess(model: Any) -> dict[str, Any]:
    kept = open_clip.get_model_preprocess_cfg(model)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}
