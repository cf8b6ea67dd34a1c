"""The house: imports point one way, names mean one thing, and what a user waits for imports no torch."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "lightning", "peft", "open_clip", "torchmetrics", "timm", "transformers"}

# Who may be imported by whom, lowest first. A room is a package of benchmark, a flat file of it, or methods.
LAYERS = (
    {"disk", "errors", "endings", "stream", "metrics", "texts", "kinds"},
    {"data", "record", "methods"},
    {"config", "pretrain"},
    {"compare"},
    {"report", "running"},
    {"sweep", "deploy", "testing"},
    {"api", "cli"},
    {"__main__"},
)
LIGHT = (  # packages and modules that answer before torch is there
    "disk", "errors", "endings", "stream", "metrics", "texts", "kinds", "record", "config", "compare", "report",
    "sweep", "api", "cli", "data.catalog", "data.doubles", "data.identity", "data.places", "data.sources",
    "data.yaml_files", "running.execute", "running.processes", "running.loggers",
)  # fmt: skip
COUNTERPARTS = "running.answers."  # a module for every kind, of its name


@cache
def modules() -> dict[str, Path]:
    files = [*ROOT.glob("benchmark/**/*.py"), *ROOT.glob("methods/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def imports(file: Path) -> frozenset[str]:
    """Everything a file imports, anywhere in it; type-checking blocks too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found & modules().keys() | {name for name in found if name.split(".")[0] in HEAVY})


def room(module: str) -> str:
    """``benchmark.running.loop`` is in ``running``; all methods are one room."""
    top, *inner = module.split(".")
    return top if top == "methods" or not inner else inner[0]


@cache
def arrows() -> dict[str, set[str]]:
    """Room -> the rooms it imports."""
    found: dict[str, set[str]] = {room(name): set() for name in modules() if name != "benchmark"}
    for name, file in modules().items():
        ours = {
            each for each in imports(file) if each.split(".")[0] in ("benchmark", "methods") and each != "benchmark"
        }
        if name != "benchmark":
            found[room(name)] |= {room(each) for each in ours} - {room(name)}
    return found


def test_every_room_has_a_layer() -> None:
    assert arrows().keys() == set().union(*LAYERS)


@pytest.mark.parametrize("name", sorted(set().union(*LAYERS)))
def test_imports_point_one_way(name: str) -> None:
    level = {each: place for place, rooms in enumerate(LAYERS) for each in rooms}
    above = {other for other in arrows()[name] if level[other] > level[name]}
    assert not above, f"{name} imports {above}"


def test_every_package_is_in_the_wheel() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name for name, file in modules().items() if file.name == "__init__.py"}
    assert set(told) == found | {"benchmark.catalog", "benchmark.results"}  # datasets/ and results/


def test_no_circles_and_at_most_nine_floors() -> None:
    heights: dict[str, int] = {}

    def height(name: str, way: tuple[str, ...] = ()) -> int:
        assert name not in way, f"a circle: {' -> '.join((*way, name))}"
        if name not in heights:
            heights[name] = 1 + max((height(other, (*way, name)) for other in arrows()[name]), default=0)
        return heights[name]

    assert max(map(height, arrows())) <= 9


def test_a_new_file_finds_a_room() -> None:
    assert len(list((ROOT / "benchmark").glob("*.py"))) <= 10
    assert not list((ROOT / "datasets").rglob("*.py"))
    assert {path.name for path in ROOT.glob("*.py")} == set()


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("methods")))
def test_methods_import_the_stream_and_nothing_else_of_the_benchmark(name: str) -> None:
    used = {imported for imported in imports(modules()[name]) if imported.split(".")[0] == "benchmark"}
    assert used <= {"benchmark.stream"}, used


def test_what_reads_records_knows_no_torch_and_no_methods() -> None:
    for name, file in modules().items():
        if room(name) in ("kinds", "metrics", "texts", "record", "compare", "report", "config"):
            heavy = {each.split(".")[0] for each in imports(file)} & (HEAVY | {"methods"})
            assert not heavy, f"{name} imports {heavy}"


def test_light_modules_import_no_torch() -> None:
    wanted = tuple(f"benchmark.{name}" for name in LIGHT)
    names = [name for name in modules() if name.startswith(tuple(f"{each}." for each in wanted)) or name in wanted]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(names) > 60 and not HEAVY & set(loaded.stdout.split())


def test_a_name_means_one_thing() -> None:
    """No two modules and no two public classes share a name; an answer has the name of its kind of task."""
    named = [name for name in modules() if not name.startswith(f"benchmark.{COUNTERPARTS}")]
    packages = {name for name, file in modules().items() if file.name == "__init__.py"}
    files = Counter(name.rsplit(".", 1)[-1] for name in named if name not in packages)
    assert {name: count for name, count in files.items() if count > 1} == {}
    classes = Counter(
        node.name
        for file in modules().values()
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}


def test_kinds_of_tasks_are_asked_and_not_compared() -> None:
    """Outside kinds, readers of sources and phantoms; a method may ask for its own loss."""
    compared = re.compile(r"""[=!]= *["'](classification|fusion|retrieval|accuracy)["']""")
    for name, file in modules().items():
        if not name.startswith(("benchmark.kinds", "benchmark.data.sources", "benchmark.data.phantom", "methods.")):
            assert not compared.search(file.read_text()), name


def test_only_fit_owns_a_trainer_and_only_the_folder_deletes_runs() -> None:
    for name, file in modules().items():
        text = file.read_text()
        if "Trainer(" in text:
            assert name == "benchmark.running.fit"
        if "rmtree(" in text:
            assert name == "benchmark.disk"
        if re.search(r"from benchmark.disk import .*\bremove\b", text):
            assert name in (
                "benchmark.record.folder", "benchmark.record.state_files", "benchmark.data.cache",
                "benchmark.running.state", "benchmark.deploy.export", "benchmark.sweep.tune",
            ), name  # fmt: skip


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
