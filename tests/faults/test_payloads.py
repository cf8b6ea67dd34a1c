"""Folders from elsewhere that try to write, delete or read outside the results, to hang whoever opens them, or to run
code. Everything around the results is compared to the byte, and a payload that runs leaves a mark."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import cli
from benchmark.compare import repeats
from benchmark.data import catalog
from benchmark.record.schema import TaskEntry
from benchmark.record.stored import path_of, read_all
from tests.made_records import made, on, save

SECONDS = 30  # in which each of these is done many times over
OTHER, RUN = (f"runs/three/ewc/0123456789ab/seed{seed}-order0" for seed in (0, 1))


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What would wait for a pipe for ever fails instead."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """``ours`` with a record, ``theirs`` with the same one and one to come, and what nobody may touch."""
    save(tmp_path / "ours", made())
    save(tmp_path / "theirs", made(), made(seed=1))
    for name in ("victim/file", "ours/runs/three/notes/file", "ours/own.txt", "secret"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("SECRET")
    return tmp_path


def everything(folder: Path) -> dict[str, object]:
    """Every path below a folder but the tables and the runs that may come: what it is, and its bytes."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            kind = path.lstat().st_mode
            link = os.readlink(path) if stat.S_ISLNK(kind) else None
            found[path.relative_to(folder).as_posix()] = link or (path.read_bytes() if stat.S_ISREG(kind) else kind)
    return found


def kept_out(around: Path, refused: int = 1, copied: int = 0) -> str:
    """What merging says, once it is certain that outside of the tables and of what was copied all is as it was."""
    before = everything(around)
    code = cli.main(["merge", "--from", str(around / "theirs"), "--results", str(around / "ours")])
    after = everything(around)
    new = {name for name in after.keys() - before.keys() if not name.startswith("ours/leaderboards")}
    assert before.items() <= after.items() and all(name.startswith(f"ours/{RUN}") for name in new), new
    assert code == (1 if refused else 0) and (len(read_all(around / "ours")) == 1 + copied)
    assert not any(value == b"SECRET" for name, value in after.items() if name in new)
    return ""


# What a record says becomes a path


def said(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


PATHS: dict[str, Callable[[dict[str, Any]], object]] = {
    "order": lambda record: record.update(order="0/../../../../../../victim"),
    "seed": lambda record: record.update(seed="1-order0/../../../../../../victim/x"),
    "key": lambda record: record.update(key="../../../../victim"),
    "key, a line more": lambda record: record.update(key="0123456789ab\n"),
    "method": lambda record: record.update(method="../../../victim"),
    "method, from the root": lambda record: record.update(method="/tmp/victim"),
    "method, hidden": lambda record: record.update(method=".ewc"),
    "stream": lambda record: record["stream"].update(name="../../victim", folder="../../victim"),
    "folder of the stream": lambda record: record["stream"].update(folder="../../victim"),
    "hash of the stream": lambda record: record["stream"].update(hash="/../victim"),
    "folder with a hash": lambda record: record["stream"].update(folder="three@/../..", hash="/../../victim"),
    "stream of all": lambda record: record["stream"].update(name="overall", folder="overall"),
    "task": lambda record: record["stream"]["tasks"][0].update(name="../../victim/file"),
    "metric": lambda record: record["scores"].update({"../../../../../../victim/file": record["scores"]["accuracy"]}),
    "metric of another stream": lambda record: (
        record["stream"].update(hash="ab" * 32),
        record["scores"].update({"../../../../../../victim/file": record["scores"]["accuracy"]}),
    ),
    "protocol": lambda record: record["scores"]["accuracy"].update({"/../../../victim/file": []}),
    "withheld input": lambda record: record.update(missing={"../../victim/file": {"given": [], "hidden": []}}),
    "another run's place": lambda record: record.update(seed=7),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_record_leads_nowhere_else(name: str, around: Path, tally: Callable[..., None]) -> None:
    said(around / "theirs" / RUN / "run.json", PATHS[name])
    kept_out(around)
    tally("paths in records kept out")


# What lies in the folder


def instead(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


def link(to: str) -> Callable[[Path], object]:
    """A link to something beside ``theirs``, or at an absolute path."""
    return lambda path: path.symlink_to(Path(to) if to.startswith("/") else path_above(path) / to)


def path_above(path: Path) -> Path:
    return next(above for above in path.parents if (above / "victim").is_dir())


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


THINGS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a record that is a link to a file": (f"{RUN}/run.json", link("secret")),
    "a record that is a link to a device": (f"{RUN}/run.json", link("/dev/zero")),
    "a record that is a link to a terminal": (f"{RUN}/run.json", link("/dev/tty")),
    "a record that is a pipe": (f"{RUN}/run.json", os.mkfifo),
    "a record that is a socket": (f"{RUN}/run.json", listening),
    "a record that is a folder": (f"{RUN}/run.json", Path.mkdir),
    "a record that is a link to a record": (f"{RUN}/run.json", link(f"theirs/{OTHER}/run.json")),
    "predictions that are a link": (f"{RUN}/predictions.npz", link("secret")),
    "predictions that are a pipe": (f"{RUN}/predictions.npz", os.mkfifo),
    "a method that is a link": (f"{RUN}/method.safetensors", link("/etc/passwd")),
    "a method that is a socket": (f"{RUN}/method.safetensors", listening),
    "experts that are a link": (f"{RUN}/experts", link("victim")),
    "experts that are a pipe": (f"{RUN}/experts", os.mkfifo),
    "an expert that is a link": (f"{RUN}/experts/skin", lambda path: (path.parent.mkdir(), link("victim")(path))),
    "an adapter that is a link": (
        f"{RUN}/experts/skin/adapter_model.safetensors",
        lambda path: (path.parent.mkdir(parents=True), link("secret")(path)),
    ),
    "a run that is a link": (RUN, link(f"theirs/{OTHER}")),
    "a key that is a link": ("runs/three/ewc/0a", link("victim")),
    "a method's folder that is a link": ("runs/three/lwf", link("victim")),
    "a stream that is a link": ("runs/other", link("victim")),
    "a stream that is a link to itself": ("runs/other", lambda path: path.symlink_to(path)),
}  # fmt: skip


@pytest.mark.parametrize("name", THINGS)
def test_no_link_is_followed_and_no_pipe_opened(name: str, around: Path, tally: Callable[..., None]) -> None:
    place, make = THINGS[name]
    instead(around / "theirs" / place, make)
    kept_out(around, copied=int("seed1" not in place))
    tally("links, pipes and devices kept out")


def test_what_no_run_leaves_stays_there(around: Path, tally: Callable[..., None]) -> None:
    names = ("run.sh", "sitecustomize.py", "evil.pth", "evil.so", ".bashrc", "experts/evil.py", "experts/skin/x.py",
             "state/checkpoint.ckpt", "extra.csv", "accuracy_given.csv.exe", "method.pkl")  # fmt: skip
    for name in names:
        (around / "theirs" / RUN / name).parent.mkdir(parents=True, exist_ok=True)
        (around / "theirs" / RUN / name).write_text("SECRET")
    (around / "theirs" / RUN / "accuracy_given.csv").write_text("SECRET")  # made from the record, not copied
    os.mkfifo(around / "theirs" / RUN / "pipe")
    (around / "theirs" / RUN / "link").symlink_to(around / "secret")
    (around / "theirs/runs/three/ewc/0123456789ab/.hidden").symlink_to(around / "victim")
    kept_out(around, refused=0, copied=1)
    copied = around / "ours" / RUN
    assert {path.name for path in copied.iterdir()} == {
        path.name for path in path_of(save(around / "alone", made(seed=1)), made(seed=1)).iterdir()
    }
    tally("files of no run left there", len(names))


def test_links_of_runs_as_a_whole(around: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    (around / "theirs/runs").rename(around / "moved")
    (around / "theirs/runs").symlink_to(around / "moved")
    before = everything(around)
    assert cli.main(["merge", "--from", str(around / "theirs"), "--results", str(around / "ours")]) == 2
    assert "not followed" in capsys.readouterr().err and everything(around) == before
    tally("links, pipes and devices kept out")


@pytest.mark.parametrize("place", ["seed1-order0", "0123456789ab", "ewc"])
def test_what_is_no_run_here_stays(place: str, around: Path, tally: Callable[..., None]) -> None:
    """A folder without a record is somebody's, a link leads elsewhere: neither is replaced or written to."""
    target = around / "ours" / RUN
    shutil.rmtree(around / "ours/runs/three/ewc")
    at = next(each for each in (target, *target.parents) if each.name == place)
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(around / "victim")
    before = everything(around)
    assert cli.main(["merge", "--from", str(around / "theirs"), "--results", str(around / "ours")]) == 1
    assert before.items() <= everything(around).items() and len(list((around / "victim").iterdir())) == 1
    at.unlink()
    target.mkdir(parents=True)
    (target / "own.txt").write_text("mine")
    assert cli.main(["merge", "--from", str(around / "theirs"), "--results", str(around / "ours")]) == 1
    assert [path.name for path in target.iterdir()] == ["own.txt"]
    tally("folders without a record kept")


@pytest.mark.parametrize("source", ["ours", "ours/runs", "link", "ours/runs/three"])
def test_a_folder_is_not_merged_with_itself(source: str, around: Path, tally: Callable[..., None]) -> None:
    (around / "link").symlink_to(around / "ours")
    before = everything(around)
    assert cli.main(["merge", "--from", str(around / source), "--results", str(around / "ours")]) == 2
    assert everything(around) == before
    tally("merges with itself refused")


# Code


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of a plug-in, which lies in the working folder and leaves a mark when it is imported; in a package too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a plug-in is looked for in the working folder, from then on
    base, mark = "from methods.base import IncrementalMethod", f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    for place in ("evil.py", "evils/__init__.py", "evils/more.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(f"{base}\n{mark}\nclass Evil(IncrementalMethod):\n    pass\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("evil")]:
        del sys.modules[name]


def run_of(results: Path, plug_in: str, **config: Any) -> Path:
    """A run of this method on the stream smoke, which would be grown from its record."""
    tasks = catalog.load("smoke", None).stream.tasks
    record = made(plug_in.replace(":", "."), tasks=tuple(task.name for task in tasks))
    entries = [TaskEntry(task.name, "x", [label.name for label in task.labels]) for task in tasks]
    made_with = replace(record.config, **({"method": plug_in, "stream": "smoke", "method_args": {}} | config))
    record = replace(record, config=made_with, stream=replace(record.stream, tasks=entries))
    folder = path_of(save(results, record), record)
    (folder / "method.safetensors").write_bytes(b"")
    return folder


OPENERS: dict[str, Callable[[Path], list[str]]] = {
    "predict": lambda run: ["predict", "--run", str(run), "--images", str(run.parents[5] / "image.png")],
    "export": lambda run: ["export", "--run", str(run), "--task", "skin", "--to", str(run.parents[5] / "to")],
    "verify": lambda run: ["verify", "--run", str(run), "--no_beside"],
    "verify all": lambda run: ["verify", "--results", str(run.parents[4])],
    "leaderboard": lambda run: ["leaderboard", "--results", str(run.parents[4])],
    "merge": lambda run: ["merge", "--from", str(run.parents[4]), "--results", "merged"],
    "plan": lambda run: ["plan", "--method", "ewc", "--stream", "smoke", "--results", str(run.parents[4])],
}


@pytest.mark.parametrize("plug_in", ["evil:Evil", "evils.more:Evil", "evils:Evil"])
@pytest.mark.parametrize("verb", OPENERS)
def test_a_record_imports_nothing(
    verb: str, plug_in: str, plugged: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (plugged / "image.png").write_bytes(b"")
    run = run_of(plugged / "theirs", plug_in)
    code = cli.main(OPENERS[verb](run))
    assert not (plugged / "ran").exists() and not (plugged / "predictions.csv").exists()
    printed = capsys.readouterr()
    if verb in ("predict", "export", "verify"):
        assert code == (1 if verb == "verify" else 2) and f"--method {plug_in}" in printed.out + printed.err
    tally("imports kept out")


def test_a_pipe_for_a_matrix_is_not_waited_for(tmp_path: Path) -> None:
    one, two = made(), made(seed=0)
    here, there = (path_of(save(tmp_path / name, one), one) for name in ("here", "there"))
    (there / "accuracy_given.csv").unlink()
    os.mkfifo(there / "accuracy_given.csv")
    assert repeats.difference(one, there, two, here) == "accuracy_given.csv differs"
    assert repeats.contradiction(one, there) == "accuracy_given.csv is not what run.json says"


def test_what_is_typed_is_imported_and_nothing_else(plugged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plugged / "image.png").write_bytes(b"")
    wanted = OPENERS["predict"](run_of(plugged / "theirs", "evil:Evil"))
    assert cli.main([*wanted, "--method", "evils:Evil"]) == 2 and not (plugged / "ran").exists()
    assert "is evil:Evil" in capsys.readouterr().err
    ours = OPENERS["predict"](run_of(plugged / "ours", "ncm"))
    assert cli.main([*ours, "--method", "evil:Evil"]) == 2 and not (plugged / "ran").exists()
    assert cli.main([*ours, "--method", "ncm"]) == 2  # it is built, and has no weights
    assert "method.safetensors: damaged" in capsys.readouterr().err
    assert cli.main([*wanted, "--method", "evil:Evil"]) == 2 and (plugged / "ran").exists()


@pytest.mark.parametrize("verb", ["predict", "export", "verify", "leaderboard"])
def test_a_stream_of_a_record_calls_no_function(
    verb: str, plugged: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (plugged / "image.png").write_bytes(b"")
    task = {"name": "a", "modality": "b", "source": "evil:function", "classes": ["c", "d"], "template": "{}"}
    (plugged / "s.yaml").write_text(yaml.safe_dump({"name": "three", "tasks": [task]}))
    monkeypatch.setattr("benchmark.sweep.verify.made_here", lambda *_: pytest.fail("it is made again"))
    cli.main(OPENERS[verb](run_of(plugged / "theirs", "ewc", stream=str(plugged / "s.yaml"))))
    assert not (plugged / "ran").exists()
    if verb == "verify":
        assert "--method evil:function" in capsys.readouterr().out
    tally("imports kept out")


class Payload:
    """What leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


PICKLES = ("open_clip_pytorch_model.bin", "pytorch_model.bin", "model.pth", "other.bin")


@pytest.mark.parametrize("name", [*PICKLES, "weights.pt", "weights.npz", "weights.npy", "zipped.pt"])
def test_weights_run_no_code(name: str, tmp_path: Path, tally: Callable[..., None]) -> None:
    import numpy as np
    import torch

    from methods.parts import backbones

    file, mark = tmp_path / name, tmp_path / "ran"
    if name.startswith("weights.np"):
        array = np.array([Payload(mark)], dtype=object)
        np.savez(file, array) if name.endswith("z") else np.save(file, array)
    elif name == "zipped.pt":
        torch.save({"state_dict": Payload(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Payload(mark)}))
    shutil.copy(backbones.WEIGHTS / "phantom-clip" / "open_clip_config.json", tmp_path)
    with pytest.raises(ValueError, match="backbone"):
        if name in PICKLES:
            backbones.load(f"local-dir:{tmp_path}")
        else:
            backbones.load("ViT-S-32-alt", str(file))
    assert not mark.exists()
    tally("pickles not run")


@pytest.mark.parametrize("part", ["tokenizer", "text tower", "both"])
def test_python_in_a_folder_of_weights_is_not_run(
    part: str, tmp_path: Path, tally: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor after a question on the terminal, whose answer may be in what is piped in."""
    from methods.parts import backbones

    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "weights"
    shutil.copytree(backbones.WEIGHTS / "phantom-clip", folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    text = config["model_cfg"]["text_cfg"]
    if part != "text tower":
        text |= {"hf_tokenizer_name": str(folder), "tokenizer_kwargs": {"trust_remote_code": True}}
    if part != "tokenizer":
        text |= {"hf_model_name": str(folder), "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    classes = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": classes}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": classes, "tokenizer_class": "T"}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass C: ...\nM = T = C\n")
    with pytest.raises(ValueError, match="backbone"):
        backbones.load(f"local-dir:{folder}")
    assert not (tmp_path / "ran").exists()
    tally("code of folders not run")


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_shipped_weights_are_those_that_were_shipped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable[..., None]
) -> None:
    from methods.parts import backbones

    shutil.copytree(backbones.WEIGHTS / "phantom-clip", tmp_path / "phantom-clip")
    monkeypatch.setattr(backbones, "WEIGHTS", tmp_path)
    assert backbones.load("phantom-clip").image_size
    data = bytearray((tmp_path / "phantom-clip" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "phantom-clip" / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: not the weights that this suite ships"):
        backbones.load("phantom-clip")
    tally("altered weights refused")


def test_other_streams_are_not_stopped_by_a_folder_of_that_name(around: Path) -> None:
    save(around / "ours", on("overall", made()))
    (around / "ours/runs/overall/file").write_text("x")
    assert cli.main(["leaderboard", "--results", str(around / "ours")]) == 0
    assert cli.main(["leaderboard", "--results", str(around / "ours"), "--stream", "three"]) == 0
