"""Imports point one way, and what a user waits for imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIGHT = (
    "stream",
    "errors",
    "metrics",
    "kinds",
    "record.schema",
    "record.summary",
    "record.folder",
    "record.provenance",
    "compare.entries",
    "compare.stats",
    "compare.rows",
    "compare.comparisons",
    "compare.leaderboard",
    "compare.tables",
    "compare.markdown",
    "config.run_config",
    "config.registry",
    "config.listing",
    "running.execute",
    "sweep.engines",
    "sweep.grid",
    "sweep.forecast",
    "sweep.sweep",
    "sweep.merge",
    "report",
    "cli",
)
HEAVY = {"torch", "lightning", "peft", "open_clip", "torchmetrics", "timm", "transformers"}

# Who may be imported by whom, lowest layer first: a module imports from its own layer or below.
LAYERS = (
    {"benchmark.errors", "benchmark.stream", "benchmark.metrics", "benchmark.kinds"},
    {"benchmark.data", "benchmark.record", "methods", "benchmark.config.registry"},
    {"benchmark.config", "benchmark.pretrain"},
    {"benchmark.compare"},
    {"benchmark.running", "benchmark.report"},
    {"benchmark.sweep", "benchmark.deploy", "benchmark.testing"},
    {"benchmark.cli"},
    {"benchmark.__main__"},
)


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("benchmark/**/*.py"), *ROOT.glob("methods/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(file: Path) -> set[str]:
    """Everything a file imports, anywhere in it; type-checking blocks too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int | None:
    for level, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return level
    return None


def test_every_module_has_a_layer() -> None:
    assert {name for name in modules() if layer(name) is None} == {"benchmark"}


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_one_way(name: str) -> None:
    own = layer(name)
    for imported in imports(modules()[name]):
        level = layer(imported)
        if level is not None and own is not None:
            assert level <= own, f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("methods")))
def test_methods_import_the_stream_and_nothing_else_of_the_benchmark(name: str) -> None:
    used = {imported for imported in imports(modules()[name]) if imported.split(".")[0] == "benchmark"}
    assert all(imported.startswith("benchmark.stream") for imported in used), used


@pytest.mark.parametrize(
    "name",
    [
        "record/schema",
        "record/folder",
        "compare/entries",
        "compare/stats",
        "compare/comparisons",
        "compare/leaderboard",
        "compare/tables",
        "metrics",
    ],
)
def test_records_and_leaderboards_know_no_torch_and_no_methods(name: str) -> None:
    used = {imported.split(".")[0] for imported in imports(ROOT / "benchmark" / f"{name}.py")}
    assert not used & (HEAVY | {"methods"})


def test_light_modules_import_no_torch() -> None:
    names = [f"benchmark.{name}" for name in LIGHT] + ["benchmark.data.catalog", "benchmark.data.sources"]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split())


def test_only_the_runner_owns_a_trainer() -> None:
    for name, file in modules().items():
        if "Trainer(" in file.read_text():
            assert name == "benchmark.running.loop"


def test_a_datasets_package_elsewhere_is_not_shadowed(tmp_path: Path) -> None:
    """``python -m benchmark`` in the checkout must not make transformers see our folder of YAML as a package."""
    code = (
        "import runpy, sys, importlib.util; sys.argv = ['benchmark', 'help']\n"
        "try: runpy.run_module('benchmark', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "spec = importlib.util.find_spec('datasets')\n"
        "print([*spec.submodule_search_locations] if spec else [])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT / "datasets") not in result.stdout.splitlines()[-1]
