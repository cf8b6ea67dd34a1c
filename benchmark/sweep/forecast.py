"""What would run, and what it would take, from its arguments and from earlier records. No torch."""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmark.compare.entries import trial_stream
from benchmark.compare.tables import clock
from benchmark.config import families, registry, space
from benchmark.config.resolve import Plan
from benchmark.config.run_config import RunConfig
from benchmark.data import doubles
from benchmark.record import shelves
from benchmark.record.folder import LEFT, Found, RunFolder, State
from benchmark.record.schema import Record
from benchmark.record.stored import found_at, read_all
from benchmark.sweep.engines.local import gpus
from benchmark.sweep.grid import GridRun


@dataclass(frozen=True)
class Estimate:
    """What one run would take; None where no earlier record tells.

    Args:
        seconds: training and evaluation, without start-up.
        memory: at most, in MiB: of the device, on a CPU of the process.
        disk: bytes of what is kept beside the record.
        basis: which earlier runs tell; empty for none.
    """

    seconds: float | None
    memory: float | None
    disk: float | None
    basis: str
    exact: bool = False


def finds_cuda(config: RunConfig) -> bool:
    """Whether a run on this machine would find a CUDA device."""
    return config.device == "cuda" or (config.device == "auto" and bool(gpus()))


def earlier_runs(results: Path) -> list[Record]:
    """The complete runs that estimates are made from."""
    return [record for record in read_all(Path(results)) if record.complete]


def estimate(plan: Plan, earlier: Sequence[Record], cuda: bool) -> Estimate:
    """From complete runs on the same sort of device, the first of these that there are: of the same key, of the method
    on the stream, of the method on other streams, of other methods on the stream; but for the first scaled by tasks
    and epochs. A run with ``--limit`` is told by runs of its own key alone, and a tiny stream tells nothing of another.
    """
    config, method = plan.config, plan.card.name
    alike = [r for r in earlier if ("cpu (" in str(r.provenance.device)) != cuda]
    same = [r for r in alike if (r.key, r.method) == (plan.key, method)]
    if same:
        seconds = median(r.cost.seconds for r in same)
        return Estimate(seconds, _memory(same), _disk(plan, same, earlier), f"{_runs(same)} of this key", exact=True)
    full = [r for r in alike if r.limit is None and config.limit is None and r.config.epochs]
    full = [r for r in full if r.backbone == config.backbone]
    here = [r for r in full if r.stream.hash == plan.stream_hash]
    full = [r for r in full if not trial_stream(r.stream.folder)]
    choices = [
        ("of the method with other settings", [r for r in here if r.method == method]),
        ("of the method on other streams", [r for r in full if r.method == method]),
        ("of other methods on the stream", here),
    ]
    for words, like in choices:
        if like:
            seconds = median(map(_seconds_per_task_epoch, like)) * len(plan.stream) * config.epochs
            return Estimate(seconds, _memory(like), _disk(plan, like, earlier), f"{_runs(like)} {words}")
    return Estimate(None, None, None, "")


def _runs(like: Sequence[Record]) -> str:
    return f"{len(like)} run{'s' if len(like) > 1 else ''}"


def _memory(like: Sequence[Record]) -> float:
    return float(max(max(r.cost.peak_memory_mib, default=0.0) for r in like))


def _seconds_per_task_epoch(record: Record) -> float:
    return record.cost.seconds / len(record.stream.tasks) / record.config.epochs


def _disk(plan: Plan, like: Sequence[Record], earlier: Sequence[Record]) -> float:
    """Bytes: as much as such runs left here. Where they left nothing, what a method keeps counts twice (its state, its
    experts), and predictions are those of any run on the stream.
    """
    results = Path(plan.config.results)
    left = [size for size in (_kept(results, record, LEFT) for record in like) if size]
    if left:
        return median(left)
    here = [record for record in earlier if record.stream.hash == plan.stream_hash]
    predictions = [size for size in (_kept(results, record, LEFT[:1]) for record in here) if size]
    stored = [record.cost.stored_bytes[-1] for record in like if record.cost.stored_bytes]
    return 2 * median(stored or [0]) + median(predictions or [0])


def _kept(results: Path, record: Record, names: Sequence[str]) -> int:
    """Bytes of these files and folders of a record made here; 0 where they are missing."""
    folder = found_at(results, record)
    files = [file for name in names for file in (folder / name, *(folder / name).glob("**/*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


# One run


def of_run(plan: Plan, measured: bool) -> Iterator[str]:
    """Lines of ``plan``: the run and its state, its settings, the time, memory and disk that it would take."""
    yield from described(plan)
    if measured:
        yield from measured_lines(plan)


def measured_lines(plan: Plan, threads: int | None = None) -> Iterator[str]:
    """What a training step takes here, with so many threads on a CPU; this alone imports torch."""
    from benchmark.running.timing import timed

    return timed(plan, registry.load(plan.config.method), threads).lines()


def described(plan: Plan) -> Iterator[str]:
    """Lines of one run, from the records alone."""
    config, card, stream = plan.config, plan.card, plan.stream
    size = f"{len(stream)} tasks" + (f", {len(stream.labels())} classes" if stream.labels() else "")
    yield f"{card.name} on {plan.stream_folder}: {size}, order {list(plan.permutation)}"
    yield f"settings: {config.settings(card) or 'the defaults'}"
    yield f"group: {card.group}; precision {plan.precision}"
    yield f"backbone: {families.note(config.backbone) or config.backbone}"
    yield f"record: {plan.path}"
    yield f"state: {_state(RunFolder(plan.path, plan.key).found(), plan)}"
    yield from standing_twice([plan])
    for room in space.rooms(plan, space.image_size(config.backbone, config.pretrained)):
        yield f"space for {room.line}"
    expected = estimate(plan, earlier_runs(Path(config.results)), finds_cuda(config))
    if expected.seconds is None or expected.memory is None or expected.disk is None:
        yield "time and memory: no earlier record of this method or stream on this backbone and device; try --measure"
        return
    if expected.exact:
        yield f"time: {expected.seconds:.0f} s without start-up (median of {expected.basis})"
    else:
        yield f"time: about {expected.seconds:.0f} s (scaled by tasks and epochs from {expected.basis})"
    yield f"memory: up to {expected.memory:,.0f} MiB in those runs; disk: about {space.spoken(expected.disk)}"


def standing_twice(plans: Iterable[Plan]) -> Iterator[str]:
    """A line for every stream in whose data something stands twice, as far as that is known or quickly counted."""
    for stream, plan in {plan.stream_folder: plan for plan in plans}.items():
        told = doubles.told(doubles.of_stream(plan.recipe, plan.identities, quick=True))
        if told:
            yield f"{stream}: {doubles.WARNING}{told}"


def _state(found: Found, plan: Plan) -> str:
    then = f"would continue after {found.learned} of {len(plan.stream)} tasks"
    if found.record is not None and found.record.diverged is not None:
        then = f"{found.record.diverged.sentence}; --force starts anew"
    elif found.record is not None and found.record.provenance.fingerprint != plan.code:
        then = "begun by other code than this tree's, --force starts anew"
    said = {
        State.MISSING: "missing: would run from the start",
        State.WHOLE: "complete: nothing to do",
        State.ELSEWHERE: "a record made elsewhere: would run from the start",
        State.UNFINISHED: f"unfinished: {then}",
        State.DAMAGED: f"damaged: {found.reason}: would be made again",
        State.FOREIGN: f"{found.reason}; --force starts anew",
    }
    return said[found.state]


# A grid


Expected = Callable[[GridRun], Estimate]


def expectation(cells: Sequence[GridRun], cuda: Callable[[RunConfig], bool]) -> Expected:
    """What each cell of a grid would take; replicates take the same."""
    earlier = earlier_runs(Path(cells[0].plan.config.results)) if cells else []
    known: dict[tuple[str, str], Estimate] = {}

    def expected(cell: GridRun) -> Estimate:
        place = cell.plan.card.name, cell.plan.key
        if place not in known:
            known[place] = estimate(cell.plan, earlier, cuda(cell.plan.config))
        return known[place]

    return expected


def seconds_left(cell: GridRun, redo: str, expected: Expected) -> float | None:
    """Seconds that the cell would still take; None where nothing tells."""
    seconds = expected(cell).seconds
    return None if seconds is None else seconds * (1.0 if cell.anew(redo) else cell.left)


def grouped(cells: Sequence[GridRun]) -> list[list[GridRun]]:
    """The cells of each method on each stream."""
    groups: dict[tuple[str, str], list[GridRun]] = {}
    for cell in cells:
        groups.setdefault((cell.plan.card.name, cell.plan.stream_folder), []).append(cell)
    return list(groups.values())


def group_line(group: Sequence[GridRun], redo: str, expected: Expected) -> str:
    """What is missing of a method on a stream, and what one of its runs takes."""
    due = [cell.plan.config for cell in group if cell.runs(redo)]
    text = f"{group[0].plan.card.name} on {group[0].plan.stream_folder}: {len(due)} of {len(group)} to run"
    if not due:
        return text
    text += " (" + ", ".join(f"seed{config.seed}-order{config.order}" for config in due) + ")"
    like = expected(group[0])
    if like.seconds is None or like.memory is None:
        return f"{text}; time and memory unknown"
    source = "" if like.exact else f", scaled from {like.basis}"
    return f"{text}; {clock(like.seconds)}, {like.memory:,.0f} MiB each{source}"


def overview(cells: Sequence[GridRun], redo: str, expected: Expected, slots: int | None) -> Iterator[str]:
    """Lines: cells done and to run, and the time, memory and disk that those take.

    Args:
        slots: how many cells run at a time; None where only the cluster knows.
    """
    due = [cell for cell in cells if cell.runs(redo)]
    states = dict.fromkeys(("done", "unfinished", "missing"), 0) | Counter(cell.state for cell in cells)
    stale = sum(cell.stale for cell in cells)
    counted = ", ".join(f"{number} {state}" for state, number in states.items())
    other = f"; {stale} neither made nor verified by this tree's code" if stale else ""
    yield f"{len(cells)} cell{'s' if len(cells) > 1 else ''}: {counted}{other}; {len(due)} to run"
    yield from (f"{cell.found.reason}: made again" for cell in due if cell.found.state is State.DAMAGED)
    if not due:
        return
    stored = sum(cell.plan.stored is not None for cell in due)
    if stored:
        here = shelves.read_from(Path(shelves.OWN))[0] == Path(shelves.STORED)  # what came with the package is read
        there = f"; RESULTS={shelves.STORED} goes on there" if here else ""
        yield f"{stored} of these are stored already and run again beside them{there}"
    known = [(cell, like) for cell, like in zip(due, map(expected, due), strict=True) if like.seconds is not None]
    unknown = f" ({len(due) - len(known)} of unknown length not counted)" if len(known) < len(due) else ""
    if not known:
        yield "time, memory and disk: no earlier record tells; plan --measure times a few steps"
        return
    times = [seconds_left(cell, redo, expected) or 0.0 for cell, _ in known]
    at_once = f"about {clock(makespan(times, slots))} in {slots} slots, " if slots else ""
    yield f"time: {at_once}{clock(sum(times))} of computing, without start-up{unknown}"
    memory = sorted((like.memory or 0.0 for _, like in known), reverse=True)
    together = f", {sum(memory[:slots]):,.0f} MiB at a time" if slots else ""
    yield f"memory: up to {memory[0]:,.0f} MiB a run{together}"
    results = Path(cells[0].plan.config.results).absolute()
    free = shutil.disk_usage(next(path for path in (results, *results.parents) if path.exists())).free
    yield f"disk: about {space.spoken(sum(like.disk or 0.0 for _, like in known))}, {space.spoken(free)} free"


def makespan(seconds: Sequence[float], slots: int) -> float:
    """Seconds until all are done, each in its turn in the slot that is free first."""
    ends = [0.0] * slots
    for length in seconds:
        heapq.heappushpop(ends, ends[0] + length)
    return max(ends)
