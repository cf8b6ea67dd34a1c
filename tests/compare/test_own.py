"""Own runs beside stored ones: where they go, how they are marked and ranked; what is stored stays as it is."""

from __future__ import annotations

import csv
import io
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import cli, report
from benchmark.compare import claims_page, leaderboard
from benchmark.record.schema import Record
from benchmark.record.shelves import OWN, STORED
from benchmark.record.stored import found_at, read_all, read_record, stream_folder
from benchmark.report import plates
from benchmark.sweep import merge
from tests.made_records import flat, on, save

ROOT = Path(__file__).resolve().parents[2]
MINE, THEIRS = Path(OWN), Path(STORED)
MARKED = "mine (own)"


def content(folder: Path, but: str = "local") -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and but not in path.parts)
    return {str(path): path.read_bytes() for path in files}


def stored() -> list[Record]:
    return [*flat("ewc", "01", 0.9, 0.8), *flat("lwf", "02", 0.7, 0.7), *flat("er", "03", 0.6, 0.5)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with tables of its stored records, and own runs beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plates, "render", lambda *_, **__: ('<svg viewBox="0 0 1 1"></svg>', b""))
    save(THEIRS, *stored(), *(on("four", record) for record in stored()))
    leaderboard.build(THEIRS)
    save(MINE, *flat("mine", "04", 0.8, 0.8), *flat("ewc", "01", 0.95, 0.95))
    return tmp_path


def table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def test_own_rows_are_marked_and_ranked_and_stored_ones_keep_their_rank(here: Path) -> None:
    alone = {row.method: row.rank for row in leaderboard.rows(read_all(THEIRS, "three")) if row.protocol == "given"}
    rows = [row for row in leaderboard.rows(read_all(MINE, "three")) if row.protocol == "given"]
    assert {row.method: row.rank for row in rows if not row.own} == alone == {"ewc": 1.0, "lwf": 2.0, "er": 3.0}
    own = {row.method: row.rank for row in rows if row.own}
    assert own == {MARKED: 1.75, "ewc (own)": 1.0}  # among the others: 2 and, level with ewc, 1.5
    ewc = [run for run in read_all(MINE, "three") if run.method == "ewc" and run.seed == 0]
    places = {run.named: found_at(MINE, run) for run in ewc}
    assert places == {name: place / "runs/three/ewc/01/seed0-order0" for name, place in
                      (("ewc", THEIRS), ("ewc (own)", MINE))}  # fmt: skip


def test_tables_of_own_runs_are_written_beside_and_stored_ones_stay(here: Path, capsys: pytest.CaptureFixture) -> None:
    before = content(THEIRS)
    for verb in ("leaderboard", "claims", "report"):
        assert cli.main([verb]) == 0
    assert content(THEIRS) == before
    assert {path.name for path in (MINE / "leaderboards").iterdir()} == {
        "three.csv", "three.matrix.csv", "three.forgetting.csv", "three.bwt.csv",
    }  # fmt: skip
    assert {row["method"] for row in table(MINE / "leaderboards/three.csv")} >= {"ewc", "ewc (own)", MARKED}
    assert {row["method"] for row in table(MINE / "leaderboards/three.matrix.csv")} >= {"lwf", MARKED}
    printed = capsys.readouterr().out
    assert MARKED in printed and "four" in printed
    assert (MINE / claims_page.NAME).is_file()
    page = (MINE / "report/index.html").read_text(encoding="utf-8")
    assert MARKED in page and "../runs/three/mine/04/seed0-order0/run.json" in page
    assert "../../runs/three/lwf/02/seed0-order0/run.json" in page
    assert "../leaderboards/three.csv" in page and "../../leaderboards/four.csv" in page
    assert MARKED in (MINE / "report/tables/three.tex").read_text(encoding="utf-8")


def test_a_folder_that_is_named_stands_for_itself(here: Path) -> None:
    assert {record.own for record in read_all(THEIRS)} == {False}
    save(Path("out/local"), *flat("mine", "04", 0.8))
    assert [record.named for record in read_all(Path("out/local"))] == ["mine"]
    report.build(Path("out/local"))
    assert MARKED not in Path("out/local/report/index.html").read_text(encoding="utf-8")
    assert {record.named for record in read_all(Path("results/local/"))} >= {"ewc", MARKED}


def test_a_stream_of_that_name_but_other_content_has_another_folder(here: Path) -> None:
    assert stream_folder(MINE, "four", "abcdef0123") == "four@abcdef"
    assert stream_folder(MINE, "four", "ff") == "four"


def test_no_record_says_of_itself_that_it_is_own(here: Path) -> None:
    file = next(MINE.glob("runs/three/mine/*/seed0-*/run.json"))
    assert '"own": ' not in file.read_text(encoding="utf-8")
    again = save(Path("out"), replace(read_record(file), own=True)) / file.relative_to(MINE)
    assert read_record(file) == read_record(again)
    assert {record.own for record in read_all(Path("out"))} == {False}


def test_the_readme_is_written_of_stored_records_alone(here: Path) -> None:
    Path("README.md").write_text("<!-- leaderboard three -->\n<!-- end -->\n")
    assert cli.main(["leaderboard", "--readme", "README.md"]) == 0
    text = Path("README.md").read_text()
    assert "`lwf`" in text and "mine" not in text and "(own)" not in text


def test_another_checkout_is_merged_with_its_own_runs_and_what_is_stored_is_here_already(here: Path) -> None:
    theirs = Path("theirs/results")
    save(theirs, *stored())
    save(theirs / "local", *flat("new", "05", 0.5))
    before = content(THEIRS)
    found = merge.merge(theirs, MINE)
    assert [path.as_posix() for path in found.copied] == ["results/local/runs/three/new/05/seed0-order0"]
    assert len(found.same) == 6 and found.conflicts == found.left_out == []
    assert content(THEIRS) == before
    brought = merge.merge(MINE, THEIRS, "theirs")  # own runs become stored ones where that is asked for
    assert {path.parts[3] for path in brought.copied} == {"mine", "new", "ewc"}
    assert merge.merge(THEIRS, MINE).copied == []


def test_git_keeps_nothing_of_own_results() -> None:
    own = f"{OWN}/runs/phantom8/ncm/0123456789ab/seed0-order0/run.json"
    asked = ["git", "-C", str(ROOT), "check-ignore", own, f"{OWN}/leaderboards/phantom8.csv"]
    assert subprocess.run(asked, capture_output=True).stdout.count(b"\n") == 2
