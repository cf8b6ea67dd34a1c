"""What a method's arguments may be: each check names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


def one_of(choices: Iterable[str], **values: str) -> None:
    """Every value is one of the choices.

    Raises:
        ValueError: ``router 'rigde': choose from ridge, mahalanobis, ncm``.
    """
    choices = tuple(choices)
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} {value!r}: choose from {', '.join(choices)}")


def at_least(low: float, **values: float) -> None:
    """Every value is ``low`` or more.

    Raises:
        ValueError: ``rank 0: need at least 1``.
    """
    for name, value in values.items():
        if not value >= low:
            raise ValueError(f"{name} {value}: need at least {low}")


def above(low: float, **values: float) -> None:
    """Every value is more than ``low``.

    Raises:
        ValueError: ``temperature 0: must be above 0``.
    """
    for name, value in values.items():
        if not value > low:
            raise ValueError(f"{name} {value}: must be above {low}")


def within(low: float, high: float, **values: float) -> None:
    """Every value is in [low, high].

    Raises:
        ValueError: ``top_k 5: must be in [1, 4]``.
    """
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name} {value}: must be in [{low}, {high}]")


def below_one(**values: float) -> None:
    """Every value is in [0, 1): a rate of dropout, of smoothing.

    Raises:
        ValueError: ``dropout 1.0: must be in [0, 1)``.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} {value}: must be in [0, 1)")
