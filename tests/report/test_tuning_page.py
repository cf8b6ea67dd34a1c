"""tuning.md: the numbers of trials by hand, what is missing, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.compare import choice
from benchmark.config import registry, search
from benchmark.record import trials
from benchmark.record.trials import Trial
from benchmark.report import tuning_page

METHODS = ("der", "ewc", "lwf", "ncm", "joint_lora")


def kept(results: Path, count: int = 5) -> None:
    """Trials of five methods for classification: the third is the best of each, the fourth by its first task."""
    for place, method in enumerate(METHODS):
        card, found = registry.card(method), []
        for number, point in enumerate(search.points(card, count if method != "ncm" else 1)):
            trial = Trial(
                method, "classification", "phantom_tune4", choice.stream_hash("classification"), "phantom-clip",
                search.space(card), number, 0, point.lr, point.args, given=0.4 + 0.1 * place + 0.1 * (number == 2),
                first_given=0.5 + 0.1 * (number == 3), seconds=60.0, first_seconds=15.0, trained=8 * (method != "ncm"),
            )  # fmt: skip
            found.append(replace(trial, status="diverged", note="task a: loss nan") if number == 4 else trial)
            if number in (0, 2, 3) and method in ("der", "ewc", "lwf"):
                runs = [replace(trial, stream="phantom8", stream_hash=choice.hashed("phantom8"), seed=seed,
                                given=[0.5, 0.6, 0.3][place] + 0.02 * number + 0.01 * seed)
                        for seed in ((0, 2, 9) if number == 0 else (0, 2))]  # fmt: skip
                found += runs
        trials.add(results, found)


def test_the_page_says_what_the_trials_say(tmp_path: Path) -> None:
    kept(tmp_path)
    page, drawn = tuning_page.text({name: trials.read(tmp_path, name) for name in METHODS})
    lines = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| `")}
    card = registry.card("ewc")
    chosen = f"lr {search.points(card, 3)[2].lr:g}, strength 50"
    tuned = [line for line in page.splitlines() if line.startswith("| `ewc`")]
    assert tuned[0] == f"| `ewc` | 5 | 1 | 50.0 | 60.0 | +10.0 | {chosen} | 50.0 | 300 | 75 |"
    # of the third seed there is the default alone, so that it is in no mean
    assert tuned[1].startswith("| `ewc` | 2 | 61.0 ± 1.4 | 65.0 ± 1.4 | 67.0 ± 1.4 |")
    assert "21 trials of 5 methods took 21 minutes of training and evaluation, their first tasks 4." in page
    joint = next(line for line in page.splitlines() if line.startswith("| `joint_lora`"))
    assert joint.endswith("| - | 300 | - |")  # it learns all tasks at once: there is no first
    assert "tau of defaults and tuned: 1.00 (3 methods)." in page
    assert "tau of the defaults' scores on the tuning stream and on `phantom8`: -0.33 (3 methods)." in page
    assert "| `ncm` | 1 | 0 | 70.0 | 70.0 | +0.0 | the default |" in page and "| `ncm`" in lines
    missing = page.split("## What is missing")[1]
    assert "no trials for fusion" in missing and "no runs on phantom8 of joint_lora, ncm" in missing
    assert "classification: no trials of cllora" in missing and "not as many each" not in missing
    assert sorted(drawn) == ["classification-best-of-k.svg", "classification-rates.svg"]
    assert all(f"](tuning/{name})" in page and "<svg" in drawn[name] for name in drawn)


def test_the_same_trials_give_the_same_bytes(tmp_path: Path) -> None:
    kept(tmp_path)
    assert cli.main(["tuning", "--results", str(tmp_path)]) == 0
    files = [tmp_path / "tuning.md", *sorted((tmp_path / "tuning").glob("*.svg"))]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert cli.main(["tuning", "--results", str(tmp_path)]) == 0
    assert [file.read_bytes() for file in files] == before and len(files) == 3


def test_without_trials_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tuning", "--results", str(tmp_path)]) == 2
    assert "no trials below" in capsys.readouterr().err
