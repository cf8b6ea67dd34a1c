"""What Python code says, whatever its comments, its layout and the version of Python that reads it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

IMPORTS = (ast.Import, ast.ImportFrom)
LEFT_OUT = ("ctx", "kind", "type_params", "type_comment", "type_ignores")  # told by the rest, or for readers alone


@dataclass(frozen=True)
class Code:
    """A file: ``digest`` of its syntax tree, what it imports anywhere in it, each name split at the dots, and its
    constant ``VERSION`` if it has one.
    """

    digest: str
    imports: tuple[tuple[str, ...], ...]
    version: int | None


@lru_cache(maxsize=1024)
def read_code(source: bytes, package: tuple[str, ...]) -> Code:
    """A file of this content in this package; most methods share most files.

    Raises:
        SyntaxError, ValueError: it is no Python.
    """
    tree = ast.parse(source)
    imports = [name for node in ast.walk(tree) if isinstance(node, IMPORTS) for name in _named(node, package)]
    return Code(hashlib.sha256(dump(tree).encode("ascii")).hexdigest(), tuple(imports), _version(tree))


def dump(tree: ast.AST) -> str:
    """The tree without docstrings and places, in ASCII: the same text from Python 3.11 on.

    ``ast.dump`` is not: what it prints of empty fields, and which fields there are, differs between versions.
    """
    parts: list[str] = []
    _dump(tree, parts.append)
    return "".join(parts)


def _dump(value: object, put: Callable[[str], None]) -> None:
    if isinstance(value, ast.AST):
        put(type(value).__name__ + "(")
        for name in value._fields:
            item = getattr(value, name, None)
            if name not in LEFT_OUT and (item is not None or isinstance(value, ast.Constant)) and item != []:
                put(name + "=")
                _dump(_kept(value, item) if isinstance(item, list) else item, put)
        put(")")
    elif isinstance(value, list):
        put("[")
        for item in value:
            _dump(item, put)
            put(",")
        put("]")
    else:
        put(ascii(value) + " ")  # what repr escapes depends on the version's Unicode


def _kept(parent: ast.AST, items: list[object]) -> list[object]:
    """Without texts that stand alone, which are docstrings, and without the empty pieces that some versions of Python
    see in f-strings.
    """
    if isinstance(parent, ast.JoinedStr):
        return [item for item in items if not (isinstance(item, ast.Constant) and item.value == "")]
    return [item for item in items if not (isinstance(item, ast.Expr) and _is_text(item.value))]


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _version(tree: ast.Module) -> int | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION":
            return int(ast.literal_eval(node.value))
    return None


def _named(node: ast.Import | ast.ImportFrom, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Of ``from a import b`` both ``a`` and ``a.b``, which may be a module."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
        return
    start = package[: len(package) - node.level + 1] if node.level else ()
    base = (*start, *(node.module.split(".") if node.module else ()))
    yield base
    yield from ((*base, alias.name) for alias in node.names)
