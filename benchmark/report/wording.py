"""How the report writes values, and the templates' environment that knows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmark.compare.rows import LeaderboardRow
from benchmark.record.files import decimals

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = Path(__file__).parent / "page"
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
PLAIN = ("trainable_params",)  # columns that are no fractions, without decimals


def slug(text: str) -> str:
    """A name as part of an address or of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def per_cent(value: float | None, digits: int = 1) -> str:
    """``83.2`` of a fraction, with a true minus sign; a dash for none."""
    return NONE if value is None else decimals(100 * value, digits).replace("-", MINUS)


def p_value(p: float | None) -> str:
    """``0.032``, ``< 0.001``, or a dash for none."""
    return NONE if p is None or p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def shown(value: float | str | None, key: str) -> str:
    """A cell of the leaderboard: per cent, or a cost in its unit."""
    if value is None or isinstance(value, str):
        return value or NONE
    if key == "stored_bytes":
        return f"{value / 2**20:,.2f}"
    return f"{value:,.0f}" if key in PLAIN else per_cent(value)


def exact(value: float | str | None, key: str) -> str:
    """What a cell sorts by: a number as the CSV has it, a name as it is."""
    return value if isinstance(value, str) else decimals(value, 2 if key == "rank" else 6)


def rank(row: LeaderboardRow) -> str:
    """An average rank; ``n=1`` for a default row of one run, which has none."""
    once = bool(row.preset) and row.n_runs == 1
    return decimals(row.rank, 2) or ("n=1" if once else NONE)


def recall(key: str) -> str:
    """``i2t_r5`` as ``R@5 i→t``."""
    way, name = key.split("_")
    return f"{'MRR' if name == 'mrr' else name.replace('r', 'R@')} {way.replace('2', '→')}"


def environment() -> Environment:
    """Jinja's environment of the templates in ``PAGE``: everything is escaped, a missing name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "percent": per_cent, "shown": shown, "exact": exact, "rank": rank, "slug": slug, "quote": quote,
        "p_value": p_value, "day": lambda when: when[:10], "minute": lambda when: when[:16].replace("T", " "),
    }  # fmt: skip
    return made


def some_names(them: Sequence[str], most: int = 6, joint: str = ", ") -> str:
    """The first ``most`` of some names, and how many more there are."""
    if len(them) > most + 1:
        return joint.join(them[:most]) + f" and {len(them) - most} more"
    return joint.join(them)
