"""A task's LoRA out of a run: as a PEFT adapter, or folded into open_clip weights that need nothing of this suite.

What is exported is what acts when the task is answered with its identity given: one expert, or the sum of several
(stacked LoRA, MSLoRA-CR), which is again one LoRA: sum_i w_i s B_i A_i = [w_1 s B_1 ... w_n s B_n] [A_1; ...; A_n].
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import torch
from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor

from benchmark.deploy.trained import Trained, load
from benchmark.disk import remove, write_bytes
from benchmark.errors import UserError
from benchmark.record.claim import alone_in
from benchmark.record.files import write_text
from benchmark.record.schema import Configuration
from benchmark.stream import Task
from methods.parts.backbones import opened
from methods.parts.experts import Blend, Experts

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
            open_clip_model.safetensors).
        method: the plug-in that made the run, ``package.module:Class``, if one did: it is imported.

    Raises:
        UserError: no such run or task, ``to`` is not empty, or the answer is more than a LoRA in the towers of a CLIP.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: there is something already")
    trained = load(run, method)
    if trained.method.backbone.speaks:
        raise UserError(f"{run}: learned on the vision-language model {trained.record.config.backbone}: what is "
                        "exported is LoRA in the towers of a CLIP")  # fmt: skip
    factors, experts = _factors(trained, trained.task(task))
    building = to.with_name(f".exporting-{to.name}")
    with alone_in(to):
        remove(building)  # of a process that was killed
        try:
            building.mkdir()
            if format == "peft":
                _adapter(experts, factors, building)
            else:
                _folded(trained.record.config, factors, building)
            building.replace(to)
        finally:
            remove(building)
    if format == "peft":
        tower = "" if experts.tower is trained.method.backbone else ".image"
        name = trained.record.config.backbone
        return f"PeftModel.from_pretrained(methods.parts.backbones.load({name!r}){tower}, {str(to)!r})"
    return f"open_clip.create_model({'local-dir:' + str(to)!r})"


def _factors(trained: Trained, task: Task) -> tuple[dict[str, tuple[Tensor, Tensor]], Experts]:
    """By path of the adapted layer below the tower: A (R, D_in) and B (D_out, R), their product the whole update."""
    method, name = trained.method, trained.record.method
    experts: Any = getattr(method, "experts", None)
    if not isinstance(experts, Experts):
        raise UserError(f"{name} answers without LoRA experts: there is no adapter to export")
    blend = _acting(trained, experts, task)
    own = {id(layer): place for place, layer in enumerate(experts.layers)}
    factors = {}
    for path, module in experts.tower.named_modules():
        if id(module) in own:
            place = own[id(module)]
            As, Bs = [], []
            for expert, weight in blend.items():
                A, B = (side[place].detach() for side in experts.factors(expert))
                As.append(A)
                Bs.append(B * experts.scale * (weight[place] if isinstance(weight, tuple) else weight))
            factors[path] = torch.cat(As), torch.cat(Bs, dim=1)
    return factors, experts


def _acting(trained: Trained, experts: Experts, task: Task) -> Blend:
    """The experts that are folded into the weights while the task is answered, with their weights.

    Raises:
        UserError: none are, or the answer is not that of a tower with these folded in (prompts, gates, other heads).
    """
    method, name = trained.method, trained.record.method
    size, seen = method.backbone.image_size, []
    pixels = torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = {"image": pixels}
    watch = method.backbone.image.register_forward_pre_hook(
        lambda *_: seen.append((dict(experts.folded), experts.live))
    )
    with torch.no_grad():
        answer_BC = method.scores(batch, task.labels, task) if task.labels else None
        features_BE = method.represent(batch, task)
        watch.remove()
        blend, live = seen[-1] if seen else ({}, None)
        if not blend and live is None:
            raise UserError(f"{name} answers {task.name} without a LoRA: there is no adapter to export")
        blend = blend | ({live: 1.0} if live is not None else {})
        with experts.blend(blend):
            plain_BE = method.backbone.image(method.views(pixels, False))
        own = torch.allclose(features_BE, plain_BE, atol=1e-4)
        if answer_BC is not None:
            expected = method.backbone.logits(plain_BE, method.backbone.class_features(task.labels))
            own = own and torch.allclose(answer_BC.float(), expected.float(), atol=1e-2)
    if not own:
        raise UserError(f"{name} answers with more than LoRA in the towers: an adapter alone would answer otherwise")
    return blend


def _adapter(experts: Experts, factors: dict[str, tuple[Tensor, Tensor]], to: Path) -> None:
    tensors, rank = {}, 0
    for path, (A, B) in factors.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = B.contiguous()
        rank = len(A)
    write_bytes(to / "adapter_model.safetensors", save(tensors))
    config = LoraConfig(r=rank, lora_alpha=rank, bias="none", target_modules=experts.config.target_modules)
    config.inference_mode = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_text(to / "adapter_config.json", json.dumps(plain, indent=1, sort_keys=True, default=str) + "\n")


def _folded(config: Configuration, factors: dict[str, tuple[Tensor, Tensor]], to: Path) -> None:
    name, model, _ = opened(config.backbone, config.pretrained)
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    for path, (A, B) in factors.items():
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
