"""``claims.md``: the claims, what the records say of them, and the counts of the answers released with MSLoRA-CR."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmark.compare.claims import EVERY, Claim, ClaimedSide, read
from benchmark.compare.entries import counts
from benchmark.compare.held import FAILS, HOLDS, UNTOLD, HeldClaim, held
from benchmark.compare.presets import TUNED
from benchmark.compare.tables import markdown_table
from benchmark.config import families
from benchmark.data import yaml_files
from benchmark.errors import UserError
from benchmark.record.files import decimals, write_text
from benchmark.record.schema import Record
from benchmark.record.stored import read_all

NAME, RELEASED = "claims.md", Path(__file__).with_name("released.yaml")
HEADINGS = (
    "claim", "stream", "identity", "runs", "difference, points", "95 % interval", "p", "p, Holm", "verdict",
    "runs that would tell", "note",
)  # fmt: skip
WORDS = {"last_acc": "last score", "forgetting": "forgetting"}
ABOUT = """\
Made by `make claims` from the records in `runs/` and from `benchmark/compare/claims.yaml`, which says what is
claimed, by whom, and what was published. The claims were chosen before this page was first made, most of its first
records were there.

- **What is compared.** Two methods on one stream and backbone, in the runs that both have of the same order and seed:
  with what they were tuned to where both were (`make tune`; marked *tuned*), and with default settings (with either,
  settings that the table of claims names are as it says). *Last score*: mean over tasks of the stream's
  metric after the last task. *Given*: the model is told the task of a sample and chooses among its labels; *hidden*:
  among all labels learned so far, in retrieval among the items of all tasks seen. Each claim is tested with the
  identity of its source.
- **difference**: percentage points in favour of the claim. Of forgetting it is how much less the first forgets.
- **95 % interval, p**: for other runs (other orders where there are several, else other seeds) and other test
  samples; those marked *runs alone* for other runs on the same samples, because forgetting has no score of a sample
  or older runs kept none. Of runs of one order they are about that order. Not tested are a single run, which tells of
  one trained model, two *runs alone*, and two methods that are alike in every run. *p, Holm*: after Holm's correction
  over all that is tested on this page.
- **verdict**: *holds* or *fails* where p after Holm is below .05, by the sign of the difference. *Cannot be told* is
  no third result: these runs neither support the claim nor speak against it, however large the difference looks.
- **runs that would tell**: the fewest runs with which this test would tell, with probability .8 (normal
  approximation), a difference of the published size (*p*), or where none is known of the size observed (*o*), from
  none: at .05 over the {tested} tests of this page (Bonferroni), if more runs (orders where there are several) vary
  as these did. Two or three runs or orders say little of how they vary, so it is an order of magnitude. Where it is
  not more than there are, a difference of that size would probably have shown. *None*: more runs will not do, it takes
  more test samples. *-*: not tested, or no need.
- A verdict is about this suite's stream (`phantom*`: made images), backbone and common budget. No published figure
  was measured on one of these streams. Records of an earlier version of a method stand as its default row until there
  are runs of today's (`results/README.md` says what changed)."""


def write(results: Path) -> Path:
    """Write ``results/claims.md`` and return it.

    Raises:
        UserError: no whole records.
    """
    records = list(filter(counts, read_all(results)))
    if not records:
        raise UserError(f"no whole records below {Path(results) / 'runs'} yet: make bench METHOD=mslora_cr")
    write_text(Path(results) / NAME, text(records))
    return Path(results) / NAME


def text(records: Iterable[Record]) -> str:
    """The page; the same records give the same bytes."""
    claims = read()
    found = held(claims, records)
    tested = sum(not math.isnan(one.p) for one in found)
    parts = [
        "# What papers claim, held against the records",
        ABOUT.format(tested=tested),
        "## The claims",
        markdown_table(("#", "claim", "better", "than", "in", "identity", "published, points", "source"),
               [_claimed(number, claim) for number, claim in enumerate(claims, 1)]),
        "## What the records say",
        said(claims, found),
        markdown_table(("#", *HEADINGS), [(str(1 + claims.index(one.claim)), *cells(one)) for one in found]),
        *_without(claims, found),
        *_released(),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def said(claims: Sequence[Claim], found: Sequence[HeldClaim]) -> str:
    """One sentence: how many claims there are, and how often they were tested with which verdict."""
    tested = [one.verdict for one in found if not math.isnan(one.p)]
    about = len({one.claim.name for one in found if not math.isnan(one.p)})
    counted = ", ".join(f"{verdict} {tested.count(verdict)}" for verdict in (HOLDS, FAILS, UNTOLD))
    return f"{about} of {len(claims)} claims could be tested, in {len(tested)} tests. Verdicts: {counted}."


def cells(one: HeldClaim) -> tuple[str, ...]:
    """A line of the table, under ``HEADINGS``."""
    notes = [f"against {one.rival}", *one.notes] if one.claim.below.method == EVERY else one.notes
    stream = one.stream if one.backbone == families.USUAL else f"{one.stream}, {one.backbone}"
    stream += ", tuned" if one.preset == TUNED else ""
    return (
        one.claim.name, stream, one.claim.identity, str(one.runs), _points(one.difference),
        "-" if math.isnan(one.low) else f"{_points(one.low)} to {_points(one.high)}", _p(one.p), _p(one.p_holm),
        one.verdict, _needed(one), "; ".join(notes),
    )  # fmt: skip


def _needed(one: HeldClaim) -> str:
    if one.verdict != UNTOLD or math.isnan(one.p) or one.spread.error == 0:
        return "-"
    mark = "o" if one.claim.published is None else "p"
    return f"none ({mark})" if one.needed is None else f"{one.needed:,} ({mark})"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00")


def _p(p: float) -> str:
    return "-" if math.isnan(p) else "< .0001" if p < 0.0001 else f"{p:.4f}"


def _claimed(number: int, claim: Claim) -> tuple[str, ...]:
    figure = "-" if claim.published is None else f"{decimals(100 * claim.published, 2)} ({claim.where})"
    sides = (_side(claim.above), _side(claim.below))
    return (str(number), claim.name, *sides, WORDS[claim.number], claim.identity, figure, claim.source)


def _side(side: ClaimedSide) -> str:
    name = "every other method" if side.method == EVERY else f"`{side.method}`"
    return name + (f" with `{side.settings}`" if side.settings else "")


def _without(claims: Sequence[Claim], found: Sequence[HeldClaim]) -> list[str]:
    """The claims of which the records have no run of both sides, and where they would be tested."""
    there = {one.claim.name for one in found}
    lines = [
        f"- {number}, {claim.name}: streams of {' or '.join(sorted(claim.kinds))}, such as `{claim.stream}`"
        for number, claim in enumerate(claims, 1) if claim.name not in there
    ]  # fmt: skip
    head = "## Without records\n\nNo run of both sides of the same stream, order and seed is here. Where each can be:"
    return [head, "\n".join(lines)] if lines else []


def _released() -> list[str]:
    """The counts of the released answers, each task a line, and each count for the runs one after the other."""
    known = yaml_files.read(RELEASED)
    runs = list(known["runs"])
    lines = [
        (task["name"], f"{task['samples']:,}", f"{task['references']:,}",
         *(" / ".join(f"{task[run][name]:,}" if run in task else "-" for run in runs)
           for name in ("exact", "answers", "unfinished")))
        for task in known["tasks"]
    ]  # fmt: skip
    told = "; ".join(f"`{name}`, {words}" for name, words in known["runs"].items())
    return [
        "## The released answers of MSLoRA-CR, counted",
        f"Source: {known['source']}. Counts for {told}; `-`: no such file. Nothing is judged by them here.",
        markdown_table(("task", "test samples", "distinct references", f"exact matches, {' / '.join(runs)}",
                        "distinct answers", "over 8 words, no full stop at the end"), lines),
        "\n".join(f"- {note}" for note in known["notes"]),
    ]  # fmt: skip
