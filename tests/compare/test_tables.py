"""What is printed: tables that fit, and those that a kind of task has."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark import kinds
from benchmark.compare import standings, tables
from benchmark.record.schema import Costs, Record
from tests.made_records import MIXED, flat, lacking, made, save, talking, unanswered


def printed(table: Any, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


LONG = "a_name_with_more_letters_than_a_line_of_a_table_has_room_for"


def test_tables_fit_in_80_columns_with_names_whole(tmp_path: Path) -> None:
    tasks = ("lc25000_lung", "retinalimaging_oct", "chest-xray", "skin", "brain_mri", "breast_us", "blood_cells", "a_b")
    one = made(tasks=tasks, settings="rank=[0, 1]")
    runs = [made(method, seed=seed, tasks=tasks) for method in ("lwf", "independent_lora") for seed in (0, 1)]
    save(tmp_path, one, *runs, made(LONG, tasks=tasks, settings=" ".join(["method.rank=16"] * 8)))
    board = printed(standings.table(tmp_path, "three"), 110)
    found = list(tables.after_run(one))
    wide = [talking(tasks={name: kind for name in tasks for kind in [("generation", "f1")]}),
            made(tasks=tuple(f"a_task_of_many_{n}" for n in range(20))), made(kind="retrieval")]  # fmt: skip
    for text in (board, *(printed(table, 110) for run in (one, *wide) for table in tables.after_run(run))):
        assert max(map(len, text.splitlines())) <= 80 or LONG in text, text
    assert LONG in board and "independent_lora" in board and "±" in board
    assert [line.strip() for line in board.splitlines() if "rank=[" in line] == ["rank=[0, 1]"]
    shown = printed(found[0], 80)
    assert all(name in shown for name in tasks) and f"{100 * one.matrix('given')[8][7]:.1f}" in shown
    assert "chest-xray" in printed(found[2]) and "a_b" not in printed(found[2])
    titles = [str(table.title) for table in tables.after_run(wide[1])]
    assert titles[0].endswith("identity given, tasks 1 to 8") and titles[2].endswith("tasks 17 to 20")
    single = made(tasks=("lung",), given=[[0.5], [0.9]])
    assert "90.0" in printed(next(tables.after_run(single)))
    assert "-" in printed(tables.transfer_table(single))


def test_one_replicate_is_shown_as_such(tmp_path: Path) -> None:
    save(tmp_path, *flat("a", "01", 0.9, 0.8), *flat("b", "02", 0.8, 0.9), *flat("once", "03", 0.95),
         *flat("tuned", "04", 0.99, settings="rank=16"))  # fmt: skip
    lines = [line.split() for line in printed(standings.table(tmp_path, "three")).splitlines()]
    assert [line[:2] for line in lines if line and line[0] in ("1.50", "tuned", "n=1")] == [
        ["1.50", "a"], ["1.50", "b"], ["tuned", "1"], ["n=1", "once"],
    ]  # fmt: skip
    assert lines.index(["rank=16"]) == 1 + next(at for at, line in enumerate(lines) if line[:1] == ["tuned"])


def titles(record: Record) -> list[str]:
    return [str(table.title) for table in tables.after_run(record)]


def test_the_tables_after_a_run_are_those_of_its_kind() -> None:
    common = [
        "ewc on three: accuracy in per cent, identity given",
        "ewc on three: accuracy in per cent, identity hidden",
        "ewc on three: forgetting and transfer in per cent",
    ]
    assert titles(made()) == titles(made(kind="fusion")) == common
    assert titles(lacking(made(kind="fusion"))) == [*common, "ewc on three: accuracy in per cent with inputs missing"]
    found = titles(made(kind="retrieval"))
    assert found == [
        *(title.replace("accuracy", "mean recall") for title in common),
        "ewc on three: retrieval after the last task in per cent",
    ]


def test_retrieval_has_a_line_for_each_direction() -> None:
    record = made(kind="retrieval")
    last = tables.percent(record.number("given", "i2t_r1"))
    lines = printed(list(tables.after_run(record))[-1]).splitlines()
    words = [line.split("  ")[0].strip() for line in lines if " to " in line]
    ways = ("image to text", "text to image")
    assert words == [f"{way} ({protocol})" for protocol in ("given", "hidden") for way in ways]
    line = next(line for line in lines if "image to text (given)" in line)
    forgetting, bwt = (tables.percent(record.number("given", name)) for name in ("i2t_forgetting", "i2t_bwt"))
    mrr = tables.percent(record.number("given", "i2t_mrr"))
    assert line.partition(")")[2].split() == [last, last, last, mrr, forgetting, bwt]


def test_accuracy_where_inputs_are_missing() -> None:
    record = lacking(made(kind="fusion", given=[[0.0] * 3, [0.8] * 3, [0.8] * 3, [0.8] * 3]))
    lines = [line.split() for line in printed(list(tables.after_run(record))[-1]).splitlines() if "(" in line]
    assert lines[0] == ["image", "(given)", "80.0", "62.0", "50.0", "38.0", "26.0", "20.0"]
    assert lines[1] == ["text", "(given)", "80.0", "68.0", "60.0", "52.0", "44.0", "40.0"]
    assert lines[2] == ["image", "or", "text", "(given)", "80.0", "65.0", "55.0", "45.0", "35.0", "30.0"]
    assert [line[-8:][:2] for line in lines[3:5]] == [["image", "(hidden)"], ["text", "(hidden)"]]


def test_a_leaderboard_says_what_a_score_is(tmp_path: Path) -> None:
    save(tmp_path, talking(tasks=MIXED), made())
    title = "each task's own metric in per cent, mean ± standard deviation over runs"
    assert title in " ".join(printed(standings.table(tmp_path, "mixed")).split())
    assert "accuracy in per cent" in printed(standings.table(tmp_path, made().stream.folder))


def test_answers_in_words_have_a_table_of_their_own() -> None:
    record = talking(tasks=MIXED)
    found = list(tables.after_run(record))
    assert titles(record) == [
        "ewc on mixed: score in per cent, identity given", "ewc on mixed: score in per cent, identity hidden",
        "ewc on mixed: forgetting and transfer in per cent",
        "ewc on mixed: answers in words after the last task, in per cent",
    ]  # fmt: skip
    assert re.findall(r"\((\w+)", printed(found[0])) == ["accuracy", "accuracy", "exact", "exact", "token"]
    lines = [line.split() for line in printed(found[-1]).splitlines() if "vqa" in line or "reports" in line]
    assert [line[0] for line in lines] == 2 * ["path_vqa", "ct_vqa", "ct_reports"]
    assert "likeliest answer" not in printed(found[-1])  # but one above the other, so that all fit in 80 columns
    score = tables.percent(record.scores["f1"]["given"][-1][4])
    assert lines[2] == ["ct_reports", "token", "F1", score, "25.0", score, score, score, score]
    assert lines[0][1:5] == ["exact", "match", tables.percent(record.scores["exact"]["given"][-1][2]), "25.0"]
    assert lines[0][5] == "-"  # facts are told by reports
    silent = replace(unanswered(record), blind=None)
    hidden = printed(list(tables.after_run(silent))[-1]).partition("hidden")[2].splitlines()
    assert [line.split()[-6:] for line in hidden if "vqa" in line or "reports" in line] == [["-"] * 6] * 3


def test_the_routers_share_stands_below_the_hidden_matrix() -> None:
    routed = [[None] * 3, [1.0, None, None], [0.5, 0.5, None], [0.25, 0.5, 0.75]]
    record = made(router_accuracy=routed)
    assert "router right 25.0 50.0 75.0" in " ".join(printed(*tables.matrix_tables(record, "hidden")).split())
    assert "router" not in printed(*tables.matrix_tables(record, "given"))
    assert "router" not in printed(*tables.matrix_tables(made(), "hidden"))


def test_the_summary_in_one_line() -> None:
    record = made(given=[[0.0] * 3, [0.9, 0.0, 0.0], [0.8, 0.7, 0.0], [0.6, 0.5, 0.8]])
    assert tables.summary_line(record) == (
        "ewc on three: last accuracy 63.3 given, 63.3 hidden; forgetting 25.0, 25.0; 30 trained parameters, "
        "0.00 MiB kept, 6 s training, 1 s evaluation, peak 100 MiB"
    )
    assert "peak 0 MiB" in tables.summary_line(replace(record, cost=Costs()))


def test_clock() -> None:
    found = [tables.clock(seconds) for seconds in (0.4, 93, 120, 720, 7200, 12240)]
    assert found == ["0 s", "93 s", "2 min", "12 min", "2.0 h", "3.4 h"]


def test_percent() -> None:
    found = [tables.percent(value) for value in (0.8316, None, float("nan"), -0.0001, 1)]
    assert found == ["83.2", "-", "-", "0.0", "100.0"] and tables.percent(0.5, 0.011) == "50.0 ± 1.1"


def test_columns_of_kinds_are_numbers_that_they_have() -> None:
    for kind in kinds.KINDS.values():
        record = lacking(made(kind=kind.name)) if kind.withheld else made(kind=kind.name)
        assert all(record.measured(f"{way}_{column.name}") for way in kind.ways for column in kind.per_way)
        assert all(record.measured(name) for name in kind.board)
