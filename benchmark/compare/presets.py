"""Under which names of settings a row stands: default, tuned, official. Told from the values of its runs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from benchmark.compare.rows import DEFAULT
from benchmark.config import tuned
from benchmark.config.key import versions
from benchmark.config.registry import MethodCard
from benchmark.config.run_config import RunConfig, canonical
from benchmark.errors import UserError, notice
from benchmark.record.schema import Record
from benchmark.stream import Budget

TUNED, OFFICIAL = tuned.PRESET, "official"
PRESETS = (DEFAULT, TUNED, OFFICIAL)
LEARNING = (*(f.name for f in fields(Budget)), "sampling", "inputs", "gallery", "over")


def presets(record: Record, card: MethodCard | None) -> tuple[str, ...]:
    """Of these names those of a row, by one of its runs, in the order of ``PRESETS``.

    Args:
        record: as :func:`benchmark.compare.entries.by_key` names its settings; those of the default row have none.
        card: what the working tree says of the method; None where it has it no more.
    """
    found = [DEFAULT] if record.settings == "" else []
    if card is not None and record.config.versions == versions(card):
        values = _tuned(record, card)
        if values is not None and _has(record, card, values):
            found.append(TUNED)
        if any(_has(record, card, preset) for preset in card.presets.values()):
            found.append(OFFICIAL)
    return tuple(found)


def _tuned(record: Record, card: MethodCard) -> Mapping[str, Any] | None:
    """What the method is tuned to for the record's kinds of task; None where it is not."""
    section = tuned.section_of([kind.name for kind in record.stream.kinds], record.backbone)
    try:
        known = tuned.sections(card)
    except UserError as error:
        notice(f"left out: {error}")
        return None
    values: Mapping[str, Any] | None = known[section]["values"] if section in known else None
    return values


def _has(record: Record, card: MethodCard, values: Mapping[str, Any]) -> bool:
    """Whether a run had these values, and the defaults of today besides."""
    usual = {f.name: f.default for f in fields(RunConfig) if f.name in LEARNING}
    wanted = usual | {name: value for name, value in values.items() if name != "method"}
    own = card.defaults | dict(values.get("method", {}))
    made = {name: record.config.value(name) for name in wanted}
    args = card.defaults | record.config.method_args
    return canonical(made) == canonical(wanted) and canonical(args) == canonical(own)
