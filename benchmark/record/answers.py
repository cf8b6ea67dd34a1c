"""``answers.jsonl.gz``: what a method answered in words, an answer a line, for metrics that are computed elsewhere.

It stays on the machine that made it: questions and references may be patients' text.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from benchmark.errors import UserError
from benchmark.record.parts import MOST_SHOWN, Count, Share

ANSWERS = "answers.jsonl.gz"
LONGEST_LINE = 2**24  # bytes


@dataclass(frozen=True)
class AnswerLine:
    """One answer, and what was found of it.

    Attributes:
        stage: how many tasks were learned: those up to the task's own, or all.
        protocol: given or hidden.
        index: of the sample in the task's test set.
        type: CLOSED for a question with legal answers, else OPEN.
        tokens: that were generated, None where the method does not say.
        stopped: by the model, not by the limit of tokens.
        exact, f1: against the reference. format_kept: whether it has the form of an answer to such a question.
        likeliest: of a closed question the likeliest legal answer; empty where that was not asked.
    """

    task: str
    stage: Count
    protocol: Annotated[str, Meta(pattern=r"^(given|hidden)\Z")]
    index: Count
    prompt: str
    reference: str
    answer: str
    type: Literal["OPEN", "CLOSED"]
    tokens: Count | None
    stopped: bool
    exact: Share
    f1: Share
    format_kept: bool
    likeliest: str = ""


def shown_places(samples: int, most: int = MOST_SHOWN) -> list[int]:
    """Of so many test samples the places of those whose answers stand in the record (``Record.samples``), in order.

    At most ``most``, as far apart as may be with a step that 2, 3 and 5 do not divide: what is asked often comes in
    turn.
    """
    step = next(step for step in range(max(1, samples // most), 0, -1) if math.gcd(step, 30) == 1)
    return list(range(0, samples, step))[:most]


def zipped(lines: Iterable[AnswerLine]) -> bytes:
    """The file of these lines: ASCII, so that whatever an answer holds is one line; the same lines, the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        for line in lines:
            file.write(json.dumps(asdict(line), allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n")
    return buffer.getvalue()


def read_answers(path: Path) -> Iterator[AnswerLine]:
    """The lines of a file, in their order.

    Raises:
        UserError: naming the file and the line that is none, or why the file cannot be read.
    """
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                yield msgspec.convert(json.loads(line), AnswerLine)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except EOFError:
        raise UserError(f"{path}: damaged: it is cut short") from None
    except zlib.error as error:
        raise UserError(f"{path}: damaged ({error})") from None
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise UserError(f"{path}, line {number}: no answer ({' '.join(str(error).split())[:200]})") from None
