"""The leaderboards as LaTeX tables (``booktabs``) for papers: per cent, mean ± standard deviation over runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.compare.rows import LeaderboardRow, OverallRow
from benchmark.compare.tables import percent
from benchmark.record.schema import PROTOCOLS
from benchmark.report.findings import defaults
from benchmark.report.panels import AcrossLine
from benchmark.report.wording import slug


def _number(value: float | None, spread: float | None = None, bold: bool = False) -> str:
    text = percent(value, spread).replace("±", r"$\pm$").replace("-", "--" if value is None else "$-$")
    return rf"\textbf{{{text}}}" if bold else text


def leaderboard(name: str, measure: str, rows: Sequence[LeaderboardRow], condition: str) -> str:
    """One line a method whose settings are ``condition``, what differs from the defaults; bold is the best of its group
    and protocol."""
    import pandas

    shown = defaults(rows, condition)
    best: dict[tuple, float] = {}
    for row in shown:
        if row.last_acc_mean is not None:
            best[row.rank_class] = max(best.get(row.rank_class, 0.0), row.last_acc_mean)
    hidden = {(row.method, row.key): row for row in shown if row.protocol == PROTOCOLS[1]}
    lines = []
    for row in (row for row in shown if row.protocol == PROTOCOLS[0]):
        pair = (row, hidden[row.method, row.key])
        cells = {"method": escape(row.method), "group": row.group, "runs": str(row.n_runs)}
        for each in pair:
            first = each.last_acc_mean is not None and each.last_acc_mean == best[each.rank_class]
            cells[f"last, {each.protocol}"] = _number(each.last_acc_mean, each.last_acc_std, first)
        cells["balanced, given"] = _number(row.balanced_acc_mean)
        for each in pair:
            cells[f"learned, {each.protocol}"] = _number(each.learning_acc_mean)
            cells[f"forgetting, {each.protocol}"] = _number(each.forgetting_mean)
        cells["BWT, given"] = _number(row.bwt_mean)
        cells["parameters"] = "--" if row.trainable_params is None else f"{row.trainable_params:,}"
        lines.append(cells)
    caption = (
        f"{escape(name)}: {measure} after the last task in per cent, mean $\\pm$ standard deviation over runs, "
        "with the task's identity given and hidden; learned: right after the task. Bold: the best of its group."
    ) + (f" All with {escape(condition)}." if condition else "")
    table = pandas.DataFrame(lines)
    table = table[[column for column in table if set(table[column]) != {"--"}]]
    label = f"tab:{name}" + (f"-{slug(condition)}" if condition else "")
    return _latex(table, caption, label, "ll" + "r" * (len(table.columns) - 2))


def matrix(name: str, protocol: str, streams: Sequence[str], lines: Sequence[AcrossLine]) -> str:
    """Methods by streams; an empty cell was not run."""
    import pandas

    table = [
        {"method": escape(line.method), "group": line.group}
        | {
            escape(stream): "" if cell.value is None else _number(cell.value)
            for stream, cell in zip(streams, line.cells, strict=True)
        }
        for line in lines
    ]
    caption = f"Mean over tasks after the last one in per cent, task identity {protocol}."
    return _latex(pandas.DataFrame(table), caption, f"tab:{name}", "ll" + "r" * len(streams))


def ranks(rows: Sequence[OverallRow]) -> str:
    """Average ranks over streams with Friedman's test, as ``leaderboards/overall.csv`` has them."""
    import pandas

    lines = [
        {"identity": row.protocol, "group": row.group, "method": escape(row.method), "streams": str(row.n_streams),
         "average rank": f"{row.average_rank:.2f}",
         "Friedman $p$": "--" if row.friedman_p is None else f"{row.friedman_p:.4f}"}
        for row in rows
    ]  # fmt: skip
    return _latex(pandas.DataFrame(lines), "Average ranks over streams (1 is best).", "tab:overall", "lllrrr")


def escape(text: str) -> str:
    """Characters that LaTeX would read as commands."""
    return "".join({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}.get(
        letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)  # fmt: skip


def _latex(frame: Any, caption: str, label: str, columns: str) -> str:
    return frame.style.hide(axis="index").to_latex(
        hrules=True, caption=caption, label=label, column_format=columns, position="t", position_float="centering"
    )
