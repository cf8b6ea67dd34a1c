"""What the README shows runs as it stands."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmark.config import registry
from benchmark.data import catalog
from benchmark.data.settle import settled
from benchmark.testing import check_method
from methods.base import IncrementalMethod

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[IncrementalMethod]]:
    """The method that the README adds, from a file of its own."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    (tmp_path / "anchor_example.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("anchor_example").Anchor
    sys.modules.pop("anchor_example")


def test_the_example_method_is_short_and_keeps_the_contract(example: type[IncrementalMethod]) -> None:
    """Of classification; the other kinds that it learns are checked by the slow test."""
    assert registry.card("anchor_example:Anchor").defaults["strength"] == 1.0
    check_method(type("Anchor", (example,), {"kinds": ("classification",)}), raise_on_failure=True)


@pytest.mark.slow
def test_the_example_method_keeps_the_contract_in_every_kind(example: type[IncrementalMethod]) -> None:
    assert len(example.kinds) > 1
    check_method(example, raise_on_failure=True)


def test_every_method_of_the_tree_is_in_the_table_and_no_other() -> None:
    table = README.split("## Methods")[1].split("## Add a method")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == registry.names()
    for name in registry.names():
        assert f"| `{name}` |" in table


def test_the_example_stream_of_questions_is_read(tmp_path: Path) -> None:
    """With files in the layouts that it names; lists of LLaVA and a table."""
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    (tmp_path / "my_questions.yaml").write_text(text)
    (tmp_path / "ct/images").mkdir(parents=True)
    for name in "abcd":
        Image.new("L", (8, 8), ord(name)).save(tmp_path / f"ct/images/{name}.png")
    asked = [{"from": "human", "value": "<image>\nIs it large?"}, {"from": "gpt", "value": "yes"}]
    learned = [{"image": f"{name}.png", "conversations": asked} for name in "abc"]
    (tmp_path / "ct/train.json").write_text(json.dumps(learned))
    tested = {"image": "d.png", "text": "Is it large?", "gt": "no", "answer_type": "CLOSED"}
    (tmp_path / "ct/test.jsonl").write_text(json.dumps(tested) + "\n")
    rows = "images/a.png,A cyst.,train\nimages/b.png,A mass.,val\nimages/c.png,A scar.,test\n"
    (tmp_path / "ct/reports.csv").write_text("file,report,split\n" + rows)
    stream = settled(catalog.load(str(tmp_path / "my_questions.yaml"), tmp_path)).stream
    assert [(task.kind, task.metric, task.max_new_tokens) for task in stream] == [
        ("generation", "exact", 10), ("generation", "f1", 100),
    ]  # fmt: skip


def test_streams_that_are_named_exist() -> None:
    for name in re.findall(r"`(phantom\d+|phantom_\w+|smoke\w*|medical\d+|medmnist\d+|mbiil\w+)`", README):
        assert name in catalog.names("streams")


def test_make_targets_that_are_named_exist() -> None:
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)) - {"and"}:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
