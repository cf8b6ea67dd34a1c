"""Run folders: what is written, what survives a kill, what is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.record import provenance, records

NAN = float("nan")
ROOT = Path(__file__).resolve().parents[2]


def small_record() -> records.Record:
    """A complete record of two tasks."""
    given = [[0.25, 0.5], [1.0, 0.5], [0.75, 1.0]]
    hidden = [[None, None], [1.0, None], [0.5, 1.0]]
    scores = {"accuracy": {"given": given, "hidden": hidden}, "macro_f1": {"given": given, "hidden": hidden}}
    costs = ("trainable_params", "stored_params", "stored_bytes", "train_seconds", "eval_seconds")
    tasks = [{"name": name, "modality": name, "labels": ["a", "b"]} for name in ("lung, x-ray", "Ürine")]
    return {
        "schema": 1,
        "key": "0123456789ab",
        "status": "complete",
        "method": "ewc",
        "group": "plain",
        "stream": {
            "name": "two",
            "folder": "two",
            "version": 1,
            "hash": "ff",
            "kind": "classification",
            "label_space": "own",
            "tasks": tasks,
        },
        "config": {"epochs": 3, "method": {"strength": 1e-05}},
        "settings": "",
        "backbone": "phantom-clip",
        "seed": 0,
        "order": 0,
        "permutation": [0, 1],
        "limit": None,
        "split": "test",
        "primary": "accuracy",
        "scores": scores,
        "router_accuracy": None,
        "summary": records.summarise(scores),
        "cost": {name: [1, 2] for name in costs} | {"images_per_second": [1.5, 1.5], "peak_memory_mib": [10.0]},
        "provenance": {"fingerprint": "aa", "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T01:00:00Z"},
    }


def saved(results: Path, **changes: object) -> tuple[Path, records.Record]:
    record = small_record() | changes
    folder = records.run_folder(
        results, record["stream"]["folder"], record["method"], record["key"], record["seed"], record["order"]
    )
    records.write_record(folder, record)
    return folder, record


def test_run_folder() -> None:
    folder = records.run_folder(Path("r"), "two@abcdef", "ewc", "0123456789ab", 3, 1)
    assert folder == Path("r/runs/two@abcdef/ewc/0123456789ab/seed3-order1")


def test_write_and_read(tmp_path: Path) -> None:
    folder, record = saved(tmp_path)
    assert records.read_record(folder) == records.read_record(folder / "run.json") == record
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy_given.csv",
        "accuracy_hidden.csv",
        "macro_f1_given.csv",
        "macro_f1_hidden.csv",
        "run.json",
    ]
    assert (folder / "accuracy_hidden.csv").read_text(encoding="utf-8") == (
        'stage,"lung, x-ray",Ürine\nbefore,,\n"lung, x-ray",1.000000,\nÜrine,0.500000,1.000000\n'
    )
    with (folder / "accuracy_given.csv").open(encoding="utf-8", newline="") as file:
        assert [row["stage"] for row in csv.DictReader(file)] == ["before", "lung, x-ray", "Ürine"]


def test_json_is_stable_and_readable(tmp_path: Path) -> None:
    value = {"b": NAN, "a": np.array([[1.0, NAN], [np.inf, 0.1]]), "n": np.int64(3), "e": [], "d": {}, "t": (1, 2)}
    records.write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text() == (
        '{\n "b": null,\n "a": [\n  [1.0, null],\n  [null, 0.1]\n ],\n "n": 3,\n "e": [],\n "d": {},\n "t": [1, 2]\n}\n'
    )
    records.write_json(tmp_path / "half.json", {"path": "\udc80"})
    assert json.loads((tmp_path / "half.json").read_text()) == {"path": "\udc80"}
    folder, _ = saved(tmp_path)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    records.write_record(folder, records.read_record(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_decimals() -> None:
    assert [records.decimals(value) for value in (0.5, None, NAN, -1e-9, -0.5, 1)] == [
        "0.500000", "", "", "0.000000", "-0.500000", "1.000000",
    ]  # fmt: skip


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    records.write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(os, name, fail)
            records.write_text(path, "new")
        assert [file.name for file in tmp_path.iterdir()] == ["run.json"] and path.read_text() == "old"


def test_a_killed_write_leaves_the_old_record(tmp_path: Path) -> None:
    folder, record = saved(tmp_path)
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom benchmark.record import records\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "records.write_json(Path(sys.argv[1]), {'schema': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, folder / "run.json"], cwd=ROOT, check=False)
    assert done.returncode != 0
    assert len(list(folder.glob(".run.json.*.tmp"))) == 1
    assert records.read_all(tmp_path) == [record]


def test_an_unfinished_record(tmp_path: Path) -> None:
    empty = [[None, None]] * 3
    scores = {"accuracy": {"given": empty, "hidden": empty}}
    folder, record = saved(tmp_path, status="running", scores=scores, summary=None)
    assert records.read_record(folder) == record == records.read_all(tmp_path)[0]
    assert "before,,\n" in (folder / "accuracy_given.csv").read_text(encoding="utf-8")
    assert records.to_frame([record])["given_last_acc"].isna().all()


def broken(change) -> str:
    record = small_record()
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a JSON file"),
        ("[]", "has no 'schema'"),
        ("{}", "has no 'schema'"),
        (broken(lambda record: record.update(schema=2)), "schema 2 is newer than 1"),
        (broken(lambda record: record.update(schema=0)), "schema 0 is not known"),
        (broken(lambda record: record.pop("summary")), "lacks 'summary'"),
        (broken(lambda record: record.pop("seed")), "lacks 'seed'"),
        (broken(lambda record: record["stream"].pop("folder")), "lacks 'folder'"),
        (broken(lambda record: record["scores"]["accuracy"].pop("hidden")), "lacks 'hidden'"),
        (broken(lambda record: record["scores"]["accuracy"]["given"].pop()), "scores.accuracy.given is not 3 x 2"),
        (broken(lambda record: record["scores"]["accuracy"]["given"][0].__setitem__(0, "x")), "neither a number"),
        (broken(lambda record: record.update(scores=[])), "not a whole record"),
        (broken(lambda record: record["summary"]["hidden"].pop("bwt")), "lacks 'bwt'"),
        (broken(lambda record: record.update(permutation=[0])), "1 entries for 2 tasks"),
        (broken(lambda record: record["provenance"].update(finished=None)), "not a whole record"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    folder, _ = saved(tmp_path)
    (folder / "run.json").write_text(text)
    for read in (lambda: records.read_record(folder), lambda: records.read_all(tmp_path)):
        with pytest.raises(UserError) as caught:
            read()
        assert str(folder / "run.json") in str(caught.value) and says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: cannot be read \(No such file"):
        records.read_record(tmp_path / "nothing")
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a JSON file"):
        records.read_record(tmp_path)


def test_read_all_is_sorted_and_complete(tmp_path: Path) -> None:
    for method, seed, order in (("lwf", 0, 0), ("ewc", 10, 0), ("ewc", 2, 1), ("ewc", 2, 0)):
        saved(tmp_path, method=method, seed=seed, order=order)
    other = deepcopy(small_record()["stream"]) | {"folder": "another"}
    saved(tmp_path, stream=other)
    found = [(r["stream"]["folder"], r["method"], r["seed"], r["order"]) for r in records.read_all(tmp_path)]
    assert found == [
        ("another", "ewc", 0, 0), ("two", "ewc", 2, 0), ("two", "ewc", 2, 1), ("two", "ewc", 10, 0),
        ("two", "lwf", 0, 0),
    ]  # fmt: skip
    assert len(records.read_all(tmp_path, "two")) == 4
    assert records.read_all(tmp_path, "none") == records.read_all(tmp_path / "none") == []


def test_two_records_of_one_run_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    copy = folder.with_name("copy-of-seed0")
    copy.mkdir()
    (copy / "run.json").write_bytes((folder / "run.json").read_bytes())
    with pytest.raises(UserError, match="the same run as"):
        records.read_all(tmp_path)


def test_to_frame(tmp_path: Path) -> None:
    frame = records.to_frame([small_record(), small_record() | {"seed": 1}])
    assert frame.shape[0] == 2 and frame["seed"].tolist() == [0, 1]
    assert frame["given_last_acc"].tolist() == [0.875, 0.875]
    assert frame["hidden_fwt"].isna().all() and frame["hidden_fwt"].dtype == float
    assert list(records.to_frame([]).columns) == list(frame.columns)


def test_summarise() -> None:
    summary = small_record()["summary"]
    assert list(summary["given"]) == [*records.SUMMARY, *records.LAST_ROW_OF]
    assert summary["given"] == {
        "last_acc": 0.875, "avg_acc": 0.8125, "aia": 0.9375, "forgetting": 0.25, "bwt": -0.25, "fwt": 0.0,
        "transfer": 0.5, "learning_acc": 1.0, "balanced_acc": None, "macro_auroc": None, "macro_f1": 0.875,
    }  # fmt: skip
    assert summary["hidden"]["fwt"] is None and summary["hidden"]["forgetting"] == 0.5


# Provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "methods/__init__.py": "",
        "methods/base.py": "import torch\n",
        "methods/parts/experts.py": "from . import router\n",
        "methods/parts/router.py": "import methods.base\n",
        "methods/mine.py": "def build():\n    from methods.parts import experts\n",
        "methods/other.py": "import torch\n",
        "benchmark/running/loop.py": "from benchmark.data.batches import x\n",
        "benchmark/metrics.py": "import numpy\n",
        "benchmark/report.py": "import html\n",
        "benchmark/data/phantom/ct.py": "import numpy\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("methods/mine.py", True),
        ("methods/__init__.py", True),
        ("methods/parts/experts.py", True),
        ("methods/parts/router.py", True),
        ("methods/base.py", True),
        ("methods/other.py", False),
        ("benchmark/running/loop.py", True),
        ("benchmark/metrics.py", True),
        ("benchmark/running/evaluate.py", True),
        ("benchmark/data/phantom/ct.py", True),
        ("benchmark/data/new.py", True),
        ("benchmark/report.py", False),
    ],
)
def test_fingerprint_covers_the_code_behind_a_score(checkout: Path, name: str, counts: bool) -> None:
    before = provenance.fingerprint(checkout, checkout / "methods" / "mine.py")
    with (checkout / name).open("a") as file:
        file.write("x = 1\n")
    assert (provenance.fingerprint(checkout, checkout / "methods" / "mine.py") != before) == counts


def test_fingerprint_ignores_place_and_line_ends(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    for path in checkout.rglob("*.py"):
        target = moved / path.relative_to(checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    first = provenance.fingerprint(checkout, checkout / "methods" / "mine.py")
    assert provenance.fingerprint(moved, moved / "methods" / "mine.py") == first and len(first) == 16


def test_fingerprint_of_a_plug_in(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    plug_in = tmp_path_factory.mktemp("plug_in") / "mine.py"
    plug_in.write_text("from .near import thing\nfrom methods.parts.router import Router\n")
    before = provenance.fingerprint(checkout, plug_in)
    (checkout / "methods" / "base.py").write_text("import numpy\n")
    assert provenance.fingerprint(checkout, plug_in) != before
    plug_in.write_text("def broken(:\n")
    with pytest.raises(UserError, match=r"mine\.py: cannot be read as Python"):
        provenance.fingerprint(checkout, plug_in)


def test_provenance_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    found = provenance.collect(checkout, checkout / "methods" / "mine.py", "cpu", {"lung": "ab"}, records.now())
    assert found["git_sha"] is None and found["git_dirty"] is None and found["finished"] is None
    assert found["packages"]["numpy"] == np.__version__ and found["data"] == {"lung": "ab"}
    assert found["started"].endswith("+00:00")


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M methods/mine.py\n", True)])
def test_provenance_asks_git(checkout: Path, monkeypatch: pytest.MonkeyPatch, changes: str, dirty: bool) -> None:
    top = [checkout]

    def git(command: list[str], **_: object) -> SimpleNamespace:
        said = {"--show-toplevel": f"{top[0]}\n", "HEAD": "c0ffee\n"}.get(command[-1], changes)
        return SimpleNamespace(returncode=0, stdout=said)

    monkeypatch.setattr(subprocess, "run", git)
    arguments = (checkout, checkout / "methods" / "mine.py", "cpu", {}, records.now())
    found = provenance.collect(*arguments)
    assert (found["git_sha"], found["git_dirty"]) == ("c0ffee", dirty)
    top[0] = checkout.parent  # installed inside another project: its commit says nothing about this code
    assert provenance.collect(*arguments)["git_sha"] is None


def test_import_is_light() -> None:
    program = (
        "import sys, benchmark.record.records; print([m for m in ('numpy', 'pandas', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_the_routers_accuracy_stands_beside_the_hidden_matrix(tmp_path: Path) -> None:
    record = small_record()
    tasks = len(record["stream"]["tasks"])
    records.write_record(tmp_path / "none", record | {"router_accuracy": [[None] * tasks] * (tasks + 1)})
    assert not (tmp_path / "none" / "router_accuracy_hidden.csv").exists()
    routed = [[0.5 if task < stage else None for task in range(tasks)] for stage in range(tasks + 1)]
    records.write_record(tmp_path / "some", record | {"router_accuracy": routed})
    rows = (tmp_path / "some" / "router_accuracy_hidden.csv").read_text().splitlines()
    assert len(rows) == tasks + 2 and rows[1] == "before" + "," * tasks
    assert rows[-1].split(",")[1:] == ["0.500000"] * tasks
