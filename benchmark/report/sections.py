"""The page's sections: what the templates get, of every stream and over all of them.

``views`` has what is shown, ``findings`` what is said, ``plates`` what is drawn, ``panels`` what is set side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from benchmark.compare import claims, claims_page, comparisons, held
from benchmark.compare.entries import trial, trial_stream
from benchmark.compare.rows import LeaderboardRow, OverallRow
from benchmark.compare.tables import percent
from benchmark.kinds.retrieval import RECALLS, RECIPROCAL
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.report import breakdown, caveats, findings, latex, panels, plates, reading
from benchmark.report.details import MethodView
from benchmark.report.findings import Best, Lead
from benchmark.report.views import StreamView, stream_view
from benchmark.report.wording import recall

Links = list[tuple[str, str]]  # label, address
NO_CLASS_RECALLS = "These records were made before recall per class was kept; new runs will have it."


@dataclass(frozen=True)
class Papers:
    """What is written beside the page, by name without folder: figures, and LaTeX tables."""

    images: plates.Images = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Addresses:
    """Of the folders of results, from the page: the stored ones and the user's own; the same where there is one."""

    stored: str
    own: str

    def of(self, own: bool) -> str:
        return self.own if own else self.stored


@dataclass(frozen=True)
class MethodSection:
    """A method of a stream, with a sentence on its matrices and one on its code."""

    view: MethodView
    matrix_said: str
    code_said: str


@dataclass(frozen=True)
class StreamSection:
    """A stream.

    Attributes:
        condition: what differs from the defaults in the rows that are drawn and set beside each other.
        tables: names of its LaTeX tables. shown: the rows under the condition.
        bold: (method, key, protocol) of the rows whose last score is the best of its group.
        steps_said, no_steps: one of the two is empty.
        pairs, no_pairs: one of the two is empty.
        links: to the CSVs that ``leaderboard.build`` writes for these records.
        recalls: label and column of the leaderboard, where the kind of task has recalls.
        class_recalls, no_class_recalls: at most one of the two is there, none without labels.
        reading, no_reading: likewise, none where no task is answered in words.
    """

    view: StreamView
    about: str
    lead: list[Lead]
    condition: str
    tables: list[str]
    shown: list[LeaderboardRow]
    best: Best
    bold: set[tuple[str, str, str]]
    forgetting: list[str]
    costs: list[str]
    evidence: list[str]
    span: panels.Span
    scales: panels.Scales
    plates: plates.StreamPlates
    steps_said: str
    no_steps: str
    pairs: list[panels.PairPanel]
    no_pairs: str
    links: Links
    recalls: Links
    class_recalls: list[breakdown.Breakdown]
    no_class_recalls: str
    sensitivities: list[breakdown.Breakdown]
    confusions: list[breakdown.Breakdown]
    subgroups: list[breakdown.Breakdown]
    answers: list[breakdown.Breakdown]
    reading: list[reading.TaskReading]
    no_reading: str
    missing: panels.MissingPanel | None
    methods: list[MethodSection]


@dataclass(frozen=True)
class OverallSection:
    """What is shown once, over all chosen streams; ``claims``: lines of the table under ``claims_page.HEADINGS``."""

    streams: int
    methods: int
    runs: int
    evidence: str
    lead: list[Lead]
    table: dict[str, list[panels.AcrossLine]]
    ranks: list[OverallRow]
    ranks_said: str
    diagrams: list[plates.Plate]
    diagrams_said: str
    tables: list[str]
    links: Links
    claims_said: str
    claims: list[tuple[str, ...]]


def stream_section(
    records: Sequence[Record], results_at: Addresses, matrices: bool, papers: Papers,
    operators: Mapping[str, Mapping[str, float]],
) -> StreamSection:  # fmt: skip
    """The section of one stream; its figures and its table go into ``papers``.

    Args:
        records: of one stream, at least one of which enters the leaderboard.
        results_at: the addresses of the folders of results.
        operators: stream -> method -> operators of a training step.
        matrices: whether the score matrix of every method is drawn for papers.
    """
    view = stream_view(records)
    rows, best = view.rows, findings.best_of_groups(view.rows)
    trial_only, conditions = trial_stream(view.name), findings.conditions(rows)
    tables = {f"{view.part(each)}.tex": latex.leaderboard(view.name, view.measure, rows, each) for each in conditions}
    papers.tables.update(tables)
    steps_said, no_steps = findings.steps([] if trial_only else view.methods)
    compared = comparisons.pairs(view.runs, next(iter(conditions), ""))
    pairs, no_pairs = panels.pairs(view, compared)
    class_recalls = breakdown.recalls(view)
    read, speaks = reading.of_stream(view), any(kind.speaks for kind in view.runs[0].stream.kinds)
    return StreamSection(
        view=view,
        about=_about(view),
        lead=[] if trial_only else findings.lead(rows, compared, view.measure),
        condition=next(iter(conditions), ""),
        tables=list(tables),
        shown=findings.defaults(rows),
        best=best,
        bold=_bold(rows, best),
        forgetting=[] if trial_only else findings.forgetting(rows),
        costs=[] if trial_only else findings.costs(rows, operators.get(view.name, {})),
        evidence=caveats.evidence(view),
        span=panels.span(rows),
        scales=panels.scales(view.methods),
        plates=plates.of_stream(view, papers.images, matrices),
        steps_said=steps_said,
        no_steps=no_steps,
        pairs=pairs,
        no_pairs=no_pairs,
        links=_links(view, bool(pairs), results_at),
        class_recalls=class_recalls,
        no_class_recalls="" if class_recalls or not view.kind.labelled else NO_CLASS_RECALLS,
        sensitivities=breakdown.sensitivities(view),
        confusions=breakdown.confusions(view),
        subgroups=breakdown.subgroups(view),
        answers=breakdown.answers(view),
        reading=read,
        no_reading=reading.NOWHERE if speaks and not read else "",
        recalls=[(recall(name), f"{name}_mean") for name in (*RECALLS, *RECIPROCAL) if name in view.kind.summary],
        missing=panels.missing(view),
        methods=[MethodSection(method, _matrix_said(method), caveats.code(method)) for method in view.methods],
    )


def _about(view: StreamView) -> str:
    modalities = dict.fromkeys(task.modality for task in view.tasks)
    kinds, own = dict.fromkeys(task.kind or view.kind.name for task in view.tasks), dict.fromkeys(view.own)
    said = [f"{len(view.tasks)} tasks of {_listed(kinds)}", f"{len(modalities)} modalities: {', '.join(modalities)}"]
    said += [f"each task is scored by its own metric, {_listed(own, 'or')}"] if len(own) > 1 else []
    if view.chance:
        given, hidden = (percent(view.chance[protocol]) for protocol in PROTOCOLS)
        said.append(f"guessing scores {given} % with the identity given, {hidden} % hidden")
    return ("; ".join(said) + ".").replace("1 modalities", "1 modality").replace("1 tasks", "1 task")


def _listed(words: Iterable[str], joint: str = "and") -> str:
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def _bold(rows: Sequence[LeaderboardRow], best: Best) -> set[tuple[str, str, str]]:
    ahead = {(group, name, row.last_acc_mean) for group, protocols in best for name, row in protocols.items() if row}
    return {
        (row.method, row.key, row.protocol)
        for row in findings.defaults(rows)
        if (row.group, row.protocol, row.last_acc_mean) in ahead
    }


def _links(view: StreamView, paired: bool, results_at: Addresses) -> Links:
    suffixes = ["", ".matrix", ".forgetting", ".bwt"]
    suffixes += [".recall"] if any(run.class_recall for run in view.runs) else []
    suffixes += [".sensitivity", ".confusion"] if any(run.class_confusion for run in view.runs) else []
    suffixes += [".subgroups"] if any(run.subgroups for run in view.runs) else []
    suffixes += [".missing"] if any(method.missing for method in view.methods) else []
    suffixes += [".pairs"] if paired else []
    if any(run.primary != run.stream.primary for run in view.runs):  # seen by another metric
        return []
    folder = f"{results_at.of(any(run.own for run in view.runs))}/leaderboards/{quote(view.name)}"
    return [(f"{view.name}{suffix}.csv", f"{folder}{suffix}.csv") for suffix in suffixes]


def _matrix_said(method: MethodView) -> str:
    runs = ", ".join(str(seed) for seed, _ in method.alike)
    seeds = f"seeds {runs}" if len(method.alike) > 1 else f"seed {runs}"
    note = "" if method.group != "joint" else " Trained on all tasks at once: every later row is that one model."
    return f"Mean over {seeds} of order {method.alike[0][1]}; framed: just learned.{note}"


def overall_section(
    records: Sequence[Record], views: Sequence[StreamView], results_at: Addresses, papers: Papers, metric: str | None
) -> OverallSection:  # fmt: skip
    """The section over all chosen streams; ``papers`` has the tables and figures of the streams already."""
    ranks = comparisons.overall(records)
    table = {protocol: panels.across(views, protocol) for protocol in PROTOCOLS}
    diagrams, said = plates.critical_differences(comparisons.across(records), papers.images)
    if ranks:
        papers.tables["overall.tex"] = latex.ranks(ranks)
    names = [f"{view.name} ({said})" if (said := findings.changed(view)) else view.name for view in views]
    relations = claims.read()
    found = held.held(relations, records) if metric is None else []
    counted = [view for view in views if not trial_stream(view.name)]
    for protocol in PROTOCOLS:
        name = f"streams-{protocol}"
        if table[protocol]:
            papers.tables[f"{name}.tex"] = latex.matrix(name, protocol, names, table[protocol])
    at = results_at.of(any(record.own for record in records))
    several = f"{comparisons.FEWEST_STREAMS} streams that two methods of a group have both run"
    return OverallSection(
        streams=len(counted),
        methods=len({run.named for view in counted for run in view.runs if not trial(run.settings)}),
        runs=sum(not trial(run.settings) for view in counted for run in view.runs),
        evidence=caveats.freshness(views),
        lead=findings.overall(views, ranks),
        table=table,
        ranks=ranks,
        ranks_said=f"Ranks over streams need at least {several}.",
        diagrams=diagrams,
        diagrams_said=said,
        tables=sorted(papers.tables),
        links=[
            (name, f"{at}/leaderboards/{name}")
            for name in ("overall.csv", "overall.pairs.csv")
            if ranks and metric is None
        ],
        claims_said=claims_page.said(relations, found),
        claims=[claims_page.cells(one) for one in found],
    )
