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
from benchmark.record.schema import Configuration, Record
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
    if card is None or record.config.versions != versions(card):
        return tuple(found)
    if beside_tuned(record, card) == "":
        found.append(TUNED)
    if any(beside(record.config, card, values) == "" for values in card.presets.values()):
        found.append(OFFICIAL)
    return tuple(found)


def beside_tuned(record: Record, card: MethodCard | None) -> str | None:
    """What a run differs in from what its method is tuned to for its kinds of task, as ``settings`` says it of the
    defaults; None where the method is not tuned, or the run is of another version of it."""
    if card is None or record.config.versions != versions(card):
        return None
    section = tuned.section_of([kind.name for kind in record.stream.kinds], record.backbone)
    try:
        known = tuned.sections(card)
    except UserError as error:
        notice(f"left out: {error}")
        return None
    return beside(record.config, card, known[section]["values"]) if section in known else None


def beside(made_with: Configuration, card: MethodCard, values: Mapping[str, Any]) -> str:
    """What a run's settings differ in from these values, and from the defaults of today besides."""
    usual = {f.name: f.default for f in fields(RunConfig) if f.name in LEARNING}
    wanted = usual | {name: value for name, value in values.items() if name != "method"}
    own = card.defaults | dict(values.get("method", {}))
    made = {name: made_with.value(name) for name in wanted}
    args = card.defaults | made_with.method_args
    return " ".join((*_differing(made, wanted, ""), *_differing(args, own, "method.")))


def _differing(made: Mapping[str, Any], wanted: Mapping[str, Any], before: str) -> list[str]:
    return [f"{before}{name}={value}" for name, value in sorted(made.items())
            if name not in wanted or canonical(value) != canonical(wanted[name])]  # fmt: skip
