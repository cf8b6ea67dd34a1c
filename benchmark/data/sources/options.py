"""Checks of the options that class folders and tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from benchmark.data.catalog import Source
from benchmark.data.sources.spreadsheet import as_text
from benchmark.errors import UserError, shown, unknown


def mapping(source: Source, key: str, valid: Sequence[str]) -> dict[str, Any]:
    """An optional option of keys and values, the keys among the ``valid`` ones."""
    value = source.options.get(key, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{source.where}.{key}: expected keys and values, got {shown(value)}")
    for inner in value:
        if inner not in valid:
            raise unknown("key", inner, valid, f"{source.where}.{key}")
    return dict(value)


def named(source: Source, key: str, valid: Sequence[str]) -> dict[str, Any]:
    """An optional :func:`mapping` whose values are different names: text or whole numbers."""
    value = mapping(source, key, valid)
    texts = [as_text(text) for text in value.values() if _is_name(text)]
    if len(set(texts)) < len(value):
        raise UserError(f"{source.where}.{key}: expected different names, got {shown(value)}")
    return value


def names(source: Source, key: str) -> list[str]:
    """An optional list of different names."""
    value = source.options.get(key, [])
    texts = [as_text(name) for name in value] if isinstance(value, list) and all(map(_is_name, value)) else []
    if (key in source.options and not texts) or len(set(texts)) < len(texts):
        raise UserError(f"{source.where}.{key}: expected a list of different names, got {shown(value)}")
    return texts


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def one_for_each_class(source: Source, key: str) -> list[Any]:
    """An optional list of names in the order of the classes; the classes' own where there is none."""
    value = source.options.get(key, [])
    right = isinstance(value, list) and all(map(_is_name, value))
    count = len(source.classes)
    if key in source.options and (not right or not len({as_text(x) for x in value}) == len(value) == count):
        raise UserError(f"{source.where}.{key}: expected {count} different names, one for each class")
    return value or [*source.classes]


def inside(name: str, where: str) -> str:
    """The name of a file or folder below the one that a task names, refused where it leads elsewhere."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where}: expected a place below the task's own, without '..', got {shown(name)}")
    return name
