"""The interface for scripts: its examples run, it raises what the command line prints, and computes nothing unasked."""

from __future__ import annotations

import doctest
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import benchmark
from benchmark import api, cli, endings
from benchmark.compare import leaderboard
from benchmark.config import arguments, registry
from benchmark.errors import Interrupted
from benchmark.record import shelves
from benchmark.record.shelves import OWN, STORED, read_from
from benchmark.record.stored import run_files
from benchmark.sweep import one
from tests.made_records import flat, made, save, unanswered

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "results"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_stored: None) -> Path:
    """An empty working folder; the stored records are there, as from an installed package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelves, "SHIPPED", SHIPPED)
    return tmp_path


def test_the_examples_run(elsewhere: Path) -> None:
    """Of one run, and what it says of images is what the command line writes."""
    run = benchmark.run("ncm", "smoke", quiet=True)
    done = doctest.testmod(api, extraglobs={"run": run}, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert done.failed == 0 and done.attempted > 18
    assert Image.open("matrix.png").size > (100, 100)
    assert len([*(elsewhere / OWN / "runs/smoke").glob("*/*/*")]) == 1
    files = [f"{seed}.png" for seed in range(2)]
    noise = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(2)]
    for name, image in zip(files, noise, strict=True):
        Image.fromarray(image).save(name)
    argv = ["predict", "--run", str(run.folder), "--images", ".", "--to", "out.csv", "--top", "2"]
    Path("matrix.png").unlink()
    assert cli.main(argv) == 0
    as_typed = pd.read_csv("out.csv").drop(columns=["image", "note"])
    for images in (".", files, noise, [Image.fromarray(noise[0]), Path(files[1])]):
        said = run.predict(images, top=2)
        pd.testing.assert_frame_equal(said[[*as_typed]], as_typed)
    for images, words in (
        ([], "expected a folder, a file, or a list"), (noise[0], "expected a folder"), ("", "images: expected a path"),
        ([Image.new("P", (8, 8))], "number 0 has mode P"), ([noise[0][:, :, :2]], r"number 0 is uint8 \(64, 64, 2\)"),
        ([noise[0] / 255], "number 0 is float64"), (["none.png"], "none is readable; none.png: file not found"),
    ):  # fmt: skip
        with pytest.raises(benchmark.UserError, match=words):
            run.predict(images)


def test_importing_it_is_free_and_its_names_are_found() -> None:
    code = "import benchmark, sys; print(len(sys.modules), *{'torch', 'pandas', 'rich', 'numpy'} & {*sys.modules}); "
    code += "print(benchmark.leaderboard('phantom20').shape[0] > 3, 'torch' in sys.modules, *dir(benchmark))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    modules, said = told.stdout.splitlines()
    assert len(modules.split()) == 1 and said.startswith("True False ")
    assert {*benchmark.__all__} <= {*said.split()} and not told.stderr
    with pytest.raises(AttributeError, match="has no attribute 'runs'"):
        _ = benchmark.runs


WRONG = [
    ({"method": "ncn"}, "run --method ncn"),
    ({"method": "ncm", "stream": "phantm8"}, "run --method ncm --stream phantm8"),
    ({"method": "ncm", "epoch": 3}, "run --method ncm --epoch 3"),
    ({"method": "mslora_cr", "method_rang": 4}, "run --method mslora_cr --method.rang 4"),
    ({"method": "ncm", "seed": -1}, "run --method ncm --seed=-1"),
    ({"method": "ncm", "lr": None}, "run --method ncm --lr null"),
    ({"method": "ncm", "augment": "flp"}, "run --method ncm --augment flp"),
    ({}, "run"),
]


@pytest.mark.parametrize(("options", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_is_wrong_raises_the_sentence_of_the_command_line(
    options: dict[str, object], line: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert cli.main(line.split()) == 2
    with pytest.raises(benchmark.UserError) as raised:
        benchmark.run(**options)
    assert capsys.readouterr().err == f"error: {raised.value}\n" and not list(elsewhere.iterdir())


@pytest.mark.parametrize(("name", "value"), [("help", True), ("print_config", ""), ("seed", {1}), ("devices", 2)])
def test_no_option_ends_the_process(name: str, value: object) -> None:
    with pytest.raises(benchmark.UserError, match=f"--{name}"):
        benchmark.run("ncm", "smoke", **{name: value})


def test_several_devices_are_refused_wherever_they_are_asked_for(tmp_path: Path) -> None:
    """They would be processes, started from a script that has no command to start them again by."""
    (tmp_path / "run.yaml").write_text("devices: 2\n", encoding="utf-8")
    with pytest.raises(benchmark.UserError, match="--devices 2"):
        benchmark.run("ncm", "smoke", config=tmp_path / "run.yaml")


def test_options_are_typed_as_a_command_has_them() -> None:
    options = {"method": Path("a/mine.py"), "batch_size": np.int64(8), "lr": 1e-05, "force": True, "limit": None}
    assert arguments.typed(options | {"method_clip_rank": 4, "method_rates": (0.1, 2)}) == [
        "--method=a/mine.py", "--batch_size=8", "--lr=1e-05", "--force=true", "--limit=null", "--method.clip_rank=4",
        "--method.rates=[0.1, 2]",
    ]  # fmt: skip


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """A shell starts what it puts in the background deaf to them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
def test_an_interrupt_stops_a_run_as_it_stops_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning ends the process on a KeyboardInterrupt, and lets what the command line raises through."""
    before, seen = signal.getsignal(signal.SIGINT), []

    def interrupted(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            seen.append(type(error))
            raise

    monkeypatch.setattr(one, "run", interrupted)
    with pytest.raises(KeyboardInterrupt, match=endings.CONTINUES):
        benchmark.run("ncm", "smoke")
    assert seen == [Interrupted] and signal.getsignal(signal.SIGINT) is before


# Records


def test_a_run_is_what_its_record_says(elsewhere: Path) -> None:
    record = made(given=[[0.1, 0.2, 0.3], [0.5, 0.2, 0.3], [0.4, 0.6, 0.3], [0.3, 0.5, 0.7]])
    save(elsewhere / "out", record, unanswered(made("lwf")))
    (file,) = (elsewhere / "out/runs").glob("*/ewc/*/*/run.json")
    run = benchmark.load(os.path.relpath(file.parent))
    os.chdir("/")
    assert run.matrix().loc["retina_oct", "lung_ct"] == 0.4 and run.matrix("hidden").isna().to_numpy().sum() == 6
    assert run.summary.loc["last_acc", "given"] == pytest.approx(0.5)
    assert run.summary.isna().loc["avg_acc", "hidden"]
    assert {benchmark.load(str(file.parent)), run} == {run}
    (other,) = (elsewhere / "out/runs").glob("*/lwf/*/*")
    for wrong, words in (
        (lambda: run.matrix("gven"), "unknown protocol 'gven' .did you mean 'given'"),
        (lambda: run.matrix(metric="acuracy"), "unknown metric 'acuracy'"),
        (lambda: benchmark.load(other).plot("hidden"), "no accuracy with the identity hidden"),
        (lambda: run.predict("x.png"), "no such folder"),
        (lambda: benchmark.load(file.parents[1]), "cannot be read"),
        (lambda: benchmark.load(""), "folder: expected a path, got ''"),
        (lambda: benchmark.leaderboard("thre", results=elsewhere / "out"), "did you mean 'three'"),
        (lambda: benchmark.leaderboard("three", "acc", elsewhere / "out"), "unknown --metric 'acc'"),
        (lambda: benchmark.leaderboard(None, results=elsewhere / "out"), "unknown stream 'None'"),
        (lambda: benchmark.leaderboard("three", results=elsewhere / "none"), "no records of 'three'"),
    ):
        with pytest.raises(benchmark.UserError, match=words):
            wrong()


def test_own_runs_stand_beside_what_came_with_the_package_until_the_folder_has_stored_ones(elsewhere: Path) -> None:
    assert read_from(Path(OWN)) == [SHIPPED, Path(OWN)] and read_from(Path("out")) == [Path("out")]
    mine = flat("mine", "04", 0.8, 0.8)
    save(Path(OWN), *mine)
    table = benchmark.leaderboard("three")
    assert [*table.method.unique()] == ["mine (own)"] and table.last_acc_mean.tolist() == pytest.approx([0.8, 0.8])
    written = leaderboard.build(Path(OWN))
    assert all(path.is_relative_to(OWN) for path in written)
    save(Path(STORED), *flat("ewc", "01", 0.9, 0.8))
    assert read_from(Path(OWN)) == [Path(STORED), Path(OWN)]
    assert {*benchmark.leaderboard("three").method} == {"mine (own)", "ewc"}


def test_what_there_is() -> None:
    assert [*benchmark.methods()] == registry.names() and "phantom8" in benchmark.streams()


# The package


def test_every_stored_record_is_in_the_wheel_and_nothing_else_of_the_results() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert told["package-dir"]["benchmark.results"] == "results"
    packed = {file for pattern in told["package-data"]["benchmark.results"] for file in SHIPPED.glob(pattern)}
    assert packed == {*run_files(SHIPPED)} and len(packed) > 200


def test_who_made_it_and_how_it_may_be_used_is_told_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited, licence = yaml.safe_load((ROOT / "CITATION.cff").read_text()), (ROOT / "LICENSE").read_text()
    assert cited["license"] == project["license"] == "MIT" and licence.startswith("MIT License\n")
    (author,) = cited["authors"]
    assert project["authors"] == [author] and f"(c) 2026 {author['name']}\n" in licence
    assert cited["version"] == benchmark.__version__


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_installed_wheel_lists_runs_and_shows_the_stored_rows(elsewhere: Path) -> None:
    """In a folder of its own, from an empty one, where no checkout is found."""
    source, site, empty = elsewhere / "source", elsewhere / "site", elsewhere / "empty"
    empty.mkdir()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for file in tracked.stdout.split():
        if not file.startswith("tests/"):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((ROOT / file).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(elsewhere), str(source)]
    subprocess.run([*pip, *built], check=True)
    (wheel,) = elsewhere.glob("*.whl")
    assert wheel.stat().st_size < 16 * 2**20
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "MBIL_CACHE": str(elsewhere / "cache")}

    def told(*words: str) -> str:
        done = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mbil, code = str(site / "bin/mbil"), "import benchmark; print(benchmark.__file__, benchmark.load(r'{}').folder)"
    assert "phantom8" in told(mbil, "list", "streams", "--names").split()
    assert "already complete" not in told(mbil, "run", "--method", "ncm", "--stream", "smoke")
    assert "stored already" in told(mbil, "plan", "--methods", "zero_shot", "--streams", "phantom8")
    (run,) = empty.glob("results/local/runs/smoke/ncm/*/*")
    assert "ranpac" in told(mbil, "leaderboard", "--stream", "phantom8")
    assert told(sys.executable, "-c", code.format(run)).split() == [str(site / "benchmark/__init__.py"), str(run)]
    assert not list((site / "benchmark/results").rglob("*.csv"))
