"""A class with other defaults, for tests that take it by its class."""

from __future__ import annotations

from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def given(cls: Class, **arguments: object) -> Class:
    """The class with other defaults."""

    def __init__(self: Any, **others: object) -> None:
        cls.__init__(self, **arguments | others)

    return type(cls)(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__})
