"""One run from its configuration: resolve it, check the input, load what it needs, loop over the tasks."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.config import registry
from benchmark.config.registry import MethodCard
from benchmark.config.run_config import AUTO, RunConfig, run_key, weights_identity
from benchmark.data import catalog
from benchmark.errors import UserError
from benchmark.record import provenance, records
from benchmark.running import processes

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from benchmark.data.batches import TaskData
    from benchmark.running.loop import Hardware
    from methods.base import IncrementalMethod

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """A resolved run: where it goes, under which key, on which order of which stream. Made without torch."""

    config: RunConfig
    card: MethodCard
    recipe: catalog.Recipe
    samples: tuple[str, ...]
    stream_hash: str
    stream_folder: str
    permutation: tuple[int, ...]
    precision: str
    key: str

    @property
    def folder(self) -> Path:
        config = self.config
        results = Path(config.results)
        return records.run_folder(results, self.stream_folder, self.card.name, self.key, config.seed, config.order)


def resolve(config: RunConfig, card: MethodCard, cuda: bool) -> Plan:
    """Read the stream and the identity of its samples; nothing is written.

    Raises:
        UserError: the stream file or one of its sources is wrong.
    """
    from benchmark.data import identity

    recipe = catalog.load(config.stream, Path(config.data))
    check_kind(config, card, recipe.stream.kind)
    samples = identity.identities(recipe)
    hashed = identity.stream_hash(recipe.stream, samples)
    precision = AUTO[cuda] if config.precision == "auto" else config.precision
    key = run_key(config, precision, hashed, weights_identity(config.backbone, config.pretrained))
    folder = stream_folder(Path(config.results), recipe.stream.name, hashed)
    permutation = recipe.permutation(config.order)
    return Plan(config, card, recipe, samples, hashed, folder, permutation, precision, key)


def check_kind(config: RunConfig, card: MethodCard, kind: str) -> None:
    """Refuse a method that does not learn this kind of task, and settings that the kind does not have.

    Raises:
        UserError: naming the methods that learn it.
    """
    stream = f"stream {config.stream!r} ({kind})"
    if kind not in card.kinds:
        others = ", ".join(name for name in registry.names() if kind in registry.card(name).kinds)
        raise UserError(f"method {card.name!r} learns {', '.join(card.kinds)}, not {stream}; these do: {others}")
    if config.inputs != "both" and kind != "fusion":
        raise UserError(f"--inputs {config.inputs}: only fusion can do without an input, not {stream}")
    if config.gallery != "seen" and kind != "retrieval":
        raise UserError(f"--gallery {config.gallery}: only retrieval has a gallery, not {stream}")
    if config.devices > 1 and not card.flags["ddp"]:
        raise UserError(f"--devices {config.devices}: {card.name} needs whole batches and learns on one device")
    if config.devices > 1 and kind == "retrieval":
        raise UserError(f"--devices {config.devices}: retrieval contrasts the samples of a whole batch: one device")
    if config.devices > config.batch_size:
        raise UserError(f"--devices {config.devices}: more than the {config.batch_size} samples of a batch")


def stream_folder(results: Path, name: str, hashed: str) -> str:
    """The stream's name; with the start of its hash if records of another stream have that name."""
    for path in records.run_files(results, name):
        known = records.read_record(path)["stream"]["hash"]
        return name if known == hashed else f"{name}@{hashed[:6]}"
    return name


def new_record(plan: Plan, device: str) -> records.Record:
    """The record of a run that has not begun."""
    config, card, recipe = plan.config, plan.card, plan.recipe
    stream = recipe.stream.reordered(plan.permutation)
    tasks = [{"name": t.name, "modality": t.modality, "labels": [label.name for label in t.labels]} for t in stream]
    resolved = config.resolved(plan.precision)
    data = {task.name: digest for task, digest in zip(recipe.stream, plan.samples, strict=True)}
    described = {"name": stream.name, "folder": plan.stream_folder, "version": stream.version, "hash": plan.stream_hash}
    described |= {"kind": stream.kind, "label_space": stream.label_space, "tasks": tasks}  # type: ignore[dict-item]
    return {
        "schema": records.SCHEMA,
        "key": plan.key,
        "method": card.name,
        "group": card.group,
        "stream": described,
        "config": resolved,
        "settings": config.settings(card),
        "backbone": config.backbone,
        "seed": config.seed,
        "order": config.order,
        "permutation": list(plan.permutation),
        "limit": config.limit,
        "split": config.split,
        **records.unmeasured(len(stream), stream.kind),
        "provenance": provenance.collect(ROOT, card.file, device, data, records.now()),
    }


def is_whole(folder: Path) -> bool:
    """Whether a complete run was made here: a record that came with the checkout lacks its predictions.

    Such a record counts in tables, and the command that made it makes it again instead of showing it.
    """
    return (folder / "predictions.npz").is_file()


def uses_cuda(config: RunConfig) -> bool:
    """Whether a run here computes on a CUDA device; ``plan.finds_cuda`` tells it without torch."""
    import torch

    return config.device != "cpu" and torch.cuda.is_available()


def execute(config: RunConfig, card: MethodCard, cls: Any, console: Console) -> Path:
    """Run (or continue) to the end; returns the run's folder.

    Raises:
        UserError: anything wrong with the input; nothing has been written then.
    """
    quiet()
    import torch

    from benchmark.running import loggers
    from benchmark.running.loop import Hardware

    torch.set_float32_matmul_precision("high")
    cuda = uses_cuda(config)
    there = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if config.device == "cuda" and not cuda:
        raise UserError("--device cuda: no CUDA device is available")
    if config.devices > there:
        raise UserError(f"--devices {config.devices}: there are {there} {'CUDA devices' if cuda else 'CPU cores'}")
    rank = rank_here()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    strategy = "ddp" if config.devices > 1 and config.strategy == "auto" else config.strategy
    plan = resolve(config, card, cuda)
    folder, hardware = plan.folder, Hardware(device, config.devices, strategy, rank)
    anew = starts_anew(config, folder)
    if _complete(folder) and is_whole(folder) and not anew:
        console.print(f"already complete: {folder} (FORCE=1 or --force starts anew)", highlight=False)
        return folder
    loggers.check(config.logger)
    method, data = prepared(plan, cls, device)
    if rank > 0:
        _learn(plan, method, data, hardware, console)
        return folder
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]  # Lightning would take the run for one of a job's tasks, and queue the job again by itself
    if config.devices > 1:
        os.environ[processes.PARENT] = str(os.getpid())  # the processes that Lightning starts end with this one
    with processes.alone(folder):
        if anew or _complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
        _learn(plan, method, data, hardware, console)
    return folder


def rank_here() -> int:
    """Which of the processes that learn together this is; Lightning starts those above 0 with the same command."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def starts_anew(config: RunConfig, folder: Path) -> bool:
    """Whether what is in the run's folder is thrown away."""
    if config.force or config.force_before is None or not (folder / "run.json").is_file():
        return config.force
    started = records.read_record(folder)["provenance"].get("started")
    return started is None or datetime.fromisoformat(started) < datetime.fromisoformat(config.force_before)


def _complete(folder: Path) -> bool:
    return (folder / "run.json").is_file() and records.read_record(folder)["status"] == "complete"


def prepared(plan: Plan, cls: Any, device: torch.device) -> tuple[IncrementalMethod, list[TaskData]]:
    """The method on its backbone, on the device, and the samples of every task in the run's order.

    Raises:
        UserError: the method or the backbone refuses its arguments, or samples cannot be read.
    """
    from benchmark.data.batches import task_data
    from benchmark.running.loop import seeded
    from methods.parts import backbones

    config = plan.config
    try:
        with seeded(config.seed, "method"):
            method: IncrementalMethod = cls(**config.method_args)
            backbone = backbones.load(config.backbone, config.pretrained)
            if plan.recipe.stream.kind != "classification":
                backbone.with_text()
            method.attach(backbone.to(device), config.budget)
    except ValueError as error:
        raise UserError(str(error)) from None
    method.to(device)
    stream = plan.recipe.stream.reordered(plan.permutation)
    size, tokenize, data = backbone.image_size, backbone.tokenizer, []
    for task, listed in zip(stream, plan.permutation, strict=True):
        source, samples = plan.recipe.sources[listed], plan.samples[listed]
        data.append(task_data(task, source, samples, size, config.limit, device, tokenize, config.inputs))
    return method, data


def _learn(plan: Plan, method: IncrementalMethod, data: list[TaskData], hardware: Hardware, console: Console) -> None:
    """All phases that the record in the run's folder does not have yet."""
    from benchmark.running import loggers
    from benchmark.running.loop import Loop
    from benchmark.running.progress import Display

    config, folder, logger = plan.config, plan.folder, None
    record, known = new_record(plan, _device_name(hardware)), None
    if (folder / "run.json").is_file():
        known = records.read_record(folder)
        if known["provenance"]["fingerprint"] != record["provenance"]["fingerprint"] and hardware.rank == 0:
            console.print(f"{folder}: begun by other code than this tree's, and starts anew", highlight=False)
            known = None
    if known is None and hardware.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    record = known or record
    steps = sum(config.steps(len(task.splits["train"])) for task in data)
    with Display(console, steps, quiet=config.quiet or hardware.rank > 0) as display:
        display.say(
            f"{plan.card.name} on {plan.stream_folder}, seed {config.seed}, order {config.order}, "
            f"{record['provenance']['device']}"
        )
        if known is not None and (folder / "state").is_dir():
            display.say(f"continuing after {known['stages'] - 1} of {len(data)} tasks")
        stream = plan.recipe.stream.reordered(plan.permutation)
        if config.logger is not None and hardware.rank == 0:
            title = f"{plan.stream_folder} {plan.card.name} {plan.key} seed{config.seed}-order{config.order}"
            logger = loggers.made(config.logger, folder, title)
        loop = Loop(method, stream, data, record, folder, hardware, display, config.full_evaluation, logger)
        try:
            loop.run()
        finally:
            if logger is not None:
                logger.finalize("success" if loop.record["status"] == "complete" else "failed")


def _device_name(hardware: Hardware) -> str:
    import torch

    several = f"{hardware.devices} x " if hardware.devices > 1 else ""
    if hardware.device.type == "cuda":
        return several + torch.cuda.get_device_name(hardware.device)
    return f"{several}cpu ({torch.get_num_threads()} threads)"


def quiet() -> None:
    """Lightning's notices about what this suite does on purpose (no workers, no logger) are not for its users."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*(LeafSpec|lr_scheduler.step|pin_memory|TF32|litlogger).*")
