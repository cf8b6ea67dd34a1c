"""Images with texts in tables and from functions: what belongs together, drawn splits, identities, what is refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.table_files import written

from benchmark.data import catalog, files, module, pairs, sources
from benchmark.data.catalog import Source
from benchmark.errors import UserError

WHERE = "s.yaml: tasks[0]"
CLASSES = ("no", "yes")
COLUMNS = {"image": "file", "text": "question", "label": "answer", "split": "part"}
ROWS = [
    {"file": f"{i // 2}.png", "question": f"question {i % 5}", "answer": CLASSES[i % 2], "kind": "ABC"[i % 3],
     "part": ("train", "train", "train", "val", "test")[i // 4 % 5], "number": i % 4}
    for i in range(40)
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t").mkdir()
    for i in range(20):
        picture(tmp_path / "t" / f"{i}.png", i)
    return tmp_path / "t"


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)).save(path)


def fusion(path: Path, **options: Any) -> Source:
    return Source(WHERE, "table", CLASSES, {"path": path, "columns": COLUMNS} | options, "fusion")


def retrieval(path: Path, **options: Any) -> Source:
    columns = {key: COLUMNS[key] for key in ("image", "text", "split")}
    return Source(WHERE, "table", (), {"path": path, "columns": columns} | options, "retrieval")


def refused(source: Source) -> str:
    with pytest.raises(UserError) as error:
        sources.identity(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows_of(split: sources.Split) -> list[tuple[bytes, str]]:
    """The image and the text of every sample."""
    assert split.pairs is not None
    images = [np.asarray(image).tobytes() for image in split.images]
    return [(images[i], split.texts[t]) for i, t in split.pairs.tolist()]


# What belongs together


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_components_are_those_of_the_graph(edges: list[tuple[int, int]]) -> None:
    """Against the closure of "shares an image or a text", by multiplying matrices."""
    rows = np.array(edges)
    near = (rows[:, None, 0] == rows[None, :, 0]) | (rows[:, None, 1] == rows[None, :, 1])
    for _ in edges:
        near = near @ near
    found = pairs.components(rows[:, 0], rows[:, 1])
    assert np.array_equal(found[:, None] == found[None, :], near)
    first = [found.tolist().index(number) for number in range(found.max() + 1)]
    assert first == sorted(first)
    assert pairs.components([str(i) for i, _ in edges], [t for _, t in edges]).tolist() == found.tolist()


def test_numbered_counts_in_the_order_of_first_appearance() -> None:
    places, rows = pairs.numbered(["b", "a", "b", "c", "a"])
    assert places == [0, 1, 3] and rows.tolist() == [0, 1, 0, 2, 1] and rows.dtype == np.int64


# Tables


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_fusion_table_keeps_images_and_texts_once_and_the_rows_in_order(kind: str, folder: Path) -> None:
    source = fusion(written(folder, ROWS, kind))
    for split in files.SPLITS:
        rows = [row for row in ROWS if row["part"] == split]
        loaded = sources.load(source, split)
        assert loaded.labels.tolist() == [CLASSES.index(row["answer"]) for row in rows]
        assert len(loaded.images) == len({row["file"] for row in rows}) == len(rows) // 2
        assert len(loaded.texts) == len(set(loaded.texts)) == 5 if split == "train" else 4
        expected = [(np.asarray(Image.open(folder / row["file"])).tobytes(), row["question"]) for row in rows]
        assert rows_of(loaded) == expected
    assert sources.identity(source) == sources.identity(fusion(written(folder, ROWS)))


def test_a_retrieval_table_numbers_what_belongs_together_within_its_split(folder: Path) -> None:
    texts = ["a", "b", "c", "c", "d", "e", "f", "g"]
    images = [0, 0, 1, 2, 3, 4, 5, 6]
    parts = ["train"] * 5 + ["val"] + ["test"] * 2
    rows = [{"file": f"{i}.png", "question": t, "part": p} for i, t, p in zip(images, texts, parts, strict=True)]
    source = retrieval(written(folder, rows))
    train = sources.load(source, "train")
    assert train.labels.tolist() == [0, 0, 1, 1, 2] and train.texts == ("a", "b", "c", "d")
    assert train.pairs is not None and train.pairs.tolist() == [[0, 0], [0, 1], [1, 2], [2, 2], [3, 3]]
    assert sources.load(source, "test").labels.tolist() == [0, 1]
    sources.check_labels(source, "train", train.labels)  # numbers, not classes: nothing to refuse
    cached = module.cached(source, sources.identity(source), 8)["train"]
    assert tuple(cached.texts) == train.texts and cached.images.shape == (4, 3, 8, 8)


def test_rows_keep_what_their_column_says(folder: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        path = written(folder, ROWS, kind)
        for rows, keep in (
            ({"kind": "A"}, lambda row: row["kind"] == "A"),
            ({"kind": ["A", "C"], "number": [0, 3]}, lambda row: row["kind"] in "AC" and row["number"] in (0, 3)),
            ({"number": 2}, lambda row: row["number"] == 2),
        ):
            loaded = sources.load(fusion(path, rows=rows), "train")
            expected = [row["question"] for row in ROWS if row["part"] == "train" and keep(row)]
            assert [text for _, text in rows_of(loaded)] == expected and expected


def test_rows_that_are_passed_over_may_be_wrong(folder: Path) -> None:
    bad = {"file": "none.png", "question": "", "answer": "maybe", "kind": "D", "part": "train", "number": 0}
    path = written(folder, [bad, *ROWS])
    assert "unknown label 'maybe'" in refused(fusion(path))
    kept = fusion(path, rows={"kind": ["A", "B", "C"]})
    assert sources.identity(kept) == sources.identity(fusion(written(folder, ROWS)))
    missing = [*ROWS[:3], ROWS[3] | {"file": "none.png"}]
    message = refused(fusion(written(folder, [bad, *missing]), rows={"kind": ["A", "B", "C"]}))
    assert "row 5: image not found" in message  # the number in the table, not among what is kept


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": {"kin": "A"}}, ("unknown column 'kin'", "did you mean 'kind'?", "rows.kin")),
        ({"rows": {"kind": "AB"}}, ("rows.kind", "unknown value 'AB'")),
        ({"rows": {"kind": "A", "answer": "yess"}}, ("rows.answer", "did you mean 'yes'?")),
        ({"rows": {"answer": True}}, (".rows.answer", "in quotes", "True")),
        ({"rows": {"answer": []}}, (".rows.answer", "[]")),
        ({"rows": ["kind"]}, (".rows", "column: value")),
        ({"columns": {"image": "file", "label": "answer"}}, (".columns", "'text' is missing")),
        ({"columns": {"image": "file", "text": "question"}}, (".columns", "'label' is missing")),
        ({"columns": COLUMNS | {"text": "questoin"}}, ("unknown column 'questoin'", "did you mean 'question'?")),
    ],
)
def test_wrong_options_of_a_fusion_table(options: dict[str, Any], says: tuple[str, ...], folder: Path) -> None:
    message = refused(fusion(written(folder, ROWS), **options))
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"image": "file"}}, (".columns", "'text' is missing")),
        ({"columns": COLUMNS}, (".columns.label", "a retrieval task has none")),
        ({"values": ["a"]}, (".values", "no classes")),
    ],
)
def test_wrong_options_of_a_retrieval_table(options: dict[str, Any], says: tuple[str, ...], folder: Path) -> None:
    message = refused(retrieval(written(folder, ROWS), **options))
    assert all(part in message for part in says), message


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_text_is_named(empty: str | None, folder: Path) -> None:
    rows = [dict(row) for row in ROWS]
    rows[6]["question"] = empty
    for source in (fusion, retrieval):
        assert "row 7: column 'question': the text is empty" in refused(source(written(folder, rows, "jsonl")))


def test_the_identity_tells_texts_labels_pairs_images_and_splits(folder: Path) -> None:
    def told(rows: list[dict[str, Any]], kind: Any = fusion) -> str:
        return sources.identity(kind(written(folder, rows)))

    first = ROWS[0]
    seen = {
        told(ROWS), told(ROWS, retrieval), told(ROWS[1:]), told([*ROWS[1:], first]),
        told([first | {"question": "another"}, *ROWS[1:]]), told([first | {"answer": "yes"}, *ROWS[1:]]),
        told([first | {"file": "1.png"}, *ROWS[1:]]), told([first | {"part": "val"}, *ROWS[1:]]),
    }  # fmt: skip
    assert len(seen) == 8
    before = told(ROWS)
    picture(folder / "0.png", 99)
    assert told(ROWS) != before


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 20)), min_size=12, max_size=40),
    st.integers(0, 3),
)
def test_a_draw_for_retrieval_tears_no_image_text_or_group_apart(rows: list[tuple[int, int, int]], seed: int) -> None:
    groups = [f"group:{group}" for _, _, group in rows]
    joined = files._joined(groups, [str(image) for image, _, _ in rows], [str(text) for _, text, _ in rows])
    samples = [
        files.Sample(Path(str(image)), 0, group, str(text))
        for (image, text, _), group in zip(rows, joined, strict=True)
    ]
    drawn = files._drawn(retrieval(Path("t.csv"), seed=seed), samples, files.SPLITS)
    assert sum(map(len, drawn.values())) == len(rows)
    for told in (lambda s: s.path, lambda s: s.text, lambda s: s.group):
        parts = [{told(sample) for sample in drawn[split]} for split in files.SPLITS]
        assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_drawn_retrieval_table_is_the_same_however_its_rows_stand(folder: Path) -> None:
    columns = {"image": "file", "text": "question"}
    rows = [{"file": f"{i}.png", "question": f"text {i // 2 if i < 4 else i}"} for i in range(20)]

    def drawn(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
        listed = files.listed(retrieval(written(folder, rows), columns=columns))
        return {split: {sample.path.name for sample in listed[split]} for split in files.SPLITS}

    assert drawn(rows) == drawn(rows[::-1])
    assert {split: len(found) for split, found in drawn(rows).items()} == {"train": 13, "val": 2, "test": 5}


# Stream files


def stream(folder: Path, **task: Any) -> str:
    told = {"name": "t", "modality": "ct", "source": "table", "path": "table.csv", "columns": {}} | task
    file = folder / "s.yaml"
    file.write_text(yaml.safe_dump({"name": "s", "label_space": told.pop("label_space", "own"), "tasks": [told]}))
    return str(file)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"kind": "retrieval", "classes": ["a", "b"]}, (".classes", "a retrieval task has none")),
        ({"kind": "retrieval", "template": "{}"}, (".template", "a retrieval task has none")),
        ({"kind": "fusion"}, (".classes", "list of texts")),
        ({"kind": "retrieval", "label_space": "shared"}, ("label_space", "no labels")),
        ({"kind": "fusion", "source": "npz", "columns": ...}, (".kind", "'npz' gives classification tasks only")),
        ({"kind": "retrieval", "source": "folder", "columns": ...}, (".kind", "'folder' gives classification")),
    ],
)
def test_wrong_tasks_with_texts_are_refused(task: dict[str, Any], says: tuple[str, ...], folder: Path) -> None:
    written(folder, ROWS)
    file = Path(stream(folder, **{key: value for key, value in task.items() if value is not ...}))
    if ... in task.values():
        content = yaml.safe_load(file.read_text())
        del content["tasks"][0]["columns"]
        file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as error:
        catalog.load(str(file), folder)
    assert str(error.value).startswith(str(file)) and all(part in str(error.value) for part in says), error.value


def test_a_retrieval_stream_has_no_labels_and_its_sources_know_their_kind(folder: Path) -> None:
    written(folder, ROWS)
    columns = {key: COLUMNS[key] for key in ("image", "text", "split")}
    recipe = catalog.load(stream(folder, kind="retrieval", columns=columns), folder)
    assert (recipe.stream.kind, recipe.stream.tasks[0].labels) == ("retrieval", ())
    assert recipe.sources[0].task_kind == "retrieval" and recipe.sources[0].classes == ()
    assert len(sources.load(recipe.sources[0], "train").labels) == 24


# Functions


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, kind: str = "fusion", **arguments: Any) -> Source:
    (folder / "own_data.py").write_text(f"import numpy as np\n\ndef load(split, n=3, **more):\n    {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    classes = () if kind == "retrieval" else CLASSES
    options = {"function": "own_data:load"} | ({"arguments": arguments} if arguments else {})
    return Source(WHERE, "function", classes, options, kind)


IMAGES = "'images': np.full((n, 4, 4), len(split), np.uint8)"
TEXTS = "'texts': ['a', 'b', 'a']"
LABELS = "'labels': np.arange(n) % 2"
GOOD = {
    "classification": f"return {{{IMAGES}, {LABELS}}}",
    "fusion": f"return {{{IMAGES}, {LABELS}, {TEXTS}}}",
    "retrieval": f"return {{{IMAGES}, {TEXTS}}}",
}


def test_a_function_gives_tasks_of_every_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {kind: sources.load(plugin(folder, monkeypatch, body, kind), "train") for kind, body in GOOD.items()}
    assert found["classification"].pairs is None and found["classification"].labels.tolist() == [0, 1, 0]
    for kind, labels in (("fusion", [0, 1, 0]), ("retrieval", [0, 1, 0])):
        split = found[kind]
        assert split.texts == ("a", "b") and split.labels.tolist() == labels and split.pairs is not None
        assert split.pairs.tolist() == [[0, 0], [1, 1], [2, 0]]
    several = plugin(
        folder, monkeypatch, f"return {{{IMAGES}, {TEXTS}, 'pairs': [[0, 2], [0, 1], [1, 1]]}}", "retrieval"
    )
    split = sources.load(several, "val")
    assert split.pairs is not None and split.pairs.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert split.labels.tolist() == [0, 0, 0] and split.images[0, 0, 0] == 3


def test_a_functions_identity_is_that_of_what_it_returns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(body: str, kind: str = "classification", **arguments: Any) -> str:
        return sources.identity(plugin(folder, monkeypatch, body, kind, **arguments))

    body = GOOD["classification"]
    assert told(body) == told(f"pass; {body}") == told(body, n=3) == told(body, anything="else")
    others = {
        told(body), told(body, n=4), told(GOOD["fusion"], "fusion"), told(GOOD["retrieval"], "retrieval"),
        told(body.replace("len(split)", "7")), told(body.replace("% 2", "% 1")),
        told(GOOD["fusion"].replace("'b'", "'c'"), "fusion"),
    }  # fmt: skip
    assert len(others) == 7


def test_a_function_by_its_stream_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(folder, monkeypatch, GOOD["fusion"])
    file = folder / "s.yaml"
    task = {"name": "t", "modality": "ct", "kind": "fusion", "source": "own_data:load", "arguments": {"n": 3},
            "classes": list(CLASSES), "template": "{}"}  # fmt: skip
    file.write_text(yaml.safe_dump({"name": "s", "tasks": [task]}))
    (source,) = catalog.load(str(file), folder).sources
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
    body: str, says: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refused(plugin(folder, monkeypatch, body))
    assert message.startswith(WHERE) and all(part in message for part in says), message


def test_a_function_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(folder, monkeypatch, GOOD["fusion"])

    def source(function: str, **options: Any) -> Source:
        return Source(WHERE, "function", CLASSES, {"function": function, **options}, "fusion")

    missing = refused(source("no_such_package.data:load"))
    assert "no_such_package.data cannot be imported: ModuleNotFoundError" in missing
    assert "unknown function 'lod' (did you mean 'load'?)" in refused(source("own_data:lod"))
    assert ".arguments: expected names and values" in refused(source("own_data:load", arguments=[1]))


# The shipped streams on small tables of their layouts


def vqa(root: Path, name: str, **more: list[str]) -> None:
    rows = []
    for i in range(30):
        picture(root / name / "images" / f"{i // 3}.png", i)
        split = ("train", "train", "val", "test", "test")[i // 3 % 5]
        row = {"image": f"images/{i // 3}.png", "question": f"is it {i % 4}?", "answer": CLASSES[i % 2], "split": split}
        rows.append(row | {key: values[i % len(values)] for key, values in more.items()})
    with open(root / name / "closed.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_mbiil_vqa_reads_the_tables_of_its_cards(tmp_path: Path) -> None:
    vqa(tmp_path, "pathvqa")
    vqa(tmp_path, "vqa_radiology", source=["slake", "vqa_rad"])
    recipe = catalog.load("mbiil_vqa", tmp_path)
    assert recipe.stream.kind == "fusion" and [task.modality for task in recipe.stream] == ["pathology", "radiology"]
    assert [[label.name for label in task.labels] for task in recipe.stream] == [["no", "yes"]] * 2
    for source in recipe.sources:
        split = module.cached(source, sources.identity(source), 8)["train"]
        assert split.images.shape == (4, 3, 8, 8) and len(split.labels) == 12 and set(split.labels) == {0, 1}
    slake = {**recipe.sources[1].options, "rows": {"source": "slake"}}
    assert len(sources.load(Source(WHERE, "table", CLASSES, slake, "fusion"), "train").labels) == 6


def test_mbiil_reports_reads_the_tables_of_its_cards(tmp_path: Path) -> None:
    reports = [
        {"image": f"CXR{i}_IM-0001-{v}", "findings": f"lungs {i}", "study": i} for i in range(20) for v in (1, 2)
    ]
    slides = [
        {"image": f"slides/{i}.png", "diagnosis": f"diagnosis {i % 15}", "split": "train" if i < 20 else "test"}
        for i in range(30)
    ]
    for row in reports:
        picture(tmp_path / "iu_xray" / "images" / f"{row['image']}.png", 1)
    for row in slides:
        picture(tmp_path / "wsi_dx" / str(row["image"]), 2)
    pd.DataFrame(reports).to_csv(tmp_path / "iu_xray" / "reports.csv", index=False)
    pd.DataFrame(slides).to_csv(tmp_path / "wsi_dx" / "reports.csv", index=False)
    recipe = catalog.load("mbiil_reports", tmp_path)
    assert recipe.stream.kind == "retrieval" and [task.labels for task in recipe.stream] == [(), ()]
    for source, counts in zip(recipe.sources, ([18, 2, 10], [28, 4, 8]), strict=True):
        loaded = [sources.load(source, split) for split in files.SPLITS]
        assert [len(split.labels) for split in loaded] == counts
    test = sources.load(recipe.sources[1], "test")
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and len(test.texts) == 4 and len(test.images) == 8


def test_covid_notes3_reads_one_table_three_times(tmp_path: Path) -> None:
    views = ("PA", "AP", "AP Supine", "L", "Axial", "AP semi erect", "Coronal")
    lines = []
    for i in range(84):
        picture(tmp_path / "covid_cxr_notes" / "images" / f"{i}.png", i)
        split = ("train", "train", "val", "test")[i // 7 % 4]
        row = {"image": f"images/{i}.png", "text": f"note {i // 2}", "view": views[i % 7], "patient": str(i // 7)}
        lines.append(json.dumps(row | {"split": split, "license": None}))
    (tmp_path / "covid_cxr_notes" / "pairs.jsonl").write_text("\n".join(lines))
    recipe = catalog.load("covid_notes3", tmp_path)
    counts = [len(sources.load(source, "train").labels) for source in recipe.sources]
    assert counts == [6, 18, 18] and len({sources.identity(source) for source in recipe.sources}) == 3
