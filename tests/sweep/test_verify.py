"""Runs made again: the same bytes, a record that was tampered with, and other code beside."""

from __future__ import annotations

import json
import shutil
import subprocess
import zlib
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.cli import main
from benchmark.compare import repeats
from benchmark.config import arguments
from benchmark.record.parts import Provenance, SampleGroups, SampleScores
from benchmark.record.schema import Record
from benchmark.record.stored import read_record, write_record
from benchmark.record.summary import summarise
from benchmark.sweep import beside, verify
from tests.golden_files import GOLDEN
from tests.made_records import made, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def zero_shot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run on ``smoke``."""
    results = tmp_path_factory.mktemp("zero_shot")
    assert main(["run", "--method", "zero_shot", "--stream", "smoke", "--results", str(results), "--quiet"]) == 0
    return results


@pytest.fixture
def results(zero_shot: Path, tmp_path: Path) -> Path:
    shutil.copytree(zero_shot, tmp_path / "results")
    return tmp_path / "results"


def folder_of(results: Path) -> Path:
    (file,) = results.glob("runs/smoke/zero_shot/*/*/run.json")
    return file.parent


def changed(results: Path, **about: Any) -> Record:
    """The record, which another commit made on another machine."""
    record = read_record(folder_of(results))
    other = {"git_sha": "c0ffee", "git_dirty": False, "fingerprint": "other", "device": "cpu (64 threads)"}
    record = replace(record, provenance=replace(record.provenance, **(other | about)))
    write_record(folder_of(results), record)
    return record


def nudged(record: Record, by: float) -> Record:
    """With another number in the accuracy of task 1 after task 2."""
    given = [list(row) for row in record.scores["accuracy"]["given"]]
    given[2][1] = (given[2][1] or 0.0) + by
    accuracy = record.scores["accuracy"] | {"given": given}
    scores = record.scores | {"primary": accuracy, "accuracy": accuracy}
    return replace(record, scores=scores, summary=summarise(record.kind, scores))


def own_commit(monkeypatch: pytest.MonkeyPatch, makes: Record) -> None:
    """As if the record's commit were here, and made this record."""

    def made_by(sha: str, argv: Any, into: Path) -> Path:
        assert sha == "c0ffee" and "--method=zero_shot" in argv
        write_record(into, makes)
        return into

    monkeypatch.setattr(beside, "has_commit", lambda _: True)
    monkeypatch.setattr(beside, "made_by", made_by)


def verified(results: Path, capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["verify", "--results", str(results), *argv]) == code
    return capsys.readouterr().out


def test_the_same_bytes_stamp_the_row(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = changed(results)
    (table,) = (results / "leaderboards").glob("smoke.csv")
    said = verified(results, capsys, "--methods", "zero_shot", "--stream", "smoke")
    assert "[1/1] zero_shot on smoke, seed 0, order 0: it took" in said and "the same bytes: verified with code" in said
    after = read_record(folder_of(results))
    assert after.provenance.verified is not None and after.provenance.verified.device == "cpu (1 threads)"
    assert after == replace(before, provenance=replace(before.provenance, verified=after.provenance.verified))
    assert ",true" not in table.read_text()
    assert "verified" not in before.to_json()["provenance"]


def test_a_stored_record_is_verified_and_stays_and_what_is_run_stands_beside(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parent)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert main(["verify"]) == 0
    said = capsys.readouterr().out
    assert "the same bytes" in said and "make verify RESULTS=results stamps it" in said
    assert main(["run", "--method", "zero_shot", "--stream", "smoke"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    key = folder_of(results).parent.name
    assert f"stored already: results/runs/smoke/zero_shot/{key}/seed0-order0;" in said
    assert f"record results/local/runs/smoke/zero_shot/{key}/seed0-order0/run.json" in said
    assert main(["verify", "--run", f"results/local/runs/smoke/zero_shot/{key}/seed0-order0"]) == 0
    assert read_record(folder_of(results / "local")).provenance.verified is not None
    assert {path: path.read_bytes() for path in before} == before
    fresh = {path.relative_to(results).parts[0] for path in results.rglob("*") if path.is_file() and path not in before}
    assert fresh == {"local"}
    assert main(["plan", "--methods", "zero_shot", "--streams", "smoke", "--seeds", "0,1", "--redo", "all"]) == 0
    said = capsys.readouterr().out
    assert "1 done, 0 unfinished, 1 missing" in said and "1 of these are stored already" in said


def test_another_machine_is_told_from_other_code(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = read_record(folder_of(results))
    write_record(folder_of(results), nudged(changed(results), -0.03125))
    own_commit(monkeypatch, ours)
    said = verified(results, capsys, "--run", str(folder_of(results)), "--no_beside", code=1)
    assert "largest difference 0.03125: accuracy given, stage 2, task " in said
    assert "device cpu (64 threads) and cpu (1 threads)" in said and "torch" not in said
    assert read_record(folder_of(results)).provenance.verified is None
    said = verified(results, capsys, "--run", str(folder_of(results)))
    assert "so the machine is what differs, not the code: verified" in said
    stamp = read_record(folder_of(results)).provenance.verified
    assert stamp is not None and stamp.beside == "c0ffee"
    own_commit(monkeypatch, nudged(ours, -0.03125))  # here too it makes what the record says
    said = verified(results, capsys, "--run", str(folder_of(results)), code=1)
    assert (
        "the code changed the numbers: here commit c0ffee and this tree's code differ: largest difference 0.03125"
        in said
    )


def test_a_tampered_record_is_never_verified(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = read_record(folder_of(results))
    own_commit(monkeypatch, ours)
    write_record(folder_of(results), nudged(changed(results, device=ours.provenance.device), 0.03125))
    said = verified(results, capsys, "--run", str(folder_of(results)), code=1)  # on this very machine
    assert "nothing that records say of versions and machine" in said and "is not what its commit makes" in said
    write_record(folder_of(results), changed(results))
    file = folder_of(results) / "run.json"
    whole = file.read_bytes()
    file.write_text(json.dumps(nudged(read_record(file), 0.03125).to_json()))
    assert main(["verify", "--results", str(results), "--run", str(folder_of(results))]) == 2
    assert "run.json: damaged" in capsys.readouterr().err
    file.write_bytes(whole)
    (folder_of(results) / "accuracy_given.csv").write_text("stage\n")
    said = verified(results, capsys, "--run", str(folder_of(results)), code=1)
    assert "the record contradicts itself: accuracy_given.csv is not what run.json says" in said
    assert read_record(folder_of(results)).provenance.verified is None


def test_what_cannot_be_run_beside_is_said(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for about, reason in (({"git_dirty": True}, "names no commit without changes"), ({}, "c0ffee is not in this")):
        write_record(folder_of(results), nudged(changed(results, **about), -0.03125))
        said = verified(results, capsys, "--run", str(folder_of(results)), code=1)
        assert "largest difference 0.03125" in said and reason in said
        write_record(folder_of(results), nudged(read_record(folder_of(results)), 0.03125))


def test_a_row_whose_method_is_gone_does_not_stop_the_others(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(folder_of(results))
    gone = replace(record, method="gone", config=replace(record.config, method="gone"))
    write_record(results / "runs" / "smoke" / "gone" / gone.key / "seed0-order0", gone)
    said = verified(results, capsys, code=1)
    assert "cannot be made again: unknown method 'gone'" in said and "the same bytes: verified" in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stream", "smke"], "unknown stream 'smke' (did you mean 'smoke'?)"),
        (["--methods", "zeroshot"], "unknown method with records 'zeroshot' (did you mean 'zero_shot'?)"),
        (["--run", "nowhere"], "nowhere: cannot be read"),
        (["--besides"], "--besides"),
    ],
)
def test_bad_input_is_one_line(
    zero_shot: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--results", str(zero_shot), *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_of_each_row_the_first_run_of_each_code(tmp_path: Path) -> None:
    def by(code: str, seed: int, order: int, **changes: Any) -> Record:
        about = Provenance(fingerprint=code, finished="2026-01-01T00:00:00+00:00")
        return made("ncm", "0a", seed, order, provenance=about, **changes)

    save(tmp_path, by("a", 1, 0), by("a", 0, 1), by("b", 0, 2), by("a", 0, 0, limit=3), made("ewc", "0b", 4, 5))
    found = [folder.name for folder in verify.asked(tmp_path, [], None, None)]
    assert found == ["seed4-order5", "seed1-order0", "seed0-order2"]
    assert [folder.name for folder in verify.asked(tmp_path, ["ewc"], "three", None)] == ["seed4-order5"]


def test_the_arguments_make_the_run_whatever_the_defaults_are_now(zero_shot: Path) -> None:
    """Of a record of the first edition too, which lacks what its method takes since."""
    first = GOLDEN / "first_edition_joint_lora.json"
    stored = sorted(ROOT.glob("results/runs/phantom_notes6/*_lora/*/seed0-order0"))
    for file in (folder_of(zero_shot), *stored, first):
        record = read_record(file)
        config, card, _ = arguments.parse("run", verify.words(record), with_class=False)
        assert (config.method, config.seed, config.order) == (record.method, record.seed, record.order)
        since = {"candidates": "own", "capacity": "task"} if file == first else {}
        said = [f"method.{name}={value}" for name, value in since.items() if value != card.defaults[name]]
        assert config.settings(card).split() == [*record.settings.split(), *said]
        assert bool(said) == bool(since) and not since.keys() & record.config.method_args.keys()
        assert config.resolved(record.config.precision)["method_args"] == record.config.method_args | since


def test_a_difference_of_versions_is_told() -> None:
    then = Provenance(python="3.11.7", packages={"torch": "2.14.0", "timm": "1.0"}, device="cpu (1 threads)")
    now = replace(then, packages={"torch": "2.15.0", "timm": "1.0"}, processor="Xeon")
    assert repeats.surroundings(then, now) == ["processor not recorded and Xeon", "torch 2.14.0 and 2.15.0"]
    assert repeats.surroundings(now, now) == []


FAKE = """import sys
from pathlib import Path
given = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
if given["--method"] == "gone":
    sys.exit("error: unknown method 'gone'")
folder = Path(sys.argv[sys.argv.index("--results") + 1]) / "runs" / "s" / "m" / "k" / "seed0-order0"
folder.mkdir(parents=True)
(folder / "run.json").write_text("by the first commit")
"""


def test_another_commit_runs_in_a_worktree_that_goes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    (repository / "benchmark").mkdir(parents=True)
    (repository / "benchmark" / "__main__.py").write_text(FAKE)

    def git(*words: str) -> str:
        command = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    first = git("rev-parse", "HEAD")
    (repository / "benchmark" / "__main__.py").write_text("raise SystemExit(5)\n")
    git("commit", "--quiet", "-am", "second")
    monkeypatch.setattr(beside, "ROOT", repository.resolve())
    assert beside.has_commit(first) and not beside.has_commit("c0ffee")
    folder = beside.made_by(first, ["--method=m"], tmp_path / "results")
    assert (folder / "run.json").read_text() == "by the first commit"
    with pytest.raises(beside.UserError, match="cannot make the run here: unknown method 'gone'"):
        beside.made_by(first, ["--method=gone"], tmp_path / "other")
    with pytest.raises(beside.UserError, match="it left no record"):
        beside.made_by(git("rev-parse", "HEAD"), ["--method=m"], tmp_path / "other")
    assert len(git("worktree", "list").splitlines()) == 1


def test_scores_of_samples_are_compared_as_numbers(tmp_path: Path) -> None:
    """Not by compressed bytes, which differ from one zlib to another; groups that came later are no difference."""
    levels = bytes([0, 85, 170, 255])
    texts = [b64encode(zlib.compress(levels, level)).decode() for level in (0, 9)]
    then, now, other = (
        made(hits={"given": {"skin": SampleScores(4, levels=text)}})
        for text in (*texts, b64encode(zlib.compress(levels[::-1])).decode())
    )
    assert then.hits != now.hits
    now = replace(now, groups={"skin": SampleGroups.packed(np.arange(4) // 2)})
    assert repeats.difference(then, tmp_path, now, tmp_path) is None
    assert repeats.difference(then, tmp_path, other, tmp_path) == "hits differ"
