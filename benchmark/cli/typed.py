"""What the verbs share: how options are read, and where lines are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError, shown

if TYPE_CHECKING:
    from rich.console import Console

    from benchmark.record.schema import Record


RESULTS = "folder of runs/ and leaderboards/; default: results/local, with the stored ones of results/ beside"


def console() -> Console:
    """Where lines and tables are shown."""
    from benchmark.compare import tables

    return tables.console()


def parser(verb: str) -> Any:
    """A verb's parser, to which its options are added."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"python -m benchmark {verb}", exit_on_error=False, allow_abbrev=False)


def parsed(parser: Any, argv: Sequence[str]) -> Any:
    """What was typed; UserError where it does not fit, or a name is empty."""
    from benchmark.config import arguments

    given = arguments.parsed(parser, list(argv))
    options = {action.dest: action.option_strings for action in parser._actions}
    for name, value in vars(given).items():
        if isinstance(value, str) and value != parser.get_default(name) and (not value.strip() or "\0" in value):
            raise UserError(f"{'--' if options.get(name) else ''}{name}: expected a name, got {shown(value)}")
    return given


def say_of_backbones(console: Console, records: Iterable[Record]) -> None:
    """What has to be known of the backbones of these records."""
    from benchmark.config import families

    for name in sorted({record.backbone for record in records}):
        if note := families.note(name):
            console.print(note, highlight=False)


def check_picture(option: str, file: str) -> None:
    """Refuse what is no place for a picture."""
    from benchmark.data import places

    if not file.lower().endswith(".png"):
        raise UserError(f"{option}: expected a file that ends in .png, got {shown(file)}")
    places.writable(Path(file), f"{option} {shown(file)}", folder=False)
