"""Which records count, which is the newest, and which runs are a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.compare import entries
from benchmark.config import registry
from benchmark.record import provenance
from benchmark.record.schema import Provenance, Record
from tests.made_records import CONFIG, made

ROOT = Path(__file__).resolve().parents[2]


def dated(day: int, method: str = "ncm", fingerprint: str = "aa", **changes: object) -> Record:
    finished = f"2026-01-{day:02}T00:00:00+00:00"
    return made(method, provenance=Provenance(fingerprint=fingerprint, finished=finished), **changes)


@pytest.mark.parametrize("changes", [{"limit": 10}, {"split": "val"}, {"status": "running"}])
def test_what_does_not_count(changes: dict[str, object]) -> None:
    assert entries.counts(made()) and not entries.counts(made(**changes))
    assert entries.newest([made(**changes)]) == {}


def test_the_newest_of_a_method() -> None:
    a, b, c = dated(1, key="0b"), dated(3, key="0a"), dated(2, "ewc")
    later = dated(4, limit=3)
    assert entries.newest([a, later, b, c]) == {"ncm": b, "ewc": c}
    twin = replace(b, seed=1)
    assert entries.newest([twin, b]) == entries.newest([b, twin]) == {"ncm": twin}


def test_runs_of_a_key_stand_together_and_one_key_is_the_default() -> None:
    cpu = [made(key="0a", seed=seed, order=order) for order in (0, 1) for seed in (0, 1)]
    gpu = [made(key="0b", config=replace(CONFIG, precision="bf16-mixed"))]
    tuned = [made(key="0c", settings="rank=16")]
    found = entries.by_key([*tuned, *gpu, *reversed(cpu)])
    assert found[0] == cpu and found[2] == tuned
    assert found[1] == [replace(gpu[0], settings="precision=bf16-mixed")] and gpu[0].settings == ""


def test_a_method_whose_newest_record_is_of_other_code_is_named() -> None:
    ours = provenance.fingerprint(ROOT, registry.card("ncm").file)
    gone = dated(3, "no_longer_there", "other")
    assert entries.made_by_other_code([dated(1, "ncm", "other"), dated(2, "ncm", ours), gone]) == []
    assert entries.made_by_other_code([dated(1, "ncm", ours), dated(2, "ncm", "other")]) == ["ncm"]
    assert entries.made_by_other_code([dated(1, "ncm", ours), dated(2, "ncm", "other", status="running")]) == []


def test_known_groups_come_first() -> None:
    groups = [*reversed(entries.GROUPS), "another", "a new one"]
    assert sorted(groups, key=entries.group_place) == [*entries.GROUPS, "a new one", "another"]
