"""A method's class as its source tells it: its bases, and what is wrong where there is none. Nothing is imported."""

from __future__ import annotations

import ast
import builtins
from difflib import get_close_matches
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, in_short, unknown

ROOT = "IncrementalMethod"
Lineage = list[tuple[ast.Module, ast.ClassDef]]
NEAR = 0.8  # how like a hook's name another must be to be taken for it


def package_folder() -> Path:
    """Where the package ``methods`` is, which is not imported for it."""
    spec = find_spec("methods")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


@lru_cache(maxsize=256)
def parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except SyntaxError as error:
        line = f"{file}:{error.lineno}: {(error.text or '').strip()[:200]}"
        raise UserError(f"{file}: no valid Python: {error.msg} ({line})") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:  # the last two: brackets without end
        raise UserError(f"{file}: no valid Python: {in_short(error)}") from None


def literal(value: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError):
        raise UserError(f"{what} is read without importing and must be a literal, not {ast.unparse(value)}") from None


def imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Local name -> (module, name) of ``from module import name``."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
    return found


def lineage_of(tree: ast.Module, cls: str) -> Lineage:
    """A class and its bases up to, not including, IncrementalMethod; empty if it does not descend from that."""
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls), None)
    if node is None:
        source = imports(tree).get(cls)
        file = file_of(source[0]) if source else None
        return lineage_of(parse(file), source[1]) if source and file else []
    for base in node.bases:
        name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
        if name == ROOT:
            return [(tree, node)]
        above = lineage_of(tree, name) if name and name != cls else []
        if above:
            return [(tree, node), *above]
    return []


def file_of(module: str) -> Path | None:
    """The file of a module, found without importing anything of it: a record from elsewhere may name any."""
    top, *below = module.split(".")
    if top == "methods" and below:
        file = package_folder().joinpath(*below).with_suffix(".py")
        return file if file.is_file() else None
    try:
        spec = find_spec(top)
        for end in range(2, len(below) + 2):  # find_spec of a.b would import a
            locations = spec.submodule_search_locations if spec else None
            spec = PathFinder.find_spec(".".join([top, *below][:end]), locations) if locations else None
    except Exception:  # finders that a package has installed may raise anything
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def none_in(file: Path) -> str:
    """Why a file has no method: the base of a class of its own that is lost, or that there is no such class."""
    tree = parse(file)
    imported, known = imports(tree), {*offered(tree), *dir(builtins)}
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for name in (base.id for base in node.bases if isinstance(base, ast.Name)):
            module, there = imported.get(name, ("", name))
            source = file_of(module) if module else None
            if name not in known:
                why = f"{name} is not imported"
            elif module and source is None:
                why = f"{name} is imported from {module}, and no such module can be found"
            elif source is not None and there not in (there_are := offered(parse(source))):
                why = str(unknown("class", there, there_are, where=str(source)))
            else:
                continue
            return f"line {node.lineno}, class {node.name}({name}): {why}"
    return f"no public class in it descends from {ROOT}"


def offered(tree: ast.Module) -> set[str]:
    """The classes that a file has or hands on."""
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} | {*imports(tree)}


def misspelt(file: Path, lineage: Lineage) -> str:
    """The first method of a class that is a letter or two away from a hook it lacks, and what to do;
    empty if none is. What its file calls is a method of its own, whatever it is named."""
    tree, node = lineage[0]
    base = parse(package_folder() / "base.py")
    hooks = _methods(next(n for n in base.body if isinstance(n, ast.ClassDef) and n.name == ROOT))
    known = hooks.keys() - _methods(node).keys()
    used = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    for name, line in _methods(node).items():
        near = get_close_matches(name, known, 1, NEAR)
        if near and name not in hooks.keys() | used:
            return f"{file}:{line}: {name} is no hook of {ROOT}, and nothing calls it; did you mean {near[0]!r}?"
    return ""


def _methods(node: ast.ClassDef) -> dict[str, int]:
    """Public methods of a class -> the line of each."""
    functions = (item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {item.name: item.lineno for item in functions if not item.name.startswith("_")}
