"""A row of a leaderboard from the runs of one key: means, deviations, intervals, costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmark import metrics
from benchmark.compare import samples
from benchmark.compare.entries import age, candidates, stale
from benchmark.compare.rows import LeaderboardRow
from benchmark.compare.stats import deviation, interval, mean, whole
from benchmark.record.schema import Record
from benchmark.record.summary import floats


def aggregated(runs: Sequence[Record], protocol: str, code: str | None) -> LeaderboardRow:
    """The row of the runs of one key, without rank and preset; ``code`` is the fingerprint of the working tree's."""
    head = max(runs, key=age)

    def values(name: str) -> list[float | None]:
        return [run.number(protocol, name) for run in runs]

    def over_runs(reduce: Callable[[Record], float | None]) -> float | None:
        return mean([reduce(run) for run in runs])

    def before_learning(name: str) -> float | None:
        """Nothing of joint training: from its first row on it has learned every task."""
        return None if head.group == "joint" else mean(values(name))

    low, high = _interval(runs, protocol)
    trained = over_runs(lambda run: max(run.cost.trainable_params, default=None))
    stored = over_runs(lambda run: run.cost.stored_bytes[-1] if run.cost.stored_bytes else None)
    peaks = [max(run.cost.peak_memory_mib, default=None) for run in runs]
    return LeaderboardRow(
        rank=None,
        method=head.named,
        backbone=head.backbone,
        key=head.key,
        settings=head.settings,
        preset="",
        group=head.group,
        protocol=protocol,
        primary=head.primary,
        n_runs=len(runs),
        seeds=" ".join(map(str, sorted({run.seed for run in runs}))),
        orders=" ".join(map(str, sorted({run.order for run in runs}))),
        last_acc_mean=mean(values("last_acc")),
        last_acc_std=deviation(values("last_acc")),
        last_acc_ci_low=low,
        last_acc_ci_high=high,
        worst_task_mean=over_runs(lambda run: _worst_task(run, protocol)),
        avg_acc_mean=mean(values("avg_acc")),
        avg_acc_std=deviation(values("avg_acc")),
        aia_mean=mean(values("aia")),
        forgetting_mean=mean(values("forgetting")),
        forgetting_std=deviation(values("forgetting")),
        bwt_mean=mean(values("bwt")),
        bwt_std=deviation(values("bwt")),
        fwt_mean=before_learning("fwt"),
        transfer_mean=before_learning("transfer"),
        learning_acc_mean=mean(values("learning_acc")),
        balanced_acc_mean=mean(values("balanced_acc")),
        macro_auroc_mean=mean(values("macro_auroc")),
        ece_mean=mean(values("ece")),
        trainable_params=None if trained is None else round(trained),
        stored_bytes=None if stored is None else round(stored),
        train_seconds_mean=over_runs(lambda run: sum(run.cost.train_seconds) if run.cost.train_seconds else None),
        eval_seconds_mean=over_runs(lambda run: sum(run.cost.eval_seconds) if run.cost.eval_seconds else None),
        peak_memory_mib=max(whole(peaks), default=None),
        candidates=candidates(head),
        code=" ".join(sorted({run.provenance.fingerprint for run in runs})),
        verified=" ".join(sorted({made.code for run in runs if (made := run.provenance.verified)})),
        stale=bool(stale(runs, code)),
        own=head.own,
        more=_more(runs, protocol),
    )


def _worst_task(run: Record, protocol: str) -> float | None:
    """Of the matrix: the summary of old records does not have it."""
    worst = metrics.worst_task([floats(row) for row in run.matrix(protocol)])
    return None if math.isnan(worst) else worst


def _interval(runs: Sequence[Record], protocol: str) -> tuple[float | None, float | None]:
    """The ends of ``last_acc``'s interval; None where a run did not keep its score of every test sample."""
    scores = {(run.order, run.seed): samples.kept(run, protocol) for run in runs}
    known = {cell: own for cell, own in scores.items() if own is not None}
    if len(known) < len(runs):
        return None, None
    _, *ends = interval(samples.nested(known), samples.groups(runs))
    low, high = (None if math.isnan(end) else end for end in ends)
    return low, high


def _more(runs: Sequence[Record], protocol: str) -> dict[str, float | None]:
    """The means of what the kind of task has beyond the common numbers, where a run measured it."""
    kind = runs[0].kind
    measured = [name for name in kind.board if any(run.measured(name) for run in runs)]
    means = {name: mean([run.number(protocol, name) for run in runs]) for name in measured}
    for name in kind.of_numbers.keys() & means.keys():
        function, parts = kind.of_numbers[name]
        known = whole([means[part] for part in parts])
        means[name] = getattr(metrics, function)(*known) if min(known, default=0) > 0 else None
    return {f"{name}_mean": value for name, value in means.items()}
