"""Which trial of a method is the best, and what ``methods/tuned`` says of it. A function of the trials alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from benchmark.config import tuned
from benchmark.config.registry import MethodCard
from benchmark.config.search import space
from benchmark.config.tuned import Section
from benchmark.data import catalog, identity
from benchmark.data.settle import settled
from benchmark.record.trials import DIGITS, Trial

STREAMS = {  # kind of task -> the stream that methods are tuned on for it
    "classification": "phantom_tune4",
    "fusion": "phantom_tune_notes3",
    "retrieval": "phantom_tune_retrieval3",
    "generation": "phantom_tune_mbiil4",
}
SEED = 0  # of the trials
VALIDATED = "phantom8", "classification"  # the stream on whose validation split tuned values are held against defaults

Score = Callable[[Trial], float | None]


def last(trial: Trial) -> float | None:
    """What a trial is judged by; None of one that diverged or failed."""
    return trial.score if trial.status == "complete" else None


def first_task(trial: Trial) -> float | None:
    """What is known of a trial after its first task: not how it ends."""
    return trial.first_score


def best(trials: Sequence[Trial], score: Score = last) -> Trial:
    """The trial of the highest score; of equals that with the smaller rate, then that which comes first.

    A trial without a score is worse than any other.
    """

    def place(trial: Trial) -> tuple[float, float, int]:
        value = score(trial)
        return (float("inf") if value is None else -value), trial.rate, trial.trial

    return min(trials, key=place)


def on_stream(trials: Iterable[Trial], card: MethodCard, kind: str, stream_hash: str) -> list[Trial]:
    """The trials of tuning a method of today for a kind, in order: as far as none is missing among them."""
    here = [t for t in trials if (t.kind, t.stream_hash, t.space, t.seed) == (kind, stream_hash, space(card), SEED)]
    here.sort(key=lambda trial: trial.trial)
    return [trial for place, trial in enumerate(here) if trial.trial == place]


@lru_cache(maxsize=16)
def hashed(stream: str) -> str:
    """The hash of a shipped stream of made images."""
    recipe = settled(catalog.load(stream, Path()))
    return identity.stream_hash(recipe.stream, identity.identities(recipe))


def stream_hash(kind: str) -> str:
    """Of the stream that methods are tuned on for this kind."""
    return hashed(STREAMS[kind])


def fixed(card: MethodCard, trials: Sequence[Trial]) -> bool:
    """Whether trials can only differ by chance: nothing is trained, and nothing is searched."""
    return not card.search and all(trial.trained == 0 for trial in trials if trial.status == "complete")


def enough(card: MethodCard, trials: Sequence[Trial], asked: int = 2) -> bool:
    """Whether a method has the trials that were asked for; of one that has nothing to tune the default is enough."""
    return len(trials) >= asked or (bool(trials) and fixed(card, trials) and trials[0].status == "complete")


def section(trials: Sequence[Trial]) -> Section:
    """What ``methods/tuned`` says of the trials of a method and kind."""
    chosen, default = best(trials), trials[0]
    values: Section = {} if chosen is default or not chosen.trained else {"lr": chosen.lr}
    if chosen is not default and chosen.args:
        values["method"] = dict(chosen.args)
    return {
        "values": values,
        "trial": chosen.trial,
        "score": _rounded(chosen.score),
        "default_score": _rounded(default.score),
        "trials": len(trials),
        "failed": sum(trial.status != "complete" for trial in trials),
        "stream": chosen.stream,
        "stream_hash": chosen.stream_hash,
        "backbone": chosen.backbone,
        "space": chosen.space,
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, DIGITS)


def frozen(card: MethodCard, trials: Sequence[Trial], asked: int = 2) -> Path | None:
    """Write what a method was tuned to for every kind that has the trials asked for; None where none has.

    Fewer trials of the same stream and space never take the place of more.
    """
    found = {kind: on_stream(trials, card, kind, stream_hash(kind)) for kind in STREAMS if kind in card.kinds}
    made = {kind: section(mine) for kind, mine in found.items() if enough(card, mine, asked)}
    there = tuned.sections(card)
    done = {kind: mine for kind, mine in made.items() if not _of_more(there.get(kind, {}), mine)}
    return tuned.write(card, done) if done else None


def _of_more(there: Section, made: Section) -> bool:
    same = all(there.get(name) == made[name] for name in ("stream_hash", "space"))
    return same and there["trials"] > made["trials"]
