"""What the pages show runs as it stands: README.md and those of datasets, methods and results."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmark import cli
from benchmark.cli import typed
from benchmark.config import arguments, registry
from benchmark.data import catalog
from benchmark.data.settle import settled
from benchmark.record import shelves
from benchmark.sweep import grid, tune
from benchmark.testing import check_method
from benchmark.testing.bench import CPU, Bench, asked
from methods.base import IncrementalMethod

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8")
         for name in ("README.md", "datasets/README.md", "methods/README.md", "results/README.md")}  # fmt: skip
README = PAGES["README.md"]
PICTURES = ("datasets/phantoms.png", "results/matrix.png", "results/report.png")


# ---- the first page


def test_the_first_page_is_short() -> None:
    assert README.count("\n") <= 180


def test_links_lead_somewhere() -> None:
    """To files, and to headings of them as GitHub names these."""
    for name, text in PAGES.items():
        for place, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            to = (ROOT / name).parent / place if place else ROOT / name
            assert to.exists(), f"{name}: {place}"
            titles = re.findall(r"^#+ (.*)$", to.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
            assert not heading or heading in map(anchor, titles), f"{name}: {place}#{heading}"


def anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_pictures_are_small_and_their_commands_stand_beside_them() -> None:
    assert sum((ROOT / name).stat().st_size for name in PICTURES) <= 300_000
    shown = {((ROOT / name).parent / place).resolve().relative_to(ROOT).as_posix()
             for name, text in PAGES.items() for place in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)}  # fmt: skip
    assert shown == set(PICTURES)
    for name in PICTURES:
        assert any(name in command for text in PAGES.values() for command in commands(text)), name


# ---- commands


def commands(text: str) -> list[str]:
    """Those of a page: lines of their own without what is said behind them, and whole ones within a sentence."""
    lines = [line.split(" #")[0].strip() for line in re.findall(r"^ {4}((?:make|python -m benchmark) .*)$", text, re.M)]
    inline = [" ".join(found.split()) for found in re.findall(r"`((?:make|python -m benchmark) [^`]+)`", text)]
    return list(dict.fromkeys(lines + [each for each in inline if "=" in each or each.startswith("python")]))


OWN = ("merged", "anchor", "averaged", "rehearsal", "norms", "mine", "path/to/file.py")
SAVED = dict.fromkeys(OWN, "ewc") | {  # what a page tells its reader to make, or leaves open, and what is there instead
    "mine.yaml": "smoke", "my_stream.yaml": "smoke", "path/to/stream.yaml": "smoke",
    "my_questions.yaml": "smoke_generation",
}  # fmt: skip
ALL = [(name, command) for name, text in PAGES.items() for command in commands(text)]


class Understood(Exception):
    """The arguments of a command have been read, and there is what they name."""


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb stops where it has read its arguments."""
    parse, parsed, of_grid = arguments.parse, typed.parsed, grid.parsed

    def of_run(verb: str, argv: Sequence[str], with_class: bool) -> None:
        config, _, _ = parse(verb, argv, with_class=False)
        catalog.load(config.stream, None)
        raise Understood

    def of_verb(parser: Any, argv: Sequence[str]) -> None:
        parsed(parser, argv)
        raise Understood

    def of_cells(parser: Any, verb: str, argv: Sequence[str]) -> None:
        asked, _ = of_grid(parser, verb, argv)
        for method in (name for name in asked.methods if name != "all"):
            parse("run", ["--method", method, *asked.options], with_class=False)
        for stream in asked.streams:
            catalog.load(stream, None)
        raise Understood

    def of_trials(tuning: Any, console: Any) -> None:
        raise Understood

    monkeypatch.setattr(arguments, "parse", of_run)
    monkeypatch.setattr(typed, "parsed", of_verb)
    monkeypatch.setattr(grid, "parsed", of_cells)
    monkeypatch.setattr(tune, "run", of_trials)


def called(command: str) -> list[str]:
    """What the suite is called with; of ``make`` its own lines say so, and nothing where the target calls no verb."""
    words = shlex.split(re.sub(r"[][]", "", command))
    if words[0] != "make":
        return [SAVED.get(word, word) for word in words[3:]]
    words = [re.sub(r"\|[^ ]*", "", word) for word in words[1:]]  # of several the first
    words = [f"{name}={SAVED.get(value, value)}" if "=" in word else word
             for word in words for name, _, value in [word.partition("=")]]  # fmt: skip
    told = subprocess.run(
        ["make", "-n", "-o", "extras", "-o", "setup", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    lines = [line for line in told.stdout.replace("\\\n", " ").splitlines() if " -m benchmark " in line]
    argv = shlex.split(lines[-1].partition(" -m benchmark ")[2]) if lines else []
    place = argv.index("tuned") if "tuned" in argv else 0  # which there is after tuning
    return argv[: place - 1] + argv[place + 1 :] if place else argv


@pytest.mark.usefixtures("only_read")
@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{name}: {command}" for name, command in ALL])
def test_every_command_is_understood(page: str, command: str) -> None:
    argv = called(command)
    if not argv:
        assert command.split()[1] in ("help", "test", "test-all", "test-faults", "lint", "setup")
    elif argv[1:] != ["--help"]:
        with pytest.raises(Understood):
            cli.VERBS[argv[0]](argv[1:])


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in PAGES.values():
        for target in set(re.findall(r"`make ([a-z-]+)|^ {4}make ([a-z-]+)", text, re.M)):
            assert re.search(rf"^{''.join(target)}:", makefile, flags=re.M), target


def test_six_commands_run_on_the_smallest_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand but for the stream, the folder of the run and where things are written."""
    monkeypatch.chdir(tmp_path)

    def run(page: str, start: str, *others: str, **instead: str) -> None:
        command = next(each for each in commands(PAGES[page]) if each.startswith(start))
        for name, value in instead.items():
            command = re.sub(rf"""(?<= ){name}=("[^"]*"|\S+)""", f"{name}={value}", command)
        argv = [*called(command), *others]
        assert cli.main(argv) == 0, argv

    run("README.md", "make bench METHOD=mslora_cr", "--stream", "smoke")
    (record,) = (tmp_path / "results/local/runs/smoke").rglob("run.json")
    run("README.md", "make plan", "--stream", "smoke")
    run("results/README.md", "make leaderboard")
    assert "mslora_cr" in (tmp_path / "results/local/leaderboards/smoke.csv").read_text()
    run("README.md", "make report RUN=", RUN=str(record.parent), ARGS='"--to matrix.png"')
    assert Image.open(tmp_path / "matrix.png").size[0] > 400
    run("datasets/README.md", "make data STREAM=my_stream.yaml", "--data", str(tmp_path))
    assert (tmp_path / "build/data/smoke.html").exists()
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (70, 50), "pink").save(tmp_path / "folder/new.png")
    run("results/README.md", "make predict RUN=", RUN=str(record.parent))
    assert (tmp_path / "predictions.csv").read_text().count("new.png") == 1


# ---- methods that are written out


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def loaded(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[IncrementalMethod]:
    """The method in a file of its own, as a user has it."""
    (name,) = re.findall(r"^class (\w+)\(", code, re.M)
    (folder / f"shown_{name.lower()}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return getattr(importlib.import_module(f"shown_{name.lower()}"), name)


CODE = [code for name in ("README.md", "methods/README.md") for code in blocks(PAGES[name], "python")]
SHOWN = {re.findall(r"^class (\w+)\(", code, re.M)[0]: code for code in CODE if "class " in code}


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield loaded(SHOWN[request.param], tmp_path, monkeypatch)
    sys.modules.pop(f"shown_{request.param.lower()}")


def test_what_is_shown_of_methods_is_short() -> None:
    assert len(SHOWN) == 7
    for name, code in SHOWN.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 25, name


@pytest.mark.parametrize("example", ["Merged"], indirect=True)
def test_the_first_example_keeps_the_contract(example: type[IncrementalMethod]) -> None:
    """Of classification; the other kinds that it learns are checked by the slow test."""
    assert registry.card("shown_merged:Merged").defaults["scale"] == 0.3
    check_method(type("Merged", (example,), {"kinds": ("classification",)}), raise_on_failure=True)


@pytest.mark.slow
@pytest.mark.parametrize("example", SHOWN, indirect=True)
def test_every_example_keeps_the_contract_in_every_kind(example: type[IncrementalMethod]) -> None:
    check_method(example, raise_on_failure=True)


@pytest.mark.parametrize("example", SHOWN, indirect=True)
def test_every_example_learns(example: type[IncrementalMethod], tmp_path: Path) -> None:
    """In a dozen steps on each of two tiny tasks: told the task, the model then fits the images of both better."""
    torch.manual_seed(0)
    bench = Bench(example, tmp_path)
    method = bench.method()
    before = misfit(bench, method)
    for task, data in zip(bench.stream, bench.data, strict=True):
        loader = data.batches("train", CPU)
        method.begin_task(task)
        with method.learning():
            method.prepare_task(task, loader)
            steps = torch.optim.AdamW(method.trainable_parameters(), lr=5e-3, weight_decay=0.0)
            method.train()
            for batch in [*loader] * 12:
                steps.zero_grad()
                method.loss(batch).backward()
                steps.step()
            method.eval()
            method.end_task(task, loader)
    assert misfit(bench, method) < 0.96 * before


def misfit(bench: Bench, method: IncrementalMethod) -> float:
    """The cross-entropy of all tasks' training images, told the task, over the task's labels."""
    total = 0.0
    for task, data in zip(bench.stream, bench.data, strict=True):
        for batch in data.batches("train", CPU):
            logits_BC = asked(method, batch, task.labels, task, bench.kind).float()
            columns = torch.tensor([label.id for label in task.labels])
            total += float(F.cross_entropy(logits_BC, (batch["label"][:, None] == columns).int().argmax(dim=1)))
    return total


def test_what_is_shown_for_scripts_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (each for each in CODE if "class " not in each)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelves, "SHIPPED", ROOT / "results")
    exec(code, {})
    assert (tmp_path / "matrix.png").is_file() and [*tmp_path.glob("results/local/runs/smoke/ncm/*/seed0-order0")]


def test_every_method_of_the_tree_is_in_the_table_and_no_other() -> None:
    table = PAGES["methods/README.md"].split("## Hooks by example")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == registry.names()


# ---- streams that are written out


def test_the_stream_of_the_first_page_is_read(tmp_path: Path) -> None:
    (text,) = blocks(README, "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "folder/chest_xray" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 10 * number).save(tmp_path / f"folder/chest_xray/{name}/{number}.jpeg")
    recipe = catalog.load(str(tmp_path / "mine.yaml"), tmp_path / "folder")
    assert [(task.name, len(task.labels)) for task in recipe.stream] == [("chest", 2)]
    (tmp_path / "mine.yaml").write_text(text.replace("# - card", "- card"))
    assert [task.name for task in catalog.load(str(tmp_path / "mine.yaml"), tmp_path / "folder").stream][1:] == [
        "medmnist_breastmnist"
    ]


def test_the_stream_of_questions_is_read(tmp_path: Path) -> None:
    """With files in the layouts that it names; lists of LLaVA and a table."""
    (text,) = (each for each in blocks(PAGES["datasets/README.md"], "yaml") if "my_questions" in each)
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
    for text in PAGES.values():
        for name in re.findall(r"`(phantom\d+|phantom_\w+|smoke\w*|medical\d+|medmnist\d+|mbiil\w+)`", text):
            assert name in catalog.names("streams")
