"""What is asked and answered in samples of generation tasks: what their texts must be, and which answers are legal."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.data.catalog import Source
from benchmark.data.sources.spreadsheet import is_text
from benchmark.errors import UserError, shown, unknown

IMAGE = (
    "<image>"  # where LLaVA's files have the picture in a question: it is cut out, for every model has its own place
)
MOST_WORDS = 5000  # of one text
LONGEST = 50_000  # characters, of what has no blanks
TYPES = {"OPEN": False, "CLOSED": True}
YES_NO = ("yes", "no")


def question(text: object, where: str) -> str:
    """What is asked, without the place of the image.

    Raises:
        UserError: it is no text, empty, or longer than any model reads.
    """
    return _checked(text.replace(IMAGE, " ") if isinstance(text, str) else text, where, "the question")


def answer(text: object, where: str) -> str:
    """What is answered; refused like a question, and where it holds an image."""
    found = _checked(text, where, "the answer")
    if IMAGE in found:
        raise UserError(f"{where}: the answer has {IMAGE}, which stands in questions alone")
    return found


def _checked(text: object, where: str, what: str) -> str:
    if not isinstance(text, str) or not is_text(text):
        raise UserError(f"{where}: {what}: expected text, got {shown(text)}")
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise UserError(f"{where}: {what} is empty")
    words = len(text.split())
    if words > MOST_WORDS or len(text) > LONGEST:
        size = f"{words:,} words, {len(text):,} characters"
        raise UserError(f"{where}: {what} has {size}; at most {MOST_WORDS:,} and {LONGEST:,} are read")
    return text.strip()


def is_closed(given: object, where: str) -> bool:
    """What an ``answer_type`` means: OPEN or CLOSED, and OPEN where there is none."""
    name = given.strip().upper() if isinstance(given, str) else given
    if name is None or name == "":
        return False
    if not isinstance(name, str) or name not in TYPES:
        raise unknown("answer type", given, TYPES, where)
    return TYPES[name]


def plain(text: str) -> str:
    """An answer without capitals, more than one blank at a place and a full stop at the end."""
    return " ".join(text.casefold().split()).rstrip(" .")


def check_legal(source: Source, answers: Sequence[tuple[str, str]]) -> None:
    """Refuse answers of closed questions that are none of those that the task lists, if it lists any.

    Args:
        answers: of every closed sample where it stands, and its answer.
    """
    if not source.answers:
        return
    if not answers:
        raise UserError(f"{source.where}.answers: these samples have no closed question")
    legal = {plain(text) for text in source.answers}
    for where, text in answers:
        if plain(text) not in legal:
            raise UserError(
                f"{where}: the answer {shown(text)} is none of {source.where}.answers ({shown(list(source.answers))})"
            )
