"""The columns of the leaderboards in the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BoardColumn:
    """One column.

    Attributes:
        key: a field of ``LeaderboardRow``.
        title: what it is.
        first: the direction in which it is sorted first; None for words.
        spread: whether it is shown with its deviation.
    """

    key: str
    label: str
    title: str
    first: str | None = None
    spread: bool = False

    @property
    def number(self) -> bool:
        return self.first is not None


UP, DOWN = "ascending", "descending"
COLUMNS = (
    BoardColumn("method", "method", "method and what differs from its defaults"),
    BoardColumn("rank", "rank", "average rank among equals, 1 is best", UP),
    BoardColumn(
        "preset", "preset", "default, tuned (make tune) or official settings; only rows of one are ranked together"
    ),
    BoardColumn("group", "group", "what the method needs; only rows of one group are ranked together"),
    BoardColumn("protocol", "identity", "is the model told which task a sample belongs to?"),
    BoardColumn("n_runs", "runs", "replicates: seeds times orders", DOWN),
    BoardColumn("last_acc_mean", "last", "mean over tasks after the last one ± deviation over runs", DOWN, spread=True),
    BoardColumn("last_acc_ci_low", "95 % interval", "of the last score, for other runs and other test samples", DOWN),
    BoardColumn("balanced_acc_mean", "balanced", "mean over tasks of the last balanced accuracy", DOWN),
    BoardColumn("worst_task_mean", "worst task", "last score of the task that the final model does worst", DOWN),
    BoardColumn("forgetting_mean", "forgetting", "best earlier score minus the final one", UP, spread=True),
    BoardColumn("learning_acc_mean", "learned", "mean score right after a task was learned", DOWN),
    BoardColumn("bwt_mean", "BWT", "backward transfer", DOWN, spread=True),
    BoardColumn("fwt_mean", "FWT", "forward transfer", DOWN),
    BoardColumn("aia_mean", "AIA", "mean over stages of the mean over tasks learned so far", DOWN),
    BoardColumn("ece_mean", "ECE", "expected calibration error of the last answers: 0 is best", UP),
    BoardColumn("trainable_params", "trained", "the most parameters trained in a task", UP),
    BoardColumn("stored_bytes", "kept MiB", "kept between tasks after the last one", UP),
)
