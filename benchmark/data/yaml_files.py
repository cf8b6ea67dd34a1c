"""Files of YAML that a user writes: read, and their keys and texts checked. Every error names the file and the key.

One reader for stream files, cards and ``--config``. What a file may say is bounded before a value is made of it, so
that a few bytes cannot stand for gigabytes: its size, how deep it nests, how many values it has with aliases written
out. Only texts, numbers, true, false, null, lists and keys with values are values; a date is a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from benchmark.data.places import regular
from benchmark.errors import UserError, shown, unknown

MOST_BYTES = 1 << 20
MOST_VALUES = 50_000
DEEPEST = 20
LONGEST = 20_000  # characters of one text
PLAIN = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge"))
TEXT, WHOLE, MERGE, DATE = PLAIN[0], PLAIN[1], PLAIN[7], "tag:yaml.org,2002:timestamp"
NUMBERS = (PLAIN[1], PLAIN[2])
DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)|[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?\.(inf|nan)", re.I)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _Bounded(Composer):
    """Composes as much and as deep as is allowed."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.values += 1
        if self.values > 2 * MOST_VALUES:  # keys and values
            raise yaml.YAMLError(f"more than {MOST_VALUES} values")
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {DEEPEST}")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


if yaml.__with_libyaml__:  # ten times faster

    class _Loader(_Bounded, yaml.CSafeLoader):
        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)

else:

    class _Loader(_Bounded, yaml.SafeLoader):  # type: ignore[no-redef]
        pass


def read(path: Path, option: str = "") -> dict[str, Any]:
    """What stands at the top level of a file.

    Args:
        option: of the command line that names the file, for messages.

    Raises:
        UserError: the file is not there or no file, is no YAML, has no keys or one of them twice, or is too large.
    """
    where = f"{option} {path}" if option else str(path)
    if regular(path, where) > MOST_BYTES:
        raise UserError(f"{where}: larger than {MOST_BYTES >> 20} MiB")
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8-sig")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, where, {}, 1)
            content = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected keys and values at the top level")
    return content


def _check(node: yaml.Node, where: str, sizes: dict[int, int | None], depth: int) -> int:
    """How many values a node stands for, aliases written out; ``sizes`` of the nodes seen, None inside of one."""
    known = sizes.get(id(node), 0)
    line = f"{where}: line {node.start_mark.line + 1}"
    if known is None:
        raise UserError(f"{line}: an alias of what it stands in")
    if known:
        return known
    if depth > DEEPEST:
        raise UserError(f"{line}: nested deeper than {DEEPEST}")
    sizes[id(node)] = None
    size = 1
    if node.tag == DATE:
        node.tag = TEXT
    if node.tag not in PLAIN:
        raise UserError(f"{line}: {shown(node.tag)}: only texts, numbers, true, false, null, lists and keys are values")
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS and not DECIMAL.fullmatch(node.value):
            raise UserError(f"{line}: {shown(node.value)}: numbers are written in decimal, texts in quotes")
        if len(node.value) > LONGEST:
            raise UserError(f"{line}: a text of more than {LONGEST} characters")
        if CONTROL.search(node.value):
            raise UserError(f"{line}: {shown(node.value)} has control characters")
    elif isinstance(node, yaml.MappingNode):
        _check_names(node, where)
        size += sum(_check(value, where, sizes, depth + 1) for _, value in node.value)
    else:
        size += sum(_check(value, where, sizes, depth + 1) for value in node.value)
    if size > MOST_VALUES:
        raise UserError(f"{line}: more than {MOST_VALUES} values, aliases written out")
    sizes[id(node)] = size
    return size


def _check_names(node: yaml.MappingNode, where: str) -> None:
    """The keys are different names: text or whole numbers."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag == DATE:
            key.tag = TEXT
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (TEXT, WHOLE, MERGE):
            name = f"the key {shown(key.value)}" if isinstance(key, yaml.ScalarNode) else "a key"
            raise UserError(f"{where}: line {line}: {name} is no name (yes, no, on, off and null in quotes)")
        if CONTROL.search(key.value):
            raise UserError(f"{where}: line {line}: the key {shown(key.value)} has control characters")
        if key.value in seen:
            raise UserError(
                f"{where}: line {line}: the key {shown(key.value)} stands twice, first in line {seen[key.value]}"
            )
        seen[key.value] = line


def check_keys(content: Mapping[str, Any], valid: tuple[str, ...], where: str) -> None:
    """Refuse keys that are not among the valid ones."""
    for key in content:
        if key not in valid:
            raise unknown("key", key, valid, where)


def text_of(content: Mapping[str, Any], key: str, where: object) -> str:
    """The text of a key that has to be there."""
    if key not in content:
        raise UserError(f"{where}: the key {key!r} is missing")
    if not isinstance(content[key], str) or not content[key].strip():
        raise UserError(f"{where}.{key}: expected text, got {shown(content[key])}")
    return content[key]


def texts_of(content: Mapping[str, Any], key: str, where: str) -> list[str]:
    """One text or a list of texts."""
    value = content.get(key)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(text, str) and text for text in values):
        raise UserError(f"{where}.{key}: expected a list of texts (numbers, yes and no in quotes), got {shown(value)}")
    return values
