"""Whose results are read: a user's own runs, with the stored ones beside them, or those of one folder that is named.

Without ``--results`` runs go to ``results/local`` of the working folder, which git ignores, and every table shows the
stored records beside them: those of ``results`` there, and where it has none the ones that came with this package. Any
other folder stands for itself. What is written goes to the folder that is asked for alone.
"""

from __future__ import annotations

from pathlib import Path

STORED, OWN = "results", "results/local"
PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = next((place for place in (PACKAGE / STORED, PACKAGE.parent / STORED) if (place / "runs").is_dir()), None)


def stored_beside(results: Path) -> Path | None:
    """The folder of the stored results where ``results`` is that of a user's own, else None."""
    if Path(results).absolute() != Path(OWN).absolute():
        return None
    here = Path(results).parent
    return here if SHIPPED is None or (here / "runs").is_dir() else SHIPPED


def read_from(results: Path) -> list[Path]:
    """The folders whose records are read for ``results``, the stored ones first."""
    stored = stored_beside(results)
    return [Path(results)] if stored is None else [stored, Path(results)]


def home(results: Path, own: bool) -> Path:
    """The folder of ``results`` in which a record lies that was read for it."""
    stored = stored_beside(results)
    return Path(results) if own or stored is None else stored
