"""What is said of a kind of task: what a sample has, how an answer is measured, what tables show and records keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A column of a table: ``name`` is of the summary, or of a leaderboard's row.

    ``shown``: percent, count, mib or ratio. ``hidden``: the row of the hidden protocol. ``spread``: with deviation.
    ``both``: the rows of both protocols, with a stroke between. ``unlike``: another number of the row; where no row
    of a table has anything else here, the column is left out.
    """

    heading: str
    name: str
    shown: str = "percent"
    hidden: bool = False
    spread: bool = False
    both: bool = False
    unlike: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Args:
        name: as stream files and records have it.
        smoke: a tiny stream of the kind, which ``check_method`` runs.
        inputs: what a sample holds, of image, text and prompt.
        labelled: the candidates are labels, so that a task names its classes and a template; without labels the
            candidates are the test items themselves, a gallery, or, where it ``speaks``, there are none.
        metrics: of a test set's answers, the primary one first; all but ``ece`` are the better the higher.
        primaries: metrics of which a task may name one as its own primary; empty: the first one is that of every task.
        speaks: the answer is text that a vision-language model writes.
        last_row: summary name -> the metric whose mean over the last row it is.
        of_matrix: summary name -> (a function of ``benchmark.metrics``, the metric whose matrix it is of).
        beside: metrics that stand beside the primary one in the tables per task.
        withheld: inputs that a sample may lack when the final model answers; empty: never.
        board: numbers of the summary that a leaderboard's CSV has behind the columns of every kind.
        of_numbers: summary name -> (function of ``benchmark.metrics``, the numbers it is of); over runs it is of their
            means, for a mean of ratios is at the mercy of a divisor near zero.
        ways: how a number's name begins -> what a sample is asked for, where it is asked in several ways.
        per_way: columns of the table after a run that has a line for each of these ways.
        kept: protocol -> names of the arrays that ``predictions.npz`` keeps of a cell.
        whole_batch: the loss sets every sample against all others of its batch, so that devices cannot share one.
        table: the README's columns behind the last scores.
    """

    name: str
    smoke: str
    inputs: tuple[str, ...]
    labelled: bool
    metrics: tuple[str, ...]
    last_row: Mapping[str, str]
    kept: Mapping[str, tuple[str, ...]]
    table: tuple[Column, ...]
    of_matrix: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    board: tuple[str, ...] = ()
    of_numbers: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    ways: Mapping[str, str] = field(default_factory=dict)
    per_way: tuple[Column, ...] = ()
    withheld: tuple[str, ...] = ()
    whole_batch: bool = False
    primaries: tuple[str, ...] = ()
    speaks: bool = False

    @property
    def primary(self) -> str:
        return self.metrics[0]

    @property
    def searches(self) -> bool:
        """Whether the candidates are the test items themselves."""
        return not self.labelled and not self.speaks

    @property
    def reads_text(self) -> bool:
        """Whether text is an input, so that the text tower learns as well."""
        return "text" in self.inputs

    @property
    def measures(self) -> tuple[str, ...]:
        """The metrics of the tables per task, the primary one first."""
        return tuple(dict.fromkeys((self.primary, *self.beside)))

    @property
    def summary(self) -> tuple[str, ...]:
        """Names of the summary behind those that every kind has."""
        return (*self.last_row, *self.of_matrix)
