"""One HTML file to look at, figures and LaTeX tables for papers: made from the records alone, without torch.

The page needs no network: style, script and figures stand in it. Its parts are the templates in ``page``, which get the
``sections``. The same records give the same bytes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmark.compare.claims_page import HEADINGS
from benchmark.compare.entries import counts, seen_by, trial_stream
from benchmark.disk import write_bytes
from benchmark.errors import UserError, unknown
from benchmark.record.files import write_text
from benchmark.record.schema import Record
from benchmark.record.shelves import read_from
from benchmark.record.stored import read_all
from benchmark.record.summary import MISSING_RATES
from benchmark.report.board import COLUMNS
from benchmark.report.findings import OPERATORS
from benchmark.report.sections import Addresses, Papers, overall_section, stream_section
from benchmark.report.wording import PAGE, environment

if TYPE_CHECKING:
    from markupsafe import Markup


def build(
    results: Path, streams: Sequence[str] = (), to: Path | None = None, matrices: bool = False,
    metric: str | None = None,
) -> list[Path]:  # fmt: skip
    """Write ``index.html``, ``figures/*.png|svg`` and ``tables/*.tex`` into ``to``, else ``report`` in the results.

    ``matrices`` draws the score matrix of every method for papers as well; the page has them as tables. ``metric``: all
    numbers, ranks and figures are of this one instead of each task's own, by default in ``report-<metric>``. Streams
    that are there to see that things run (smoke) are shown where they are named.

    Returns:
        The page, then the folders of figures and tables if there are some.

    Raises:
        UserError: no record that counts, or an unknown stream; nothing has been written then.
    """
    results = Path(results)
    to = Path(to) if to is not None else results / (f"report-{metric}" if metric else "report")
    by_stream = _chosen(results, streams, metric)
    places = (quote(Path(os.path.relpath(place, to)).as_posix()) for place in (read_from(results)[0], results))
    results_at = Addresses(*places)
    papers = Papers()
    operators = _operators(results)
    sections = [stream_section(records, results_at, matrices, papers, operators) for records in by_stream]
    views = [section.view for section in sections]
    overall = overall_section(
        [record for records in by_stream for record in records], views, results_at, papers, metric
    )
    page = environment().get_template("index.html.j2").render(
        streams=sections, overall=overall, columns=COLUMNS, claims_headings=HEADINGS, rates=MISSING_RATES,
        results_at=results_at, newest=max(view.newest for view in views), style=_text("style.css"),
        script=_text("script.js"),
    )  # fmt: skip
    for name, (vector, pixels) in papers.images.items():
        write_text(to / "figures" / f"{name}.svg", vector)
        write_bytes(to / "figures" / f"{name}.png", pixels)
    for name, text in papers.tables.items():
        write_text(to / "tables" / name, text)
    write_text(to / "index.html", page)
    folders = {"figures": papers.images, "tables": papers.tables}
    return [to / "index.html", *(to / name for name, files in folders.items() if files)]


def _operators(results: Path) -> dict[str, dict[str, float]]:
    """Stream -> method -> operators of a training step, as far as ``speed`` has counted them."""
    found: dict[str, dict[str, float]] = {}
    for file in (place / "speed.csv" for place in read_from(results)):
        with suppress(OSError, ValueError, KeyError, TypeError), file.open(encoding="utf-8") as lines:
            for line in csv.DictReader(lines):
                if line["quantity"] == OPERATORS:
                    found.setdefault(line["stream"], {})[line["method"]] = float(line["value"])
    return found


def _chosen(results: Path, streams: Sequence[str], metric: str | None) -> list[list[Record]]:
    """The records of every chosen stream, by name; without a choice of all that are not for trials."""
    by_stream: dict[str, list[Record]] = {}
    records = read_all(results)
    for record in records if metric is None else seen_by(metric, records):
        by_stream.setdefault(record.stream.folder, []).append(record)
    known = sorted(name for name, records in by_stream.items() if any(map(counts, records)))
    usual = [name for name in known if not trial_stream(name)]
    if known and not usual and not streams:
        raise UserError(f"only runs of streams for trials below {results / 'runs'}: --stream {known[0]} shows them")
    if not known:
        raise UserError(f"no whole records below {results / 'runs'} yet: make bench METHOD=mslora_cr")
    for name in streams:
        if name not in known:
            raise unknown("stream with whole records", name, known)
    return [by_stream[name] for name in known if name in (streams or usual)]


def _text(name: str) -> Markup:
    from markupsafe import Markup

    return Markup((PAGE / name).read_text(encoding="utf-8"))
