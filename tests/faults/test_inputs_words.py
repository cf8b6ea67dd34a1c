"""Questions and answers that are wrong, and backbones that cannot be asked: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.cli import main
from benchmark.config import families
from tests.refusals import written_below
from tests.source_files import pixels, save

Tally = Callable[..., None]
ROUND = [{"from": "human", "value": "<image>\nIs a ring visible?"}, {"from": "gpt", "value": "yes"}]
TRAIN = [{"id": i, "image": [f"{i}.png"], "conversations": deepcopy(ROUND)} for i in range(4)]
for i, entry in enumerate(TRAIN):
    entry["conversations"][1]["value"] = ("yes", "no")[i % 2]
TEST = [
    {"question_id": i, "image": f"{4 + i}.png", "text": "Is a ring visible?", "gt": ("yes", "no")[i % 2],
     "answer_type": "CLOSED"}
    for i in range(2)
]  # fmt: skip
TASK = {"name": "rings", "modality": "ct", "kind": "generation", "source": "llava", "train": "train.json",
        "test": "test.jsonl", "images": ".", "answers": ["yes", "no"], "max_new_tokens": 3}  # fmt: skip
ROWS = ["file,asked,told,part", *(f"{i}.png,Which shape ?,a ring,{'train' if i < 4 else 'test'}" for i in range(6))]
COLUMNS = {"image": "file", "instruction": "asked", "answer": "told", "split": "part"}
TABLE = {"name": "shapes", "modality": "mr", "kind": "generation", "source": "table", "path": "table.csv",
         "columns": COLUMNS, "max_new_tokens": 3}  # fmt: skip
SMALL = ["--data", ".", "--results", "../results", "--epochs", "1", "--batch_size", "4", "--device", "cpu"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images, and a cache and results of its own beside it."""
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    data = tmp_path / "data"
    for i in range(6):
        save(data / f"{i}.png", pixels(i, (16, 16, 3)))
    monkeypatch.chdir(data)
    files()
    return data


def files(train: Any = TRAIN, test: Any = TEST, rows: list[str] = ROWS, **task: Any) -> None:
    """All that the stream reads, some of it another."""
    Path("train.json").write_text(json.dumps(train))
    Path("test.jsonl").write_text("\n".join(map(json.dumps, test)))
    Path("table.csv").write_text("\n".join(rows))
    Path("s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [TASK | task, TABLE]}))


def line(verb: str, method: str = "zero_shot", *more: str) -> list[str]:
    return [verb, "--method", method, "--stream", "s.yaml", *SMALL, *more]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line; the working directory is as it was, and beside it is nothing but the cache."""
    before = written_below(Path().resolve())
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert written_below(Path().resolve()) == before and {path.name for path in Path("..").iterdir()} == {
        "cache",
        "data",
    }
    return said.err


def with_first(entries: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """The entries, of the first of which some keys are others or (...) left out."""
    first = {key: value for key, value in (entries[0] | changes).items() if value is not ...}
    return [first, *entries[1:]]


def first_says(question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"train": with_first(TRAIN, conversations=turns)}


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("a conversation without an image", {"train": with_first(TRAIN, image=...)}, "entry 1: without an image"),
    ("a list of no images", {"train": with_first(TRAIN, image=[])}, "entry 1: without an image"),
    ("an image that is not there", {"train": with_first(TRAIN, image="none.png")}, "none.png"),
    ("an image outside the folder", {"train": with_first(TRAIN, image="../../x.png")}, "x.png"),
    ("an empty answer", first_says("Is it?", " "), "entry 1: turn 2"),
    ("an empty question", first_says("<image>\n", "yes"), "entry 1: turn 1"),
    ("an answer outside the legal set", first_says("Is it?", "maybe"), "maybe"),
    ("10,000 words", first_says("word " * 10_000, "yes"), "10,000 words"),
    ("an answer of 10,000 words", first_says("Is it?", "yes " * 10_000), "10,000 words"),
    ("a test line without gt", {"test": with_first(TEST, gt=...)}, "test.jsonl: line 1: the key 'gt' is missing"),
    ("a test answer outside the legal set", {"test": with_first(TEST, gt="maybe")}, "maybe"),
    ("an answer type that is none", {"test": with_first(TEST, answer_type="MAYBE")}, "MAYBE"),
    ("no test line", {"test": []}, "test.jsonl"),
    ("a row without an answer", {"rows": [*ROWS[:2], "1.png,Which shape ?,,train", *ROWS[3:]]}, "table.csv"),
    ("a limit that is none", {"max_new_tokens": 0}, "max_new_tokens"),
    ("classes", {"classes": ["a", "b"]}, "a generation task has none"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "line_says"), [pytest.param(*case[1:], id=case[0]) for case in WRONG])
def test_wrong_questions_and_answers(
    changes: dict[str, Any], line_says: str, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    files(**changes)
    for verb in ("plan", "run"):
        assert line_says in refused(line(verb), capsys)
        tally("refused in one line")


BACKBONES: list[tuple[list[str], str]] = [
    (["--backbone", "phantom-clip"], "a CLIP learns streams of one kind"),
    (["--backbone", "ViT-B-16/openai"], "a CLIP learns streams of one kind"),
    (["--backbone", "hf:nobody"], "expected hf:OWNER/NAME"),
    (["--backbone", "local-dir:../nowhere"], "config.json"),
    (["--backbone", "local-dir:."], "config.json"),
    (["--pretrained", "openai"], "says itself which weights"),
]


@pytest.mark.parametrize(("options", "line_says"), BACKBONES)
def test_backbones_that_cannot_be_asked(
    options: list[str], line_says: str, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    for verb in ("plan", "run"):
        assert line_says in refused(line(verb, "zero_shot", *options), capsys)
        tally("refused in one line")


def test_methods_and_streams_that_do_not_go_together(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    for verb in ("plan", "run"):
        assert "these do: " in (said := refused(line(verb, "l2p"), capsys)) and "mslora_cr" in said
        searching = [*line(verb, "sequential_lora", "--backbone", "tiny-llava"), "--stream", "smoke_retrieval"]
        assert "smoke_retrieval" in refused(searching, capsys)
        classes = [*line(verb, "ncm", "--backbone", "tiny-llava"), "--stream", "smoke"]
        assert "method 'ncm' learns classification" in refused(classes, capsys)
        tally("refused in one line", 3)


@pytest.mark.parametrize("missing", ["transformers", "sacrebleu"])
def test_packages_that_are_not_there(
    missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    found = families.find_spec
    monkeypatch.setattr(families, "find_spec", lambda name: None if name == missing else found(name))
    for verb in ("plan", "run"):
        assert f"needs {missing}: pip install 'mbil-bench[generation]'" in refused(line(verb), capsys)
        tally("refused in one line")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.methods.layouts import qwen2_vl

    folder = tmp_path_factory.mktemp("qwen")
    qwen2_vl(folder)
    return folder


SPOILT: list[tuple[str, Callable[[Path], object], str]] = [
    ("no template", lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    ("no weights", lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    ("half its weights", lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"), "backbone 'local-dir:"),
    ("another model", lambda folder: rewritten(folder, model_type="llama"), "no image-text-to-text model"),
    ("Python of its own", lambda folder: rewritten(folder, model_type="own", auto_map={"AutoConfig": "own.Config"}),
     "Python of its own"),
    ("no JSON", lambda folder: (folder / "config.json").write_text("{"), "backbone 'local-dir:"),
    ("other shapes", lambda folder: rewritten(folder, text_config={"hidden_size": 16}), "backbone 'local-dir:"),
]  # fmt: skip


def rewritten(folder: Path, **changes: Any) -> None:
    told = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        told[key] = told[key] | value if isinstance(told.get(key), dict) else value
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text("open('was_run', 'w')")


@pytest.mark.parametrize(("spoil", "line_says"), [pytest.param(*case[1:], id=case[0]) for case in SPOILT])
def test_folders_of_models_that_are_none(
    spoil: Callable[[Path], object], line_says: str, model: Path, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    """Told when the model is loaded, which plan does not do."""
    shutil.copytree(model, "model")
    spoil(Path("model"))
    assert line_says in refused(line("run", "zero_shot", "--backbone", "local-dir:model"), capsys)
    tally("refused in one line")


def test_the_official_layout_is_read_and_runs(place: Path) -> None:
    assert main(line("plan", "sequential_lora")) == 0
    assert main(line("run", "sequential_lora", "--quiet")) == 0
    (record,) = (place.parent / "results").glob("runs/*/*/*/*/run.json")
    told = json.loads(record.read_text())
    assert told["stream"]["kind"] == "generation" and told["config"]["backbone"] == "phantom-llava"
    assert [task.get("metric") for task in told["stream"]["tasks"]] == [
        None,
        "f1",
    ]  # None: exact match, the first of its kind
    assert (record.parent / "answers.jsonl.gz").is_file()
