"""Trials on disk: each once, whoever adds them and in whatever order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.errors import forget_notices
from benchmark.record import trials
from benchmark.record.trials import Trial

ONE = Trial("ewc", "fusion", "notes", "ab", "phantom-clip", "cd", 0, 0, 0.005, {"strength": 100.0}, given=0.5,
            finished="2026-01-01T00:00:09+00:00")  # fmt: skip


def test_halves_in_any_order_are_the_whole(tmp_path: Path) -> None:
    every = [replace(ONE, trial=n, given=n / 10, seed=seed) for n in range(5) for seed in (0, 1)]
    for name, parts in (("whole", [every]), ("ab", [every[::2], every[1::2]]), ("ba", [every[1::2], every[::2]])):
        added = [trials.add(tmp_path / name, part) for part in parts]
        assert sum(added) == 10 and trials.add(tmp_path / name, every) == 0
    texts = {trials.file_of(tmp_path / name, "ewc").read_bytes() for name in ("whole", "ab", "ba")}
    assert len(texts) == 1 and trials.read(tmp_path / "ab", "ewc") == every
    assert trials.methods_with(tmp_path / "ab") == ["ewc"]


def test_of_two_records_of_one_trial_the_first_finished_stays(tmp_path: Path) -> None:
    early = replace(ONE, given=0.4, finished="2026-01-01T00:00:01+00:00")
    for name, pair in (("one", (ONE, early)), ("other", (early, ONE))):
        for each in pair:
            trials.add(tmp_path / name, [each])
        assert trials.read(tmp_path / name, "ewc") == [early]


@pytest.mark.parametrize("line", ["{", "[]", '{"method": "ewc"}', "null", '{"trial": -1}'])
def test_a_line_that_is_no_trial_is_named_and_left_out(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_notices()
    trials.add(tmp_path, [ONE, replace(ONE, trial=1)])
    file = trials.file_of(tmp_path, "ewc")
    file.write_text(file.read_text() + line + "\n")
    assert [trial.trial for trial in trials.read(tmp_path, "ewc")] == [0, 1]
    assert "ewc.jsonl:3: no trial" in capsys.readouterr().err


def test_trials_of_another_method_are_left_out(tmp_path: Path) -> None:
    trials.add(tmp_path, [ONE])
    trials.file_of(tmp_path, "ewc").rename(trials.file_of(tmp_path, "lwf"))
    assert trials.read(tmp_path, "lwf") == []
