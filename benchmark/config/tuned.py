"""``methods/tuned/<name>.yaml``: what ``tune`` found best for a method, a section for each kind of task.

A section says the values, and what they were tuned on: the stream and its hash, how many trials, of which space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from benchmark import kinds
from benchmark.config import families
from benchmark.config.registry import MethodCard, methods_folder
from benchmark.data import yaml_files
from benchmark.errors import UserError, shown
from benchmark.record.files import write_text

PRESET = "tuned"
KEYS = (
    "values", "trial", "score", "default_score", "trials", "failed", "stream", "stream_hash", "backbone", "space"
)  # fmt: skip

Section = dict[str, Any]


def path(name: str) -> Path:
    """Of the file of a method; it need not be there."""
    return methods_folder() / "tuned" / f"{name}.yaml"


def section_of(asked: Sequence[str], backbone: str) -> str:
    """Which section goes for a stream of these kinds: what is asked in words is tuned as generation."""
    kind = kinds.joined(asked)
    speaks = kind.speaks or families.speaks(families.by_default(backbone, kind))
    return "generation" if speaks else kind.name


def sections(card: MethodCard) -> dict[str, Section]:
    """Kind -> its section; empty where nothing was tuned.

    Raises:
        UserError: the file is not readable, or says something else than values of the method.
    """
    file = path(card.name)
    return _read(file, file.stat().st_mtime_ns, tuple(card.defaults)) if file.is_file() else {}


@lru_cache(maxsize=256)
def _read(file: Path, written: int, arguments: tuple[str, ...]) -> dict[str, Section]:
    content = yaml_files.read(file)
    yaml_files.check_keys(content, tuple(kinds.KINDS), str(file))
    for kind, section in content.items():
        where = f"{file}: {kind}"
        if not isinstance(section, dict) or not isinstance(section.get("values"), dict):
            raise UserError(f"{where}: expected a section with values, got {shown(section)}")
        yaml_files.check_keys(section, KEYS, where)
        yaml_files.check_keys(section["values"], ("lr", "method"), f"{where}.values")
        own = section["values"].get("method", {})
        if not isinstance(own, dict):
            raise UserError(f"{where}.values.method: expected arguments and values, got {shown(own)}")
        yaml_files.check_keys(own, arguments, f"{where}.values.method")
    return content


def values(card: MethodCard, asked: Sequence[str], backbone: str) -> Mapping[str, Any]:
    """The tuned values for a stream of these kinds, as a preset has them.

    Raises:
        UserError: the method was not tuned for them.
    """
    kind, known = section_of(asked, backbone), sections(card)
    if kind not in known:
        there = f"for {', '.join(known)}" if known else "for nothing"
        raise UserError(f"--preset {PRESET}: {card.name} was tuned {there}, not for {kind}: "
                        f'make tune METHODS={card.name} KINDS={kind}')  # fmt: skip
    chosen: Mapping[str, Any] = known[kind]["values"]
    return chosen


def write(card: MethodCard, found: Mapping[str, Section]) -> Path:
    """Write the sections anew, kinds in the order of :mod:`benchmark.kinds`; what is there of other kinds stays."""
    every = sections(card) | dict(found)
    ordered = {kind: {key: every[kind][key] for key in KEYS} for kind in kinds.KINDS if kind in every}
    about = f"# Made by `make tune METHODS={card.name}` from the trials in results/tuning/{card.name}.jsonl.\n"
    file = path(card.name)
    file.parent.mkdir(exist_ok=True)
    write_text(file, about + yaml.safe_dump(ordered, sort_keys=False, width=120))
    return file
