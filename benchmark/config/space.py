"""Whether what a run writes has room on the disks it goes to, told before anything starts. No torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark import kinds
from benchmark.config.class_source import package_folder
from benchmark.config.families import LOCAL
from benchmark.config.resolve import Plan
from benchmark.data import cache, sources
from benchmark.data.sources.contents import cache_folder
from benchmark.disk import below
from benchmark.errors import UserError
from benchmark.record.schema import Record
from benchmark.record.shelves import read_from
from benchmark.record.stored import RECORD, read_record
from benchmark.stream import SHORTEST, Framing

TOKEN = 8  # bytes of a token of an answer
HEAD = 1024  # bytes of an array's name and shape in a file
STATES = 4  # a method's state stands here so often at a time: two phases, a checkpoint with its optimiser


@dataclass(frozen=True)
class Room:
    """Bytes that ``what`` needs in a folder, and that are free there."""

    what: str
    folder: Path
    needed: float
    free: float

    @property
    def line(self) -> str:
        """``the image cache: 3.1 GiB in /cache, where 1.2 GiB are free``."""
        missing = "" if self.needed <= self.free else ": too little"
        return f"{self.what}: {spoken(self.needed)} in {self.folder}, where {spoken(self.free)} are free{missing}"


def check(plan: Plan, size: int, framing: Framing = SHORTEST) -> None:
    """Refuse a run that cannot have room.

    Args:
        size: pixels of a side, as the backbone takes them; ``framing`` how it has images fitted to that.

    Raises:
        UserError: naming what is needed and what is free.
    """
    for room in rooms(plan, size, framing):
        if room.needed > room.free:
            raise UserError(room.line)


def rooms(plan: Plan, size: int | None, framing: Framing = SHORTEST) -> list[Room]:
    """What the run's images take in the cache, and the run in the results; of one disk together, if not one of them is
    too much by itself.

    What is not known in advance is not counted: images of a size that only the backbone tells, of a source that must be
    read to be counted, the state of a method of which there is no record.
    """
    needs = [
        ("the image cache", cache_folder(), _images(plan, size, framing)),
        ("the run", Path(plan.config.results), _predictions(plan) + STATES * _stored(plan)),
    ]
    found = [Room(what, folder, needed, _disk(folder)[1]) for what, folder, needed in needs]
    disks = [_disk(folder)[0] for _, folder, _ in needs]
    together = sum(room.needed for room in found)
    if disks[0] == disks[1] and max(room.needed for room in found) <= found[0].free < together:
        return [Room("the image cache and the run", cache_folder(), together, found[0].free)]
    return [room for room in found if room.needed]


def image_size(backbone: str, pretrained: str | None) -> int | None:
    """Pixels of a side that a backbone takes, as far as a file of this machine tells."""
    try:
        config = described(backbone)
        size = config.get("model_cfg", config)["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, list) else size)
    except (ValueError, TypeError, LookupError, AttributeError):
        return None  # the backbone itself says what is wrong with it


def framing(backbone: str) -> Framing:
    """How a backbone has images fitted to that size, as far as a file of this machine tells; else open_clip's usual."""
    told: Any = described(backbone).get("preprocess_cfg") or {}
    keys = {"mode": "resize_mode", "interpolation": "interpolation", "fill": "fill_color"}
    try:
        return Framing(**{ours: told[name] for ours, name in keys.items() if name in told})
    except (ValueError, TypeError):
        return SHORTEST


def described(backbone: str) -> dict[str, Any]:
    """A backbone's open_clip configuration; empty where no file of this machine has it."""
    spec = find_spec("open_clip")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if backbone == "phantom-clip":
        file = package_folder() / "weights" / backbone / "open_clip_config.json"
    elif backbone.startswith(LOCAL):
        file = Path(backbone.removeprefix(LOCAL)) / "open_clip_config.json"
    elif ":" not in backbone and places:
        file = Path(places[0]) / "model_configs" / f"{backbone.split('/')[0]}.json"
    else:
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def spoken(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"


def _images(plan: Plan, size: int | None, framing: Framing) -> int:
    """Bytes of the tasks' images that are not in the cache yet."""
    if size is None:
        return 0
    due = dict(zip(plan.samples, plan.sources, strict=True))
    missing = [source for samples, source in due.items() if not cache.place(samples, size, framing).is_dir()]
    return sum(sum(sources.counts(source).values()) for source in missing) * 3 * size * size


def _predictions(plan: Plan) -> int:
    """Bytes, at most: of every task after every stage, in a file for each stage and then in one."""
    total, stages = 0, len(plan.stream) + 1
    for task, source in zip(plan.stream, plan.sources, strict=True):
        kind = kinds.of(task.kind)
        told = sources.dialogue(source)[plan.config.split] if kind.speaks else ()
        count = len(told) if kind.speaks else sources.counts(source).get(plan.config.split, 0)
        count = count if plan.config.limit is None else min(count, plan.config.limit)
        given = 2 * len(task.labels) if kind.labelled else 8
        given = TOKEN * task.max_new_tokens if kind.speaks else given
        total += 2 * stages * (count * (given + 8) + 2 * HEAD)
    return total


def _stored(plan: Plan) -> int:
    """Bytes of the method's state, at most, in earlier records of it on this backbone."""
    sizes = [0]
    for record in _records(plan):
        if record.backbone == plan.config.backbone:
            sizes += record.cost.stored_bytes
    return max(sizes)


def _records(plan: Plan) -> Iterator[Record]:
    places = read_from(Path(plan.config.results))
    for file in (file for place in places for file in below(place, f"runs/*/{plan.card.name}/*/*/{RECORD}")):
        try:
            yield read_record(file)
        except UserError:
            continue  # it is told where it counts


def _disk(folder: Path) -> tuple[int, int]:
    """The number of the disk that a folder is on, or will be, and its free bytes."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.stat(there).st_dev, shutil.disk_usage(there).free
