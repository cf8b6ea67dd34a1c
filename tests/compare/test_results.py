"""The committed leaderboards are what the committed records say, to the byte; but for ``stale``, which says what the
code of the tree that built them had to do with it."""

import csv
import io
import re
import shutil
from pathlib import Path
from statistics import fmean

from benchmark.compare import leaderboard, markdown
from benchmark.compare.entries import by_key
from benchmark.record import stored
from benchmark.record.files import csv_text
from benchmark.record.schema import PROTOCOLS
from tests.committed import committed

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_committed_leaderboards_are_rebuilt_from_the_committed_records(tmp_path: Path) -> None:
    streams = sorted({path.parts[-5] for path in stored.run_files(RESULTS)})
    assert {"phantom8", "medical10"} <= set(streams)
    for path in stored.run_files(RESULTS):
        copy = tmp_path / path.relative_to(RESULTS)
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    rebuilt = leaderboard.build(tmp_path)
    assert {path.name for path in rebuilt} == {path.name for path in (RESULTS / "leaderboards").glob("*.csv")}
    assert {path.name.split(".")[0] for path in rebuilt} == {*streams, "overall"}
    for path in rebuilt:
        committed = RESULTS / path.relative_to(tmp_path)
        assert without_stale(committed) == without_stale(path), committed.name


def without_stale(file: Path) -> str:
    lines = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    kept = [place for place, name in enumerate(lines[0]) if name != "stale"]
    return csv_text([lines[0][place] for place in kept], ([line[place] for place in kept] for line in lines[1:]))


def test_the_tables_of_the_pages_are_what_the_committed_records_say(tmp_path: Path) -> None:
    """Of those alone: who has run a method since has records of their own beside them."""
    for name in committed():
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(RESULTS / name, tmp_path / name)
    found = stored.read_all(tmp_path)
    for file, tables in ((RESULTS.parent / "README.md", 1), (RESULTS / "README.md", 12)):
        page = file.read_text(encoding="utf-8")
        assert page.count("<!-- end -->") == tables
        assert markdown.rewritten(page, found) == page


def test_scores_in_the_docstrings_of_methods_are_those_of_the_records() -> None:
    """The score beside a method's command: the mean over seeds of order 0; another processor moves it a little."""
    for file in sorted((RESULTS.parent / "methods").glob("*.py")):
        found = re.search(
            r"make bench METHOD=(\w+)(?: STREAM=(\w+))? +# last .* (\S+) given, (\S+) hidden", file.read_text()
        )
        if found is None:
            continue
        method, stream, *expected = found.groups()
        mine = [record for record in stored.read_all(RESULTS, stream or "phantom8") if record.method == method]
        runs = [run for row in by_key(mine) for run in row if run.settings == "" and run.order == 0]
        assert runs, method
        for protocol, score in zip(PROTOCOLS, expected, strict=True):
            mean = 100 * fmean(record.number(protocol, "last_acc") for record in runs)
            assert abs(mean - float(score)) < 1, f"{method}, {protocol}: {mean:.1f}, and its docstring says {score}"
