"""The fingerprint of the code behind a score, and what a record says of its origin."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.record import provenance
from benchmark.record.files import now
from benchmark.record.syntax import dump, read_code


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
        "benchmark/data/catalog.py": "import yaml\n",
        "benchmark/data/phantom/__init__.py": "from importlib import import_module\n",
        "benchmark/data/phantom/ct.py": "import numpy\n",
        "benchmark/data/sources/__init__.py": "from benchmark.data.sources import npz, phantoms\n",
        "benchmark/data/sources/npz.py": "from benchmark.data.catalog import Source\n"
        "from benchmark.data.sources.split import Split\n",
        "benchmark/data/sources/phantoms.py": "from benchmark.data import phantom\n",
        "benchmark/data/sources/split.py": "import numpy\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def of_mine(root: Path, *sources: str) -> str:
    return provenance.fingerprint(root, root / "methods" / "mine.py", sources)


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
        ("benchmark/running/load.py", True),
        ("benchmark/stream.py", True),
        ("benchmark/data/phantom/ct.py", True),
        ("benchmark/data/phantom/new.py", True),
        ("benchmark/data/sources/phantoms.py", True),
        ("benchmark/data/sources/npz.py", False),
        ("benchmark/data/sources/split.py", False),
        ("benchmark/data/sources/__init__.py", False),
        ("benchmark/data/catalog.py", False),
        ("benchmark/report.py", False),
    ],
)
def test_fingerprint_covers_the_code_behind_a_score(checkout: Path, name: str, counts: bool) -> None:
    before = of_mine(checkout, "phantom")
    with (checkout / name).open("a") as file:
        file.write("x = 1\n")
    assert (of_mine(checkout, "phantom") != before) == counts


def test_a_reader_counts_where_the_stream_uses_it(checkout: Path) -> None:
    files = [checkout / "benchmark" / "data" / name for name in ("sources/npz.py", "sources/split.py", "phantom/ct.py")]
    for file, in_npz in zip(files, (True, True, False), strict=True):
        before = {sources: of_mine(checkout, *sources) for sources in ((), ("npz",), ("npz", "phantom"))}
        file.write_text(file.read_text() + "y = 2\n")
        changed = {sources: of_mine(checkout, *sources) != code for sources, code in before.items()}
        assert changed == {(): False, ("npz",): in_npz, ("npz", "phantom"): True}, file


@pytest.mark.parametrize(
    "text",
    [
        "def build():\n    'How it is built.'\n    from methods.parts import experts\n",
        "# why\ndef build(  ):\n\n    from methods.parts import (experts,)\n",
        "'Last 48.2 given.'\ndef build():\n    from methods.parts import experts\n'of the module'\n",
    ],
)
def test_docstrings_comments_and_layout_do_not_count(checkout: Path, text: str) -> None:
    before = of_mine(checkout, "phantom")
    (checkout / "methods" / "mine.py").write_text(text)
    assert of_mine(checkout, "phantom") == before
    (checkout / "methods" / "mine.py").write_text(text.replace("build", "built"))
    assert of_mine(checkout, "phantom") != before


def test_every_version_of_python_reads_the_same_code() -> None:
    """The text under 3.11, 3.12 and 3.13: no field that is empty, later or of places, and ASCII alone."""
    text = 'def f(a, *, b=None):\n "doc"\n return f"{a!r:>{b}}" + "\\u00e9", {**a}, u"", [""]\nclass A: ...\n'
    assert dump(ast.parse(text)) == (
        "Module(body=[FunctionDef(name='f' args=arguments(args=[arg(arg='a' ),]kwonlyargs=[arg(arg='b' ),]"
        "kw_defaults=[Constant(value=None ),])body=[Return(value=Tuple(elts=[BinOp(left=JoinedStr(values=["
        "FormattedValue(value=Name(id='a' )conversion=114 format_spec=JoinedStr(values=[Constant(value='>' ),"
        "FormattedValue(value=Name(id='b' )conversion=-1 ),])),])op=Add()right=Constant(value='\\xe9' )),"
        "Dict(keys=[None ,]values=[Name(id='a' ),]),Constant(value='' ),List(elts=[Constant(value='' ),]),])),]),"
        "ClassDef(name='A' body=[Expr(value=Constant(value=Ellipsis )),]),])"
    )


def test_every_place_of_what_computes_is_there() -> None:
    assert all((provenance.ROOT / name).exists() for name in provenance.COMPUTING)


def test_the_steps_of_the_budget_count() -> None:
    text = (provenance.ROOT / "benchmark" / "stream.py").read_bytes()
    changed = text.replace(b"self.batch_size) *", b"32) *")
    assert changed != text and read_code(changed, ()).digest != read_code(text, ()).digest


def test_fingerprint_ignores_place_and_line_ends(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    for path in checkout.rglob("*.py"):
        target = moved / path.relative_to(checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    first = of_mine(checkout, "phantom")
    assert of_mine(moved, "phantom") == first and len(first) == 16


def test_fingerprint_of_a_plug_in(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    plug_in = tmp_path_factory.mktemp("plug_in") / "mine.py"
    plug_in.write_text("from .near import thing\nfrom methods.parts.router import Router\n")
    before = provenance.fingerprint(checkout, plug_in, ())
    (checkout / "methods" / "base.py").write_text("import numpy\n")
    assert provenance.fingerprint(checkout, plug_in, ()) != before
    plug_in.write_text("def broken(:\n")
    with pytest.raises(UserError, match=r"mine\.py: cannot be read as Python"):
        provenance.fingerprint(checkout, plug_in, ())


def test_provenance_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    found = provenance.collect(checkout, checkout / "methods" / "mine.py", (), "cpu", {"lung": "ab"}, now())
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
    arguments = (checkout, checkout / "methods" / "mine.py", (), "cpu", {}, now())
    found = provenance.collect(*arguments)
    assert (found.git_sha, found.git_dirty) == ("c0ffee", dirty)
    top[0] = checkout.parent  # installed inside another project: its commit says nothing about this code
    assert provenance.collect(*arguments).git_sha is None
