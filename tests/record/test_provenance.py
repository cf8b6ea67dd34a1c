"""The fingerprint of the code behind a score, and what a record says of its origin."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.record import provenance
from benchmark.record.files import now


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "methods/__init__.py": "",
        "methods/base.py": "import torch\n",
        "methods/parts/experts.py": "from . import router\n",
        "methods/parts/router.py": "import methods.base\n",
        "methods/mine.py": "def build():\n    from methods.parts import experts\n",
        "methods/other.py": "import torch\n",
        "benchmark/running/loop.py": "from benchmark.data.module import x\n",
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
    found = provenance.collect(checkout, checkout / "methods" / "mine.py", "cpu", {"lung": "ab"}, now())
    assert found.git_sha is None and found.git_dirty is None and found.finished is None
    assert found.packages["numpy"] == np.__version__ and found.data == {"lung": "ab"}
    assert found.started.endswith("+00:00")


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M methods/mine.py\n", True)])
def test_provenance_asks_git(checkout: Path, monkeypatch: pytest.MonkeyPatch, changes: str, dirty: bool) -> None:
    top = [checkout]

    def git(command: list[str], **_: object) -> SimpleNamespace:
        said = {"--show-toplevel": f"{top[0]}\n", "HEAD": "c0ffee\n"}.get(command[-1], changes)
        return SimpleNamespace(returncode=0, stdout=said)

    monkeypatch.setattr(subprocess, "run", git)
    arguments = (checkout, checkout / "methods" / "mine.py", "cpu", {}, now())
    found = provenance.collect(*arguments)
    assert (found.git_sha, found.git_dirty) == ("c0ffee", dirty)
    top[0] = checkout.parent  # installed inside another project: its commit says nothing about this code
    assert provenance.collect(*arguments).git_sha is None
