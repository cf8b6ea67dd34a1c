"""What papers claim of methods, as ``claims.yaml`` says it: which of two is better, at what, with which identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config import registry
from benchmark.data import yaml_files
from benchmark.errors import UserError, shown, unknown
from benchmark.kinds import KINDS
from benchmark.record.schema import PROTOCOLS

FILE = Path(__file__).with_name("claims.yaml")
KEYS = (
    "name", "above", "above_settings", "below", "below_settings", "number", "identity", "kinds", "stream", "source",
    "published", "where",
)  # fmt: skip
NUMBERS = ("last_acc", "forgetting")
EVERY = "every"


@dataclass(frozen=True)
class ClaimedSide:
    """Rows of the leaderboard: a method with these settings, empty for its defaults; ``every``: all other methods."""

    method: str
    settings: str = ""


@dataclass(frozen=True)
class Claim:
    """That ``above`` is better than ``below``; ``published`` says by how much, a fraction, ``where`` on what."""

    name: str
    above: ClaimedSide
    below: ClaimedSide
    number: str
    identity: str
    kinds: frozenset[str]
    stream: str
    source: str
    published: float | None
    where: str


def read(file: Path = FILE) -> list[Claim]:
    """The claims of a file, in its order.

    Raises:
        UserError: it is not readable, or a key or value of it is none.
    """
    content = yaml_files.read(file)
    yaml_files.check_keys(content, ("claims",), str(file))
    entries = content.get("claims")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file}: claims: expected a list of claims, got {shown(entries)}")
    found = [_claim(entry, f"{file}: claims[{place}]") for place, entry in enumerate(entries)]
    names = [claim.name for claim in found]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"{file}: claims[{place}].name: {shown(name)} is the name of another claim")
    return found


def _claim(entry: Mapping[str, Any], where: str) -> Claim:
    yaml_files.check_keys(entry, KEYS, where)
    texts = {key: yaml_files.text_of(entry, key, where) for key in ("name", "above", "below", "stream", "source")}
    number, identity = (
        _one_of(entry, key, valid, where) for key, valid in (("number", NUMBERS), ("identity", PROTOCOLS))
    )
    kinds = yaml_files.texts_of(entry, "kinds", where)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS, f"{where}.kinds")
    for key in ("above", "below"):
        if texts[key] not in registry.names() and (key, texts[key]) != ("below", EVERY):
            raise unknown("method", texts[key], registry.names(), f"{where}.{key}")
    published, settings = entry.get("published"), [entry.get(f"{key}_settings", "") for key in ("above", "below")]
    if not (published is None or (type(published) in (int, float) and 0 < published <= 100)):
        raise UserError(f"{where}.published: expected points above 0 up to 100, or null, got {shown(published)}")
    for key in ("above_settings", "below_settings", "where"):
        if not isinstance(entry.get(key, ""), str):
            raise UserError(f"{where}.{key}: expected text, got {shown(entry[key])}")
    above, below = ClaimedSide(texts["above"], settings[0]), ClaimedSide(texts["below"], settings[1])
    if above == below:
        raise UserError(f"{where}: above and below are the same, {shown(above.method)}")
    return Claim(
        texts["name"], above, below, number, identity, frozenset(kinds), texts["stream"], texts["source"],
        None if published is None else published / 100, entry.get("where", ""),
    )  # fmt: skip


def _one_of(entry: Mapping[str, Any], key: str, valid: Sequence[str], where: str) -> str:
    value = yaml_files.text_of(entry, key, where)
    if value not in valid:
        raise unknown(key, value, valid, where)
    return value
