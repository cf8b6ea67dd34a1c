"""Whose results are read: a user's own runs, with the stored ones beside them, or those of one folder that is named.

Without ``--results`` runs go to ``results/local``, which git ignores, and every table shows the stored records of
``results`` beside them. Any other folder stands for itself. What is written goes to the folder that is asked for alone.
"""

from __future__ import annotations

from pathlib import Path

STORED, OWN = "results", "results/local"


def stored_beside(results: Path) -> Path | None:
    """The folder of the stored results where ``results`` is that of a user's own, else None."""
    return Path(results).parent if Path(results).absolute() == Path(OWN).absolute() else None


def read_from(results: Path) -> list[Path]:
    """The folders whose records are read for ``results``, the stored ones first."""
    stored = stored_beside(results)
    return [Path(results)] if stored is None else [stored, Path(results)]


def home(results: Path, own: bool) -> Path:
    """The folder of ``results`` in which a record lies that was read for it."""
    stored = stored_beside(results)
    return Path(results) if own or stored is None else stored
