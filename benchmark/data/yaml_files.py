"""Files of YAML that a user writes: read, and their keys and texts checked. Every error names the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import UserError, unknown


def read(path: Path) -> dict[str, Any]:
    """What stands at the top level of a file.

    Raises:
        UserError: the file is not there, is no YAML or has no keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: file not found") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values at the top level")
    return content


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
        raise UserError(f"{where}.{key}: expected text, got {content[key]!r}")
    return content[key]


def texts_of(content: Mapping[str, Any], key: str, where: str) -> list[str]:
    """One text or a list of texts."""
    value = content.get(key)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(text, str) and text for text in values):
        raise UserError(f"{where}.{key}: expected a list of texts, got {value!r}")
    return values
