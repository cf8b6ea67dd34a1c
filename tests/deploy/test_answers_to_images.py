"""A run that is answered in words: what it says of new images, and its LoRA on the plain model of transformers."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText

from benchmark import cli
from benchmark.data import catalog, sources
from benchmark.data.sources import phantoms
from benchmark.deploy import trained
from benchmark.record.stored import read_record

QUESTION = "Is the heart enlarged?"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs by name, long enough for the LoRA to say other things than the frozen model."""
    results = tmp_path_factory.mktemp("results")
    for method in ("mslora_cr", "sequential_lora"):
        argv = ["run", "--method", method, "--stream", "smoke_generation", "--epochs", "4", "--lr", "0.01", "--quiet"]
        assert cli.main([*argv, "--backbone", "tiny-llava", "--results", str(results)]) == 0
    return {path.parts[-3]: path for path in results.glob("runs/*/*/*/*")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of the first task as PNG, and one of an odd size."""
    top = tmp_path_factory.mktemp("images")
    for i, image in enumerate(phantoms.load(catalog.load("smoke_generation", None).sources[0], "test").images):
        Image.fromarray(image).save(top / f"{i}.png")
    Image.fromarray(np.asarray(Image.open(top / "0.png"))).resize((97, 131)).save(top / "odd.png")
    return top


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_answers_on_the_test_images_are_those_of_the_run(
    runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the task that is named, and under the one that the router finds."""
    recipe = catalog.load("smoke_generation", None)
    asked = [turn[0] for turn in sources.dialogue(recipe.sources[0])["test"]]
    run, to = runs["mslora_cr"], tmp_path / "out.csv"
    argv = ["predict", "--run", str(run), "--images", str(folder), "--to", str(to), "--instruction", asked[0]]
    with np.load(run / "predictions.npz", allow_pickle=False) as predictions:
        for protocol, more in (("given", ["--task", "slide_questions"]), ("hidden", ["--overwrite"])):
            assert cli.main([*argv, *more]) == 0
            told = predictions[f"2/slide_questions/{protocol}_answer"]
            found = rows(to)[:8]
            same = [i for i, question in enumerate(asked) if question == asked[0]]
            assert same and [found[i]["answer"] for i in same] == [told[i] for i in same]
            assert {row["instruction"] for row in found} == {asked[0]}
            assert {row["task"] for row in found} <= {task.name for task in recipe.stream}
    assert rows(to)[8]["image"] == "odd.png" and rows(to)[0].keys() >= {"image", "task", "answer", "note"}
    for wrong, message in (
        ([], "say what is asked by --instruction"), (["--instruction", "so " * 501], "expected 1 to 500 words"),
        (["--instruction", "What?", "--top", "2"], "--top: is for classes"),
        (["--instruction", "What?", "--abstain", "0.5"], "--abstain: is for classes"),
    ):  # fmt: skip
        capsys.readouterr()
        assert cli.main([*argv[:5], "--to", str(tmp_path / "other.csv"), *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize(("method", "rank"), [("mslora_cr", 16), ("sequential_lora", 8)])
def test_an_adapter_on_the_plain_model_has_the_logits_of_the_run(
    method: str, rank: int, runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the second task, which both experts of mslora_cr answer together."""
    run, to = runs[method], tmp_path / "adapter"
    assert cli.main(["export", "--run", str(run), "--task", "film_reports", "--to", str(to)]) == 0
    assert f"python {to / 'use.py'} IMAGE" in " ".join(capsys.readouterr().out.split())
    loaded = trained.load(run)
    language, task = loaded.method.language, loaded.stream.tasks[1]
    image = torch.from_numpy(np.asarray(Image.open(folder / "0.png"))).permute(2, 0, 1)
    frozen = AutoModelForImageTextToText.from_pretrained(to / "base").eval()
    read = language.chat.whole(QUESTION, image)
    target = torch.zeros(1, 0, dtype=torch.long)
    batch = {"image": image[None], "prompt": language.prompts([QUESTION]), "target": target, "target_mask": target > 0}
    with torch.no_grad():
        own = loaded.method.answered(language.spoken, batch, task)[0, -1]
        plain = frozen(**read).logits[0, -1]
        adapted = PeftModel.from_pretrained(frozen, to).eval()
        torch.testing.assert_close(adapted(**read).logits[0, -1], own, atol=1e-4, rtol=0)
    assert (plain - own).abs().max() > 0.01  # it learned something that could be lost
    assert adapted.peft_config["default"].r == rank
    assert {path.stat().st_mode & 0o777 for path in to.rglob("*") if path.is_file()} == {0o644}
    assert read_record(run).config.backbone == "tiny-llava"


@pytest.mark.slow
def test_what_is_exported_answers_without_this_suite(runs: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    """The same words in a fresh process that cannot import it, of an image of an odd size too."""
    run, to, out = runs["mslora_cr"], tmp_path / "adapter", tmp_path / "out.csv"
    assert cli.main(["export", "--run", str(run), "--task", "film_reports", "--to", str(to)]) == 0
    argv = ["predict", "--run", str(run), "--images", str(folder), "--to", str(out), "--task", "film_reports"]
    assert cli.main([*argv, "--instruction", QUESTION]) == 0
    code = (
        "import sys; sys.modules['benchmark'] = sys.modules['methods'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import use; from PIL import Image; model = use.load()\n"
        "for path in sys.argv[3:]: print(use.ask(*model, Image.open(path), sys.argv[2]))"
    )
    images = [str(folder / name) for name in ("0.png", "3.png", "odd.png")]
    command = [sys.executable, "-W", "ignore", "-c", code, str(to), QUESTION, *images]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {row["image"]: row["answer"] for row in rows(out)}
    assert told == [expected[Path(path).name] for path in images] and len({*told}) > 1


def test_classes_of_a_vision_language_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """They are asked for as in its run; what is asked cannot be changed, and its LoRA is exported as well."""
    argv = ["run", "--method", "mslora_cr", "--stream", "smoke", "--backbone", "tiny-llava", "--epochs", "1", "--quiet"]
    assert cli.main([*argv, "--limit", "8", "--results", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("runs/*/*/*/*")
    to, task = tmp_path / "out.csv", catalog.load("smoke", None).stream.tasks[0]
    argv = ["predict", "--run", str(run), "--images", str(folder), "--to", str(to), "--task", task.name]
    assert cli.main(argv) == 0
    assert {row["class"] for row in rows(to)} <= {label.name for label in task.labels} and len(rows(to)) == 9
    for more, message in (
        (["--instruction", "What?", "--overwrite"], "--instruction: is for answers in words"),
        (["--overwrite", "--task", "gland_nucleus"], "did you mean"),
    ):
        capsys.readouterr()
        assert cli.main([*argv, *more]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["export", "--run", str(run), "--task", task.name, "--to", str(tmp_path / "to")]) == 0
    argv = ["export", "--run", str(run), "--task", task.name, "--to", str(tmp_path / "clip"), "--format", "open_clip"]
    capsys.readouterr()
    assert cli.main(argv) == 2
    assert "--format open_clip" in capsys.readouterr().err and not (tmp_path / "clip").exists()
