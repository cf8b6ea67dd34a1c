"""Leaderboards: a row by hand, who is ranked, and the same bytes whatever happens around them."""

from __future__ import annotations

import csv
import io
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmark import leaderboard, records, tables
from benchmark.errors import UserError

ROOT = Path(__file__).parents[1]
TASKS = ("lung_ct", "retina_oct", "skin")
Rows = list[dict[str, str]]


def made(
    method: str = "ewc", key: str = "0123456789ab", seed: int = 0, order: int = 0, *, quality: float = 0.0,
    tasks: tuple[str, ...] = TASKS, given: Any = None, **changes: Any,
) -> records.Record:  # fmt: skip
    """A complete record, with random scores of its own unless ``given`` says them; order 1 is the reverse."""
    T = len(tasks)
    permutation = list(range(T))[:: 1 if order == 0 else -1]
    generator = np.random.default_rng([seed, order, int(key, 16), *method.encode()])
    matrix = np.array(given) if given is not None else np.round(generator.random((T + 1, T)) * 0.5 + quality, 4)
    hidden = matrix.copy()
    hidden[np.triu_indices_from(hidden)] = np.nan
    scores = {"accuracy": {"given": matrix.tolist(), "hidden": hidden.tolist()}}
    scores |= {name: scores["accuracy"] for name in ("balanced_accuracy", "macro_auroc", "macro_f1")}
    described = [
        {"name": tasks[place], "modality": tasks[place].split("_")[0], "labels": ["a"]} for place in permutation
    ]
    record = {
        "schema": 1, "key": key, "status": "complete", "method": method, "group": "plain",
        "stream": {"name": "three", "folder": "three", "version": 1, "hash": "ff", "kind": "classification",
                   "label_space": "own", "tasks": described},
        "config": {}, "settings": "", "backbone": "phantom-clip", "seed": seed, "order": order,
        "permutation": permutation, "limit": None, "split": "test", "primary": "accuracy", "scores": scores,
        "router_accuracy": None, "summary": records.summarise(scores),
        "cost": {"trainable_params": [10, 30, 20], "stored_params": [1, 2, 3], "stored_bytes": [100, 200, 300],
                 "train_seconds": [1.0, 2.0, 3.5 + seed], "eval_seconds": [0.25] * 4, "images_per_second": [1.0] * 3,
                 "peak_memory_mib": [100.0 + seed]},
        "provenance": {"fingerprint": "aa", "finished": f"2026-01-01T00:00:{seed:02d}+00:00"},
    }  # fmt: skip
    return record | changes


def save(results: Path, *many: records.Record) -> Path:
    for record in many:
        identity = (record[name] for name in ("method", "key", "seed", "order"))
        records.write_record(records.run_folder(results, record["stream"]["folder"], *identity), record)
    return results


def read(results: Path, suffix: str = ".csv") -> Rows:
    text = (results / "leaderboards" / f"three{suffix}").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def files(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "leaderboards").iterdir()}


def grid() -> list[records.Record]:
    return [
        made(method, key, seed, order)
        for method, key in (("ewc", "0123456789ab"), ("ewc", "ba9876543210"), ("lwf", "00000000000f"))
        for seed in (0, 1, 10)
        for order in (0, 1)
    ]


def test_a_row_by_hand(tmp_path: Path) -> None:
    first = [[0.3, 0.3, 0.3], [0.9, 0.4, 0.2], [0.8, 0.7, 0.4], [0.6, 0.5, 0.8]]
    second = [[0.3, 0.3, 0.3], [0.7, 0.3, 0.3], [0.7, 0.9, 0.3], [0.9, 0.9, 0.9]]
    newer = {"fingerprint": "bb", "finished": "2026-02-01T00:00:00"}
    save(tmp_path, made(given=first), made(seed=1, given=second, provenance=newer))
    written = leaderboard.build(tmp_path)
    assert [path.name for path in written] == ["three.csv", "three.matrix.csv", "three.forgetting.csv", "three.bwt.csv"]
    given, hidden = read(tmp_path)
    low, high = given.pop("last_acc_ci_low"), given.pop("last_acc_ci_high")
    assert given == {
        "rank": "1", "method": "ewc", "backbone": "phantom-clip", "key": "0123456789ab", "settings": "",
        "group": "plain", "protocol": "given", "primary": "accuracy", "n_runs": "2", "seeds": "0 1", "orders": "0",
        "last_acc_mean": "0.766667",  # (1.9 / 3 + 2.7 / 3) / 2
        "last_acc_std": "0.188562",  # (0.9 - 0.6333) / sqrt(2)
        "avg_acc_mean": "0.622222",  # (5.3 / 9 + 5.9 / 9) / 2: rows 1 to 3 of each
        "avg_acc_std": "0.047140",  # (0.6556 - 0.5889) / sqrt(2)
        "aia_mean": "0.780556",  # ((0.9 + 0.75 + 0.6333) / 3 + (0.7 + 0.8 + 0.9) / 3) / 2
        "forgetting_mean": "0.075000",  # ((0.3 + 0.2) / 2 + (-0.2 + 0) / 2) / 2
        "forgetting_std": "0.247487", "bwt_mean": "-0.075000", "bwt_std": "0.247487",
        "fwt_mean": "0.050000", "transfer_mean": "0.325000", "learning_acc_mean": "0.816667",
        "balanced_acc_mean": "0.766667", "macro_auroc_mean": "0.766667", "trainable_params": "30",
        "stored_bytes": "300", "train_seconds_mean": "7.00", "eval_seconds_mean": "1.00", "peak_memory_mib": "101.0",
        "stale": "true",
    }  # fmt: skip
    assert low == "0.633333" and high == "0.900000"  # a quarter of the draws takes one seed twice
    assert hidden["protocol"] == "hidden" and hidden["last_acc_mean"] == "0.766667" and hidden["rank"] == "1"
    assert hidden["avg_acc_mean"] == hidden["fwt_mean"] == hidden["transfer_mean"] == ""
    header = (tmp_path / "leaderboards" / "three.csv").read_text().splitlines()[0]
    assert header == ",".join(leaderboard.COLUMNS)


def test_the_columns_are_the_contract() -> None:
    assert ", ".join(leaderboard.COLUMNS) == (
        "rank, method, backbone, key, settings, group, protocol, primary, n_runs, seeds, orders, last_acc_mean, "
        "last_acc_std, last_acc_ci_low, last_acc_ci_high, avg_acc_mean, avg_acc_std, aia_mean, forgetting_mean, "
        "forgetting_std, bwt_mean, bwt_std, fwt_mean, transfer_mean, learning_acc_mean, balanced_acc_mean, "
        "macro_auroc_mean, trainable_params, stored_bytes, train_seconds_mean, eval_seconds_mean, "
        "peak_memory_mib, stale"
    )


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    leaderboard.build(save(tmp_path, made()))
    row = read(tmp_path)[0]
    assert row["last_acc_std"] == row["last_acc_ci_low"] == row["last_acc_ci_high"] == row["bwt_std"] == ""
    assert row["stale"] == "false" and row["n_runs"] == "1"


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
    def flat(method: str, key: str, score: float, **changes: Any) -> records.Record:
        return made(method, key, given=np.full((4, 3), score), **changes)

    silent = flat("needs_id", "06", 0.9, group="needs identity")
    silent["summary"]["hidden"] = dict.fromkeys(silent["summary"]["hidden"])
    save(
        tmp_path,
        flat("joint", "01", 0.95, group="joint"),
        flat("tied_b", "02", 0.5),
        flat("tied_a", "03", 0.5),
        flat("low", "04", 0.4),
        flat("tuned", "05", 0.99, settings="rank=16"),
        silent,
        flat("large", "07", 0.3, backbone="ViT-B-16/openai"),
        flat("replay", "08", 0.6, group="keeps images"),
        flat("ahead", "09", 0.6, group="needs length"),
        flat("best", "0a", 0.7),
    )
    leaderboard.build(tmp_path)
    rows = read(tmp_path)
    found = [(row["rank"], row["method"]) for row in rows if row["protocol"] == "given"]
    assert found == [
        ("1", "best"), ("1", "large"), ("2", "tied_a"), ("2", "tied_b"), ("4", "low"), ("", "tuned"),
        ("1", "needs_id"), ("1", "replay"), ("1", "ahead"), ("1", "joint"),
    ]  # fmt: skip
    assert [row["protocol"] for row in rows] == ["given"] * 10 + ["hidden"] * 10
    unanswered = next(row for row in rows if row["method"] == "needs_id" and row["protocol"] == "hidden")
    assert unanswered["rank"] == unanswered["last_acc_mean"] == "" and unanswered["n_runs"] == "1"


def test_stale(tmp_path: Path) -> None:
    def coded(seed: int, fingerprint: str, finished: str, **changes: Any) -> records.Record:
        return made(seed=seed, provenance={"fingerprint": fingerprint, "finished": finished}, **changes)

    save(
        tmp_path,
        coded(0, "old", "2026-01-01T10:00:00+00:00", key="01"),
        coded(0, "new", "2026-01-01T09:30:00-02:00", key="02"),  # 11:30 in UTC
        coded(0, "old", "2026-01-01T10:00:00+00:00", key="03", method="lwf"),
        coded(1, "newest", "2026-03-01T10:00:00Z", key="03", method="lwf", limit=5),  # does not count
    )
    leaderboard.build(tmp_path)
    assert {row["key"]: row["stale"] for row in read(tmp_path)} == {"01": "true", "02": "false", "03": "false"}


def test_matrix_csv_is_of_the_lowest_order(tmp_path: Path) -> None:
    many = [made(seed=seed, order=order) for seed in (0, 1) for order in (0, 1)]
    leaderboard.build(save(tmp_path, *many))
    rows = read(tmp_path, ".matrix.csv")
    names = ["method", "key", "protocol", "stage", "task", "accuracy_mean", "accuracy_std", "n_runs"]
    assert list(rows[0]) == names and len(rows) == 2 * 4 * 3
    a, b = (many[place]["scores"]["accuracy"]["given"][2][1] for place in (0, 2))
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


def test_interval_is_nested() -> None:
    runs = [made(seed=seed, order=order) for order in (0, 1) for seed in (0, 1, 2)]
    between = leaderboard.interval(runs, [0.4, 0.4, 0.4, 0.8, 0.8, 0.8])
    assert between == (pytest.approx(0.4), pytest.approx(0.8))  # two orders: seeds do not make them more
    low, high = leaderboard.interval(runs, [0.4, 0.6, 0.8, 0.4, 0.6, 0.8])
    assert 0.4 < low < 0.6 < high < 0.8
    assert leaderboard.interval(runs[:1], [0.5]) == leaderboard.interval(runs[:2], [0.5, None]) == (None, None)
    uneven = leaderboard.interval(runs[:4], [0.5, 0.5, 0.5, 0.5])
    assert uneven == (0.5, 0.5)


def test_errors_name_the_file_or_the_stream(tmp_path: Path) -> None:
    save(tmp_path, made())
    with pytest.raises(UserError, match="did you mean 'three'"):
        leaderboard.build(tmp_path, "thre")
    with pytest.raises(UserError, match="no runs in"):
        leaderboard.build(tmp_path / "nothing", "three")
    path = tmp_path / "runs" / "three" / "ewc" / "0123456789ab" / "seed0-order0" / "run.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"run\.json: not a JSON file"):
        leaderboard.build(tmp_path)
    assert not (tmp_path / "leaderboards").exists()


def test_a_record_that_comes_meanwhile_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, made())
    write = leaderboard._write

    def slow_write(results: Path, found: list[records.Record]) -> list[Path]:
        if len(found) == 1:
            save(tmp_path, made(seed=1))
        return write(results, found)

    monkeypatch.setattr(leaderboard, "_write", slow_write)
    leaderboard.build(tmp_path)
    assert read(tmp_path)[0]["n_runs"] == "2"


def test_eight_builders_at_once(tmp_path: Path) -> None:
    save(tmp_path / "a", *grid())
    leaderboard.build(save(tmp_path / "b", *grid()))
    program = "import sys; from pathlib import Path; from benchmark.leaderboard import build; build(Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "a")]
    builders = [subprocess.Popen(command, cwd=ROOT) for _ in range(8)]
    assert [builder.wait(timeout=60) for builder in builders] == [0] * 8
    assert files(tmp_path / "a") == files(tmp_path / "b")


# What is printed


def printed(table: Any, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


def test_tables_fit_in_100_columns(tmp_path: Path) -> None:
    tasks = (
        "lc25000_lung",
        "retinalimaging_oct",
        "chest-xray",
        "skin",
        "brain_mri",
        "breast_us",
        "blood_cells",
        "a_b_c",
    )
    one = made(tasks=tasks, settings="rank=[0, 1]")
    save(tmp_path, one, *(made(method, seed=seed, tasks=tasks) for method in ("lwf", "er") for seed in (0, 1)))
    given, hidden = (printed(tables.matrix_table(one, protocol)) for protocol in ("given", "hidden"))
    board, transfer = printed(tables.table(tmp_path, "three")), printed(tables.transfer_table(one))
    for text in (given, hidden, board, transfer):
        assert max(map(len, text.splitlines())) <= 100
    assert f"{100 * one['scores']['accuracy']['given'][8][7]:.1f}" in given
    assert "rank=[0," in board and "±" in board
    assert "chest-xray" in transfer and "a_b_c" not in transfer
    single = made(tasks=("lung",), given=[[0.5], [0.9]])
    assert "90.0" in printed(tables.matrix_table(single, "hidden"))
    assert "-" in printed(tables.transfer_table(single))


def test_no_torch() -> None:
    program = (
        "import sys, benchmark.leaderboard; print([m for m in ('torch', 'lightning', 'methods') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
