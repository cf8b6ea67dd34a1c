"""Leaderboards: a row by hand, who is ranked, and the same bytes whatever happens around them."""

from __future__ import annotations

import csv
import io
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import cli
from benchmark.compare import leaderboard, stats
from benchmark.compare.rows import LEADERBOARD
from benchmark.errors import UserError
from benchmark.record.files import write_json
from benchmark.record.parts import SampleGroups, SampleScores, Verified
from benchmark.record.schema import PROTOCOLS, Provenance, Record
from benchmark.record.soundness import LATER_NUMBERS
from benchmark.record.stored import path_of, read_all
from benchmark.record.summary import summarise
from tests.made_records import (
    MIXED,
    QUESTIONS,
    TASKS,
    flat,
    lacking,
    made,
    on,
    save,
    talking,
    told_apart,
    unanswered,
    with_hits,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, str]]


def read(results: Path, suffix: str = ".csv") -> Rows:
    text = (results / "leaderboards" / f"three{suffix}").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def files(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "leaderboards").iterdir()}


def grid() -> list[Record]:
    return [
        made(method, key, seed, order)
        for method, key in (("ewc", "0123456789ab"), ("ewc", "ba9876543210"), ("lwf", "00000000000f"))
        for seed in (0, 1, 10)
        for order in (0, 1)
    ]


def test_a_row_by_hand(tmp_path: Path) -> None:
    first = [[0.3, 0.3, 0.3], [0.9, 0.4, 0.2], [0.8, 0.7, 0.4], [0.6, 0.5, 0.8]]
    second = [[0.3, 0.3, 0.3], [0.7, 0.3, 0.3], [0.7, 0.9, 0.3], [0.9, 0.9, 0.9]]
    newer = Provenance(fingerprint="bb", finished="2026-02-01T00:00:00")
    save(tmp_path, made(given=first), made(seed=1, given=second, provenance=newer))
    written = leaderboard.build(tmp_path)
    assert [path.name for path in written] == ["three.csv", "three.matrix.csv", "three.forgetting.csv", "three.bwt.csv"]
    given, hidden = read(tmp_path)
    low, high = given.pop("last_acc_ci_low"), given.pop("last_acc_ci_high")
    assert given == {
        "rank": "", "method": "ewc", "backbone": "phantom-clip", "key": "0123456789ab", "settings": "",
        "preset": "default", "group": "plain", "protocol": "given", "primary": "accuracy", "n_runs": "2",
        "seeds": "0 1", "orders": "0",
        "last_acc_mean": "0.766667",  # (1.9 / 3 + 2.7 / 3) / 2
        "last_acc_std": "0.188562",  # (0.9 - 0.6333) / sqrt(2)
        "worst_task_mean": "0.700000",  # (0.5 + 0.9) / 2
        "avg_acc_mean": "0.622222",  # (5.3 / 9 + 5.9 / 9) / 2: rows 1 to 3 of each
        "avg_acc_std": "0.047140",  # (0.6556 - 0.5889) / sqrt(2)
        "aia_mean": "0.780556",  # ((0.9 + 0.75 + 0.6333) / 3 + (0.7 + 0.8 + 0.9) / 3) / 2
        "forgetting_mean": "0.075000",  # ((0.3 + 0.2) / 2 + (-0.2 + 0) / 2) / 2
        "forgetting_std": "0.247487", "bwt_mean": "-0.075000", "bwt_std": "0.247487",
        "fwt_mean": "0.050000", "transfer_mean": "0.325000", "learning_acc_mean": "0.816667",
        "balanced_acc_mean": "0.766667", "macro_auroc_mean": "0.766667", "ece_mean": "0.766667",
        "trainable_params": "30", "stored_bytes": "300", "train_seconds_mean": "7.00",
        "eval_seconds_mean": "1.00", "peak_memory_mib": "101.0",
        "candidates": "", "code": "aa bb", "verified": "", "stale": "true",
    }  # fmt: skip
    assert low == high == ""  # without the score of every test sample nothing is said of other samples
    assert hidden["protocol"] == "hidden" and hidden["last_acc_mean"] == "0.766667" and hidden["rank"] == ""
    assert hidden["avg_acc_mean"] == hidden["fwt_mean"] == hidden["transfer_mean"] == ""
    save(tmp_path, made(method="joint_lora", key="0e", group="joint", given=first))
    leaderboard.build(tmp_path)
    joint = next(row for row in read(tmp_path) if row["group"] == "joint")
    assert joint["fwt_mean"] == joint["transfer_mean"] == "" != joint["forgetting_mean"]  # before what it learns next
    header = (tmp_path / "leaderboards" / "three.csv").read_text().splitlines()[0]
    assert header == ",".join(LEADERBOARD)


def test_the_interval_is_of_runs_and_samples() -> None:
    """One run has one, about other samples; of several all have to say how they answered; groups are drawn together."""
    half, more = dict.fromkeys(TASKS, [1, 0] * 8), dict.fromkeys(TASKS, [1, 0] * 7 + [0, 1])
    one, other = with_hits(made(), half), with_hits(made(seed=1), more)

    def ends(*runs: Record) -> tuple[float | None, float | None]:
        row = leaderboard.rows(runs)[0]
        assert row.last_acc_mean == 0.5
        return row.last_acc_ci_low, row.last_acc_ci_high

    error = (0.25 / 15 / 3) ** 0.5  # of three tasks of 16 samples, half of them right
    assert ends(one) == pytest.approx((0.5 - 2.0141 * error, 0.5 + 2.0141 * error), abs=1e-4)  # Student's of 45
    expected = stats.interval([np.array([[half[task], more[task]]]) for task in sorted(TASKS)])[1:]
    assert ends(other, one) == expected and expected[0] < expected[1]
    assert ends(one, replace(other, hits=None)) == (None, None)
    pairs = {task: SampleGroups.packed(np.arange(16) // 2) for task in TASKS}
    assert ends(replace(one, groups=pairs)) == (0.5, 0.5)  # every pair of samples has one right and one wrong
    assert ends(one, replace(other, groups=pairs)) == (0.5, 0.5)  # an older run of the same samples says no groups


def test_hits_of_another_number_give_no_interval() -> None:
    """Of retrieval the row shows the mean recall of both directions; old records kept R@1 of all queries alone."""
    kept = SampleScores.packed(np.array([1, 1 / 3, 2 / 3, 0, 1, 1]), parts=[2, 4])
    assert kept.weighed().mean() == pytest.approx(((1 + 1 / 3) / 2 + (2 / 3 + 0 + 1 + 1) / 4) / 2)
    for score, defined in ((2 / 3, True), (0.5, False)):
        run = made(kind="retrieval", given=np.full((4, 3), score))
        run = replace(run, hits={name: dict.fromkeys(TASKS, kept) for name in PROTOCOLS})
        row = leaderboard.rows([run])[0]
        assert (row.last_acc_ci_low is not None) == (row.last_acc_ci_high is not None) == defined


def test_the_columns_are_the_contract() -> None:
    assert ", ".join(LEADERBOARD) == (
        "rank, method, backbone, key, settings, preset, group, protocol, primary, n_runs, seeds, orders, "
        "last_acc_mean, last_acc_std, last_acc_ci_low, last_acc_ci_high, worst_task_mean, avg_acc_mean, avg_acc_std, "
        "aia_mean, forgetting_mean, forgetting_std, bwt_mean, bwt_std, fwt_mean, transfer_mean, learning_acc_mean, "
        "balanced_acc_mean, macro_auroc_mean, ece_mean, trainable_params, stored_bytes, train_seconds_mean, "
        "eval_seconds_mean, peak_memory_mib, candidates, code, verified, stale"
    )


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    leaderboard.build(save(tmp_path, made()))
    row = read(tmp_path)[0]
    assert row["last_acc_std"] == row["last_acc_ci_low"] == row["last_acc_ci_high"] == row["bwt_std"] == ""
    assert row["stale"] == "true" and row["n_runs"] == "1"  # its stream is none of the tree's


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    many = grid()
    leaderboard.build(save(tmp_path / "a", *many))
    random.Random(1).shuffle(many)
    leaderboard.build(save(tmp_path / "b", *many))
    leaderboard.build(tmp_path / "b", "three")
    assert files(tmp_path / "a") == files(tmp_path / "b") and len(files(tmp_path / "a")) == 4


def test_only_whole_runs_on_test_data_enter(tmp_path: Path) -> None:
    leaderboard.build(save(tmp_path, made()))
    expected = files(tmp_path)
    others = ({"limit": 10}, {"split": "val"}, {"status": "running"})
    save(tmp_path, *(made(seed=seed, **changes) for seed, changes in enumerate(others, 1)))
    assert leaderboard.build(tmp_path) and files(tmp_path) == expected
    shutil.rmtree(tmp_path / "runs" / "three" / "ewc" / "0123456789ab" / "seed0-order0")
    leaderboard.build(tmp_path)
    assert all(text.count(b"\n") == 1 for text in files(tmp_path).values())  # the header alone
    assert leaderboard.build(save(tmp_path / "limited", made(limit=10))) == []
    assert not (tmp_path / "limited" / "leaderboards").exists()
    assert leaderboard.build(tmp_path / "nothing") == []


def test_ranks_and_order(tmp_path: Path) -> None:
    silent = [unanswered(record) for record in flat("needs_id", "06", 0.9, 0.9, group="needs identity")]
    save(
        tmp_path,
        *flat("joint", "01", 0.95, 0.95, group="joint"),
        *flat("tied_b", "02", 0.5, 0.5),
        *flat("tied_a", "03", 0.5, 0.5),
        *flat("low", "04", 0.4, 0.45),
        *flat("tuned", "05", 0.99, 0.99, settings="rank=16"),
        *silent,
        *flat("rival", "0d", 0.8, 0.8, group="needs identity"),
        *flat("large", "07", 0.3, 0.3, backbone="ViT-B-16/openai"),
        *flat("larger", "0b", 0.45, 0.2, backbone="ViT-B-16/openai"),
        *flat("replay", "08", 0.6, 0.6, group="keeps images"),
        *flat("ahead", "09", 0.6, group="needs length"),
        *flat("best", "0a", 0.7, 0.42),
        *flat("once", "0c", 0.98),
    )
    leaderboard.build(tmp_path)
    rows = read(tmp_path)
    found = [(row["rank"], row["method"]) for row in rows if row["protocol"] == "given"]
    assert found == [
        ("1.50", "larger"), ("1.50", "large"),  # of one mean rank: the better mean first
        ("2.00", "tied_a"), ("2.00", "tied_b"),  # 2.5 behind best, then 1.5
        ("2.50", "best"), ("3.50", "low"),
        ("", "tuned"), ("", "once"),  # no rank: by their means
        ("1.00", "needs_id"), ("2.00", "rival"), ("", "replay"), ("", "ahead"), ("", "joint"),
    ]  # fmt: skip
    assert [row["protocol"] for row in rows] == ["given"] * 13 + ["hidden"] * 13
    silence = next(row for row in rows if row["method"] == "needs_id" and row["protocol"] == "hidden")
    assert silence["rank"] == silence["last_acc_mean"] == "" and silence["n_runs"] == "2"
    alone = next(row for row in rows if row["method"] == "rival" and row["protocol"] == "hidden")
    assert alone["rank"] == ""  # its rival has no answer


def test_rank_is_averaged_over_the_cells_that_most_have() -> None:
    a = {(0, 0): 0.9, (0, 1): 0.5, (1, 0): 0.7}
    b = {(0, 0): 0.8, (0, 1): 0.8, (1, 0): 0.7}
    c = {(0, 0): 0.7, (0, 1): 0.6, (1, 0): 0.9, (1, 1): 0.1}  # a cell that only c has counts for nobody
    # a: 1, 3, 2.5; b: 2, 1, 2.5; c: 3, 2, 1
    assert leaderboard.cell_ranks([a, b, c]) == [pytest.approx(6.5 / 3), pytest.approx(5.5 / 3), 2.0]
    short = {(0, 0): 1.0, (0, 1): 1.0}
    assert leaderboard.cell_ranks([short, a, b, c]) == [None, *leaderboard.cell_ranks([a, b, c])]
    assert leaderboard.cell_ranks([short, short, a, b]) == [1.5, 1.5, 3.5, 3.5]  # half is not most: (1, 0) is out
    once = {(0, 0): 0.3}
    assert leaderboard.cell_ranks([once, once, a]) == [None] * 3  # one cell is no replicate
    assert leaderboard.cell_ranks([a]) == [None] and leaderboard.cell_ranks([a, once]) == [None, None]
    assert leaderboard.cell_ranks([]) == []


def test_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaderboard, "code_of", lambda _: "new")
    at = "2026-01-01T10:00:00+00:00"
    runs = {
        "01": [Provenance(fingerprint="new", finished=at)],
        "02": [Provenance(fingerprint="old", finished=at), Provenance(fingerprint="new", finished=at)],
        "03": [
            Provenance(fingerprint="old", finished=at, verified=Verified("new", at)),
            Provenance(fingerprint="old", finished=at),
        ],
    }
    every = [(key, seed, about) for key, row in runs.items() for seed, about in enumerate(row)]
    leaderboard.build(save(tmp_path, *(made(key=key, seed=seed, provenance=about) for key, seed, about in every)))
    assert {row["key"]: (row["code"], row["verified"], row["stale"]) for row in read(tmp_path)} == {
        "01": ("new", "", "false"), "02": ("new old", "", "true"), "03": ("old", "new", "false")
    }  # fmt: skip


def test_matrix_csv_is_of_the_lowest_order(tmp_path: Path) -> None:
    many = [made(seed=seed, order=order) for seed in (0, 1) for order in (0, 1)]
    leaderboard.build(save(tmp_path, *many))
    rows = read(tmp_path, ".matrix.csv")
    names = ["method", "key", "protocol", "stage", "task", "accuracy_mean", "accuracy_std", "n_runs"]
    assert list(rows[0]) == names and len(rows) == 2 * 4 * 3
    a, b = (many[place].matrix("given")[2][1] for place in (0, 2))
    assert a is not None and b is not None
    row = next(row for row in rows if (row["stage"], row["task"], row["protocol"]) == ("2", "retina_oct", "given"))
    assert row["accuracy_mean"] == f"{(a + b) / 2:.6f}" and row["n_runs"] == "2"
    assert row["accuracy_std"] == f"{abs(a - b) / 2**0.5:.6f}"
    row = next(row for row in rows if (row["stage"], row["task"], row["protocol"]) == ("0", "skin", "hidden"))
    assert row["accuracy_mean"] == ""


def test_per_task_csvs_go_by_name_over_all_orders(tmp_path: Path) -> None:
    forward = [[0.0] * 3, [0.9, 0.0, 0.0], [0.8, 0.7, 0.0], [0.6, 0.5, 0.8]]
    backward = [[0.0] * 3, [1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [0.5, 0.7, 0.9]]  # skin, retina_oct, lung_ct
    leaderboard.build(save(tmp_path, made(given=forward), made(order=1, given=backward)))
    rows = [row for row in read(tmp_path, ".forgetting.csv") if row["protocol"] == "given"]
    assert [(row["task"], row["forgetting_mean"], row["forgetting_std"], row["n_runs"]) for row in rows] == [
        ("lung_ct", "0.300000", "", "1"),
        ("retina_oct", "0.150000", "0.070711", "2"),
        ("skin", "0.500000", "", "1"),
    ]
    rows = [row for row in read(tmp_path, ".bwt.csv") if row["protocol"] == "hidden"]
    assert [(row["task"], row["bwt_mean"]) for row in rows] == [
        ("lung_ct", "-0.300000"), ("retina_oct", "-0.150000"), ("skin", "-0.500000"),
    ]  # fmt: skip


def test_recall_and_subgroups_are_means_over_the_runs_that_kept_them(tmp_path: Path) -> None:
    first = told_apart(made(), {"lung_ct": [0.5]}, {"lung_ct": {"sex": {"f": (4, 0.25), "m": (2, 1.0)}}})
    second = told_apart(made(order=1), {"lung_ct": [1.0], "skin": [0.0]}, {"lung_ct": {"sex": {"f": (4, 0.75)}}})
    leaderboard.build(save(tmp_path, first, second, made(seed=1), made("lwf")))
    rows = [row for row in read(tmp_path, ".recall.csv") if row["protocol"] == "given"]
    assert [list(row.values())[3:] for row in rows] == [
        ["lung_ct", "a", "0.750000", "0.353553", "2"],
        ["retina_oct", "a", "", "", "2"],
        ["skin", "a", "", "", "2"],  # the first run has no number there
    ]
    rows = [row for row in read(tmp_path, ".subgroups.csv") if row["protocol"] == "hidden"]
    assert [list(row.values())[:2] + list(row.values())[3:] for row in rows] == [
        ["ewc", "0123456789ab", "lung_ct", "sex", "f", "4", "0.500000", "0.353553", "2"],
        ["ewc", "0123456789ab", "lung_ct", "sex", "m", "2", "1.000000", "", "1"],
    ]
    assert leaderboard.build(save(tmp_path / "old", made()))
    assert not list((tmp_path / "old").rglob("*.recall.csv")) + list((tmp_path / "old").rglob("*.subgroups.csv"))


def test_old_records_have_their_worst_task_by_the_matrix_and_no_calibration(tmp_path: Path) -> None:
    record = made(given=[[0.0] * 3, [0.9, 0.0, 0.0], [0.8, 0.7, 0.0], [0.6, 0.5, 0.8]])
    summary = {
        protocol: {name: number for name, number in numbers.items() if name not in LATER_NUMBERS}
        for protocol, numbers in (record.summary or {}).items()
    }
    scores = {metric: matrix for metric, matrix in record.scores.items() if metric != "ece"}
    leaderboard.build(save(tmp_path, replace(record, summary=summary, scores=scores)))
    assert [(row["worst_task_mean"], row["ece_mean"]) for row in read(tmp_path)] == [("0.500000", "")] * 2
    save(tmp_path, made(seed=1))  # with calibration: a mean of one of two runs would be no mean of the row
    leaderboard.build(tmp_path)
    assert {row["ece_mean"] for row in read(tmp_path)} == {""}


def test_errors_name_the_stream(tmp_path: Path) -> None:
    save(tmp_path, made())
    with pytest.raises(UserError, match="did you mean 'three'"):
        leaderboard.build(tmp_path, "thre")
    with pytest.raises(UserError, match="no runs in"):
        leaderboard.build(tmp_path / "nothing", "three")
    assert not (tmp_path / "leaderboards").exists()


@pytest.mark.parametrize("content", ["", "{"])
def test_a_bad_record_is_named_and_stops_nobody_elses_table(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, made(seed=0), made(seed=1), on("another", made()))
    bad = path_of(tmp_path, made(seed=1)) / "run.json"
    bad.write_text(content)
    assert cli.main(["leaderboard", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count(f"left out: {bad}: not a JSON file") == 1
    assert {row["seeds"] for row in read(tmp_path)} == {"0"}
    assert (tmp_path / "leaderboards" / "another.csv").is_file()


def test_a_record_that_comes_meanwhile_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, made())
    write = leaderboard._write

    def slow_write(results: Path, found: list[Record], stream: str | None) -> list[Path]:
        if len(found) == 1:
            save(tmp_path, made(seed=1))
        return write(results, found, stream)

    monkeypatch.setattr(leaderboard, "_write", slow_write)
    leaderboard.build(tmp_path)
    assert read(tmp_path)[0]["n_runs"] == "2"


def test_a_fusion_stream_has_what_is_lost_without_an_input(tmp_path: Path) -> None:
    given = [[0.0] * 3, [0.8] * 3, [0.8] * 3, [0.8] * 3]
    many = [lacking(made(seed=seed, kind="fusion", given=given)) for seed in (0, 1)]
    leaderboard.build(save(tmp_path, *many, made("lwf", kind="fusion")))
    ewc, lwf = (row for row in read(tmp_path) if row["protocol"] == "given")
    assert list(ewc) == [*LEADERBOARD, "image_drop_mean", "text_drop_mean", "dominance_mean"]
    assert (ewc["image_drop_mean"], ewc["text_drop_mean"], ewc["dominance_mean"]) == (
        "0.600000",
        "0.400000",
        "0.200000",
    )
    assert lwf["image_drop_mean"] == lwf["dominance_mean"] == ""  # was not asked
    rows = read(tmp_path, ".missing.csv")
    assert {row["method"] for row in rows} == {"ewc"} and rows[0]["n_runs"] == "2"
    half = next(row for row in rows if (row["protocol"], row["missing"], row["rate"]) == ("hidden", "both", "0.5"))
    assert (half["accuracy_mean"], half["accuracy_std"]) == ("0.550000", "0.000000")


def test_dominance_is_of_the_mean_drops_and_only_of_losses(tmp_path: Path) -> None:
    def dropping(seed: int, image: float, text: float) -> Record:
        record = made(seed=seed, kind="fusion", given=np.full((4, 3), 0.5))
        drops = {"image": image, "text": text}
        missing = {name: {protocol: [0.5 - drop] * 3 for protocol in PROTOCOLS} for name, drop in drops.items()}
        return replace(record, missing=missing, summary=summarise(record.kind, record.scores, missing))

    leaderboard.build(save(tmp_path, dropping(0, 0.2, 0.1), dropping(1, 0.4, 0.1)))
    assert read(tmp_path)[0]["dominance_mean"] == "0.500000"
    leaderboard.build(save(tmp_path, dropping(1, 0.4, -0.2)))
    assert read(tmp_path)[0]["dominance_mean"] == ""  # a model that gains without the text
    gains, loses = dropping(1, 0.4, -0.2), dropping(0, 0.2, 0.1)
    assert gains.summary and gains.summary["given"]["dominance"] == pytest.approx(3)  # a ratio that says nothing
    assert gains.number("given", "dominance") is None and loses.number("given", "dominance") == pytest.approx(1 / 3)


def test_a_retrieval_stream_has_both_directions(tmp_path: Path) -> None:
    leaderboard.build(save(tmp_path, made(kind="retrieval")))
    row = read(tmp_path)[0]
    recalls = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    assert list(row)[len(LEADERBOARD) :] == [f"{name}_mean" for name in (
        *recalls, "i2t_mrr", "t2i_mrr", "i2t_forgetting", "t2i_forgetting", "i2t_bwt", "t2i_bwt",
    )]  # fmt: skip
    assert row["primary"] == "mean_recall" and row["balanced_acc_mean"] == row["macro_auroc_mean"] == ""
    assert list(read(tmp_path, ".matrix.csv")[0])[5:-1] == [
        f"{name}_{what}" for name in ("mean_recall", *recalls) for what in ("mean", "std")
    ]
    assert list(read(tmp_path, ".bwt.csv")[0])[4:-1] == [
        f"{name}_{what}" for name in ("bwt", *(f"{name}_bwt" for name in recalls)) for what in ("mean", "std")
    ]


def test_files_that_no_record_fills_any_more_keep_their_header(tmp_path: Path) -> None:
    leaderboard.build(save(tmp_path, lacking(made(kind="fusion"))))
    headers = {name: text.splitlines(keepends=True)[0] for name, text in files(tmp_path).items()}
    assert set(headers) == {f"three{suffix}" for suffix in (
        ".csv", ".matrix.csv", ".forgetting.csv", ".bwt.csv", ".missing.csv",
    )}  # fmt: skip
    leaderboard.build(save(tmp_path, made(kind="fusion")))  # the final model was not asked this time
    assert files(tmp_path)["three.missing.csv"] == headers["three.missing.csv"]
    assert files(tmp_path)["three.csv"].count(b"\n") == 3
    leaderboard.build(save(tmp_path, made(kind="fusion", limit=3)))
    assert files(tmp_path)["three.matrix.csv"] == headers["three.matrix.csv"]
    assert all(text.count(b"\n") == 1 for text in files(tmp_path).values()) and len(files(tmp_path)) == 5


WRITERS = """
import json, multiprocessing, sys
from pathlib import Path
import scipy.stats
from benchmark.compare import leaderboard
from benchmark.record.stored import path_of, write_record
from benchmark.record.soundness import sound
results, many = Path(sys.argv[1]), [sound(value) for value in json.loads(Path(sys.argv[2]).read_text())]
def write(place):
    for record in many[place::8]:
        write_record(path_of(results, record), record)
        leaderboard.build(results, record.stream.folder)
processes = [multiprocessing.get_context("fork").Process(target=write, args=(place,)) for place in range(8)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(sum(process.exitcode != 0 for process in processes))
"""


def test_eight_processes_write_records_and_rebuild_at_once(tmp_path: Path) -> None:
    def answered(method: str, seed: int = 0) -> Record:
        record = made(method, seed=seed)
        right = np.array(record.matrix("given"))[1:] > 0.25
        return with_hits(record, dict(zip(record.stream.task_names, right.T, strict=True)))

    many = [answered(method, seed) for method in ("ewc", "lwf", "er", "l2p") for seed in (0, 1)]
    many += [on(stream, answered(method)) for stream in ("four", "five") for method in ("ewc", "lwf", "er", "l2p")]
    random.Random(0).shuffle(many)
    write_json(tmp_path / "many.json", [record.to_json() for record in many])
    command = [sys.executable, "-c", WRITERS, str(tmp_path / "a"), str(tmp_path / "many.json")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=200)
    leaderboard.build(save(tmp_path / "b", *many))
    found = files(tmp_path / "a")
    assert found == files(tmp_path / "b")  # nothing lost, and no temporary file is left
    assert {"three.pairs.csv", "overall.csv", "overall.pairs.csv"} <= set(found)
    assert all(found[name].count(b"\n") > 1 for name in found)


def test_a_stream_of_the_name_of_the_table_over_all_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, made(), on("overall", made()), on("Overall", made()))
    names = sorted(path.name for path in leaderboard.build(tmp_path))
    assert names == sorted(path.name for path in leaderboard.build(save(tmp_path / "alone", made())))
    assert "stream.name 'overall' is that of the tables over all streams" in capsys.readouterr().err
    with pytest.raises(UserError, match="unknown stream"):
        leaderboard.build(tmp_path, "overall")


def test_no_torch() -> None:
    program = (
        "import sys, benchmark.compare.leaderboard; heavy = ('torch', 'lightning', 'methods', 'scipy', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


# Of several kinds, of several metrics


def lines_of(results: Path, name: str) -> Rows:
    return list(csv.DictReader((results / "leaderboards" / name).read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize(("stream", "tasks"), [("questions", QUESTIONS), ("mixed", MIXED)])
def test_streams_of_several_metrics(tmp_path: Path, stream: str, tasks: dict[str, tuple[str, str]]) -> None:
    """Each number is of each task's own metric, the interval of its samples, which are bits or levels."""
    places = [("ewc", "01"), ("lwf", "02")]
    records = [talking(*place, seed, tasks=tasks) for place in places for seed in (0, 1)]
    records.append(talking(*places[0], seed=0, order=1, tasks=tasks))
    leaderboard.build(save(tmp_path, *records))
    runs = [record for record in records if record.method == "ewc"]
    row = next(
        row for row in lines_of(tmp_path, f"{stream}.csv") if (row["method"], row["protocol"]) == ("ewc", "given")
    )
    own = [np.array(run.scores["primary"]["given"]) for run in runs]
    assert row["primary"] == "primary" and row["n_runs"] == "3"
    assert float(row["last_acc_mean"]) == pytest.approx(np.mean([each[-1].mean() for each in own]), abs=1e-6)
    kept = np.mean([hits.unpacked().mean() for run in runs for hits in run.hits["given"].values()])  # type: ignore
    assert float(row["last_acc_mean"]) == pytest.approx(kept, abs=1e-6)
    assert float(row["last_acc_ci_low"]) < kept < float(row["last_acc_ci_high"])
    assert row["balanced_acc_mean"] == "" and ("format_kept_mean" in row) == (stream == "questions")
    matrix = lines_of(tmp_path, f"{stream}.matrix.csv")
    alike = [run for run in runs if run.order == 0]
    for line in (line for line in matrix if (line["method"], line["protocol"]) == ("ewc", "given")):
        place = alike[0].stream.task_names.index(line["task"])
        for metric in ("primary", *(name for name in ("accuracy", "exact", "f1") if f"{name}_mean" in line)):
            cells = [run.scores[metric]["given"][int(line["stage"])][place] for run in alike]
            assert line[f"{metric}_mean"] == ("" if cells[0] is None else f"{np.mean(cells):.6f}")
    for name, number in (("forgetting", "forgetting"), ("bwt", "bwt")):
        every = [line for line in lines_of(tmp_path, f"{stream}.{name}.csv") if line["method"] == "lwf"]
        mean = np.mean([float(line[f"{name}_mean"]) for line in every if line["protocol"] == "given"])
        both = [record.number("given", number) for record in records if record.method == "lwf"]
        assert mean == pytest.approx(np.mean(both), abs=1e-6)  # type: ignore[arg-type]
    pairs = lines_of(tmp_path, f"{stream}.pairs.csv")
    assert {line["n_samples"] for line in pairs} == {str(40 * len(tasks))} and pairs[0]["p"]


def test_recalls_are_of_the_tasks_with_classes(tmp_path: Path) -> None:
    record = told_apart(talking(), {"skin_classes": [0.5, 1.0], "mri_notes": [0.25, None]}, {})
    leaderboard.build(save(tmp_path, replace(record, subgroups=None)))
    lines = [line for line in lines_of(tmp_path, "mixed.recall.csv") if line["protocol"] == "given"]
    assert [(line["task"], line["class"], line["recall_mean"]) for line in lines] == [
        ("skin_classes", "a", "0.500000"), ("skin_classes", "b", "1.000000"),
        ("mri_notes", "a", "0.250000"), ("mri_notes", "b", ""),
    ]  # fmt: skip


def test_records_with_another_metric_of_a_task_stay_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = [talking(seed=seed, tasks=QUESTIONS) for seed in (0, 1)]
    other = talking(seed=2, tasks=QUESTIONS | {"ct_vqa": ("generation", "f1")})
    rows = leaderboard.rows(stored_rows := read_all(save(tmp_path, *mine, other)))
    assert len(stored_rows) == 2 and rows[0].n_runs == 2
    assert "its tasks or its hash are not those" in capsys.readouterr().err
