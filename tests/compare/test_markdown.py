"""Marked tables of a Markdown file: which columns a kind has, what is left alone, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.compare import markdown, presets
from benchmark.errors import UserError
from benchmark.record.schema import Costs, Record
from benchmark.record.stored import read_all
from benchmark.record.summary import summarise
from tests.made_records import made, on, save, seen

MARK = "before\n<!-- leaderboard three -->\nold\n<!-- end -->\nafter\n"
BASIC = ["method", "group", "runs", "rank, given / hidden", "last, given", "last, hidden",
         "worst task, given / hidden"]  # fmt: skip
CHANGES = ["learned, given / hidden", "forgetting, given / hidden"]


def cells(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def table(tmp_path: Path, *many: Record, mark: str = MARK) -> list[list[str]]:
    found = read_all(save(tmp_path, *many))
    text = markdown.rewritten(mark, found)
    assert text.startswith("before\n<!-- leaderboard three") and text.endswith("\n\n<!-- end -->\nafter\n")
    assert "old" not in text and markdown.rewritten(text, found) == text
    headings, line, *rest = cells(text)
    assert line == ["---"] * len(headings) and {len(each) for each in rest} <= {len(headings)}
    return [headings, *rest]


def test_a_table_by_hand(tmp_path: Path) -> None:
    given = [[0.3, 0.3, 0.3], [0.9, 0.4, 0.2], [0.8, 0.7, 0.4], [0.6, 0.5, 0.8]]
    cost = Costs(trainable_params=[1000, 92160, 1000], stored_bytes=[5, 6, 3 * 2**20])
    many = [made(seed=seed, given=given, cost=cost) for seed in (0, 1)]
    many += [made("lwf", seed=seed, given=given, cost=Costs()) for seed in (0, 1)]
    headings, *lines = table(tmp_path, *many, made(key="0a", settings="rank=16"))
    assert headings == [*BASIC, *CHANGES, "forward transfer", "trained parameters", "kept MiB"]
    scores = ["1.5 / 1.5", "63.3 ± 0.0", "63.3 ± 0.0", "50.0 / 50.0", "80.0 / 80.0", "25.0 / 25.0", "10.0"]
    assert lines == [["`ewc`", "plain", "2", *scores, "92,160", "3.0"], ["`lwf`", "plain", "2", *scores, "-", "-"]]


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("fusion", [*CHANGES, "lost without image", "lost without text", "dominance"]),
        ("retrieval", [
            "R@1, image to text", "R@1, text to image", "R@10, image to text", "R@10, text to image",
            "forgetting of R@1, image to text", "text to image",
        ]),
    ],
)  # fmt: skip
def test_a_kind_has_columns_of_its_own(tmp_path: Path, kind: str, columns: list[str]) -> None:
    headings, line = table(tmp_path, made(kind=kind))
    assert headings == BASIC + columns and line[:4] == ["`ewc`", "plain", "1", "- / -"]


def test_runs_from_one_input_alone_stand_beside_those_from_both(tmp_path: Path) -> None:
    many = [
        made(key=key, kind="fusion", settings=settings, given=[[score] * 3] * 4)
        for key, settings, score in (("0a", "", 0.9), ("0b", "inputs=text", 0.7), ("0c", "inputs=image", 0.6),
                                     ("0d", "rank=16", 0.8))
    ]  # fmt: skip
    mark = MARK.replace("three", "three inputs")
    headings, *lines = table(tmp_path, *many, made("lwf", kind="fusion"), mark=mark)
    assert headings == ["method", "learns from", "runs", "last, given", "last, hidden"]
    assert [line[:4] for line in lines] == [
        ["`ewc`", "image and text", "1", "90.0"],
        ["`ewc`", "image alone", "1", "60.0"],
        ["`ewc`", "text alone", "1", "70.0"],
    ]


def test_rows_with_tuned_values_stand_in_a_table_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their values are those of a file, so none stands beside the name; joint training is shown at both capacities."""
    kept = {("ewc", "lr=0.02"), ("lwf", "")}
    monkeypatch.setattr(presets, "beside_tuned", lambda run, card: "" if (run.method, run.settings) in kept else "else")
    joint = made("joint_lora", key="0c", settings="method.capacity=stream", group="joint", given=[[0.7] * 3] * 4)
    many = [made(key="0a", given=[[0.5] * 3] * 4), made(key="0b", settings="lr=0.02", given=[[0.6] * 3] * 4),
            made("lwf", given=[[0.4] * 3] * 4), joint, made(key="0d", settings="rank=16")]  # fmt: skip
    shown = {}
    for what in ("three", "three tuned"):
        _, *lines = table(tmp_path / what, *many, mark=MARK.replace("three", what))
        shown[what] = [(line[0], line[4]) for line in lines]
    last = [("`lwf`", "40.0"), ("`joint_lora` (capacity=stream)", "70.0")]
    assert shown == {"three": [("`ewc`", "50.0"), *last], "three tuned": [("`ewc`", "60.0"), *last]}


def test_balanced_accuracy_stands_where_it_is_another_number(tmp_path: Path) -> None:
    record = made(given=[[0.5] * 3] * 4)
    scores = record.scores | {"balanced_accuracy": {"given": [[0.4] * 3] * 4, "hidden": seen(np.full((4, 3), 0.3))}}
    uneven = replace(record, seed=1, scores=scores, summary=summarise(record.kind, scores))
    headings, line = table(tmp_path, record, uneven)
    assert dict(zip(headings, line, strict=True))["balanced, given / hidden"] == "45.0 / 40.0"


def test_balanced_accuracy_is_left_out_where_rounding_alone_makes_it_another_one(tmp_path: Path) -> None:
    record = made(given=[[0.31249] * 3] * 4)
    near = {"given": [[0.31251] * 3] * 4, "hidden": record.scores["accuracy"]["hidden"]}
    scores = record.scores | {"balanced_accuracy": near}
    headings, line = table(tmp_path, replace(record, scores=scores, summary=summarise(record.kind, scores)))
    assert "balanced, given / hidden" not in headings and line[headings.index("last, given")] == "31.2"


def test_some_rows_in_few_columns_with_what_they_are(tmp_path: Path) -> None:
    many = [made(name, given=[[score] * 3] * 4) for name, score in (("ewc", 0.6), ("lwf", 0.7), ("ncm", 0.8))]
    headings, *lines = table(tmp_path, *many, mark=MARK.replace("three", "three of ewc ncm"))
    assert headings == ["method", "what it is", "runs", "last, given", "last, hidden", *CHANGES, "trained parameters"]
    assert [line[:4] for line in lines] == [
        ["`ncm`", "never trains, keeps one mean per class", "1", "80.0"],
        ["`ewc`", "one LoRA that is held where its weights mattered to earlier tasks", "1", "60.0"],
    ]


def test_ranks_over_streams(tmp_path: Path) -> None:
    scores = {"ewc": 0.5, "lwf": 0.6}
    many = [
        on(f"s{place}", made(method, given=[[score] * 3] * 4)) for method, score in scores.items() for place in range(3)
    ]
    many.append(replace(many[0], method="silent"))
    found = cells(markdown.rewritten("<!-- overall -->\n<!-- end -->", read_all(save(tmp_path, *many))))
    assert found[0] == ["method", "group", "streams", "average rank, given", "average rank, hidden"]
    assert found[2:] == [["`lwf`", "plain", "3", "1.00", "1.00"], ["`ewc`", "plain", "3", "2.00", "2.00"]]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"<!-- leaderboard three -->: no records of this stream"):
        markdown.rewritten(MARK, read_all(save(tmp_path, made(limit=3))))
    whole = read_all(save(tmp_path, made("lwf"), made("ewc")))
    with pytest.raises(UserError, match=r"<!-- leaderboard three -->: .*'ewcc'.*ewc"):
        markdown.rewritten(MARK.replace("three", "three of lwf ewcc"), whole)
    page = tmp_path / "page.md"
    page.write_text(MARK)
    for content in (None, b"\xff"):
        other = tmp_path / "other.md"
        if content is not None:
            other.write_bytes(content)
        with pytest.raises(UserError, match=r"other\.md: cannot be read"):
            markdown.rewrite([page, other], tmp_path)
    assert page.read_text() == MARK


def test_a_file_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(MARK, encoding="utf-8")
    markdown.rewrite([file], save(tmp_path, made()))
    assert file.read_text(encoding="utf-8") == markdown.rewritten(MARK, read_all(tmp_path))
