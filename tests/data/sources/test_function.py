"""Samples from a user's own function: every kind, identities, what it may not return."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmark.data import catalog, sources
from benchmark.data.cache import cached, resized
from benchmark.data.catalog import Source
from tests.source_files import WHERE, YES_NO, refused

IMAGES = "'images': np.full((n, 4, 4), len(split), np.uint8)"
TEXTS = "'texts': ['a', 'b', 'a']"
LABELS = "'labels': np.arange(n) % 2"
GOOD = {
    "classification": f"return {{{IMAGES}, {LABELS}}}",
    "fusion": f"return {{{IMAGES}, {LABELS}, {TEXTS}}}",
    "retrieval": f"return {{{IMAGES}, {TEXTS}}}",
}


def plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, kind: str = "fusion", **arguments: Any
) -> Source:
    (tmp_path / "own_data.py").write_text(f"import numpy as np\n\ndef load(split, n=3, **more):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    classes = () if kind == "retrieval" else YES_NO
    options = {"function": "own_data:load"} | ({"arguments": arguments} if arguments else {})
    return Source(WHERE, "function", classes, options, kind)


def test_a_function_gives_tasks_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {kind: sources.load(plugin(tmp_path, monkeypatch, body, kind), "train") for kind, body in GOOD.items()}
    assert found["classification"].pairs is None and found["classification"].labels.tolist() == [0, 1, 0]
    for kind, labels in (("fusion", [0, 1, 0]), ("retrieval", [0, 1, 0])):
        split = found[kind]
        assert split.texts == ("a", "b") and split.labels.tolist() == labels and split.pairs is not None
        assert split.pairs.tolist() == [[0, 0], [1, 1], [2, 0]]
    several = plugin(
        tmp_path, monkeypatch, f"return {{{IMAGES}, {TEXTS}, 'pairs': [[0, 2], [0, 1], [1, 1]]}}", "retrieval"
    )
    split = sources.load(several, "val")
    assert split.pairs is not None and split.pairs.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert split.labels.tolist() == [0, 0, 0] and split.images[0, 0, 0] == 3


def test_a_functions_identity_is_that_of_what_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(body: str, kind: str = "classification", **arguments: Any) -> str:
        return sources.identity(plugin(tmp_path, monkeypatch, body, kind, **arguments))

    body = GOOD["classification"]
    assert told(body) == told(f"pass; {body}") == told(body, n=3) == told(body, anything="else")
    others = {
        told(body), told(body, n=4), told(GOOD["fusion"], "fusion"), told(GOOD["retrieval"], "retrieval"),
        told(body.replace("len(split)", "7")), told(body.replace("% 2", "% 1")),
        told(GOOD["fusion"].replace("'b'", "'c'"), "fusion"),
    }  # fmt: skip
    assert len(others) == 7


def test_a_function_by_its_stream_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, monkeypatch, GOOD["fusion"])
    file = tmp_path / "s.yaml"
    task = {"name": "t", "modality": "ct", "kind": "fusion", "source": "own_data:load", "arguments": {"n": 3},
            "classes": list(YES_NO), "template": "{}"}  # fmt: skip
    file.write_text(yaml.safe_dump({"name": "s", "tasks": [task]}))
    (source,) = catalog.load(str(file), tmp_path).sources
    assert source.kind == "function" and len(sources.load(source, "test").images) == 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise RuntimeError('two\\nlines')", ("own_data:load('train') failed: RuntimeError: two lines",)),
        ("return 3", ("expected a mapping", "int")),
        (f"return {{{IMAGES}, {LABELS}}}", ("the key 'texts' is missing",)),
        (f"return {{{IMAGES}, {LABELS}, {TEXTS}, 'pair': 1}}", ("unknown key 'pair'", "did you mean 'pairs'?")),
        (f"return {{'images': np.zeros((3, 4, 4)), {LABELS}, {TEXTS}}}", ("images: expected uint8, got float64",)),
        (f"return {{'images': np.zeros((3, 4), np.uint8), {LABELS}, {TEXTS}}}", ("images", "(3, 4)")),
        (f"return {{{IMAGES}, 'labels': [0, 1], {TEXTS}}}", ("labels: (2,) does not fit 3 samples",)),
        (f"return {{{IMAGES}, 'labels': [0, 1, 2], {TEXTS}}}", ("labels: 0..2", "2 classes")),
        (f"return {{{IMAGES}, 'labels': [0., 1., 1.], {TEXTS}}}", ("labels: expected integers, got float64",)),
        (f"return {{{IMAGES}, {LABELS}, 'texts': ['a', '', 'b']}}", ("texts", "none empty")),
        (f"return {{{IMAGES}, {LABELS}, 'texts': ['a']}}", ("texts: 1 do not fit 3 images",)),
        (f"return {{{IMAGES}, {LABELS}, {TEXTS}, 'pairs': [[0, 0], [3, 0], [0, 0]]}}", ("pairs", "outside")),
        (f"return {{{IMAGES}, {LABELS}, {TEXTS}, 'pairs': [[0, 0], [-1, 0], [0, 0]]}}", ("pairs", "outside")),
        (f"return {{{IMAGES}, {LABELS}, {TEXTS}, 'pairs': [0, 1, 2]}}", ("pairs: expected (P, 2)", "(3,)")),
    ],
)
def test_what_a_function_may_not_return(
    body: str, says: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refused(plugin(tmp_path, monkeypatch, body))
    assert message.startswith(WHERE) and all(part in message for part in says), message


def test_a_function_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, monkeypatch, GOOD["fusion"])

    def source(function: str, **options: Any) -> Source:
        return Source(WHERE, "function", YES_NO, {"function": function, **options}, "fusion")

    missing = refused(source("no_such_package.data:load"))
    assert "no_such_package.data cannot be imported: ModuleNotFoundError" in missing
    assert "unknown function 'lod' (did you mean 'load'?)" in refused(source("own_data:lod"))
    assert ".arguments: expected names and values" in refused(source("own_data:load", arguments=[1]))


PAIRS = """
    from PIL import Image
    import torch
    class Held(torch.utils.data.Dataset):
        def __len__(self):
            return n
        def __getitem__(self, i):
            pixels = np.full((4, 5 + i * varied, 3), 10 * i, np.uint8)
            return form(pixels), (i % 2 if n < 5 else np.array([i % 2]))
    return Held()"""


@pytest.mark.parametrize(
    "form",
    ["pixels", "Image.fromarray(pixels)", "Image.fromarray(pixels).convert('RGBA')", "torch.from_numpy(pixels)",
     "torch.from_numpy(pixels).permute(2, 0, 1) / 255"],
)  # fmt: skip
@pytest.mark.parametrize("varied", [0, 1])
def test_a_data_set_of_torch_is_read_item_by_item(
    form: str, varied: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    body = f"varied = {varied}" + PAIRS.replace("form(pixels)", form)
    source = plugin(tmp_path, monkeypatch, body, "classification", n=5)
    split = sources.load(source, "train")
    assert split.labels.tolist() == [0, 1, 0, 1, 0]
    for i, image in enumerate(split.images):
        assert np.array_equal(image, np.full((4, 5 + i * varied, 3), 10 * i, np.uint8))
    before = sources.identity(source)
    made = cached(source, before, 8)["train"].images
    assert np.array_equal(made, resized(list(split.images), 8))
    other = plugin(tmp_path, monkeypatch, body.replace("10 * i", "100 + i"), "classification", n=5)
    assert sources.identity(other) != before


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("np.zeros((4, 4), np.uint8)", "[0]: expected an image and its label"),
        ("(np.zeros((4, 4), np.uint8), 'yes')", "[0]: label: expected a class's number, got 'yes'"),
        ("(np.full((4, 4), -1.5), 0)", "before they are normalised"),
        ("(np.zeros((2, 4, 4), np.uint8), 0)", "uint8 (2, 4, 4)"),
        ("(np.zeros((4, 4), np.uint8), 7)", "lists 2 classes"),
    ],
)
def test_an_item_that_is_none_is_told_with_its_place(
    item: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in refused(plugin(tmp_path, monkeypatch, f"return [{item}]", "classification"))
