"""Methods against each other: which runs are paired, which table is full, and the CSVs of both."""

from __future__ import annotations

import csv
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.compare import comparisons, leaderboard, presets, stats
from benchmark.compare.rows import OVERALL, OVERALL_PAIRS, PAIRS, PairRow
from benchmark.errors import forget_notices
from benchmark.record.parts import SampleScores
from benchmark.record.schema import PROTOCOLS, Provenance, Record
from benchmark.record.stored import read_all
from tests.made_records import CONFIG, TASKS, made, on, packed, save, unanswered, with_hits

SIZES = (40, 24, 9)


def answered(method: str, key: str, seed: int = 0, order: int = 0, **changes: Any) -> Record:
    """A run with hits of its own; the tasks differ in size."""
    generator = np.random.default_rng([seed, order, int(key, 16)])
    hits = {task: generator.random(size) < 0.6 for task, size in zip(TASKS, SIZES, strict=True)}
    return with_hits(made(method, key, seed, order, **changes), hits)


def hits_of(runs: Sequence[Record], orders: int) -> list[np.ndarray]:
    """Of each task by name (orders, seeds, samples)."""
    kept = [[run.hits["given"][task] for task in sorted(TASKS)] for run in runs if run.hits is not None]
    scores = [[hits.unpacked() for hits in run if hits is not None] for run in kept]
    return [np.array(task).reshape(orders, -1, len(task[0])) for task in zip(*scores, strict=True)]


def names(rows: Sequence[PairRow], protocol: str = "given") -> list[tuple[str, str, int]]:
    return [(row.method_a, row.method_b, row.n_cells) for row in rows if row.protocol == protocol]


# Pairs of one stream


def test_a_pair_by_hand() -> None:
    tasks = ("lung_ct", "skin")
    first = with_hits(made("ewc", "0a", tasks=tasks), {"lung_ct": [1, 1, 1, 0], "skin": [1, 0]})
    second = with_hits(made("ewc", "0a", 1, tasks=tasks), {"lung_ct": [1, 0, 0, 0], "skin": [1, 1]})
    other = with_hits(made("lwf", "0b", tasks=tasks), {"lung_ct": [0, 0, 0, 1], "skin": [0, 0]})
    same = with_hits(made("lwf", "0b", 1, tasks=tasks), {"lung_ct": [1, 0, 0, 0], "skin": [1, 0]})
    given, hidden = comparisons.pairs([same, first, other, second])
    assert (given.method_a, given.method_b, given.key_a, given.key_b) == ("ewc", "lwf", "0a", "0b")
    assert (given.n_cells, given.n_samples, given.backbone) == (2, 6, "phantom-clip")
    # seed 0: (3/4 - 1/4 + 1/2 - 0) / 2; seed 1: (0 + 1 - 1/2) / 2
    assert given.difference == pytest.approx((0.5 + 0.25) / 2)
    assert given.p_holm == given.p  # the only pair of its protocol
    assert hidden == replace(given, protocol="hidden")


def test_a_pair_is_the_difference_whoever_else_is_there() -> None:
    """In another order of the tasks too: samples are matched by the name of the task."""
    a, b = ([answered(method, key, seed, order) for order in (0, 1) for seed in (0, 1)] for method, key in
            (("ewc", "0a"), ("lwf", "0b")))  # fmt: skip
    others = [answered("er", "0c", seed) for seed in (1, 2)]
    rows = comparisons.pairs([*others, *b, *a])
    assert names(rows) == [("er", "ewc", 1), ("er", "lwf", 1), ("ewc", "lwf", 4)]
    row = rows[2]
    found = (row.difference, row.ci_low, row.ci_high, row.p)
    assert found == stats.difference(hits_of(a, 2), hits_of(b, 2))
    for protocol in PROTOCOLS:
        here = [row for row in rows if row.protocol == protocol]
        assert [row.p_holm for row in here] == stats.holm([row.p for row in here])
    alone = comparisons.pairs([*a, *b])[0]
    assert replace(alone, p_holm=row.p_holm) == row


def test_rows_of_each_preset_are_paired_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holm is over the pairs of one; a row that is default and tuned is in both; a method is no rival of itself."""
    kept = {("ewc", "lr=0.02"), ("ewc", "lr=0.02 precision=bf16"), ("olora", "lr=0.01"), ("lwf", "")}
    monkeypatch.setattr(presets, "beside_tuned", lambda run, card: "" if (run.method, run.settings) in kept else "else")
    named = [("ewc", "0a", ""), ("ewc", "0b", "lr=0.02"), ("ewc", "0c", "lr=0.02 precision=bf16"), ("lwf", "0d", ""),
             ("olora", "0e", "lr=0.01"), ("olora", "0f", "rank=16")]  # fmt: skip
    rows = comparisons.pairs_by_preset(
        answered(method, key, seed, settings=settings) for method, key, settings in named for seed in (0, 1)
    )
    found = {(row.preset, row.key_a, row.key_b) for row in rows}
    tuned = {("0b", "0d"), ("0b", "0e"), ("0c", "0d"), ("0c", "0e"), ("0d", "0e")}
    assert found == {("default", "0a", "0d")} | {("tuned", *both) for both in tuned} and len(rows) == 2 * len(found)
    for preset in ("default", "tuned"):
        here = [row for row in rows if (row.preset, row.protocol) == (preset, "given")]
        assert [row.p_holm for row in here] == stats.holm([row.p for row in here])


def test_only_cells_with_the_same_samples_are_paired() -> None:
    ewc = [answered("ewc", "0a", seed) for seed in range(4)]
    stream = ewc[0].stream
    lwf = [
        answered("lwf", "0b", 0),
        answered("lwf", "0b", 1, stream=replace(stream, hash="other")),
        answered("lwf", "0b", 2, permutation=[1, 0, 2]),
        made("lwf", "0b", 3),  # of before there were hits
        answered("lwf", "0b", 4),
    ]
    assert names(comparisons.pairs([*ewc, *lwf])) == [("ewc", "lwf", 1)]
    assert lwf[0].hits is not None
    other = replace(lwf[0], hits={"given": lwf[0].hits["given"] | {"skin": packed([0] * 9)}})
    assert names(comparisons.pairs([*ewc, other])) == []  # hits that are not those of the score, of another metric
    lwf[0].hits["hidden"]["skin"] = None  # no answer to one task
    assert names(comparisons.pairs([*ewc, *lwf]), "hidden") == []
    for changes in ({"settings": "rank=16"}, {"backbone": "ViT-B-16/openai"}, {"limit": 5}, {"split": "val"}):
        assert comparisons.pairs([*ewc, answered("lwf", "0b", **changes)]) == []
    assert comparisons.pairs([*ewc, answered("ewc", "0b")]) == []  # a method is no rival of itself
    assert names(comparisons.pairs([*ewc, answered("joint_lora", "0b", group="joint")])) == [("ewc", "joint_lora", 1)]


@pytest.mark.parametrize("entry", [{"n": 9}, {"n": 9, "bits": "AA=="}, {"n": 0, "bits": ""}, {"n": 8, "bits": "*"}, 7])
def test_hits_that_are_none_name_their_run(entry: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(save(tmp_path, answered("lwf", "0b", 2, 1)).glob("runs/*/*/*/*/run.json"))
    broken = json.loads(file.read_text())
    broken["hits"]["given"]["skin"] = entry
    file.write_text(json.dumps(broken))
    forget_notices()
    assert read_all(tmp_path) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"left out: .*three/lwf/0b/seed2-order1/run\.json: not a whole record: .*hits", line)


def test_hits_are_those_of_the_samples() -> None:
    assert packed([1, 0, 0, 0, 0, 0, 0, 0, 1]).unpacked().tolist() == [1, *[0] * 7, 1]
    assert [SampleScores(n, "gIA=").whole for n in (8, 9, 16, 17)] == [False, True, True, False]
    assert not SampleScores(8, "*").whole and not SampleScores(8, "gI").whole


def test_many_methods_are_compared_in_a_moment() -> None:
    many = [answered(f"m{place:02}", f"{place:x}", seed) for place in range(23) for seed in range(6)]
    stats.difference([np.ones((1, 1, 2))], [np.zeros((1, 1, 2))])  # scipy is there
    start = time.process_time()
    assert len(comparisons.pairs(many)) == 2 * 253
    assert time.process_time() - start < 10


# Across streams


def scored(stream: str, method: str, score: float, *, key: str = "0a", seed: int = 0, **changes: Any) -> Record:
    return on(stream, made(method, key, seed, given=np.full((4, 3), score), **changes))


# Streams s1 to s5: ranks a 1 1.5 1 1 2, b 2 1.5 3 2 1, c 3 3 2 3 3, the table of test_stats
SCORES = {"a": (0.90, 0.80, 0.70, 0.90, 0.75), "b": (0.85, 0.80, 0.60, 0.60, 0.90), "c": (0.50, 0.60, 0.65, 0.52, 0.72)}


def five_streams() -> list[Record]:
    return [scored(f"s{place}", method, score) for method, row in SCORES.items() for place, score in enumerate(row, 1)]


def test_overall_by_hand() -> None:
    rows = comparisons.overall(five_streams())
    assert {row.protocol for row in rows} == set(PROTOCOLS)
    given = [row for row in rows if row.protocol == "given"]
    assert [(row.method, row.average_rank) for row in given] == [
        ("a", pytest.approx(1.3)), ("b", pytest.approx(1.9)), ("c", pytest.approx(2.8)),
    ]  # fmt: skip
    for row in given:
        assert (row.n_streams, row.streams) == (5, "s1 s2 s3 s4 s5")
        assert (row.friedman_statistic, row.friedman_p) == (pytest.approx(6.0), pytest.approx(np.exp(-3)))
        assert row.critical_difference == pytest.approx(1.4823, abs=1e-4)
    found = [row for row in comparisons.overall_pairs(five_streams()) if row.protocol == "given"]
    assert [(row.method_a, row.method_b, row.p_wilcoxon, row.p_holm) for row in found] == [
        ("a", "b", pytest.approx(0.625), pytest.approx(0.625)),
        ("a", "c", pytest.approx(0.0625), pytest.approx(0.1875)),
        ("b", "c", pytest.approx(0.125), pytest.approx(0.25)),
    ]
    assert found[0].difference == pytest.approx((0.05 + 0 + 0.1 + 0.3 - 0.15) / 5)


def chosen(methods: dict[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """Methods and streams of the tables, identity given, where a method has been run on the streams named."""
    many = [scored(stream, method, 0.5) for method, streams in methods.items() for stream in streams]
    return [(each.methods, "".join(each.streams)) for each in comparisons.across(many) if each.protocol == "given"]


def test_the_largest_table_without_holes() -> None:
    assert chosen({"a": "123", "b": "123", "c": "12"}) == [(("a", "b"), "123")]
    assert chosen({"a": "123", "b": "12"}) == []  # two streams are too few, one method as well
    assert chosen({"a": "1234", "b": "1234", "c": "123", "d": "123"}) == [(("a", "b", "c", "d"), "123")]  # 12 cells
    assert chosen({"a": "1234", "b": "1234", "c": "234", "d": "12"}) == [(("a", "b", "c"), "234")]
    assert chosen({"a": "1234", "b": "1256", "c": "3456"}) == []  # every two share two
    assert chosen({"a": "1234", "b": "1235", "c": "1236"}) == [(("a", "b", "c"), "123")]  # nobody has just these
    five = {"a": "12345", "b": "12345", **dict.fromkeys("cdef", "123")}
    assert chosen(five) == [(("a", "b"), "12345")]  # 10 cells and a critical difference before 18 without
    assert chosen({"a": "1236", "b": "1236", "c": "4567", "d": "4567"}) == [(("a", "b"), "1236")]  # the first by name


def test_methods_are_ranked_among_equals_by_their_default_row() -> None:
    many = five_streams()
    assert comparisons.overall(random.Random(0).sample(many, len(many))) == comparisons.overall(many)
    replays = [scored(f"s{place}", "er", 0.99, group="keeps images") for place in range(1, 6)]
    large = [scored(f"s{place}", "d", 0.99, backbone="ViT-B-16/openai") for place in range(1, 6)]
    tuned = [scored(f"s{place}", "c", 0.99, key="0b", settings="rank=16") for place in range(1, 6)]
    limited = [scored(f"s{place}", "d", 0.99, limit=5) for place in range(1, 6)]
    assert comparisons.overall([*many, *replays, *large, *tuned, *limited]) == comparisons.overall(many)
    two = comparisons.overall([*replays, *(replace(run, method="der") for run in replays)])
    assert [row.average_rank for row in two] == [1.5] * 4
    assert [row.friedman_p for row in two] == [None] * 4  # of two methods Friedman's test is not defined

    def of_c(*more: Record) -> float:
        (table, _) = comparisons.across([*many, *more])
        return table.table_BM[0][2]

    later = {"provenance": Provenance(fingerprint="aa", finished="2026-05-01T00:00:00+00:00")}
    assert of_c() == 0.5
    assert of_c(scored("s1", "c", 0.6, seed=1)) == pytest.approx(0.55)  # the mean over runs
    assert of_c(scored("s1", "c", 0.9, key="0b", **later)) == 0.9  # as many runs: the newest
    assert of_c(scored("s1", "c", 0.9, key="0b", **later), scored("s1", "c", 0.6, seed=1)) == pytest.approx(0.55)


def test_a_method_is_not_its_own_rival_in_another_precision() -> None:
    """Runs on a CPU and on a GPU have two keys and no settings: one of them is the default row."""
    cpu = [scored("s1", name, score, seed=seed) for name, score in (("a", 0.5), ("b", 0.4)) for seed in (0, 1)]
    gpu = [
        scored("s1", "a", 0.6, key="0b", seed=seed, config=replace(CONFIG, precision="bf16-mixed"))
        for seed in (0, 1, 2)
    ]
    rows = {(row.method, row.key): row for row in leaderboard.rows([*cpu, *gpu]) if row.protocol == "given"}
    assert len(rows) == 3
    named = {key: (row.settings, row.rank) for key, row in rows.items()}
    assert named["a", "0b"] == ("", 1.0)  # the most runs
    (other,) = (value for (method, key), value in named.items() if method == "a" and key != "0b")
    assert other == ("precision=32-true", None)
    assert [row.key_a for row in comparisons.pairs([*cpu, *gpu])] == []  # these records have no hits


def test_a_hidden_identity_without_answer_is_a_hole() -> None:
    many = five_streams()
    many = [unanswered(run) if (run.method, run.stream.folder) == ("c", "s1") else run for run in many]
    given, hidden = comparisons.across(many)
    assert given.methods == ("a", "b", "c") and hidden.methods == ("a", "b")


# Files


def test_comparisons_are_written_beside_the_leaderboards(tmp_path: Path) -> None:
    many = [answered(method, key, seed) for method, key in (("ewc", "0a"), ("lwf", "0b")) for seed in (0, 1)]
    many += five_streams()
    written = leaderboard.build(save(tmp_path / "a", *many), "three")
    ours = [path.name for path in written]
    assert ours == ["three.csv", "three.matrix.csv", "three.forgetting.csv", "three.bwt.csv", "three.pairs.csv",
                    "overall.csv", "overall.pairs.csv"]  # fmt: skip
    leaderboard.build(tmp_path / "a")
    random.Random(0).shuffle(many)
    leaderboard.build(save(tmp_path / "b", *many))
    content = [{path.name: path.read_bytes() for path in (tmp_path / side / "leaderboards").iterdir()} for side in "ab"]
    assert content[0] == content[1] and "s1.pairs.csv" not in content[0]
    rows = list(csv.DictReader((tmp_path / "a" / "leaderboards" / "three.pairs.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == PAIRS and [row["protocol"] for row in rows] == ["given", "hidden"]
    assert len(rows[0]["p"]) == 8 and rows[0]["n_samples"] == str(sum(SIZES))
    rows = list(csv.DictReader((tmp_path / "a" / "leaderboards" / "overall.csv").open(encoding="utf-8")))
    assert rows[0]["average_rank"] == "1.300000" and rows[0]["friedman_statistic"] == "6.000000"


def test_a_comparison_that_is_gone_leaves_the_header(tmp_path: Path) -> None:
    leaderboard.build(save(tmp_path, answered("ewc", "0a"), answered("lwf", "0b"), *five_streams()))
    save(tmp_path, made("lwf", "0b"), *(replace(run, limit=3) for run in five_streams()))
    leaderboard.build(tmp_path)
    for name, columns in (("three.pairs", PAIRS), ("overall", OVERALL),
                          ("overall.pairs", OVERALL_PAIRS)):  # fmt: skip
        assert (tmp_path / "leaderboards" / f"{name}.csv").read_text() == ",".join(columns) + "\n"


def test_packed_hits_are_numpys() -> None:
    assert packed([1, 0, 0, 0, 0, 0, 0, 0, 1]) == SampleScores(9, "gIA=")
