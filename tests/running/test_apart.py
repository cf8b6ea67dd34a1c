"""Answers told apart: recall per class, calibration, subgroups, and a table's run with all of it to the CSVs."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmark import cli, kinds
from benchmark.data.batches import Subgrouping
from benchmark.record.parts import SubgroupScore
from benchmark.record.stored import read_record
from benchmark.running.answers.apart import subgroup_scores
from benchmark.running.answers.classification import (
    calibration_error,
    class_confusion,
    class_recalls,
    sample_metrics,
    sensitivities,
)
from benchmark.running.answers.question import Cell
from tests.source_files import CLASSES, pixels, save, stream_file, written

OWN = [2, 3, 4]  # of five candidates


@st.composite
def answers(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 5) over candidates 0 to 4, targets (N,) among the task's own three; a class may be missing."""
    samples = draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    targets = torch.tensor(draw(st.lists(st.sampled_from(OWN), min_size=samples, max_size=samples)))
    return draw(st.sampled_from([0.2, 1.0, 5.0])) * torch.randn(samples, 5, generator=generator), targets


@given(answers())
def test_recall_of_every_class(found: tuple[torch.Tensor, torch.Tensor]) -> None:
    """By hand, and its mean over the classes that are there is the balanced accuracy."""
    logits, targets = found
    said = [row.index(max(row)) for row in logits.tolist()]
    mine = class_recalls(torch.tensor(said), targets, torch.tensor(OWN))
    for label, recall in zip(OWN, mine.tolist(), strict=True):
        own = [answer == label for answer, target in zip(said, targets.tolist(), strict=True) if target == label]
        assert recall == pytest.approx(sum(own) / len(own)) if own else np.isnan(recall)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = sample_metrics(logits, targets, torch.tensor(OWN))
    assert np.nanmean(mine) == pytest.approx(scores["balanced_accuracy"], abs=1e-6)


@given(answers())
def test_what_classes_are_taken_for(found: tuple[torch.Tensor, torch.Tensor]) -> None:
    """By hand: rows add up to the samples of a class, the diagonal to its recall."""
    logits, targets = found
    said = logits[:, OWN].argmax(1) + OWN[0]
    counts = class_confusion(said, targets, torch.tensor(OWN))
    pairs = list(zip(targets.tolist(), said.tolist(), strict=True))
    assert counts.tolist() == [[pairs.count((shown, answer)) for answer in OWN] for shown in OWN]
    recalls = class_recalls(said, targets, torch.tensor(OWN))
    shares = [row[k] / sum(row) if sum(row) else np.nan for k, row in enumerate(counts.tolist())]
    assert np.allclose(recalls, shares, equal_nan=True)


@given(answers())
def test_sensitivity_is_the_best_of_all_thresholds_with_the_specificity(
    found: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, targets = found
    own = torch.stack([targets == label for label in OWN], 1)
    mine = sensitivities(logits[:, OWN], own)
    chances = logits[:, OWN].double().softmax(1)
    for k, label in enumerate(OWN):
        of_it, others = chances[targets == label, k].tolist(), chances[targets != label, k].tolist()
        if not of_it or not others:
            assert np.isnan(mine[k])
            continue
        at = [t for t in (-1.0, *of_it, *others) if sum(p <= t for p in others) >= 0.9 * len(others) - 1e-9]
        assert mine[k] == pytest.approx(max(sum(p > t for p in of_it) / len(of_it) for t in at))


def test_a_class_that_always_has_the_same_odds_is_never_found() -> None:
    assert sensitivities(torch.zeros(20, 2), torch.arange(20)[:, None] % 2 == torch.arange(2)).tolist() == [0.0, 0.0]


def test_no_answer_has_no_recall_and_no_calibration() -> None:
    targets, own = torch.tensor([0, 1]), torch.tensor([0, 1])
    assert np.isnan(class_recalls(torch.tensor([0, -1]), targets, own)).all()
    scores = sample_metrics(torch.full((2, 2), torch.nan), targets, own)
    assert set(scores) == set(kinds.of("classification").metrics) and np.isnan(scores["ece"])


@given(answers())
def test_calibration_against_torchmetrics(found: tuple[torch.Tensor, torch.Tensor]) -> None:
    """No confidence here is an end of a bin, where the two differ: there 1.0 has a bin of its own."""
    logits, targets = found
    expected = multiclass_calibration_error(logits.softmax(1), targets, num_classes=5, n_bins=15, norm="l1")
    assert calibration_error(logits, targets) == pytest.approx(expected.item(), abs=1e-5)


def test_calibration_is_of_the_softmax_of_whatever_a_method_gives() -> None:
    """Scores that happen to lie between 0 and 1 are no probabilities; 1.0 counts with the other sure answers."""
    scores, targets = torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 0])
    sure = 1 / (1 + np.exp(-0.8))
    assert calibration_error(scores, targets) == pytest.approx(1 - sure)
    assert calibration_error(scores + 7, targets) == pytest.approx(1 - sure, abs=1e-6)
    logits = torch.tensor([[200.0, 0.0], [3.0, 0.0]])  # both above 14/15
    assert calibration_error(logits, torch.tensor([0, 1])) == pytest.approx((1 + 1 / (1 + np.exp(-3))) / 2 - 0.5)


def test_nothing_takes_calibration_for_a_score_that_is_the_better_the_higher() -> None:
    for kind in kinds.KINDS.values():
        assert "ece" not in (*kind.measures, *kind.board) and kind.primary != "ece"
        assert "ece" not in [metric for _, metric in kind.of_matrix.values()]
        assert ("ece" in kind.last_row) == kind.labelled


# Subgroups

SITE = Subgrouping.by(np.array(["b", "", "b", "a", "a", "b"]))


def test_a_subgroup_has_the_mean_of_its_samples() -> None:
    assert SITE.values == ("", "a", "b")
    cell = Cell({}, {}, np.array([1, 0, 1, 1, 0, 0], bool), subgroups={"site": SITE})
    assert subgroup_scores(cell, SITE) == {
        "": SubgroupScore(1, 0.0), "a": SubgroupScore(2, 0.5), "b": SubgroupScore(3, pytest.approx(2 / 3)),
    }  # fmt: skip
    silent = {"": SubgroupScore(1, None), "a": SubgroupScore(2, None), "b": SubgroupScore(3, None)}
    assert subgroup_scores(None, SITE) == subgroup_scores(Cell({}, {}, None), SITE) == silent
    assert subgroup_scores(cell, SITE.of(np.array([0, 2, 5, 0, 2, 5]))) == {"b": SubgroupScore(6, 0.5)}


def test_a_subgroup_of_retrieval_has_the_mean_of_both_directions() -> None:
    """Four images, then two texts: the directions weigh the same; without a text of its own there is no score."""
    hits = np.array([1.0, 0.5, 0.0, 0.5, 1.0, 0.0])
    found = subgroup_scores(Cell({}, {}, hits, parts=(4, 2)), SITE)
    assert found == {
        "": SubgroupScore(1, None), "a": SubgroupScore(2, pytest.approx((0.5 + 1.0) / 2)),
        "b": SubgroupScore(3, pytest.approx((0.5 + 0.0) / 2)),
    }  # fmt: skip


# A run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of one table, of which the first tells its subgroups apart; a class has no test sample."""
    folder = tmp_path_factory.mktemp("table")
    rows = []
    for i in range(24):
        save(folder / f"{i}.png", pixels(i))
        part = ("train", "train", "val", "test")[i % 4]
        rows.append({"file": f"{i}.png", "finding": CLASSES[i // 4 % 2], "part": part,
                     "site": ("north", "south", "")[i // 4 % 3], "sex": "fm"[i // 12]})  # fmt: skip
    task = {
        "modality": "x-ray", "source": "table", "path": str(written(folder, rows)), "template": "an x-ray of {}.",
        "columns": {"image": "file", "label": "finding", "split": "part"}, "classes": [*CLASSES, "fibrosis"],
        "values": [*CLASSES, "fibrosis"],
    }  # fmt: skip
    tasks = [task | {"name": "told", "subgroups": ["site", "sex"]}, task | {"name": "plain"}]
    stream = stream_file(folder, {"name": "sites", "tasks": tasks})
    line = ["run", "--method", "zero_shot", "--stream", stream, "--results", str(folder / "results"), "--quiet"]
    assert cli.main(line) == 0
    return folder / "results"


def table(results: Path, name: str) -> list[dict[str, str]]:
    text = (results / "leaderboards" / f"sites{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_a_run_keeps_what_its_table_names(results: Path) -> None:
    (file,) = results.glob("runs/sites/zero_shot/*/*/run.json")
    record = read_record(file)
    assert record.class_recall is not None and record.subgroups is not None
    for place, task in enumerate(record.stream.tasks):
        for protocol in ("given", "hidden"):
            recall = record.class_recall[protocol][task.name]
            assert recall[2] is None and len(recall) == 3  # no test sample shows it
            known = [each for each in recall if each is not None]
            assert np.mean(known) == pytest.approx(record.scores["balanced_accuracy"][protocol][-1][place])
    assert record.class_confusion is not None
    for task in record.stream.tasks:
        told, recall = record.class_confusion[task.name], record.class_recall["given"][task.name]
        assert [len(row) for row in told.counts] == [3, 3, 3] and sum(told.counts[2]) == 0
        assert [told.counts[k][k] / sum(told.counts[k]) for k in (0, 1)] == recall[:2]
        assert told.sensitivity[2] is None and None not in told.sensitivity[:2]
    shares = table(results, ".confusion")
    assert {row["protocol"] for row in shares} == {"given"} and len(shares) == 9 * len(record.stream.tasks)
    for row in shares:
        told = record.class_confusion[row["task"]].counts
        labels = next(task.labels for task in record.stream.tasks if task.name == row["task"])
        count = told[labels.index(row["class"])]
        share = count[labels.index(row["answered"])] / sum(count) if sum(count) else None
        assert row["share_mean"] == ("" if share is None else f"{share:.6f}")
    assert len(table(results, ".sensitivity")) == 3 * len(record.stream.tasks)
    assert list(record.subgroups["given"]) == list(record.subgroups["hidden"]) == ["told"]
    assert record.hits is not None
    for protocol, tasks in record.subgroups.items():
        hits = record.hits[protocol]["told"]
        assert hits is not None
        of = {"site": ["north", "south", ""] * 2, "sex": list("fffmmm")}  # of the six test samples, in order
        for column, values in tasks["told"].items():
            assert list(values) == sorted(set(of[column])) and sum(each.n for each in values.values()) == 6
            for value, each in values.items():
                own = [bit for bit, cell in zip(hits.unpacked(), of[column], strict=True) if cell == value]
                assert each == SubgroupScore(len(own), pytest.approx(np.mean(own)))


def test_a_run_reaches_the_tables(results: Path) -> None:
    (file,) = results.glob("runs/sites/zero_shot/*/*/run.json")
    record = read_record(file)
    for row in table(results, ""):
        last, ece = (record.scores[name][row["protocol"]][-1] for name in ("accuracy", "ece"))
        assert float(row["worst_task_mean"]) == pytest.approx(min(last), abs=1e-6)
        assert float(row["ece_mean"]) == pytest.approx(np.mean(ece), abs=1e-6)
    found = table(results, ".recall")
    assert [(row["protocol"], row["task"], row["class"]) for row in found] == [
        (protocol, task, label) for protocol in ("given", "hidden") for task in ("told", "plain")
        for label in (*CLASSES, "fibrosis")
    ]  # fmt: skip
    assert all((row["recall_mean"] == "") == (row["class"] == "fibrosis") and row["n_runs"] == "1" for row in found)
    found = table(results, ".subgroups")
    assert list(found[0])[2:] == [
        "protocol", "task", "column", "value", "n_samples", "accuracy_mean", "accuracy_std", "n_runs",
    ]  # fmt: skip
    assert [(row["column"], row["value"], row["n_samples"]) for row in found if row["protocol"] == "hidden"] == [
        ("sex", "f", "3"), ("sex", "m", "3"), ("site", "", "2"), ("site", "north", "2"), ("site", "south", "2"),
    ]  # fmt: skip
