"""What a run is: one frozen value, resolved from defaults, a preset and the command line.

No torch here: ``plan`` must know a run without importing it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from benchmark.config.registry import MethodCard
from benchmark.errors import UserError, shown, unknown
from benchmark.record import shelves
from benchmark.stream import Budget

CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("cosine", "constant"),
    "augment": ("none", "flip", "crop"),
    "sampling": ("proportional", "balanced"),
    "split": ("test", "val"),
    "inputs": ("both", "image", "text"),
    "gallery": ("seen", "task", "all"),
    "over": ("samples", "tokens"),
    "precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "device": ("auto", "cpu", "cuda"),
    "strategy": ("auto", "ddp", "ddp_find_unused_parameters_true"),
    "logger": (None, "csv", "tensorboard", "wandb", "mlflow"),
}
WHOLE = {  # the least and the most of what is a whole number
    "epochs": (1, 1_000_000),
    "batch_size": (1, 2**31 - 1),
    "seed": (0, 2**31 - 1),
    "order": (0, 2**31 - 1),
    "limit": (1, 2**31 - 1),
    "devices": (1, 4096),
}
AUTO = {True: "bf16-mixed", False: "32-true"}  # the precision that ``auto`` picks where there is CUDA, and where not
LONGEST = 2000  # letters
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
WHERE_AND_HOW = (
    "seed", "order", "data", "results", "device", "devices", "strategy", "logger", "force", "force_before",
    "full_evaluation", "keep_images", "quiet",
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig(Budget):
    """One run: a method on a stream. The budget's fields come first; they are the same for every method.

    Args:
        epochs: passes over a task's training set.
        batch_size: samples in a step.
        optimizer: adamw, adam or sgd (momentum 0.9).
        lr: the largest learning rate.
        weight_decay: of the optimiser.
        schedule: cosine (to 0) or constant.
        warmup: part of the steps in which the learning rate rises.
        augment: none, flip, or crop (flip and random resized crop).
        method: a file of methods/, package.module:Class or path/to/file.py.
        stream: a file of datasets/streams/ or the path of a YAML file.
        backbone: phantom-clip, ViT-B-16/openai, hf-hub:..., local-dir:..., or an open_clip architecture; where answers
            are words phantom-llava, hf:OWNER/NAME or local-dir:...; auto: the default of the stream's kind.
        pretrained: tag or weights file for an architecture; refused where the backbone names its weights itself.
        seed: of everything random.
        order: which order of the tasks.
        limit: first n images per split, stratified; such a run is marked and never ranked.
        split: test, or val for tuning (never ranked).
        sampling: of joint training: proportional or balanced.
        inputs: of fusion: both, or image or text alone in training and test (a unimodal baseline).
        gallery: of retrieval with the identity hidden: test items of the tasks seen, of the task alone, or of all.
        over: of answers in words: samples, each the mean of its tokens, or, as released, all tokens of a batch alike.
        precision: auto is bf16-mixed on CUDA and 32-true on a CPU; 16-mixed needs CUDA.
        data: folder in which relative paths of cards are looked up.
        results: folder of runs/ and leaderboards/; tables show those of results/local beside the stored ones.
        device: auto, cpu or cuda.
        devices: how many of them learn together, each a part of every batch.
        strategy: Lightning's name of how they do: ddp.
        logger: csv, tensorboard, wandb or mlflow (Lightning's names): losses and scores, besides the record.
        force: start anew even if the run is complete.
        force_before: start anew what was begun before this time; a sweep's cell that is tried again then continues.
        full_evaluation: compute every cell of the matrix, also those whose answers cannot have changed.
        keep_images: leave the samples that a replay method has kept in the finished run's method.safetensors.
        quiet: print one line, no progress and no tables.
    """

    method: str = ""
    stream: str = "phantom8"
    backbone: str = "auto"
    pretrained: str | None = None
    seed: int = 0
    order: int = 0
    limit: int | None = None
    split: str = "test"
    sampling: str = "proportional"
    inputs: str = "both"
    gallery: str = "seen"
    over: str = "samples"
    precision: str = "auto"
    data: str = "data"
    results: str = shelves.OWN
    device: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    logger: str | None = None
    force: bool = False
    force_before: str | None = None
    full_evaluation: bool = False
    keep_images: bool = False
    quiet: bool = False
    method_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) is None and f.default is not None:
                raise UserError(f"--{f.name}: expected a value, got null")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown(f"--{name}", getattr(self, name), choices)
        if self.pretrained is not None and (
            self.backbone in ("auto", "phantom-clip") or set(":/") & set(self.backbone)
        ):
            raise UserError(
                f"--pretrained {self.pretrained}: backbone {self.backbone!r} says itself which weights; "
                "--pretrained goes with an architecture alone, such as --backbone ViT-B-16"
            )
        for name in WHOLE:
            check_whole(name, getattr(self, name))
        for name in ("stream", "backbone", "pretrained", "data", "results"):
            text = getattr(self, name)
            if text is not None and (not text.strip() or "\0" in text):
                raise UserError(f"--{name}: expected a name, got {shown(text)}")
        kept = {name: getattr(self, name) for name in ("method", "stream", "backbone", "pretrained")}
        for name, value in (kept | {f"method.{name}": value for name, value in self.method_args.items()}).items():
            if isinstance(value, str) and (len(value) > LONGEST or UNPRINTABLE.search(value)):
                raise UserError(f"--{name}: {shown(value)} cannot be kept in a record: it is longer than {LONGEST} "
                                "letters, or has some that are not printed in a line")  # fmt: skip
        if self.force_before is not None:
            try:
                aware = datetime.fromisoformat(self.force_before).tzinfo is not None
            except ValueError:
                aware = False
            if not aware:
                raise UserError(
                    f"--force_before: expected a time with its zone (ISO 8601), got {shown(self.force_before)}"
                )
        for name, fits, wanted in (
            ("lr", 0 < self.lr < math.inf, "a number above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a number of at least 0"),
            ("warmup", 0 <= self.warmup < 1, "a share of the steps, from 0 to below 1"),
        ):
            if not fits:
                raise UserError(f"--{name}: expected {wanted}, got {shown(getattr(self, name))}")

    @property
    def budget(self) -> Budget:
        return Budget(**{f.name: getattr(self, f.name) for f in fields(Budget)})

    def resolved(self, precision: str) -> dict[str, Any]:
        """All that can change a result but the seed and the order; with the precision that ``auto`` stands for."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*WHERE_AND_HOW, "method_args")}
        return kept | {"precision": precision, "method_args": dict(sorted(self.method_args.items()))}

    def settings(self, card: MethodCard) -> str:
        """What differs from the defaults, as it would be typed; empty for the defaults.

        A precision that ``auto`` picks on some device and the marks of unranked runs (limit, split) are no settings:
        what is typed for ``auto`` makes the same run of the same key.
        """
        typed = []
        for f in fields(self):
            if f.name == "precision" and self.precision in AUTO.values():
                continue
            if f.name in (*WHERE_AND_HOW, "method", "stream", "backbone", "limit", "split", "method_args"):
                continue
            if canonical(getattr(self, f.name)) != canonical(f.default):
                typed.append(f"{f.name}={getattr(self, f.name)}")
        for name, value in sorted(self.method_args.items()):
            if canonical(value) != canonical(card.defaults.get(name)):
                typed.append(f"method.{name}={value}")
        return " ".join(typed)


def check_whole(name: str, value: int | None, option: str = "") -> None:
    """Refuse what is no number of this name in the range of :data:`WHOLE`."""
    low, most = WHOLE[name]
    if value is not None and not low <= value <= most:
        bound = f"at least {low}" if value < low else f"at most {most:,}"
        raise UserError(f"--{option or name}: expected a whole number of {bound}, got {shown(value)}")


def canonical(value: Any) -> Any:
    """One form for equal values: 1 and 1.0 are the same setting."""
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value
