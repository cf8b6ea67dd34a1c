"""What a record's matrices come to, of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import kinds
from benchmark.record.soundness import LATER_NUMBERS, SUMMARY
from benchmark.record.stored import read_record, run_files
from benchmark.record.summary import MISSING_RATES, missing_rows, summarise
from tests.made_records import made

RESULTS = Path(__file__).resolve().parents[2] / "results"
GIVEN = [[0.25, 0.5], [1.0, 0.5], [0.75, 1.0]]
HIDDEN = [[None, None], [1.0, None], [0.5, 1.0]]
TWO = {"given": GIVEN, "hidden": HIDDEN}


def test_classification_by_hand() -> None:
    kind = kinds.of("classification")
    summary = summarise(kind, {"accuracy": TWO, "macro_f1": TWO})
    assert list(summary["given"]) == [*SUMMARY, *kind.summary]
    assert summary["given"] == {
        "last_acc": 0.875, "avg_acc": 0.8125, "aia": 0.9375, "forgetting": 0.25, "bwt": -0.25, "fwt": 0.0,
        "transfer": 0.5, "learning_acc": 1.0, "worst_task": 0.75, "balanced_acc": None, "macro_auroc": None,
        "macro_f1": 0.875, "ece": None,
    }  # fmt: skip
    assert summary["hidden"]["fwt"] is None and summary["hidden"]["forgetting"] == 0.5


def test_fusion_adds_what_is_lost_without_an_input() -> None:
    kind = kinds.of("fusion")
    halves = {
        "image": {"given": [0.25, 0.5], "hidden": [0.25, None]},
        "text": {"given": [0.75, 0.75], "hidden": [0, 0]},
    }
    summary = summarise(kind, {"accuracy": TWO}, halves)
    assert list(summary["given"]) == [*SUMMARY, *kind.summary, *kind.board]
    given = summary["given"]
    assert given["image_drop"] == 0.875 - 0.375 and given["text_drop"] == 0.875 - 0.75
    assert given["dominance"] == pytest.approx((0.5 - 0.125) / 0.625)
    assert summary["hidden"]["image_drop"] is None and summary["hidden"]["dominance"] is None
    assert list(summarise(kind, {"accuracy": TWO})["given"]) == [*SUMMARY, *kind.summary]


def test_retrieval_adds_both_directions() -> None:
    kind = kinds.of("retrieval")
    summary = summarise(
        kind, {"mean_recall": TWO, "i2t_r1": TWO, "t2i_r10": {name: [*GIVEN[:2], [0.5, 0.25]] for name in TWO}}
    )
    assert list(summary["given"]) == [*SUMMARY, *kind.summary]
    assert (summary["given"]["i2t_r1"], summary["given"]["i2t_forgetting"], summary["given"]["i2t_bwt"]) == (
        0.875, 0.25, -0.25,
    )  # fmt: skip
    assert summary["given"]["t2i_r10"] == 0.375 and summary["given"]["t2i_forgetting"] is None


def test_of_several_kinds_the_numbers_are_of_each_tasks_own_metric() -> None:
    kind = kinds.joined(["generation", "classification"])
    assert (kind.name, kind.primary, kind.withheld, kind.last_row, kind.board) == ("mixed", "primary", (), {}, ())
    alone = {"given": [[None, cell] for _, cell in GIVEN], "hidden": [[None, cell] for _, cell in HIDDEN]}
    summary = summarise(kind, {"primary": TWO, "accuracy": alone, "f1": alone})
    assert list(summary["given"]) == [*SUMMARY]
    assert (summary["given"]["last_acc"], summary["given"]["forgetting"]) == (0.875, 0.25)
    both = kinds.joined(["fusion", "classification", "fusion"])  # which have the same metrics
    assert both.last_row == kinds.of("classification").last_row and both.metrics[1:] == kinds.of("fusion").metrics
    assert kinds.joined(["fusion"]) is kinds.of("fusion")


def test_a_number_that_needs_a_cell_of_another_kind_of_question_is_none() -> None:
    kind, alone = (
        kinds.of("generation"),
        {protocol: [[None, cell] for _, cell in rows] for protocol, rows in TWO.items()},
    )
    summary = summarise(kind, {"primary": TWO, "exact": alone, "f1": TWO})
    assert summary["given"]["exact"] is None and summary["given"]["f1"] == summary["given"]["last_acc"] == 0.875
    assert summarise(kind, {"exact": TWO})["given"]["last_acc"] == 0.875  # without a matrix of its own


def test_committed_summaries_are_those_of_their_matrices() -> None:
    for path in run_files(RESULTS):
        record = read_record(path)
        summary = summarise(record.kind, record.scores, record.missing)
        assert record.summary is not None
        for protocol, numbers in record.summary.items():
            lacking = {*LATER_NUMBERS} - {*numbers}
            assert [name for name in summary[protocol] if name not in lacking] == list(numbers), path
            for name, number in numbers.items():
                again = summary[protocol][name]
                assert again == (None if number is None else pytest.approx(number, abs=1e-12)), (path, protocol, name)


def test_rows_where_inputs_are_missing() -> None:
    row = [0.8, 0.6, 0.4]
    without = {
        "image": {"given": [0.4, 0.2, 0.0], "hidden": [None] * 3},
        "text": {"given": [0.8] * 3, "hidden": [0.1] * 3},
    }
    record = made(kind="fusion", given=[[0.0] * 3, row, row, row], missing=without)
    rows = list(missing_rows(record))
    assert len(rows) == 2 * (1 + 3 * len(MISSING_RATES))
    assert rows[0] == ["given", "none", "0.0", "0.800000", "0.600000", "0.400000", "0.600000"]
    found = {tuple(row[:3]): row[3:] for row in rows}
    assert found["given", "image", "0.5"] == ["0.600000", "0.400000", "0.200000", "0.400000"]
    assert found["given", "text", "1.0"] == ["0.800000", "0.800000", "0.800000", "0.800000"]
    assert found["given", "both", "1.0"] == ["0.600000", "0.500000", "0.400000", "0.500000"]
    assert found["hidden", "image", "0.3"] == [""] * 4
