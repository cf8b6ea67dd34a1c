"""Keys: what changes one and what does not, and runs that an earlier edition kept under another."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.config import arguments, key, registry
from benchmark.config.resolve import Plan, resolve
from benchmark.config.run_config import RunConfig
from benchmark.errors import UserError
from benchmark.record.folder import RunFolder, State
from benchmark.record.schema import Configuration, Record
from benchmark.record.stored import read_record, write_record
from benchmark.running.execute import new_record
from benchmark.stream import Budget
from tests.golden_files import GOLDEN

CARD = registry.card("ewc")  # of whose code no part has had another version


def keyed(card: registry.MethodCard = CARD, precision: str = "32-true", **changes: Any) -> str:
    arguments = dict(CARD.defaults) | changes.pop("method_args", {})
    made = key.configuration(RunConfig(method=card.name, method_args=arguments, **changes), card, precision)
    return key.run_key(made, card.defaults, "stream", made.weights)


def planned(results: Path, *argv: str) -> Plan:
    line = ["--method", CARD.name, "--stream", "smoke", "--results", str(results), *argv]
    config, card, _ = arguments.parse("run", line, with_class=False)
    return resolve(config, card, cuda=False)


def test_what_differs_from_the_defaults_is_in_the_key() -> None:
    usual = keyed()
    same = [
        keyed(seed=3, order=1, device="cpu", results="elsewhere", quiet=True, data="there"),
        keyed(stream="phantom20"),  # its hash tells the stream, whatever its file is called
        keyed(lr=0.005, warmup=3e-2, method_args={"rank": float(CARD.defaults["rank"])}),
    ]
    other = [
        keyed(lr=0.004), keyed(method_args={"rank": 16}), keyed(limit=5), keyed(split="val"), keyed(inputs="image"),
        keyed(precision="bf16-mixed"), keyed(backbone="ViT-B-16", pretrained="openai"), keyed(backbone="ViT-B-16"),
        keyed(replace(CARD, name="stacked_lora")),
    ]  # fmt: skip
    assert set(same) == {usual} and len({usual, *other}) == 1 + len(other)


def test_an_argument_at_its_default_changes_no_key_and_another_default_does() -> None:
    later = replace(CARD, defaults=CARD.defaults | {"added": None})
    assert keyed(later) == keyed(later, method_args={"added": None}) == keyed()
    assert keyed(later, method_args={"added": 1}) != keyed()
    assert keyed(replace(CARD, defaults=CARD.defaults | {"rank": 4})) != keyed()  # the same rank is a setting now


def test_raising_a_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = keyed()
    assert CARD.version == 1 and keyed(replace(CARD, version=2)) not in (usual, keyed(replace(CARD, version=3)))
    monkeypatch.setattr(key, "part_versions", lambda _: {"router": 1})
    assert keyed() == usual
    monkeypatch.setattr(key, "part_versions", lambda _: {"router": 2})
    assert keyed() != usual
    monkeypatch.undo()
    monkeypatch.setattr(Budget, "version", 2)
    assert keyed() != usual


def test_the_versions_of_parts_are_those_that_the_method_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"near": "from methods.parts import far\nVERSION = 3\n", "far": "VERSION = 2\n", "other": "VERSION = 9\n"}
    (tmp_path / "methods" / "parts").mkdir(parents=True)
    for name, text in parts.items():
        (tmp_path / "methods" / "parts" / f"{name}.py").write_text(text)
    (tmp_path / "methods" / "mine.py").write_text("from methods.parts.near import x\nVERSION = 7\n")
    monkeypatch.setattr(registry.provenance, "ROOT", tmp_path)
    card = replace(CARD, file=tmp_path / "methods" / "mine.py")
    assert registry.part_versions(card) == {"near": 3, "far": 2}


def test_runs_of_changed_defaults_have_another_key_and_their_records_keep_theirs(tmp_path: Path) -> None:
    """Replay and joint training since their loss runs over all labels seen, routed ones since tasks weigh the same."""
    changed = {name for name in registry.names() if key.versions(registry.card(name)).get("method", 1) > 1}
    routed = {name for name in registry.names() if "router" in key.versions(registry.card(name))}
    assert {"er", "der", "joint_lora"} <= changed and {"independent_lora", "mslora_cr", "lpi"} <= routed
    assert not routed & {"ncm", "ranpac", "cllora", "sequential_lora"}, "they ask no router"
    weights = key.weights_identity("phantom-clip", None)
    for name in ("er", "mslora_cr"):
        record, card = read_record(GOLDEN / f"first_edition_{name}.json"), registry.card(name)
        place = tmp_path / name / record.key / "seed0-order0" / "run.json"
        place.parent.mkdir(parents=True)
        place.write_bytes((GOLDEN / f"first_edition_{name}.json").read_bytes())
        unchanged = replace(record.config, weights=weights)
        kept = [
            key.kept_key([tmp_path / name], made, card.defaults | record.config.method_args, record.stream.hash)
            for made in (unchanged, replace(unchanged, versions=key.versions(card)))
        ]
        assert kept[0] == record.key != kept[1], name  # it is the versions that tell them apart


def test_weights_are_their_content_wherever_they_lie(tmp_path: Path) -> None:
    for place, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights.pt").write_bytes(content)
    folders = [keyed(backbone=f"local-dir:{tmp_path / place}") for place in "abc"]
    files = [keyed(backbone="ViT-B-16", pretrained=str(tmp_path / place / "weights.pt")) for place in "abc"]
    for a, b, c in (folders, files):
        assert a == b != c
    assert not set(folders) & {*files, keyed()}
    with pytest.raises(UserError, match="no folder"):
        keyed(backbone=f"local-dir:{tmp_path / 'd'}")


def earlier(plan: Plan, **changes: Any) -> Record:
    """The record of a run as the first edition wrote it, under its key."""
    made = replace(plan.made_with, weights="", versions={}, **changes)
    record = new_record(plan, "cpu (1 threads)")
    return replace(record, config=made, key=key._first_key(made, plan.stream_hash, plan.made_with.weights))


def test_the_first_edition_made_the_committed_keys() -> None:
    record = read_record(GOLDEN / "first_edition_mslora_cr.json")
    weights = key.weights_identity("phantom-clip", None)
    assert key._first_key(record.config, record.stream.hash, weights) == record.key == "0e8fa56b9b0d"
    assert "weights" not in record.to_json()["config"] and "versions" not in record.to_json()["config"]
    assert record.config == Configuration(**asdict(record.config))


def test_records_of_an_earlier_edition_keep_their_key_and_place(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    old = earlier(plan)
    assert old.key != plan.key
    write_record(tmp_path / "runs" / "smoke" / CARD.name / old.key / "seed0-order0", old)
    found = planned(tmp_path)
    assert found.key == old.key and RunFolder(found.path, found.key).found().state is State.UNFINISHED
    assert planned(tmp_path, "--seed", "5").key == old.key  # its replicates stand beside it
    assert planned(tmp_path, "--lr", "0.001").key == planned(tmp_path / "empty", "--lr", "0.001").key
    write_record(found.path, new_record(found, "cpu"))  # run in place by today's code
    assert planned(tmp_path).key == old.key


@pytest.mark.parametrize("change", ["rank", "lr", "weights", "stream", "version", "damaged"])
def test_other_runs_of_an_earlier_edition_are_other_runs(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path)
    changes: dict[str, Any] = {"lr": 0.1} if change == "lr" else {}
    if change == "rank":
        changes = {"method_args": plan.made_with.method_args | {"rank": 2}}
    old = earlier(plan, **changes)
    if change == "weights":
        old = replace(old, key="0123456789ab")  # of other weights of the same name
    if change == "stream":
        old = replace(old, stream=replace(old.stream, hash="ff"))
    folder = tmp_path / "runs" / ("smoke" if change != "stream" else plan.stream_folder) / CARD.name / old.key
    write_record(folder / "seed0-order0", old)
    if change == "damaged":
        (folder / "seed0-order0" / "run.json").write_text("{")
    if change == "version":
        monkeypatch.setattr(key, "part_versions", lambda _: {"router": 2})
    kept = key.kept_key([folder.parent], planned(tmp_path / "empty").made_with, CARD.defaults, plan.stream_hash)
    assert kept == planned(tmp_path / "empty").key != old.key


def test_of_two_places_the_one_with_more_runs_is_taken(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    old = earlier(plan)
    places = [tmp_path / "runs" / "smoke" / CARD.name / each for each in (old.key, plan.key)]
    write_record(places[0] / "seed0-order0", old)
    write_record(places[1] / "seed0-order0", new_record(plan, "cpu"))
    assert planned(tmp_path).key == plan.key
    write_record(places[0] / "seed1-order0", replace(old, seed=1))
    assert planned(tmp_path).key == old.key
