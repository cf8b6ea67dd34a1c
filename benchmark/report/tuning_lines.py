"""What the trials of one method for one kind say, and how ``tuning.md`` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.compare import choice
from benchmark.config import registry
from benchmark.record.files import decimals
from benchmark.record.trials import Trial

FEWEST = 3  # methods of which a rank correlation is told


@dataclass(frozen=True)
class TunedLine:
    """A method's trials for one kind, in order, and those that were chosen: by all tasks, and by the first alone."""

    method: str
    trials: tuple[Trial, ...]

    @property
    def default(self) -> Trial:
        return self.trials[0]

    @property
    def best(self) -> Trial:
        return choice.best(self.trials)

    @property
    def first(self) -> Trial | None:
        """What the first task alone would choose; None of joint training, which has none."""
        joint = registry.card(self.method).group == "joint"
        return None if joint else choice.best(self.trials, choice.first_task)


def lines_of(known: Mapping[str, Sequence[Trial]], kind: str) -> list[TunedLine]:
    """The methods with trials for a kind, the best first."""
    hashed = choice.stream_hash(kind)
    found = []
    for method, mine in known.items():
        listed = choice.on_stream(mine, registry.card(method), kind, hashed)
        if listed:
            found.append(TunedLine(method, tuple(listed)))
    return sorted(found, key=lambda line: (-(line.best.score or 0.0), line.method))


def values(trial: Trial) -> str:
    """What a trial sets: the rate, where something was trained, and the method's arguments."""
    if trial.trial == 0:
        return "the default"
    rate = [f"lr {trial.lr:g}"] if trial.trained else []
    return ", ".join([*rate, *(f"{name} {value:g}" for name, value in trial.args.items())])


def gain_of(tuned: float | None, default: float | None) -> float | None:
    """In points; None where one of the scores is missing."""
    return None if tuned is None or default is None else 100 * (tuned - default)


def in_points(gain: float | None) -> str:
    return "-" if gain is None else f"{gain:+.1f}"


def tau(what: str, pairs: Iterable[tuple[float | None, float | None]]) -> str:
    """The rank correlation of the methods that have both scores, in a sentence."""
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < FEWEST:
        return f"tau of {what}: too few methods to say."
    from scipy.stats import kendalltau

    value = float(kendalltau(*zip(*known, strict=True)).statistic)
    return f"tau of {what}: {decimals(value, 2) or '-'} ({len(known)} methods)."
