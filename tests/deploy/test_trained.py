"""What leaves a run: predictions on new images, and a task's LoRA as PEFT and open_clip load it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmark import cli
from benchmark.data import catalog, identity
from benchmark.data.batches import task_data
from benchmark.deploy import calibration, trained
from benchmark.errors import UserError
from benchmark.running import state as running_state
from methods.parts import backbones

CPU = torch.device("cpu")


STREAMS = {
    "mslora_cr": "smoke", "independent_lora": "smoke_fusion", "ncm": "smoke", "l2p": "smoke", "ranpac": "smoke",
    "sequential_lora": "smoke_retrieval", "der": "smoke", "er": "smoke_fusion", "lora_merge": "smoke",
}  # fmt: skip


class Runs(dict[str, Path]):
    """A short run of each method, made when it is first asked for."""

    def __init__(self, results: Path) -> None:
        super().__init__()
        self.results = results

    def __missing__(self, method: str) -> Path:
        argv = ["run", "--method", method, "--stream", STREAMS[method], "--epochs", "1", "--lr", "0.01", "--quiet"]
        assert cli.main([*argv, "--limit", "24", "--results", str(self.results)]) == 0
        self[method] = next(self.results.glob(f"runs/*/{method}/*/*"))
        return self[method]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Runs(tmp_path_factory.mktemp("results"))


def samples(task: int, stream: str = "smoke") -> Tensor:
    """uint8 (N, 3, H, W) test images of a task of a phantom stream."""
    recipe = catalog.load(stream, Path())
    tokens = backbones.load("phantom-clip").tokenizer
    listed, source = recipe.stream.tasks[task], recipe.sources[task]
    data = task_data(listed, source, identity.identities(recipe)[task], 64, 24, tokens)
    images = data.splits["test"].images
    assert images is not None
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of both tasks of smoke as PNG, one folder each."""
    top = tmp_path_factory.mktemp("images")
    for task in range(2):
        (top / str(task)).mkdir()
        for i, image in enumerate(samples(task)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(top / str(task) / f"{i:02d}.png")
    (top / "notes.txt").write_text("no image")
    return top


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["mslora_cr", "ncm", "l2p", "der"])
def test_predictions_on_the_test_images_are_those_of_the_run(
    method: str, runs: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    run, to = runs[method], tmp_path / "out.csv"
    names = [task.name for task in catalog.load("smoke", Path()).stream]
    labels = {label.id: label.name for label in catalog.load("smoke", Path()).stream.labels()}
    with np.load(run / "predictions.npz", allow_pickle=False) as predictions:
        for place, name in enumerate(names):
            images, argv = str(folder / str(place)), ["predict", "--run", str(run), "--to", str(to), "--overwrite"]
            assert cli.main([*argv, "--images", images]) == 0
            answers = predictions[f"2/{name}/hidden_answer"]
            assert [row["class"] for row in rows(to)] == [labels[answer] for answer in answers.tolist()]
            assert cli.main([*argv, "--images", images, "--task", name, "--top", "2"]) == 0
            told = torch.from_numpy(predictions[f"2/{name}/given_logits"]).float().softmax(1)
            written = [float(row["probability"]) for row in rows(to)]
            assert {row["task"] for row in rows(to)} == {name} and len(written) == 2 * len(answers)
            best = told.topk(2, dim=1).values.flatten()
            torch.testing.assert_close(torch.tensor(written), best, atol=5e-3, rtol=0)  # logits are kept as float16


@pytest.mark.parametrize("method", ["der", "er"])
def test_a_finished_run_keeps_no_images_unless_asked(
    method: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed images are images of patients; a run that goes on has them in its state, and answers need none."""
    kept = load_file(runs[method] / "method.safetensors")
    assert kept and not [name for name in kept if name.startswith("memory.")]
    assert len(trained.load(runs[method]).method.memory) == 0
    assert (
        cli.main(["export", "--run", str(runs[method]), "--task", task_of(method), "--to", str(tmp_path / "to")]) == 0
    )
    seen: list[set[str]] = []
    saved = running_state.save_phase
    monkeypatch.setattr(
        running_state, "save_phase", lambda folder, phase: (seen.append(set(phase.method)), saved(folder, phase))
    )
    argv = [
        "run",
        "--method",
        method,
        "--stream",
        "smoke",
        "--epochs",
        "1",
        "--limit",
        "24",
        "--keep_images",
        "--quiet",
    ]
    assert cli.main([*argv, "--results", str(tmp_path)]) == 0
    (run,) = tmp_path.glob(f"runs/smoke/{method}/*/*")
    assert len(load_file(run / "method.safetensors")["memory.buffer_image"]) == 32 and "memory.buffer_image" in seen[-1]
    assert len(trained.load(run).method.memory["buffer_image"]) == 32


def task_of(method: str) -> str:
    return catalog.load({"er": "smoke_fusion"}.get(method, "smoke"), Path()).stream.tasks[0].name


@pytest.mark.parametrize("task", ["gland_nuclei", None])
def test_calibrated_probabilities_are_those_of_divided_scores_and_stay_with_the_run(
    task: str | None, runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(runs["mslora_cr"], tmp_path / "run")
    argv = ["predict", "--run", str(run), "--images", str(folder / "0"), "--overwrite", "--top", "99"]
    argv += ["--task", task] if task else []
    plain, scaled = tmp_path / "plain.csv", tmp_path / "scaled.csv"
    assert cli.main([*argv, "--to", str(plain)]) == 0 and not (run / "temperature.json").exists()
    capsys.readouterr()
    assert cli.main([*argv, "--to", str(scaled), "--calibrate"]) == 0
    found = json.loads((run / "temperature.json").read_text())[task or "*"]
    told = capsys.readouterr().out
    assert f"chosen on {found['chosen_on']} validation samples" in told and f"{100 * found['after']:.1f} %" in told
    assert found["chosen_on"] == (8 if task else 16) and found["value"] != 1
    for before, after in zip(by_image(plain), by_image(scaled), strict=True):
        assert [row["class"] for row in before] == [row["class"] for row in after]
        log_p = torch.tensor([float(row["probability"]) for row in before]).log()
        expected = (log_p / found["value"]).softmax(0)
        assert torch.allclose(torch.tensor([float(row["probability"]) for row in after]), expected, atol=1e-3)
    (run / "temperature.json").write_text((run / "temperature.json").read_text().replace(str(found["value"]), "1.0"))
    assert cli.main([*argv, "--to", str(scaled), "--calibrate"]) == 0  # what was found is not looked for again
    assert scaled.read_bytes() == plain.read_bytes()


def by_image(path: Path) -> list[list[dict[str, str]]]:
    return [[*of] for _, of in groupby(rows(path), lambda row: row["image"])]


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_temperature_is_found_that_the_labels_were_drawn_with(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial((scores / temperature).softmax(1), 1, generator=generator)[:, 0]
    assert calibration.fitted(scores, labels) == pytest.approx(temperature, rel=0.05)


def test_an_export_has_the_temperature_of_its_run(runs: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs["mslora_cr"], tmp_path / "run")
    export = ["export", "--run", str(run), "--task", "gland_nuclei", "--format", "open_clip"]
    assert cli.main([*export, "--to", str(tmp_path / "plain")]) == 0
    predict = ["predict", "--run", str(run), "--images", str(folder / "0"), "--task", "gland_nuclei", "--calibrate"]
    assert cli.main([*predict, "--to", str(tmp_path / "out.csv")]) == 0
    assert cli.main([*export, "--to", str(tmp_path / "scaled")]) == 0
    value = json.loads((run / "temperature.json").read_text())["gland_nuclei"]["value"]
    abouts = [json.loads((tmp_path / name / "about.json").read_text()) for name in ("plain", "scaled")]
    assert [about["temperature"] for about in abouts] == [1.0, value]
    cards = [(tmp_path / name / "README.md").read_text() for name in ("plain", "scaled")]
    assert "were not calibrated" in cards[0] and "are calibrated: temperature" in cards[1]


def test_a_folder_of_runs_says_which_are_there(
    runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["mslora_cr"]
    for above in [*run.parents][:3]:
        assert cli.main(["predict", "--run", str(above), "--images", str(folder), "--to", str(tmp_path / "o.csv")]) == 2
        error = capsys.readouterr().err
        assert "no run itself" in error and run.relative_to(above).as_posix() in error and error.count("\n") == 1
    assert cli.main(["predict", "--run", str(tmp_path), "--images", str(folder), "--to", str(tmp_path / "o.csv")]) == 2
    assert "and none is below it" in capsys.readouterr().err


def test_a_routed_task_is_where_the_router_sends_the_image(runs: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "out.csv"
    assert cli.main(["predict", "--run", str(runs["mslora_cr"]), "--images", str(folder), "--to", str(to)]) == 0
    found = rows(to)
    assert [row["image"] for row in found[:2]] == ["0/00.png", "0/01.png"]
    loaded = trained.load(runs["mslora_cr"])
    route = loaded.method.route({"image": torch.cat([samples(0), samples(1)])})
    assert [row["task"] for row in found] == [loaded.stream.tasks[i].name for i in route.tolist()]
    owner = {label.name: task.name for task in loaded.stream for label in task.labels}
    assert all(owner[row["class"]] == row["task"] for row in found)
    scores = loaded.method.task_scores({"image": torch.cat([samples(0), samples(1)])})
    for row, own in zip(found, scores.tolist(), strict=True):
        others = [score for index, score in enumerate(own) if loaded.stream.tasks[index].name != row["task"]]
        assert float(row["margin"]) == pytest.approx(max(own) - max(others), abs=1e-4) and float(row["margin"]) >= 0
    again = ["predict", "--run", str(runs["mslora_cr"]), "--images", str(folder), "--to", str(to), "--overwrite"]
    assert cli.main([*again, "--task", found[0]["task"]]) == 0
    assert {row["margin"] for row in rows(to)} == {""}  # no router was asked


def test_an_adapter_is_loaded_back_by_peft_with_equal_logits(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pixels = runs["mslora_cr"], samples(1)
    loaded = trained.load(run)
    method, task = loaded.method, loaded.stream.tasks[1]
    assert cli.main(["export", "--run", str(run), "--task", task.name, "--to", str(tmp_path / "adapter")]) == 0
    assert "PeftModel.from_pretrained" in capsys.readouterr().out.replace("\n", "")
    fresh = backbones.load("phantom-clip")
    peft = PeftModel.from_pretrained(fresh.image, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = method.scores({"image": pixels}, task.labels, task)
        got = fresh.logits(peft.base_model.model(method.views(pixels, False)), fresh.class_features(task.labels))
        frozen = fresh.logits(
            backbones.load("phantom-clip").image(method.views(pixels, False)), fresh.class_features(task.labels)
        )
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(frozen, expected, atol=0.1)  # it learned something that could be lost
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 16  # two experts of rank 8 act on the second task


def test_folded_weights_are_open_clips(runs: dict[str, Path], tmp_path: Path) -> None:
    run, pixels = runs["independent_lora"], samples(0, "smoke_fusion")
    loaded = trained.load(run)
    method, task = loaded.method, loaded.stream.tasks[0]
    to = tmp_path / "folded"
    argv = ["export", "--run", str(run), "--task", task.name, "--to", str(to), "--format", "open_clip"]
    assert cli.main(argv) == 0
    model = open_clip.create_model(f"local-dir:{to}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{to}")
    tokens = tokenizer(["a small round lesion", "no finding"])
    with torch.no_grad():
        expected = method.represent({"image": pixels}, task), method.represent({"text": tokens}, task)
        got = model.encode_image(method.views(pixels, False)), model.encode_text(tokens)
    for mine, theirs in zip(expected, got, strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("format", ["peft", pytest.param("open_clip", marks=pytest.mark.slow)])
def test_what_is_exported_is_used_without_this_suite(
    format: str, runs: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    """Equal classes and probabilities on images of odd sizes, in a process that cannot import it."""
    run, rng, to = runs["mslora_cr"], np.random.default_rng(5), tmp_path / "exported"
    task = trained.load(run).stream.tasks[1]
    images = [tmp_path / f"{number}.png" for number in range(12)]
    for path, (height, width) in zip(images, rng.integers(20, 200, (12, 2)), strict=True):
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height)).save(path)
    assert cli.main(["export", "--run", str(run), "--task", task.name, "--to", str(to), "--format", format]) == 0
    code = "import runpy, sys; sys.modules['benchmark'] = sys.modules['methods'] = sys.modules['peft'] = None\n"
    code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", code, str(to / "use.py"), *map(str, images)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    told = {Path(path).name: (name, float(chance)) for path, name, chance in (line.split("\t") for line in said)}
    argv = ["predict", "--run", str(run), "--images", str(tmp_path), "--task", task.name]
    assert cli.main([*argv, "--to", str(tmp_path / "out.csv")]) == 0
    mine = {row["image"]: row for row in rows(tmp_path / "out.csv") if "/" not in row["image"]}
    assert {name: row["class"] for name, row in mine.items()} == {name: one for name, (one, _) in told.items()}
    assert all(abs(float(mine[name]["probability"]) - chance) < 1e-3 for name, (_, chance) in told.items())
    assert len((to / "use.py").read_text().splitlines()) <= 25
    assert {path.stat().st_mode & 0o777 for path in to.rglob("*") if path.is_file()} == {0o644}
    about, card = json.loads((to / "about.json").read_text()), (to / "README.md").read_text()
    assert [(one["name"], tuple(one["prompts"])) for one in about["classes"]] == [
        (label.name, label.prompts) for label in task.labels
    ]
    record = trained.load(run).record
    for text in (task.labels[0].name, record.provenance.fingerprint, "made images", "no medical device", "95 %",
                 record.provenance.data[task.name]):  # fmt: skip
        assert text in card


def test_predictions_of_odd_images_are_those_of_the_exported_model_and_its_own_transform(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run, rng = runs["mslora_cr"], np.random.default_rng(3)
    task = trained.load(run).stream.tasks[1]
    (tmp_path / "images").mkdir()
    for number, (height, width) in enumerate(rng.integers(20, 200, (90, 2))):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height))
        coarse.save(tmp_path / "images" / f"{number:02d}.png")
    to, csv_file = tmp_path / "folded", tmp_path / "out.csv"
    argv = ["export", "--run", str(run), "--task", task.name, "--to", str(to), "--format", "open_clip"]
    assert cli.main(argv) == 0
    argv = ["predict", "--run", str(run), "--images", str(tmp_path / "images"), "--task", task.name]
    assert cli.main([*argv, "--to", str(csv_file)]) == 0
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{to}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{to}")
    model.eval()
    with torch.no_grad():
        texts = [model.encode_text(tokenizer(list(label.prompts)), normalize=True).mean(0) for label in task.labels]
        images = torch.stack([transform(Image.open(tmp_path / "images" / row["image"])) for row in rows(csv_file)])
        features, classes = model.encode_image(images, normalize=True), torch.stack(texts)
        chance, best = (
            (model.logit_scale.exp() * features @ (classes / classes.norm(dim=1, keepdim=True)).T).softmax(1).max(1)
        )
    assert [row["class"] for row in rows(csv_file)] == [task.labels[place].name for place in best.tolist()]
    written = torch.tensor([float(row["probability"]) for row in rows(csv_file)])
    torch.testing.assert_close(written, chance, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict", "--images", "IMAGES", "--task", "gland_nucleus"], "did you mean 'gland_nuclei'"),
        (["predict", "--images", "nowhere"], "no such folder"),
        (["predict", "--images", "IMAGES", "--top", "0"], "--top"),
        (["predict", "--images", "IMAGES", "--abstain", "1"], "--abstain: expected a probability"),
        (["predict", "--images", "IMAGES", "--abstain", "nan"], "abstain"),
        (
            ["predict", "--images", "IMAGES", "--instruction", "What is shown?"],
            "--instruction: is for answers in words",
        ),
        (["predict", "--images", "IMAGES", "--calibrate", "--data", "nowhere"], "nowhere"),
        (["export", "--task", "nothing", "--to", "TO"], "unknown task"),
        (["export", "--task", "gland_nuclei", "--to", "IMAGES"], "there is something already"),
        (["export", "--task", "gland_nuclei", "--to", "TO", "--format", "onnx"], "format"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str], message: str, runs: dict[str, Path], folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    there = {"IMAGES": str(folder), "TO": str(tmp_path / "to")}
    verb, *rest = (there.get(word, word) for word in argv)
    more = ["--to", str(tmp_path / "out.csv")] if verb == "predict" else []
    assert cli.main([verb, "--run", str(runs["mslora_cr"]), *rest, *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_files_that_are_no_images_are_named_and_the_others_answered(
    runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second time nothing is replaced unasked; of doubtful images no class is said."""
    images, to = shutil.copytree(folder, tmp_path / "images"), tmp_path / "out.csv"
    (images / "0" / "00.png").write_bytes(b"no image")
    (images / "1" / "03.png").write_bytes((images / "1" / "03.png").read_bytes()[:60])
    (images / "empty.jpg").touch()
    argv = ["predict", "--run", str(runs["ncm"]), "--images", str(images), "--to", str(to)]
    assert cli.main(argv) == 0
    assert "17 images, 3 of them not readable" in " ".join(capsys.readouterr().out.split())
    found = rows(to)
    lost = {row["image"]: row for row in found if row["note"]}
    assert lost.keys() == {"0/00.png", "1/03.png", "empty.jpg"} and len(found) == 17
    assert all("not readable as an image" in row["note"] and not row["class"] for row in lost.values())
    bar = sorted(row["probability"] for row in found if row["class"])[7]
    assert cli.main([*argv, "--abstain", bar]) == 2
    assert "--overwrite" in capsys.readouterr().err and rows(to) == found
    assert cli.main([*argv, "--abstain", bar, "--overwrite", "--top-k", "2"]) == 0
    first = {row["image"]: row for row in reversed(rows(to))}
    for row in found:
        again = first[row["image"]]
        if not row["note"]:
            sure = row["probability"] > bar  # what is just at the bar may round either way
            assert again["class"] in (
                (row["class"],) if sure else ("", row["class"])[: 1 + (row["probability"] == bar)]
            )
            assert again["probability"] == row["probability"] and bool(again["class"]) != bool(again["note"])
    assert {bool(row["class"]) for row in first.values() if row["probability"]} == {True, False}
    assert cli.main([*argv[:3], "--images", str(images / "empty.jpg"), "--to", str(tmp_path / "none.csv")]) == 2
    assert "none is readable; empty.jpg: " in capsys.readouterr().err and not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("method", ["ncm", "l2p", "ranpac", "lora_merge"])
def test_what_is_more_than_a_lora_is_not_exported_as_one(method: str, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no adapter to export|more than LoRA|are no LoRA"):
        from benchmark.deploy.export import export

        export(runs[method], "gland_nuclei", tmp_path / "to")
    assert not any(tmp_path.iterdir())


def test_retrieval_and_unfinished_runs_are_refused(runs: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    from benchmark.deploy.predict import Request, predict

    with pytest.raises(UserError, match="has no classes"):
        predict(runs["sequential_lora"], folder, Request(), tmp_path / "out.csv")
    with pytest.raises(UserError, match="learned from image and text"):
        predict(runs["independent_lora"], folder, Request(), tmp_path / "out.csv")
    assert not any(tmp_path.iterdir())
    said = predict(runs["independent_lora"], folder, Request(inputs="image"), tmp_path / "out.csv")
    assert said == f"{tmp_path / 'out.csv'}: 16 images"
    record = json.loads((runs["ncm"] / "run.json").read_text())
    unfinished = {name: part for name, part in record.items() if name not in ("files", "digest")}
    (tmp_path / "run.json").write_text(json.dumps(unfinished | {"status": "running"}))
    with pytest.raises(UserError, match="the run is unfinished"):
        trained.load(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="stays on the machine"):
        trained.load(tmp_path)


@pytest.mark.parametrize("way", ["a bit", "half", "nothing"])
def test_a_damaged_method_answers_nothing(
    way: str, runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(runs["ncm"], tmp_path / "run")
    file = run / "method.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes({"a bit": bytes(data), "half": bytes(data[: len(data) // 2]), "nothing": b""}[way])
    argv = ["predict", "--run", str(run), "--images", str(folder / "0"), "--to", str(tmp_path / "out.csv")]
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: damaged" in line and not (tmp_path / "out.csv").exists()
