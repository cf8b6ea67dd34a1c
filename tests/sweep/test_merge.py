"""Merging: what is missing is copied, what differs is named, and the order of merging leaves no trace."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import cli
from benchmark.compare import leaderboard
from benchmark.record.folder import RunFolder
from benchmark.record.schema import Record
from benchmark.record.stored import path_of, read_all, read_record, renamed, run_files
from benchmark.sweep import merge
from tests.made_records import archive, made, save


def changed(record: Record, **provenance: Any) -> Record:
    """The same run with another origin."""
    return replace(record, provenance=replace(record.provenance, **{"device": "cpu (1 threads)"} | provenance))


def files(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((results / "leaderboards").iterdir())}


def content(results: Path) -> dict[str, bytes]:
    return {str(p.relative_to(results)): p.read_bytes() for p in sorted((results / "runs").rglob("*")) if p.is_file()}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def test_missing_records_come_with_all_they_left(here: Path, there: Path) -> None:
    mine, new = made(seed=0), made(seed=1)
    save(here, mine)
    save(there, mine, new, made(seed=2, status="running"))
    source = path_of(there, new)
    (source / "predictions.npz").write_bytes(archive("predictions"))
    (source / "answers.jsonl.gz").write_bytes(b"answers")
    (source / "experts" / "one").mkdir(parents=True)
    (source / "experts" / "one" / "adapter_model.safetensors").write_bytes(b"weights")
    merged = merge.merge(there, here)
    assert (merged.copied, merged.same, merged.unfinished, merged.conflicts) == (
        [path_of(here, new)], [path_of(here, mine)], 1, []
    )  # fmt: skip
    assert {name: data for name, data in content(there).items() if "seed2" not in name} == content(here)
    leaderboard.build(save(here.with_name("both"), mine, new))
    assert files(here) == files(here.with_name("both"))
    (row, _) = [line for line in (here / "leaderboards" / "three.csv").read_text().splitlines() if ",ewc," in line]
    assert ",0 1,0," in row  # both seeds
    assert merge.merge(there, here).copied == []


def test_the_folder_of_runs_itself_will_do(here: Path, there: Path) -> None:
    save(there, made())
    assert merge.merge(there / "runs", here).copied == [path_of(here, made())]


def test_a_conflict_is_named_and_nothing_of_it_copied(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = changed(made(), finished="2026-03-01T00:00:00+00:00", fingerprint="cc")
    theirs = changed(made(quality=0.4), finished="2026-04-01T00:00:00+00:00", device="NVIDIA H100")
    other, free = made(seed=1), made(seed=3)
    save(here, ours, other)
    save(there, theirs, changed(other, fingerprint="dd"), free)
    before = content(here)
    assert cli.main(["merge", "--from", str(there), "--results", str(here)]) == 1
    printed = capsys.readouterr().out
    assert "1 copied, 0 here already, 0 unfinished left out, 2 in conflict" in printed
    first, second = [line for line in printed.splitlines() if line.startswith("conflict: ")]
    assert str(path_of(here, ours)) in first and "other scores and code" in first
    assert "here finished 2026-03-01T00:00:00+00:00 on cpu (1 threads) by code cc" in first
    assert "there finished 2026-04-01T00:00:00+00:00 on NVIDIA H100 by code aa" in first
    assert "other code;" in second and "by code dd" in second
    assert before.items() <= content(here).items() and (path_of(here, free) / "run.json").is_file()


@pytest.mark.parametrize(("prefer", "wins"), [("theirs", (True, True)), ("newest", (True, False))])
def test_a_conflict_is_decided_by_preference(prefer: str, wins: tuple[bool, bool], here: Path, there: Path) -> None:
    old, new = "2026-03-01T00:00:00+00:00", "2026-03-01T05:00:00+02:00"  # which is three hours later
    pairs = [
        (changed(made(seed=seed), finished=mine), changed(made(seed=seed, quality=0.4), finished=theirs))
        for seed, (mine, theirs) in enumerate([(old, new), (new, old)])
    ]
    for ours, theirs in pairs:
        save(here, ours)
        save(there, theirs)
        (path_of(here, ours) / "predictions.npz").write_bytes(archive("ours"))
    assert merge.merge(there, here, prefer).conflicts == []
    for (ours, theirs), won in zip(pairs, wins, strict=True):
        kept = read_record(path_of(here, ours))
        assert kept == (theirs if won else ours)
        assert (path_of(here, ours) / "predictions.npz").exists() == (not won)  # they belong to the other numbers


def test_an_unfinished_run_gives_way_to_a_complete_one(here: Path, there: Path) -> None:
    save(here, made(status="running"))
    (path_of(here, made()) / "state").mkdir()
    save(there, made())
    assert merge.merge(there, here).copied == [path_of(here, made())]
    assert read_record(path_of(here, made())) == made()
    assert not (path_of(here, made()) / "state").exists()


def test_a_run_under_way_here_is_left_alone(here: Path, there: Path) -> None:
    save(here, made(status="running"))
    save(there, made())
    with RunFolder(path_of(here, made())).claimed():
        merged = merge.merge(there, here)
    assert merged.copied == [] and "another process is running this" in merged.conflicts[0]
    assert read_record(path_of(here, made())).status == "running"


def test_another_stream_of_the_same_name_keeps_apart(here: Path, there: Path) -> None:
    other = made(seed=5)
    other = replace(other, stream=replace(other.stream, hash="ab" * 32))
    save(here, made())
    save(there, other)
    merge.merge(there, here)
    apart = read_record(here / "runs" / "three@ababab" / "ewc" / "0123456789ab" / "seed5-order0")
    assert apart == renamed(other, "three@ababab")
    assert (here / "leaderboards" / "three@ababab.csv").is_file()
    assert len(merge.merge(there, here).same) == 1  # found again under that name


def test_a_broken_record_is_named_and_the_others_are_copied(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(there, made(seed=0), made(seed=1))
    broken = path_of(there, made(seed=1)) / "run.json"
    broken.write_text("{")
    assert cli.main(["merge", "--from", str(there), "--results", str(here)]) == 1
    said = capsys.readouterr()
    assert "1 copied" in said.out and "1 refused" in said.out and said.err == ""
    assert f"left out: {broken}: not a JSON file" in said.out
    assert read_all(here) == [made(seed=0)]


def test_no_records_is_a_mistake(here: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["merge", "--from", str(there), "--results", str(here)]) == 2
    assert "no records there" in capsys.readouterr().err and not here.exists()
    save(there, made())
    assert cli.main(["merge", "--from", str(there), "--results", str(here), "--prefer", "newst"]) == 2
    assert "did you mean 'newest'?" in capsys.readouterr().err and not here.exists()


def test_a_run_folder_appears_whole(here: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any of its steps, nothing half copied is taken for a record, and merging again ends well."""
    save(there, made(quality=0.1))
    rename, seen = Path.rename, []

    def killed(path: Path, target: Path) -> Path:
        seen.append(leaderboard_or_none(here))
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        merge.merge(there, here)
    assert seen == [[]] and read_all(here) == []
    monkeypatch.setattr(Path, "rename", rename)
    assert merge.merge(there, here).copied and len(read_all(here)) == 1
    assert [p.name for p in (here / "runs").iterdir()] == ["three"]


def leaderboard_or_none(results: Path) -> list[Record]:
    """What a reader finds at this moment."""
    return read_all(results)


@settings(max_examples=6)
@given(data=st.data())
def test_merging_in_any_order_gives_the_same_bytes(data: st.DataObject) -> None:
    """Three machines with some runs in common, of which each measured its own times; one stream's runs in all."""
    machines: list[list[Record]] = [[], [], []]
    every = [made(seed=seed, order=order) for seed in (0, 1) for order in (0, 1)]
    for record in every:
        for number in data.draw(st.sets(st.integers(0, 2), min_size=1), label="machines of a run"):
            cost = replace(record.cost, train_seconds=[1.0 + number] * 3, eval_seconds=[0.5] * 4)
            theirs = changed(record, finished=f"2026-05-0{1 + number}T00:00:00+00:00")
            machines[number].append(replace(theirs, cost=cost))
    orders = [(0, 1, 2), tuple(data.draw(st.permutations(range(3)), label="order"))]
    with tempfile.TemporaryDirectory() as temporary:
        top, results = Path(temporary), []
        for number, found in enumerate(machines):
            save(top / str(number), *found)
        for order in orders:
            results.append(top / f"merged{len(results)}")
            for number in order:
                if machines[number]:
                    assert merge.merge(top / str(number), results[-1]).conflicts == []
        assert files(results[0]) == files(results[1])
        assert content(results[0]) == content(results[1])
        assert len(read_all(results[0])) == len(every)


def test_committed_records_go_through_unchanged(tmp_path: Path) -> None:
    committed = Path(__file__).resolve().parents[2] / "results"
    for path in run_files(committed, "covid_notes3"):
        if read_record(path).complete:
            place = tmp_path / "source" / path.parent.relative_to(committed)
            shutil.copytree(path.parent, place, ignore=shutil.ignore_patterns("state", ".*"))
    merged = merge.merge(tmp_path / "source", tmp_path / "results")
    assert len(merged.copied) >= 20
    assert content(tmp_path / "results") == content(tmp_path / "source")
