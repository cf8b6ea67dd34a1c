"""Which records count, which is the newest, and which runs are a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.compare import entries, leaderboard
from benchmark.config import registry
from benchmark.record import provenance
from benchmark.record.parts import Verified
from benchmark.record.schema import Provenance, Record
from tests.made_records import CONFIG, made

ROOT = Path(__file__).resolve().parents[2]


def dated(day: int, method: str = "ncm", fingerprint: str = "aa", **changes: object) -> Record:
    finished = f"2026-01-{day:02}T00:00:00+00:00"
    return made(method, provenance=Provenance(fingerprint=fingerprint, finished=finished), **changes)


@pytest.mark.parametrize("changes", [{"limit": 10}, {"split": "val"}, {"status": "running"}])
def test_what_does_not_count(changes: dict[str, object]) -> None:
    assert entries.counts(made()) and not entries.counts(made(**changes))


def test_runs_of_a_key_stand_together_and_one_key_is_the_default() -> None:
    cpu = [made(key="0a", seed=seed, order=order) for order in (0, 1) for seed in (0, 1)]
    gpu = [made(key="0b", config=replace(CONFIG, precision="bf16-mixed"))]
    tuned = [made(key="0c", settings="rank=16")]
    found = entries.by_key([*tuned, *gpu, *reversed(cpu)])
    assert found[0] == cpu and found[2] == tuned
    assert found[1] == [replace(gpu[0], settings="precision=bf16-mixed")] and gpu[0].settings == ""


def trained(version: int, seed: int = 0, **method_args: object) -> Record:
    """A run of er without settings, by an earlier version of it or by today's."""
    config = replace(CONFIG, method="er", versions={"method": version} if version > 1 else {}, method_args=method_args)
    return made("er", f"0{version}", seed, config=config)


def test_runs_of_an_earlier_version_are_the_default_only_until_there_is_one_of_todays() -> None:
    """Even if they are more; what they differ in stands in their settings then."""
    earlier, today = [trained(1, seed) for seed in range(3)], [trained(2, candidates="seen")]
    assert registry.card("er").version == 2
    assert entries.by_key(earlier) == [earlier]
    older, newer = entries.by_key([*earlier, *today])
    assert newer == today and [run.settings for run in older] == ["version 1 of method"] * 3
    assert len({run.key for run in older}) == 1, "they keep their key"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (trained(1), "own"), (trained(2, candidates="seen"), "seen"), (trained(2, candidates="own"), "own"),
        (made("ncm"), ""), (made("no_longer"), ""),
        (made("er", kind="retrieval", config=replace(CONFIG, method="er")), ""),  # no labels: nothing to choose from
    ],
    ids=["before", "default", "own", "no choice", "no method", "retrieval"],
)  # fmt: skip
def test_a_row_says_over_which_labels_its_loss_ran(record: Record, said: str) -> None:
    assert [row.candidates for row in leaderboard.rows([record])] == [said] * 2


def test_rows_of_two_methods_with_equal_scores_in_every_shared_cell_are_named() -> None:
    cells = [(order, seed) for order in (0, 1) for seed in (0, 1)]
    ewc = [made("ewc", "0a", seed, order) for order, seed in cells]
    twin = [replace(run, method="lwf", key="0b") for run in ewc[:3]]
    near = [replace(run, method="er", key="0c") for run in ewc[:2]] + [made("er", "0c", 0, 1)]
    apart = made("der", "0d", 5)  # no cell in common with the others
    shuffled = replace(ewc[0], method="l2p", key="0e", permutation=[1, 0, 2])
    again = [replace(run, key="0f", settings="rank=16") for run in ewc]  # of one method it is no news
    unfinished = replace(ewc[0], method="ncm", key="10", status="running")
    records = [*ewc, *twin, *near, apart, shuffled, *again, unfinished]
    later = [replace(each, scores={"primary": each.scores["accuracy"]} | each.scores) for each in records[:1]]
    assert len(entries.alike([*later, *records[1:]])) == len(entries.alike(records))  # what came later is no difference
    pairs = [(a.method, a.key, b.method, b.key) for a, b in entries.alike(records)]
    assert pairs == [("ewc", "0a", "lwf", "0b"), ("ewc", "0f", "lwf", "0b")]


def test_the_code_of_the_tree_is_that_of_method_and_sources() -> None:
    code = entries.code_of(made("ncm", config=replace(CONFIG, method="ncm", stream="phantom8")))
    assert code == provenance.fingerprint(ROOT, registry.card("ncm").file, ["phantom"])
    assert entries.tree_code("ncm", "medical10") not in (None, code)
    assert entries.tree_code("ncm", "no_longer_there") is None and entries.tree_code("no_longer", "phantom8") is None


def test_a_row_is_stale_unless_the_code_made_it_or_one_run_was_verified_with_it() -> None:
    def verified(record: Record, code: str) -> Record:
        stamp = Verified(code, "2026-02-01T00:00:00+00:00")
        return replace(record, provenance=replace(record.provenance, verified=stamp))

    a, b, other = (
        dated(1, fingerprint="old"),
        dated(2, fingerprint="old", seed=1),
        dated(3, fingerprint="other", seed=2),
    )
    assert entries.stale([a, b], "old") == [] and entries.stale([a, b], "new") == [a, b]
    assert entries.stale([verified(a, "new"), b], "new") == []  # it stands for what the same code made
    assert entries.stale([verified(a, "new"), b, other], "new") == [other]
    assert entries.stale([verified(a, "newer"), b], "new") == [verified(a, "newer"), b]
    assert entries.stale([a], None) == [a]
    plug_in = replace(a, config=replace(a.config, method="mine:Drift"))
    assert entries.stale([plug_in], None) == [] and entries.stale([plug_in], "new") == [plug_in]


def test_methods_with_a_stale_row_are_named() -> None:
    ours = entries.tree_code("ncm", "phantom8")
    assert ours is not None
    here = {"config": replace(CONFIG, method="ncm", stream="phantom8")}
    mine, gone = dated(2, "ncm", ours, **here), dated(3, "no_longer_there", "other")
    assert entries.made_by_other_code([mine, gone]) == ["no_longer_there"]
    assert entries.made_by_other_code([mine, dated(1, "ncm", "other", seed=1, **here)]) == ["ncm"]
    assert entries.made_by_other_code([mine, dated(1, "ncm", "other", seed=1, status="running")]) == []


def test_known_groups_come_first() -> None:
    groups = [*reversed(entries.GROUPS), "another", "a new one"]
    assert sorted(groups, key=entries.group_place) == [*entries.GROUPS, "a new one", "another"]
