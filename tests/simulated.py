"""Methods whose true scores are known, tested on drawn samples by drawn runs: how often intervals hold the truth.

``python -m tests.simulated`` prints the table that results/README.md shows, and how strong effects are in the records.

A sample is answered rightly where a sum is above zero: the task's ease, and normal effects of the sample, its group,
the order, the seed, and of this run on this sample. So the true score is a value of the normal distribution function.
Effects of orders and seeds are told by what they do to the mean score, in units of the error that test samples alone
give it. The strongest are simulated with more samples: with few, scores would be near 0 or 1.

Letters of shapes: D draws, R runs, N samples of a task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmark.compare import samples, stats
from benchmark.compare.entries import by_key, counts
from benchmark.compare.variance import Spread, spread
from benchmark.record.parts import PROTOCOLS
from benchmark.record.schema import Record
from benchmark.record.stored import read_all

SIZES = (16, 32, 48, 64, 96)  # of tasks
EASE = (0.55, 0.9, 0.8, 0.65, 0.75)  # true scores
DESIGNS = ((1, 3), (2, 3), (3, 3), (1, 5))  # orders, seeds
AT_ONCE = 250  # draws in memory


@dataclass(frozen=True)
class World:
    """How strong the effects are: ``orders`` and ``seeds`` on the mean score, in errors of sampling.

    Of the variance of a single answer ``difficulty`` is the sample's, which all runs share; of this ``common`` is
    what two methods share. Of orders' effects two methods share all or nothing (``shared``). ``together``: samples in
    a group. ``times`` as many samples as SIZES says.
    """

    orders: float
    seeds: float
    difficulty: float = 0.6
    common: float = 0.5
    shared: bool = False
    together: int = 1
    times: int = 1

    @property
    def sizes(self) -> list[int]:
        return [size * self.times for size in SIZES]


WORLDS = {
    "samples alone": World(0, 0),
    "seeds .16": World(0.16, 0.16),
    "seeds .5": World(0.5, 0.5),
    "seeds 1, orders .5": World(0.5, 1),
    "seeds 1, orders 1": World(1, 1),
    "seeds 1, orders 3": World(3, 1),
    "seeds 3, orders 0": World(0, 3),
    "seeds 3, orders 1": World(1, 3),
    "seeds 3, orders 3": World(3, 3),
    "seeds 10, orders 0": World(0, 10),
    "seeds 3, orders 10": World(10, 3),
    "seeds 7, orders 0, four times the samples": World(0, 7, times=4),
    "seeds 3, orders 7, four times the samples": World(7, 3, times=4),
    "seeds 1, orders 1 shared by two methods": World(1, 1, shared=True),
    "seeds 1, orders 1, easy to tell samples": World(1, 1, difficulty=0.9),
    "seeds 1, orders 1, groups of 4": World(1, 1, together=4),
    "samples alone, groups of 4": World(0, 0, together=4),
}


def drawn(
    world: World, orders: int, seeds: int, draws: int, seed: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Some draws at a time: true scores (D,) of two equal methods, and of each task both methods' hits (2, D, R, N).

    With one order the truth is that order's.
    """
    generator = np.random.default_rng(seed)
    group = world.difficulty / 2 if world.together > 1 else 0.0
    own, unit = world.difficulty - group, _error(world, group)
    order_sd, seed_sd = world.orders * unit * (orders > 1), world.seeds * unit
    scale = math.sqrt(1 + order_sd**2 + seed_sd**2)
    truth = sum(EASE) / len(EASE)
    for start in range(0, draws, AT_ONCE):
        count = min(AT_ONCE, draws - start)
        order = generator.normal(0, order_sd, (2, count, orders, 1))
        order = order[[0, 0]] if world.shared else order
        run = (order + generator.normal(0, seed_sd, (2, count, orders, seeds))).reshape(2, count, -1, 1)
        tasks = []
        for ease, size in zip(EASE, world.sizes, strict=True):
            sample = math.sqrt(own) * _of_two(generator, (count, 1, size), world.common)
            groups = math.sqrt(group) * _of_two(generator, (count, 1, size // world.together), world.common)
            sample += groups.repeat(world.together, axis=-1)
            chance = generator.standard_normal((2, count, orders * seeds, size), dtype=np.float32)
            chance *= np.float32(math.sqrt(1 - world.difficulty))
            chance += sample.astype(np.float32)
            tasks.append(chance > -(ndtri(ease) * scale + run))
        yield np.full(count, truth), tasks


def _error(world: World, group: float) -> float:
    """The effect that moves the mean score by as much as its error of sampling is, about."""
    alike = 1 + (world.together - 1) * group
    variance = sum(ease * (1 - ease) * alike / size for ease, size in zip(EASE, world.sizes, strict=True))
    slope = sum(math.exp(-(ndtri(ease) ** 2) / 2) / math.sqrt(2 * math.pi) for ease in EASE)
    return math.sqrt(variance) / slope


def _of_two(generator: np.random.Generator, shape: tuple[int, ...], common: float) -> np.ndarray:
    """An effect on two methods (2, ...) that have this share of its variance in common."""
    shared, apart = generator.standard_normal(shape), generator.standard_normal((2, *shape))
    return math.sqrt(common) * shared + math.sqrt(1 - common) * apart


def spread_of(tasks: Sequence[np.ndarray], orders: int, seeds: int, together: int) -> Spread:
    """Of hits (D, R, N) of each task."""
    units = [seeds] * orders if orders > 1 else [1] * seeds
    groups = [None if together == 1 else np.arange(task.shape[-1]) // together for task in tasks]
    return spread([task.astype(float) for task in tasks], units, groups)


def measured(world: World, orders: int, seeds: int, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The coverage of 95 % intervals of two methods' scores, and how often their difference, none, is found at .05."""
    covered = found = total = 0
    for truth, tasks in drawn(world, orders, seeds, draws, seed):
        for side in (0, 1):
            one = spread_of([task[side] for task in tasks], orders, seeds, world.together)
            covered += int((abs(one.mean - truth) <= one.error * one.critical(0.05)).sum())
        gap = spread_of([task[0].astype(float) - task[1] for task in tasks], orders, seeds, world.together)
        found += int((abs(gap.mean) > gap.error * gap.critical(0.05)).sum())
        total += len(truth)
    return covered / (2 * total), found / total


def in_records(results: Path = Path("results")) -> dict[str, list[float]]:
    """The effects of seeds (of a row's first order, three or more) and orders on the last score of stored rows."""
    found: dict[str, list[float]] = {"seeds": [], "orders": []}
    for _, records in groupby(filter(counts, read_all(results)), lambda record: record.stream.folder):
        for runs in by_key(records):
            first = [run for run in runs if run.order == runs[0].order]
            for protocol in PROTOCOLS:
                if len(first) > 2:
                    found["seeds"] += effect(first, protocol)
                if len(first) < len(runs):
                    found["orders"] += effect(runs, protocol)
    return found


def effect(runs: Sequence[Record], protocol: str) -> list[float]:
    """The deviation over runs' orders, or over their seeds, in errors of sampling; none where scores were not kept."""
    scores = {(run.order, run.seed): own for run in runs if (own := samples.kept(run, protocol)) is not None}
    if len(scores) < len(runs):
        return []
    found = stats.spread(samples.nested(scores), samples.groups(runs))
    return [math.sqrt((found.freedom_of_runs + 1) * found.runs / found.samples)] if found.samples > 0 else []


def main() -> None:
    """The whole table, 10,000 draws a cell, and what the records have."""
    print("| effects | " + " | ".join(f"{orders} x {seeds}" for orders, seeds in DESIGNS) + " |")
    print("| --- |" + " --- |" * len(DESIGNS))
    for name, world in WORLDS.items():
        cells = [measured(world, *design, draws=10_000) for design in DESIGNS]
        print(f"| {name} | " + " | ".join(f"{covered:.3f}, {size:.3f}" for covered, size in cells) + " |")
    for what, effects in in_records().items():
        low, median, high = np.quantile(effects, (0.1, 0.5, 0.9))
        within = f"{low:.1f} to {high:.1f} in eight of ten, at most {max(effects):.1f}"
        print(f"in the records: {what} {median:.1f} in the median of {len(effects)}, {within}")


if __name__ == "__main__":
    main()
