"""One run from its configuration, from top to bottom: resolve it, claim its folder, load, loop over the tasks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import texts
from benchmark.compare.entries import stale
from benchmark.config import families
from benchmark.config.registry import MethodCard
from benchmark.config.resolve import Plan, resolve
from benchmark.config.run_config import RunConfig
from benchmark.data import doubles
from benchmark.errors import RunFailed, UserError, warn
from benchmark.record import provenance
from benchmark.record.files import now
from benchmark.record.folder import Found, RunFolder, State
from benchmark.record.parts import Divergence, Provenance, Repeats
from benchmark.record.schema import SCHEMA, Record, StreamEntry, TaskEntry, unmeasured
from benchmark.record.stored import RECORD
from benchmark.running.processes import on_its_own

if TYPE_CHECKING:
    from rich.console import Console

    from benchmark.data.batches import TaskData
    from benchmark.running.hardware import Hardware
    from methods.base import IncrementalMethod


def execute(config: RunConfig, card: MethodCard, cls: Any, console: Console) -> Path:
    """Run (or continue) to the end; returns the run's folder.

    Raises:
        UserError: anything wrong with the input; nothing has been written then.
        RunFailed: the run has diverged, now or before, or the method breaks its contract.
    """
    from benchmark.running import hardware, load, loggers

    here = hardware.chosen(config)
    plan = resolve(config, card, here.device.type == "cuda")
    loggers.check(config.logger)
    folder = RunFolder(plan.path, plan.key)
    if not here.leads:  # it learns along with the process that holds the folder
        found = folder.found()
        record = found.record or new_record(plan, here.name)
        _learn(plan, *load.loaded(plan, cls, here.device), record, folder, here, console)
        return plan.path
    with folder.claimed():
        found = folder.found()
        anew = starts_anew(config, found)
        if found.state is State.WHOLE and not anew:
            made = [] if found.record is None else [found.record]
            other = ", by other code than this tree's" if stale(made, plan.code) else ""
            said = f"already complete{other}: {plan.path} (FORCE=1 or --force starts anew)"
            console.print(said, highlight=False, soft_wrap=bool(other))
            return plan.path
        if found.state is State.FOREIGN and not anew:
            raise UserError(f"{found.reason}; --force starts anew")
        begun = found.record if found.state is State.UNFINISHED and not anew else None
        if begun is not None and begun.provenance.fingerprint != plan.code:
            stopped = "stopped for good" if begun.diverged is not None else "begun"
            raise UserError(f"{plan.path}: {stopped} by other code than this tree's; --force starts anew, and of a "
                            "sweep --redo stale")  # fmt: skip
        if begun is not None and begun.diverged is not None:
            raise RunFailed(stopped_for_good(begun.diverged))
        method, data = load.loaded(plan, cls, here.device)
        record = begun or new_record(plan, here.name)
        if plan.stored is not None and not config.quiet:
            console.print(f"stored already: {plan.stored}; this run stands beside it", highlight=False, soft_wrap=True)
        if begun is None:
            if found.reason and not anew:
                warn(f"{found.reason}: the run is made again")
            folder.begin(record)
        with on_its_own(config.devices):
            _learn(plan, method, data, record, folder, here, console)
    return plan.path


def stopped_for_good(found: Divergence) -> str:
    """What a run that has diverged says whenever it is asked to go on."""
    return f"{found.sentence}; --force starts anew"


def refuse_diverged(config: RunConfig, card: MethodCard, cuda: bool) -> None:
    """Say of a run that has diverged that it has, before anything heavy is loaded.

    Args:
        cuda: whether the run would compute on a CUDA device.

    Raises:
        RunFailed: it has.
    """
    mark, folders = b'"diverged"', f"runs/*/{card.name}/*/seed{config.seed}-order{config.order}"
    with suppress(OSError):  # what cannot be read is told where it is needed
        if any(mark in file.read_bytes() for file in Path(config.results).glob(f"{folders}/**/{RECORD}")):
            plan = resolve(config, card, cuda)
            found = RunFolder(plan.path, plan.key).found()
            record = found.record if found.state is State.UNFINISHED else None
            if record is None or stale([record], plan.code):  # of other code nothing is said of this tree's
                return
            if record.diverged is not None and not starts_anew(config, found):
                raise RunFailed(stopped_for_good(record.diverged))


def starts_anew(config: RunConfig, found: Found) -> bool:
    """Whether what is in the run's folder is thrown away."""
    if config.force or config.force_before is None or found.record is None:
        return config.force
    started = found.record.provenance.started
    return started is None or datetime.fromisoformat(started) < datetime.fromisoformat(config.force_before)


def new_record(plan: Plan, device: str) -> Record:
    """The record of a run that has not begun."""
    config, card, stream = plan.config, plan.card, plan.stream
    entry = StreamEntry(
        stream.name, plan.stream_folder, [TaskEntry.of(task, stream) for task in stream], stream.version,
        plan.stream_hash, plan.kind.name, stream.label_space, plan.recipe.ranked,
    )  # fmt: skip
    repeats = doubles.of_stream(plan.recipe, plan.identities)
    data = {task.name: digest for task, digest in zip(plan.recipe.stream, plan.identities, strict=True)}
    return Record(
        schema=SCHEMA,
        key=plan.key,
        method=card.name,
        group=card.group,
        stream=entry,
        config=plan.made_with,
        settings=config.settings(card),
        backbone=config.backbone,
        seed=config.seed,
        order=config.order,
        permutation=list(plan.permutation),
        limit=config.limit,
        split=config.split,
        repeats={task: Repeats(**counts) for task, counts in repeats.items()} or None,
        provenance=_made(plan, device, data),
        **unmeasured(entry),
    )


def _made(plan: Plan, device: str, data: dict[str, str]) -> Provenance:
    """Where the run comes from; of one that answers in words also what writes and grades them."""
    words = families.PACKAGES if families.speaks(plan.config.backbone) else ()
    place = provenance.ROOT, plan.card.file, plan.recipe.source_kinds
    made = provenance.collect(*place, device, data, now(), words)
    return replace(made, bleu=texts.bleu_signature()) if plan.kind.speaks else made


def _learn(
    plan: Plan, method: IncrementalMethod, data: list[TaskData], record: Record, folder: RunFolder, here: Hardware,
    console: Console,
) -> None:  # fmt: skip
    """All phases that the record does not have yet, shown and logged."""
    from benchmark.running import loggers
    from benchmark.running.loop import Loop
    from benchmark.running.progress import Display

    config, logger = plan.config, None
    if record.repeats and here.leads and not config.quiet:
        told = doubles.told({task: asdict(counts) for task, counts in record.repeats.items()})
        console.print(f"{doubles.WARNING}{told}", highlight=False, markup=False, soft_wrap=True)
    steps = sum(plan.budget.steps(len(task.splits["train"])) for task in data)
    with Display(console, steps, quiet=config.quiet or not here.leads) as display:
        display.say(f"{plan.title}, {record.provenance.device}")
        if folder.state.is_dir():
            display.say(f"continuing after {max(0, record.stages - 1)} of {len(data)} tasks")
        if config.logger is not None and here.leads:
            title = f"{plan.stream_folder} {plan.card.name} {plan.key} seed{config.seed}-order{config.order}"
            logger = loggers.made(config.logger, folder.making, title)
        made = [task.name for task, source in zip(plan.stream, plan.sources, strict=True) if source.kind == "phantom"]
        loop = Loop(method, plan.stream, data, config, plan.precision, record, folder, here, display, logger, made)
        try:
            loop.run()
        finally:
            if logger is not None:
                logger.finalize("success" if loop.record.complete else "failed")
