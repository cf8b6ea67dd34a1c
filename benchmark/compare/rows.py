"""The rows of the CSV files in ``results/leaderboards``: the fields of each class are its file's columns, in order.

A number is None where it is undefined or was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

DEFAULT, STREAM_CAPACITY = "default", "method.capacity=stream"


@dataclass(frozen=True)
class LeaderboardRow:
    """One (method, key, protocol) of ``<stream>.csv``, twice where it stands under two presets.

    Attributes:
        rank: among the rows of the same preset, group, protocol and backbone; None without a preset.
        settings: what differs from the defaults.
        preset: default, tuned or official, told from the values; empty where they are none of these.
        worst_task_mean: the mean over runs of the lowest task's last score.
        ece_mean: the expected calibration error, of labels alone; the lower the better.
        primary: the metric of ``last_acc`` and all others that no other metric is named for.
        seeds, orders: of its runs, with blanks between.
        candidates: labels over which a sample's loss ran, own (its task's) or seen; empty where there is no choice.
        code, verified: fingerprints with blanks between: of what made its runs, and of what one was verified with.
        stale: a run was neither made nor verified by the code that the working tree had when the table was built.
        own: whether its runs are the user's own beside stored ones; then its method's name is marked.
        more: the columns behind these, those that the kind of task has: ``i2t_r1_mean``, ``image_drop_mean`` ...
    """

    rank: float | None
    method: str
    backbone: str
    key: str
    settings: str
    preset: str
    group: str
    protocol: str
    primary: str
    n_runs: int
    seeds: str
    orders: str
    last_acc_mean: float | None
    last_acc_std: float | None
    last_acc_ci_low: float | None
    last_acc_ci_high: float | None
    worst_task_mean: float | None
    avg_acc_mean: float | None
    avg_acc_std: float | None
    aia_mean: float | None
    forgetting_mean: float | None
    forgetting_std: float | None
    bwt_mean: float | None
    bwt_std: float | None
    fwt_mean: float | None
    transfer_mean: float | None
    learning_acc_mean: float | None
    balanced_acc_mean: float | None
    macro_auroc_mean: float | None
    ece_mean: float | None
    trainable_params: int | None
    stored_bytes: int | None
    train_seconds_mean: float | None
    eval_seconds_mean: float | None
    peak_memory_mib: float | None
    candidates: str
    code: str
    verified: str
    stale: bool
    own: bool = False
    more: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def default(self) -> bool:
        """Whether it stands under a method's default settings."""
        return self.preset == DEFAULT

    @property
    def rank_class(self) -> tuple[str, str, str, str]:
        """Rows of the same preset, group, protocol and backbone are compared."""
        return self.preset, self.group, self.protocol, self.backbone

    @property
    def cells(self) -> dict[str, object]:
        """All columns by name."""
        return {name: getattr(self, name) for name in LEADERBOARD} | dict(self.more)

    def value(self, name: str) -> float | None:
        """A number by the name of its column; None as well where the kind of task does not have it."""
        return getattr(self, name) if name in LEADERBOARD else self.more.get(name)


@dataclass(frozen=True)
class PairRow:
    """Two methods of one stream, for ``<stream>.pairs.csv``; NaN where interval and p are undefined.

    Attributes:
        preset: whose rows these are; empty where they were chosen otherwise.
    """

    preset: str
    protocol: str
    backbone: str
    method_a: str
    method_b: str
    n_cells: int
    n_samples: int
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    key_a: str
    key_b: str


@dataclass(frozen=True)
class OverallRow:
    """A method over many streams, for ``overall.csv``; ``streams`` with blanks between."""

    protocol: str
    group: str
    backbone: str
    method: str
    n_streams: int
    streams: str
    average_rank: float
    friedman_statistic: float | None
    friedman_p: float | None
    critical_difference: float | None


@dataclass(frozen=True)
class OverallPairRow:
    """Two methods over many streams, for ``overall.pairs.csv``."""

    protocol: str
    group: str
    backbone: str
    method_a: str
    method_b: str
    n_streams: int
    difference: float
    p_wilcoxon: float
    p_holm: float


LEADERBOARD = tuple(f.name for f in fields(LeaderboardRow) if f.name not in ("own", "more"))
PAIRS, OVERALL, OVERALL_PAIRS = (tuple(f.name for f in fields(row)) for row in (PairRow, OverallRow, OverallPairRow))
