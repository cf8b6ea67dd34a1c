"""Methods by name: the file name is the registry. Read with ``ast``, so that nobody waits for torch to see a list.

A method is ``methods/<name>.py`` with one public subclass of IncrementalMethod. Elsewhere: ``package.module:Class``,
or ``path/to/file.py``, which is short for ``file:Class`` with the file's folder on Python's path.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from keyword import iskeyword
from os.path import isfile
from pathlib import Path
from typing import Any

from benchmark import kinds
from benchmark.config.class_source import (
    ROOT,
    Lineage,
    file_of,
    lineage_of,
    literal,
    misspelt,
    none_in,
    package_folder,
    parse,
)
from benchmark.errors import UserError, in_short, shown, spot, through, unknown
from benchmark.record import provenance

FLAGS = {"requires_task_id": False, "keeps_images": False, "needs_length": False, "joint": False, "ddp": True}
LEARNS = ("classification",)  # the kinds of task that a method learns, unless it names others
RECORDED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:]{0,199}")


@dataclass(frozen=True)
class MethodCard:
    """What a method's source says of it, without importing it."""

    name: str
    module: str
    cls: str
    file: Path
    doc: str
    defaults: dict[str, Any] = field(hash=False)
    flags: dict[str, bool] = field(hash=False)
    kinds: tuple[str, ...]
    version: int
    presets: dict[str, dict[str, Any]] = field(hash=False)
    search: dict[str, tuple[float, float]] = field(default_factory=dict, hash=False)

    @property
    def group(self) -> str:
        """Who it is ranked among."""
        names = {"joint": "joint", "keeps_images": "keeps images", "requires_task_id": "needs identity"}
        names["needs_length"] = "needs length"
        return next((group for flag, group in names.items() if self.flags[flag]), "plain")

    @property
    def summary(self) -> str:
        return self.doc.strip().splitlines()[0] if self.doc else ""


def methods_folder() -> Path:
    """Where method files are looked for."""
    return package_folder()


def _defaults(lineage: Lineage) -> dict[str, Any]:
    """Defaults of ``__init__``, with those of the bases where it passes ``**kwargs`` on or has none of its own."""
    for place, (_, node) in enumerate(lineage):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                args = [*item.args.posonlyargs, *item.args.args][1:]
                pairs = list(zip(args[len(args) - len(item.args.defaults) :], item.args.defaults, strict=True))
                pairs += [(a, d) for a, d in zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True) if d]
                bare = {a.arg for a in (*args, *item.args.kwonlyargs)} - {a.arg for a, _ in pairs}
                if bare:
                    raise UserError(f"{node.name}.__init__ (line {item.lineno}): {min(bare)!r} has no default value")
                own = {a.arg: literal(d, f"{node.name}.__init__: default of {a.arg}") for a, d in pairs}
                return (_defaults(lineage[place + 1 :]) | own) if item.args.kwarg else own
    return {}


def _card(name: str, module: str, file: Path, cls: str, lineage: Lineage) -> MethodCard:
    tree = lineage[0][0]
    if why := misspelt(file, lineage):
        raise UserError(why)
    told: dict[str, Any] = FLAGS | {"kinds": LEARNS, "version": 1, "search": {}}
    for _, node in reversed(lineage):
        for item in node.body:
            if not isinstance(item, (ast.Assign, ast.AnnAssign)) or item.value is None:
                continue
            target = item.targets[0] if isinstance(item, ast.Assign) else item.target
            if isinstance(target, ast.Name) and target.id in told:
                value = literal(item.value, f"{node.name}.{target.id}")
                told[target.id] = _checked(target.id, value, f"{node.name} ({spot(file, item.lineno)})")
    presets: dict[str, dict[str, Any]] = {}
    for item in tree.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name) and item.targets[0].id == "PRESETS":
            presets = literal(item.value, f"{file}: PRESETS")
            if not isinstance(presets, dict) or not all(isinstance(values, dict) for values in presets.values()):
                raise UserError(f"{file}: PRESETS: expected name -> values, got {shown(presets)}")
    doc, flags = ast.get_docstring(tree) or "", {flag: bool(told[flag]) for flag in FLAGS}
    return MethodCard(
        name, module, cls, file, doc, _defaults(lineage), flags, told["kinds"], int(told["version"]), presets,
        told["search"],
    )  # fmt: skip


def _checked(what: str, value: Any, where: str) -> Any:
    """What a class declares of itself, if it can be that."""
    if what == "kinds":
        if not isinstance(value, (tuple, list)) or not value:
            raise UserError(f'{where}: kinds: expected a tuple such as ("classification",), got {shown(value)}')
        for name in value:
            if name not in kinds.KINDS:
                raise unknown("kind of task", name, kinds.KINDS, where)
        return tuple(value)
    if what == "version" and (type(value) is not int or value < 1):
        raise UserError(f"{where}: version: expected a whole number of at least 1, got {shown(value)}")
    if what == "search" and not isinstance(value, dict):
        raise UserError(f"{where}: search: expected argument -> values to try, got {shown(value)}")
    return value


def _method_in(file: Path) -> tuple[str, Lineage] | None:
    tree = parse(file)
    found = []
    for node in tree.body:
        try:
            lineage = [] if not isinstance(node, ast.ClassDef) else lineage_of(tree, node.name)
        except RecursionError:
            raise UserError(f"{file}: its classes descend from each other in a circle") from None
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and lineage:
            found.append((node.name, lineage))
    if len(found) > 1:
        raise UserError(f"{file}: a method file has one public {ROOT} subclass, found {', '.join(n for n, _ in found)}")
    return found[0] if found else None


@lru_cache(maxsize=256)
def _card_of(file: Path) -> MethodCard | None:
    """The method in a file of the ``methods`` folder; None where it has none."""
    found = _method_in(file)
    return _card(file.stem, f"methods.{file.stem}", file, *found) if found else None


def _folder() -> dict[str, MethodCard | UserError]:
    """What the files of the ``methods`` folder hold, or why that cannot be read."""
    found: dict[str, MethodCard | UserError] = {}
    for file in sorted(methods_folder().glob("*.py")):
        try:
            described = _card_of(file)
        except UserError as error:
            found[file.stem] = error
        else:
            found |= {file.stem: described} if described else {}
    return found


def names() -> list[str]:
    """Every method of the ``methods`` folder that can be read, by name."""
    return [name for name, found in _folder().items() if isinstance(found, MethodCard)]


def drafts() -> dict[str, str]:
    """Files of the ``methods`` folder that cannot be read, by name, and why."""
    return {name: str(found) for name, found in _folder().items() if isinstance(found, UserError)}


def named(name: str) -> str:
    """The name by which records know a method.

    It is the typed one, but for a file: ``path/to/file.py`` is ``file:Class``, and its folder is put at the end of
    Python's path; a file of the ``methods`` folder is what it is called there.

    Raises:
        UserError: there is no such file, or none that can be imported under its name.
    """
    path, _, cls = name.partition(":")
    if not path.endswith(".py"):
        return name
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--method {name}: no such file")
    folder, stem = file.resolve().parent, file.stem
    if folder == methods_folder().resolve():
        return stem
    if not stem.isidentifier() or iskeyword(stem) or not RECORDED.fullmatch(stem):
        raise UserError(f"--method {name}: what is imported is named by letters, digits and '_', such as mine.py")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    known = file_of(stem)
    if known is None or known.resolve() != file.resolve():
        other = f" ({known})" if known else ""
        raise UserError(f"--method {name}: Python has another module {stem!r} already{other}: rename the file")
    if not cls:
        found = _method_in(file)
        if found is None:
            raise UserError(f"--method {name}: {none_in(file)}")
        cls = found[0]
    return f"{stem}:{cls}"


def card(name: str) -> MethodCard:
    """A method by file name, as ``package.module:Class`` or by the path of its file.

    Raises:
        UserError: no such method (with the nearest name), module, or class.
    """
    name = named(name)
    if ":" in name:
        module, cls = name.split(":", 1)
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        file = file_of(module)
        if file is None:
            raise UserError(f"method {name!r}: no module {module!r} can be found")
        lineage = lineage_of(parse(file), cls)
        if not lineage:
            raise UserError(f"method {name!r}: {file} has no {ROOT} subclass {cls!r}")
        if not RECORDED.fullmatch(name):
            raise UserError(f"method {name!r}: a record's place cannot have this name: letters, digits, '_' and '.'")
        return _card(name.replace(":", "."), module, file, cls, lineage)
    file = methods_folder() / f"{name}.py"
    if not name.isidentifier() or not isfile(file):
        raise unknown("method", name, names())
    found = _card_of(file)
    if found is None and (name == "base" or name.startswith("_")):
        raise unknown("method", name, names())
    if found is None:
        raise UserError(f"{file}: {none_in(file)}")
    return found


def part_versions(card: MethodCard) -> dict[str, int]:
    """``VERSION`` of every file of ``methods/parts`` that has one and that the method imports, by name."""
    files = provenance.imported(provenance.ROOT, card.file)
    return {
        file.stem: code.version
        for file, code in files.items()
        if file.parent.name == "parts" and code.version is not None
    }


def ours_or_typed(name: str, typed: Iterable[str]) -> None:
    """Raise UserError for a plug-in that a record names and the user has not typed: to load it runs its code."""
    if ":" in name and name not in typed:
        raise UserError(f"the record's method is a plug-in, which is imported only if you type --method {name}, "
                        "or --method and the path of its file")  # fmt: skip


def load(name: str) -> type[Any]:
    """The method's class, imported.

    Raises:
        UserError: as :func:`card`, or its file cannot be imported, with the line at which it stops.
    """
    described = card(name)
    try:
        return getattr(import_module(described.module), described.cls)
    except Exception as error:  # a file may raise anything
        told = through(error, [described.file]) or in_short(error)
        raise UserError(f"method {described.name}: cannot be imported: {told}") from error
