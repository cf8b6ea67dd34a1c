"""The key of a run: what tells it from others of its method and stream, and under which key an earlier edition kept it.

Seed, order, paths and device are left out: runs of one key are replicates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any

from benchmark.config.class_source import package_folder
from benchmark.config.families import DRAWN, LOCAL, SPEAKING, USUAL
from benchmark.config.registry import MethodCard, part_versions
from benchmark.config.run_config import RunConfig, canonical
from benchmark.disk import below
from benchmark.errors import UserError
from benchmark.record.schema import LATER, Configuration, Record
from benchmark.record.stored import RECORD, read_record
from benchmark.stream import Budget


def configuration(config: RunConfig, card: MethodCard, precision: str) -> Configuration:
    """All that can change a run's result but the seed and the order, as its record keeps it."""
    weights = weights_identity(config.backbone, config.pretrained)
    return Configuration(**config.resolved(precision), weights=weights, versions=versions(card))


def versions(card: MethodCard) -> dict[str, int]:
    """The versions above 1: of the method, of the budget and of the shared parts that the method imports, by name."""
    every = {"method": card.version, "budget": Budget.version} | part_versions(card)
    return {name: version for name, version in sorted(every.items()) if version != 1}


def run_key(config: Configuration, defaults: Mapping[str, Any], stream_hash: str, weights: str) -> str:
    """12 hex digits: sha256 of what differs from the defaults, of versions above 1, of the stream and the weights.

    Args:
        defaults: of the method's arguments.
        weights: as :func:`weights_identity` tells them.
    """
    usual = {f.name: f.default for f in fields(RunConfig)}
    told = {name: value for name, value in asdict(config).items() if name in usual}
    if "|" not in weights:  # of files: where they lie is not what they are
        told["pretrained"] = None
        told["backbone"] = LOCAL if config.backbone.startswith(LOCAL) else config.backbone
    usual["backbone"] = USUAL
    usual |= {f"method.{name}": value for name, value in defaults.items()}
    told |= {f"method.{name}": value for name, value in config.method_args.items()}
    differing = {
        name: canonical(value)
        for name, value in told.items()
        if name not in ("stream", "method_args") and canonical(value) != canonical(usual.get(name))
    }
    return _digest([differing, dict(config.versions), stream_hash, weights])


def kept_key(folders: Sequence[Path], config: Configuration, defaults: Mapping[str, Any], stream_hash: str) -> str:
    """The key of a run, or the one under which an earlier edition of this suite keeps records of the very same run.

    Args:
        folders: of the method's runs on the stream, each with a folder for every key.
        config: of the run.
    """
    key = run_key(config, defaults, stream_hash, config.weights)
    earlier = (_earlier(folder, key, config.weights, defaults, stream_hash) for folder in folders)
    same = list(dict.fromkeys([key, *chain.from_iterable(earlier)]))

    def kept(each: str) -> int:
        return sum(len(below(folder / each, f"*/{RECORD}")) for folder in folders)

    return max(same, key=kept)  # of equals the run's own


def _earlier(folder: Path, key: str, weights: str, defaults: Mapping[str, Any], stream_hash: str) -> Iterator[str]:
    """The other keys below ``folder`` whose records come to this key today.

    A record that does not say its weights is of an edition whose key was the sha256 of all its settings and of the
    weights, which tells whether they were these.
    """
    for place in below(folder, "*/"):
        record = None if place.name == key else _one_of(place)
        if record is None or record.key != place.name or record.stream.hash != stream_hash:
            continue
        made = record.config
        of_first = not made.weights and _first_key(made, stream_hash, weights) == record.key
        if (of_first or made.weights == weights) and run_key(made, defaults, stream_hash, weights) == key:
            yield place.name


def _one_of(place: Path) -> Record | None:
    """A record of a key, whose settings are those of all; None where none can be read."""
    for file in below(place, f"*/{RECORD}"):
        try:
            return read_record(file)
        except UserError:
            continue
    return None


def _first_key(config: Configuration, stream_hash: str, weights: str) -> str:
    later = LATER["config"]
    told = {name: value for name, value in asdict(config).items() if name not in later or value != later[name]}
    del told["stream"]
    return _digest([canonical(told), stream_hash, weights])


def _digest(described: object) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def weights_identity(backbone: str, pretrained: str | None) -> str:
    """What tells two sets of weights apart: the content of local files, else the name they are published under.

    Raises:
        UserError: the folder of ``local-dir:`` is not there.
    """
    local: Path | None = None
    if backbone in (USUAL, SPEAKING, DRAWN):  # shipped
        local = package_folder() / "weights" / backbone
    elif backbone.startswith(LOCAL):
        local = Path(backbone.removeprefix(LOCAL))
        if not local.is_dir():
            raise UserError(f"--backbone {backbone}: no folder {local}")
    elif pretrained and Path(pretrained).is_file():
        local = Path(pretrained)
    if local is None:
        return f"{backbone}|{pretrained}"
    digest = hashlib.sha256()
    for file in sorted(local.iterdir()) if local.is_dir() else [local]:
        if file.suffix != ".md" and file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()
