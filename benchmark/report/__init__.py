"""One HTML file to look at, figures and LaTeX tables for papers: made from the records alone, without torch.

The page needs no network: style, script and figures stand in it. Its parts are the templates in ``page``;
``views`` has what they show, ``findings`` what they say, ``figures`` what is drawn. The same records give the same
bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmark.compare import comparisons
from benchmark.compare.entries import counts
from benchmark.compare.leaderboard import known_stream
from benchmark.compare.tables import percent
from benchmark.errors import UserError, unknown
from benchmark.record.records import MISSING_RATES, PROTOCOLS, RECALLS, Record, read_all, write_bytes, write_text
from benchmark.report import findings, latex, panels, plates
from benchmark.report.views import View, stream_view
from benchmark.report.wording import PAGE, environment, recall, slug

# The leaderboard's columns: key of the row, label, what it is, first direction when sorted, with its deviation.
COLUMNS = [
    {"key": key, "label": label, "title": title, "first": first, "spread": spread, "number": first is not None}
    for key, label, title, first, spread in (
        ("method", "method", "method and what differs from its defaults", None, False),
        ("rank", "rank", "average rank among equals, 1 is best", "ascending", False),
        ("group", "group", "what the method needs; only rows of one group are ranked together", None, False),
        ("protocol", "identity", "is the model told which task a sample belongs to?", None, False),
        ("n_runs", "runs", "replicates: seeds times orders", "descending", False),
        ("last_acc_mean", "last", "mean over tasks after the last one ± deviation over runs", "descending", True),
        ("last_acc_ci_low", "95 % interval", "nested bootstrap over orders and seeds", "descending", False),
        ("forgetting_mean", "forgetting", "best earlier score minus the final one", "ascending", True),
        ("bwt_mean", "BWT", "backward transfer", "descending", True),
        ("fwt_mean", "FWT", "forward transfer", "descending", False),
        ("aia_mean", "AIA", "mean over stages of the mean over tasks learned so far", "descending", False),
        ("learning_acc_mean", "learned", "mean score right after a task was learned", "descending", False),
        ("trainable_params", "trained", "the most parameters trained in a task", "ascending", False),
        ("stored_bytes", "kept MiB", "kept between tasks after the last one", "ascending", False),
        ("train_seconds_mean", "training s", "seconds over all tasks", "ascending", False),
    )
]  # fmt: skip


def build(results: Path, streams: Sequence[str] = (), to: Path | None = None, matrices: bool = False) -> list[Path]:
    """Write ``index.html``, ``figures/*.png|svg`` and ``tables/*.tex`` into ``to``, by default ``results/report``.

    ``matrices`` draws the score matrix of every method for papers as well; the page has them as tables.

    Returns:
        The page, then the folders of figures and tables.

    Raises:
        UserError: no record that counts, an unknown stream, an unreadable record; nothing has been written then.
    """
    results = Path(results)
    to = Path(to) if to is not None else results / "report"
    known_stream(results, None)
    by_stream: dict[str, list[Record]] = {}
    for record in read_all(results):
        by_stream.setdefault(record["stream"]["folder"], []).append(record)
    known = sorted(name for name, records in by_stream.items() if any(map(counts, records)))
    if not known:
        raise UserError(f"no whole records below {results / 'runs'} yet: make bench METHOD=mslora_cr")
    for name in streams:
        if name not in known:
            raise unknown("stream with whole records", name, known)
    chosen = [name for name in known if name in streams or not streams]

    images: dict[str, tuple[str, bytes]] = {}
    tables: dict[str, str] = {}
    links = quote(Path(os.path.relpath(results, to)).as_posix())
    views = [_stream(by_stream[name], links, matrices, images, tables) for name in chosen]
    across = _overall([record for name in chosen for record in by_stream[name]], views, links, images, tables)
    page = environment().get_template("index.html.j2").render(
        streams=views, overall=across, columns=COLUMNS, rates=MISSING_RATES, results_at=links,
        newest=max(view["newest"] for view in views), style=_text("style.css"), script=_text("script.js"),
    )  # fmt: skip
    for name, (vector, pixels) in images.items():
        write_text(to / "figures" / f"{name}.svg", vector)
        write_bytes(to / "figures" / f"{name}.png", pixels)
    for name, text in tables.items():
        write_text(to / "tables" / name, text)
    write_text(to / "index.html", page)
    return [to / "index.html", to / "figures", to / "tables"]


# The page's parts


def _stream(records: Sequence[Record], links: str, matrices: bool, images: dict, tables: dict) -> View:
    """``stream_view`` and what is said, drawn and linked beside it."""
    view = stream_view(records)
    rows, name, measure = view["rows"], view["name"], view["measure"]
    view["id"] = slug(name)
    view["about"] = _about(view)
    view["lead"], view["best"] = findings.lead(rows, measure), findings.best_of_groups(rows)
    view["forgetting"], view["costs"] = findings.forgetting(rows), findings.costs(rows)
    view["evidence"] = findings.evidence(view)
    ahead = {
        (group, protocol, one["last_acc_mean"]) for group, best in view["best"] for protocol, one in best.items() if one
    }
    view["bold"] = {
        (row["method"], row["key"], row["protocol"], "last_acc_mean")
        for row in findings.defaults(rows) if (row["group"], row["protocol"], row["last_acc_mean"]) in ahead
    }  # fmt: skip
    view["span"] = panels.span(rows)
    view["scale"] = panels.scales(view["methods"])
    view["figures"], view["figures_said"] = plates.of_stream(view, images, matrices)
    view["steps_said"], view["no_steps"] = findings.steps(view["methods"])
    view["pairs"], view["no_pairs"] = panels.pairs(view)
    view["links"] = _links(view, links)
    view["recalls"] = [(recall(key), f"{key}_mean") for key in (*RECALLS, "i2t_mrr", "t2i_mrr")
                       if view["kind"] == "retrieval"]  # fmt: skip
    view["missing"] = panels.missing(view["methods"])
    for method in view["methods"]:
        method["matrix_said"] = _matrix_said(method)
        method["code_said"] = findings.code(method)
    tables[f"{view['id']}.tex"] = latex.leaderboard(name, measure, rows)
    return view


def _about(view: View) -> str:
    tasks = view["tasks"]
    modalities = dict.fromkeys(task["modality"] for task in tasks)
    said = [f"{len(tasks)} tasks of {view['kind']}", f"{len(modalities)} modalities: {', '.join(modalities)}"]
    if view["chance"]:
        given, hidden = (percent(view["chance"][protocol]) for protocol in PROTOCOLS)
        said.append(f"guessing scores {given} % with the identity given, {hidden} % hidden")
    return ("; ".join(said) + ".").replace("1 modalities", "1 modality").replace("1 tasks", "1 task")


def _links(view: View, links: str) -> list[tuple[str, str]]:
    """The stream's CSVs that ``leaderboard.build`` writes for these records."""
    kinds = ["", ".matrix", ".forgetting", ".bwt"]
    kinds += [".missing"] if any(method["missing"] for method in view["methods"]) else []
    kinds += [".pairs"] if view["pairs"] else []
    return [(f"{view['name']}{kind}.csv", f"{links}/leaderboards/{quote(view['name'])}{kind}.csv") for kind in kinds]


def _matrix_said(method: View) -> str:
    runs = ", ".join(str(seed) for seed, _ in method["alike"])
    seeds = f"seeds {runs}" if len(method["alike"]) > 1 else f"seed {runs}"
    note = "" if method["group"] != "joint" else " Trained on all tasks at once: every later row is that one model."
    return f"Mean over {seeds} of order {method['alike'][0][1]}; framed: just learned.{note}"


def _overall(records: Sequence[Record], views: Sequence[View], links: str, images: dict, tables: dict) -> View:
    """What is shown once, over all chosen streams."""
    ranks = comparisons.overall(records)
    table = {protocol: panels.across(views, protocol) for protocol in PROTOCOLS}
    diagrams, said = plates.critical_differences(comparisons.across(records), images)
    if ranks:
        tables["overall.tex"] = latex.ranks(ranks)
    for protocol in PROTOCOLS:
        tables[f"streams-{protocol}.tex"] = latex.matrix(f"streams-{protocol}", protocol, [v["name"] for v in views],
                                                         table[protocol])  # fmt: skip
    several = f"{comparisons.FEWEST_STREAMS} streams that two methods of a group have both run"
    return {
        "methods": len({row["method"] for view in views for row in view["rows"]}),
        "runs": sum(len(view["runs"]) for view in views),
        "evidence": findings.freshness(views),
        "lead": findings.overall(views, ranks),
        "table": table,
        "ranks": ranks,
        "ranks_said": f"Ranks over streams need at least {several}.",
        "diagrams": diagrams,
        "diagrams_said": said,
        "tables": sorted(tables),
        "links": [(name, f"{links}/leaderboards/{name}") for name in ("overall.csv", "overall.pairs.csv") if ranks],
    }


def _text(name: str) -> Any:
    from markupsafe import Markup

    return Markup((PAGE / name).read_text(encoding="utf-8"))
