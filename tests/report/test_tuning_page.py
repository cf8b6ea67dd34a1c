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
from benchmark.report import tuning_page, tuning_plots

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
    rates = sorted(point.lr for point in search.points(card, 5))
    assert search.points(card, 5)[2].lr == rates[-1]  # what is chosen here is the largest that was tried
    assert "The chosen rate is the smallest tried for 0 and the largest for 4 of 4 methods" in page
    assert "tau of the defaults' scores on the tuning stream and on `phantom8`: -0.33 (3 methods)." in page
    assert "| `ncm` | 1 | 0 | 70.0 | 70.0 | +0.0 | the default |" in page and "| `ncm`" in lines
    assert "The mean gain is +10.0 points on the tuning stream and +4.0 here." in page
    missing = page.split("## What is missing")[1]
    assert "no trials for fusion" in missing and "no runs on phantom8 of joint_lora, ncm" in missing
    assert "classification: no trials of cllora" in missing and "not as many each" not in missing
    assert sorted(drawn) == ["classification-best-of-k.svg", "classification-rates.svg"]
    assert all(f"](tuning/{name})" in page and "<svg" in drawn[name] for name in drawn)


def test_panels_are_drawn_on_one_scale() -> None:
    """What is flat looks flat beside the others: panels that scale themselves make a mountain of a tenth of a point."""
    drawn = tuning_plots.rates({"steep": ([(1e-3, 0.2, False), (1e-2, 0.6, True)], 0.2),
                                "flat": ([(1e-3, 0.4, True)], None)})  # fmt: skip
    steep, flat = (axes.get_ylim() for axes in drawn.axes)
    assert steep[1] - steep[0] == pytest.approx(flat[1] - flat[0]) and steep[0] < 20 < 60 < steep[1]
    gains = tuning_plots.best_of({"steep": [0.2, 0.2, 0.6], "flat": [0.4, 0.401]})
    assert gains.axes[0].get_ylim() == gains.axes[1].get_ylim()
    assert [round(float(y), 3) for y in gains.axes[0].lines[0].get_ydata()] == [0, 0, 40]
    assert drawn.get_supylabel() == "score (%)" and gains.get_supylabel() == "gain (points)"


def test_of_a_method_whose_trials_all_failed_there_is_a_line_and_no_panel(tmp_path: Path) -> None:
    kept(tmp_path)
    known = {name: trials.read(tmp_path, name) for name in METHODS}
    known["ewc"] = [replace(trial, status="failed", given=None) for trial in known["ewc"]]
    page, drawn = tuning_page.text(known)
    assert "| `ewc` | 5 | 5 | - | - | - |" in page
    assert ">ewc<" not in drawn["classification-rates.svg"] and ">der<" in drawn["classification-rates.svg"]


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
