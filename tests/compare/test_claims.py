"""What papers claim, held against made records whose truth is known; and the committed page."""

from __future__ import annotations

import fnmatch
import json
import math
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import cli
from benchmark.compare import claims, claims_page, held, presets, stats, variance
from benchmark.compare.claims import Claim, ClaimedSide
from benchmark.compare.held import FAILS, HOLDS, UNTOLD, HeldClaim
from benchmark.config import registry, tuned
from benchmark.config.key import versions
from benchmark.config.run_config import RunConfig
from benchmark.data import yaml_files
from benchmark.errors import UserError
from benchmark.record.schema import Record
from benchmark.record.stored import read_all
from tests.committed import committed
from tests.golden_files import GOLDEN
from tests.made_records import TASKS, flat, made, on, save, unanswered, with_hits

ROOT = Path(__file__).resolve().parents[2]
ENTRY = (
    "claims:\n- {name: a, above: er, below: ewc, number: last_acc, identity: given, kinds: [classification], "
    "stream: phantom8, source: a paper, published: 1.5}\n"
)


def claim(above: str = "er", below: str = "ewc", **changes: Any) -> Claim:
    sides = ClaimedSide(above), ClaimedSide(below)
    kinds = frozenset({"classification"})
    plain = Claim(f"{above} over {below}", *sides, "last_acc", "given", kinds, "phantom8", "a paper", None, "")
    return replace(plain, **changes)


def runs(method: str, truth: float, count: int, noise: float = 0.01, **changes: Any) -> list[Record]:
    """Runs of order 0 without hits whose scores vary about the truth, others for every method."""
    generator = np.random.default_rng([count, *method.encode()])
    scores = truth + noise * generator.standard_normal(count)
    key = f"{sum(method.encode()):012x}"
    return [made(method, key, seed, given=np.full((4, 3), score), **changes) for seed, score in enumerate(scores)]


def only(claims: Sequence[Claim], records: Sequence[Record]) -> HeldClaim:
    (one,) = held.held(claims, records)
    return one


# Verdicts


def test_a_true_difference_is_told_by_its_sign() -> None:
    records = [*runs("er", 0.7, 8), *runs("ewc", 0.6, 8)]
    one = only([claim()], records)
    assert one.verdict == HOLDS and one.runs == 8 and not one.sampled
    assert 0.08 < one.low < 0.1 < one.high < 0.12
    other = only([claim("ewc", "er")], records)
    assert other.verdict == FAILS and other.difference == -one.difference and other.p == one.p


def test_no_difference_and_too_few_runs_cannot_be_told() -> None:
    none = only([claim(published=0.1)], [*runs("er", 0.6, 8), *runs("ewc", 0.6, 8)])
    assert none.verdict == UNTOLD and none.low < 0 < none.high
    assert none.needed is not None and none.needed <= 8  # of the published size it would have shown
    few = only([claim()], [*runs("er", 0.64, 5, 0.03), *runs("ewc", 0.6, 5, 0.03)])
    assert few.verdict == UNTOLD and few.needed is not None and few.needed > 5
    single = only([claim()], [*runs("er", 0.9, 1), *runs("ewc", 0.1, 1)])
    assert single.verdict == UNTOLD and math.isnan(single.p) and single.needed is None
    assert claims_page.cells(single)[5:] == ("-", "-", "-", UNTOLD, "-", "a single run")


def test_a_single_run_is_not_tested_though_its_samples_were_kept() -> None:
    """It tells of one trained model, as the interval over its samples does."""
    hits = {"er": [1] * 40, "ewc": [0] * 39 + [1]}
    one = only([claim()], [with_hits(made(name, "0a"), dict.fromkeys(TASKS, bits)) for name, bits in hits.items()])
    assert one.verdict == UNTOLD and math.isnan(one.p) and math.isnan(one.low)


def test_less_forgetting_is_better() -> None:
    keeps, drops = np.full((4, 3), 0.6), np.full((4, 3), 0.6)
    drops[-1] = 0.4
    noisy = np.random.default_rng(0).normal(0, 0.01, (2, 6))
    records = [made("er", "0a", seed, given=keeps + noisy[0, seed]) for seed in range(6)]
    for seed in range(6):
        drops[-1] = 0.4 + noisy[1, seed]
        records.append(made("ewc", "0b", seed, given=drops))
    one = only([claim(number="forgetting")], records)
    assert one.verdict == HOLDS and one.difference == pytest.approx(0.2, abs=0.02)
    assert only([claim("ewc", "er", number="forgetting")], records).verdict == FAILS


def test_scores_of_samples_enter_where_all_shared_runs_kept_them() -> None:
    generator = np.random.default_rng(1)
    records = []
    for method, rate in (("er", 0.8), ("ewc", 0.5)):
        for seed in range(4):
            hits = {task: (generator.random(60) < rate).astype(int) for task in TASKS}
            records.append(with_hits(made(method, "0a", seed), hits))
    one = only([claim()], records)
    kept = [[run.hits["given"][task] for task in sorted(TASKS)] for run in records if run.hits]
    scores = np.array([[bits.unpacked() for bits in run if bits] for run in kept]).reshape(2, 1, 4, 3, 60)
    a, b = ([scores[side, :, :, task] for task in range(3)] for side in (0, 1))
    assert one.sampled and (one.difference, one.low, one.high, one.p) == stats.difference(a, b)
    alone = only([claim()], [replace(records[0], hits=None), *records[1:]])
    assert not alone.sampled and alone.runs == 4 and alone.difference == pytest.approx(one.difference)
    assert "runs alone" in claims_page.cells(alone)[-1]


def test_the_number_of_runs_that_would_tell_does() -> None:
    """Of draws of so many runs about four in five tell a difference of that size; of a third as many few do."""
    size, deviation, generator = 0.02, 0.02, np.random.default_rng(3)
    spread = variance.Spread(np.array(0.001), np.array(deviation**2 / 3), np.array(0.0), 2, np.array(1.0))
    one = replace(
        only([claim(published=size)], [*runs("er", 0.6, 3), *runs("ewc", 0.6, 3)]),
        difference=0.001, p=0.9, runs=3, spread=spread,
    )  # fmt: skip
    needed = held._needed(one, 0.05)
    assert needed is not None and 9 <= needed <= 11  # a paired t test has a power of .8 with 10

    def power(count: int) -> float:
        drawn = size + deviation * generator.standard_normal((150, count))
        return float(np.mean([stats.difference([[g[:, None]]], [[0 * g[:, None]]])[3] < 0.05 for g in drawn]))

    assert 0.7 < power(needed) < 0.9
    assert power(needed // 3) < 0.4
    sampled = replace(one, spread=replace(spread, samples=np.array(0.02**2), freedom_of_samples=np.array(900.0)))
    assert held._needed(sampled, 0.05) is None  # whatever the runs, the samples vary too much


def test_holm_is_over_the_page() -> None:
    """A difference that would hold alone cannot be told among many questions."""
    pair = [*flat("er", "0a", 0.62, 0.65, 0.63, 0.66), *flat("ewc", "0b", 0.6, 0.6, 0.6, 0.6)]
    alone = only([claim()], pair)
    assert alone.verdict == HOLDS and alone.p_holm == alone.p and 0.005 < alone.p < 0.05
    others = [record for method in ("lwf", "der", "olora", "l2p") for record in runs(method, 0.6, 4)]
    names = ("lwf", "der", "olora", "l2p", "inflora")
    page = held.held([claim(), *(claim(name, "ewc") for name in names)], [*pair, *others, *runs("inflora", 0.6, 1)])
    assert [one.p_holm for one in page[:-1]] == stats.holm([one.p for one in page])[:-1]
    assert math.isnan(page[-1].p_holm)  # what is not tested counts for nothing
    first = page[0]
    assert first.p == alone.p and first.p_holm > alone.p and first.verdict == UNTOLD
    # two streams are two questions
    both = held.held([claim()], [*pair, *(on("another", record) for record in pair)])
    assert [one.p_holm for one in both] == stats.holm([alone.p, alone.p])


# What is paired


def test_only_runs_of_the_same_stream_seed_and_order_are_paired() -> None:
    er, ewc = runs("er", 0.7, 5), runs("ewc", 0.6, 5)
    ewc[0] = replace(ewc[0], stream=replace(ewc[0].stream, hash="other"))
    ewc[1] = replace(ewc[1], permutation=[1, 0, 2])
    ewc[2] = replace(ewc[2], limit=5)
    assert only([claim()], [*er, *ewc]).runs == 2
    assert held.held([claim()], [*er, *(replace(run, split="val") for run in ewc)]) == []
    assert held.held([claim()], [*er, *(on("another", run) for run in ewc)]) == []
    assert held.held([claim()], [*er, *(replace(run, backbone="ViT-B-16/openai") for run in ewc)]) == []
    assert held.held([claim()], [*er, *runs("ewc", 0.6, 5, settings="lr=0.1")]) == []
    assert held.held([claim(kinds=frozenset({"fusion"}))], [*er, *ewc]) == []
    hidden = [unanswered(run) for run in ewc]
    assert held.held([claim(identity="hidden")], [*er, *hidden]) == []


def test_a_backbone_without_trained_weights_tells_of_no_method() -> None:
    records = [*runs("er", 0.7, 4), *runs("ewc", 0.6, 4)]
    assert held.held([claim()], [replace(record, backbone="tiny-llava") for record in records]) == []


def test_settings_tell_two_rows_of_one_method_apart() -> None:
    told = "method.grouping=modality"
    groups = replace(claim("medcrp"), below=ClaimedSide("medcrp", told))
    rival = [replace(run, key="0f") for run in runs("medcrp", 0.6, 4, 0.001, settings=told)]
    one = only([groups], [*runs("medcrp", 0.7, 4), *rival])
    assert one.verdict == HOLDS and one.runs == 4


def test_over_every_other_the_nearest_decides() -> None:
    above = claim("joint_lora", "every")
    rivals = [*runs("ewc", 0.5, 6), *runs("er", 0.66, 6), *runs("lwf", 0.1, 1)]
    one = only([above], [*runs("joint_lora", 0.7, 6), *rivals])
    assert (one.rival, one.verdict) == ("er", HOLDS)
    assert "against er" in claims_page.cells(one)[-1] and "decides among 2 methods" in claims_page.cells(one)[-1]
    beaten = only([above], [*runs("joint_lora", 0.6, 6), *rivals])
    assert (beaten.rival, beaten.verdict) == ("er", FAILS)
    pair = only([claim("joint_lora", "er")], [*runs("joint_lora", 0.6, 6), *rivals])
    assert beaten.p == pytest.approx(2 * pair.p)  # chosen among two


def test_replay_that_saw_its_own_labels_alone_is_told() -> None:
    def replayed(candidates: str) -> list[Record]:
        kept = runs("er", 0.7, 3)
        return [replace(run, config=replace(run.config, method_args={"candidates": candidates})) for run in kept]

    hidden, rival = claim(identity="hidden"), runs("ewc", 0.6, 3)
    assert any("own task's labels" in note for note in only([hidden], [*replayed("own"), *rival]).notes)
    assert only([hidden], [*replayed("seen"), *rival]).notes == ("runs alone",)
    assert only([claim()], [*replayed("own"), *rival]).notes == ("runs alone",)


def test_two_that_answer_alike_are_told() -> None:
    same = [replace(run, method="er", key="0e") for run in runs("ewc", 0.6, 3)]
    one = only([claim()], [*runs("ewc", 0.6, 3), *same])
    assert one.verdict == UNTOLD and one.notes == ("alike in every run",) and one.needed is None
    assert one.difference == 0 and math.isnan(one.p) and math.isnan(one.low)  # nothing varies: nothing was tested


def test_two_runs_without_the_scores_of_samples_are_not_tested() -> None:
    """They may differ by an image more or less, and then seem hardly to vary: here by half of one in a hundred."""
    two = only([claim()], [*flat("er", "0a", 0.70, 0.80), *flat("ewc", "0b", 0.60, 0.695)])
    assert two.verdict == UNTOLD and math.isnan(two.p) and two.notes == ("two runs alone: too few to test",)
    three = only([claim()], [*flat("er", "0a", 0.70, 0.80, 0.75), *flat("ewc", "0b", 0.60, 0.695, 0.65)])
    assert three.verdict == HOLDS and three.notes == ("runs alone",)


def test_what_tuning_left_as_it_was_is_tested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default was the best for both sides, their runs stand in tuned and in default rows."""
    records = [*runs("er", 0.7, 4), *runs("ewc", 0.6, 4), *runs("lwf", 0.5, 4)]
    faster = [replace(run, key="0d", settings="lr=0.01") for run in runs("lwf", 0.4, 4)]
    kept = {("er", ""), ("ewc", ""), ("lwf", "lr=0.01")}
    monkeypatch.setattr(held, "beside_tuned", lambda run, card: "" if (run.method, run.settings) in kept else "other")
    page = held.held([claim(), claim("er", "lwf")], [*records, *faster])
    assert [(one.claim.below.method, one.preset) for one in page] == [
        ("ewc", "default"), ("lwf", "tuned"), ("lwf", "default"),
    ]  # fmt: skip
    assert [one.p_holm for one in page] == stats.holm([one.p for one in page])


def test_settings_that_a_claim_names_are_found_beside_tuned_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side with settings of its own is compared among tuned rows too: with them, and tuned values for the rest."""
    card = registry.card("ewc")
    monkeypatch.setattr(tuned, "sections", lambda card: {"classification": {"values": {"lr": 0.01}}})

    usual = {name: getattr(RunConfig(), name) for name in presets.LEARNING}

    def row(method: str, key: str, truth: float, settings: str = "", lr: float = 0.005, **own: Any) -> list[Record]:
        mine = registry.card(method)
        changed: dict[str, Any] = usual | {"method": method, "lr": lr, "versions": versions(mine)}
        config = replace(made().config, **changed, method_args=mine.defaults | own)
        return [replace(run, key=key, settings=settings, config=config) for run in runs(method, truth, 4)]

    plain, held_hard = row("ewc", "0a", 0.5), row("ewc", "0b", 0.6, "method.strength=9", strength=9)
    both = row("ewc", "0c", 0.7, "lr=0.01 method.strength=9", lr=0.01, strength=9)
    rival = row("lwf", "0d", 0.4, "lr=0.01", lr=0.01)
    told = [presets.beside_tuned(made[0], card) for made in (plain, held_hard, both)]
    assert told == ["lr=0.005", "lr=0.005 method.strength=9", "method.strength=9"]
    named = replace(claim("ewc", "lwf"), above=ClaimedSide("ewc", "method.strength=9"))
    found = held.held([named], [*plain, *held_hard, *both, *rival, *row("lwf", "0e", 0.3)])
    assert [(one.preset, one.keys) for one in found] == [("tuned", ("0c", "0d")), ("default", ("0b", "0e"))]


def test_what_no_seed_changes_is_a_single_run() -> None:
    one = only([claim()], [*flat("er", "0a", 0.7, 0.7, 0.7), *flat("ewc", "0b", 0.6, 0.6, 0.6)])
    assert one.verdict == UNTOLD and math.isnan(one.p) and one.needed is None
    assert claims_page.cells(one)[4:6] == ("+10.00", "-") and "a single run in effect" in claims_page.cells(one)[-1]


def test_another_backbone_is_another_row_and_named() -> None:
    pair = [*runs("er", 0.7, 3), *runs("ewc", 0.6, 3)]
    both = held.held([claim()], [*pair, *(replace(run, backbone="ViT-B-16/openai", key="0c") for run in pair)])
    assert [claims_page.cells(one)[1] for one in both] == ["three, ViT-B-16/openai", "three"]


# The file


def test_the_claims_of_the_suite_are_read() -> None:
    found = claims.read()
    assert len(found) >= 15 and len({one.name for one in found}) == len(found)
    assert any(one.published == pytest.approx(0.0188) for one in found)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("published", "publishd", "claims[0]: unknown key 'publishd' (did you mean 'published'?)"),
        ("claims:", "claim:", "unknown key 'claim' (did you mean 'claims'?)"),
        ("above: er,", "above: mslora_rc,", "claims[0].above: unknown method 'mslora_rc' (did you mean"),
        ("above: er,", "above: every,", "claims[0].above: unknown method 'every'"),
        ("below: ewc", "below: er", "claims[0]: above and below are the same, 'er'"),
        ("number: last_acc", "number: last", "claims[0]: unknown number 'last' (did you mean 'last_acc'?)"),
        ("identity: given", "identity: known", "claims[0]: unknown identity 'known'"),
        ("[classification]", "[clasification]", "claims[0].kinds: unknown kind 'clasification'"),
        ("source: a paper, ", "", "claims[0]: the key 'source' is missing"),
        ("published: 1.5", "published: -1.5", "claims[0].published: expected points above 0 up to 100"),
        ("published: 1.5", "published: true", "claims[0].published: expected points above 0 up to 100"),
        ("published: 1.5", "published: .nan", "claims[0].published: expected points above 0 up to 100"),
        ("published: 1.5", "below_settings: 3", "claims[0].below_settings: expected text, got 3"),
        ("- {name: a", "- a\n- {name: a", "claims: expected a list of claims"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_line(old: str, new: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(ENTRY)
    assert claims.read(file)[0].published == 0.015
    assert ENTRY.count(old) == 1
    file.write_text(ENTRY.replace(old, new))
    with pytest.raises(UserError) as refused:
        claims.read(file)
    assert told in str(refused.value) and str(file) in str(refused.value) and "\n" not in str(refused.value)


def test_two_claims_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(ENTRY + ENTRY.split("\n")[1])
    with pytest.raises(UserError, match="'a' is the name of another claim"):
        claims.read(tmp_path / "claims.yaml")


def test_the_files_are_in_the_wheel() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for file in (claims.FILE, claims_page.RELEASED):
        assert any(fnmatch.fnmatch(file.name, pattern) for pattern in told["benchmark.compare"])


def test_the_counts_of_the_released_answers_are_those_of_the_golden_file() -> None:
    known = json.loads((GOLDEN / "c/released_totals.json").read_text())["runs"]
    names = dict(zip(("pathvqa", "slake-vqarad", "derm", "PCAM", "CXP", "HAM", "nmi", "iu-x-ray"),
                     yaml_files.read(claims_page.RELEASED)["tasks"], strict=True))  # fmt: skip
    counted = 0
    for place, of in known.items():
        run, task = place.split("/")
        counts, exact = names[task][run], of["stored"]["exact match score"] / 100 * of["n"]
        assert (names[task]["samples"], names[task]["references"]) == (of["n"], of["distinct_references"])
        assert counts["exact"] == pytest.approx(exact, abs=0.01)
        assert (counts["answers"], counts["unfinished"]) == (of["distinct_answers"], of["answers_without_final_stop"])
        counted += 1
    assert counted == 22 == sum(len(entry) - 3 for entry in names.values())


# The page


def test_a_claim_without_records_says_so_and_where_it_can_be_tested() -> None:
    page = claims_page.text([*runs("er", 0.7, 3), *runs("sequential_lora", 0.6, 3)])
    with_records, without = page.split("## Without records")
    assert "| 14 | replay over sequential LoRA | three | given | 3 | +10." in with_records
    assert "9, MedCRP-CL over one LoRA per modality: streams of classification, such as `phantom8`" in without
    assert "replay over sequential" not in without
    assert page.count("\n| 14 |") == 2 and "2 of 23 claims could be tested, in 2 tests" in page


def test_the_page_is_written_whatever_the_order_of_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    records = [*runs("er", 0.7, 3), *runs("sequential_lora", 0.6, 3)]
    save(tmp_path, *records)
    assert cli.main(["claims", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "claims.md")
    written = (tmp_path / "claims.md").read_bytes()
    assert written == claims_page.text(records[::-1]).encode() and b"verdict" in written
    (tmp_path / "none").mkdir()
    assert cli.main(["claims", "--results", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no whole records" in line and not any((tmp_path / "none").iterdir())


def test_the_committed_page_is_what_the_committed_records_say(tmp_path: Path) -> None:
    for name in committed():
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / "results" / name, tmp_path / name)
    assert claims_page.text(read_all(tmp_path)) == (ROOT / "results" / claims_page.NAME).read_text(encoding="utf-8")
