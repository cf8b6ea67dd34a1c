"""The committed leaderboards are what the committed records say, to the byte."""

import shutil
from pathlib import Path

from benchmark import leaderboard, records

RESULTS = Path(__file__).resolve().parent.parent / "results"


def test_committed_leaderboards_are_rebuilt_from_the_committed_records(tmp_path: Path) -> None:
    streams = sorted({path.parts[-5] for path in records.run_files(RESULTS)})
    assert {"phantom8", "medical10"} <= set(streams)
    for path in records.run_files(RESULTS):
        copy = tmp_path / path.relative_to(RESULTS)
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    rebuilt = leaderboard.build(tmp_path)
    assert {path.name for path in rebuilt} == {path.name for path in (RESULTS / "leaderboards").glob("*.csv")}
    assert {path.name.split(".")[0] for path in rebuilt} == {*streams, "overall"}
    for path in rebuilt:
        committed = RESULTS / path.relative_to(tmp_path)
        assert committed.read_bytes() == path.read_bytes(), committed.name
