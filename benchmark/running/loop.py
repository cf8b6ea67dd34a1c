"""The loop over tasks. For each: begin, prepare, fit, end, evaluate.

The state after each phase is on disk, so a run that was killed goes on at its last finished phase or epoch.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from benchmark.config.run_config import RunConfig
from benchmark.data.batches import PASS_BATCH, TaskData
from benchmark.errors import warn
from benchmark.kinds import OWN
from benchmark.record.files import now
from benchmark.record.folder import RunFolder
from benchmark.record.partition import Partition
from benchmark.record.parts import Divergence, SampleGroups, SampleScores
from benchmark.record.schema import PROTOCOLS, Costs, Record
from benchmark.record.summary import summarise
from benchmark.running import mistakes, state
from benchmark.running.answers import apart, guessed, judged
from benchmark.running.answers.question import Cell
from benchmark.running.divergence import Diverged, not_finite
from benchmark.running.evaluate import Cells, Evaluator
from benchmark.running.fit import Lesson, fit, look
from benchmark.running.hardware import Hardware
from benchmark.running.memory_limit import told_when_full
from benchmark.running.progress import Display
from benchmark.running.seeds import seeded
from benchmark.running.state import BEGUN, ENDED, Phase
from benchmark.running.written import answer_lines, shown_samples
from benchmark.stream import Stream, Task
from methods.base import IncrementalMethod


class Loop:
    """One run of a method over a stream.

    Args:
        method: attached to its backbone, on the device.
        stream, data: the tasks and their samples, in the run's order.
        record: what is known of the run so far; a record with one row more takes its place after each stage.
        folder: the run's, claimed by this process, or by the one that leads it.
        precision: Lightning's.
        logger: one of Lightning's, for losses and scores besides the record.
        made: names of the tasks whose samples are drawn, not anybody's, so that some may stand in the record.
    """

    def __init__(
        self, method: IncrementalMethod, stream: Stream, data: list[TaskData], config: RunConfig, precision: str,
        record: Record, folder: RunFolder, hardware: Hardware, display: Display, logger: Logger | None = None,
        made: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.method, self.stream, self.data, self.config, self.precision = method, stream, data, config, precision
        self.record, self.folder, self.hardware, self.display, self.logger = record, folder, hardware, display, logger
        self.evaluator = Evaluator(method, stream, data, config, precision, hardware.device)
        self.purpose, self.made = (config.seed, config.order), made
        self.damages: list[str] = []  # a line for each file that an earlier process left and that cannot be used

    def run(self) -> None:
        """All phases that are not finished yet; at the end the record is complete and the state is gone.

        Processes of other ranks learn along; what they are told on disk is what the first one has written.

        Raises:
            Diverged: a loss, a parameter, what the method keeps or a score is not finite; the record says so.
        """
        saved = self._take_up()
        try:
            self._evaluate(0)
            for tasks in [list(self.stream)] if self.method.joint else [[task] for task in self.stream]:
                self._learn_and_evaluate(tasks, saved)
            if self.hardware.leads:
                self._finish()
        except Diverged as stopped:
            if self.hardware.leads:
                self.folder.write(replace(self.record, diverged=stopped.found))
            raise

    def _take_up(self) -> Phase | None:
        """The last good phase of an earlier process; the record is as it was then, or has rows more that are whole."""
        self.files = state.state_files(self.folder, self.record)
        saved, rows = state.last_good(self.files, self.record, self.method.joint, self.hardware.device)
        if self.hardware.leads:
            self.damages = list(state.damages(self.files, self.folder, self.record, self.method.joint))
            for line in self.damages:
                warn(f"{line}: the run goes on from the last good point before it")
        cut = state.cut_rows(self.record, rows)
        learned = 0 if saved is None else state.learned(saved.task, saved.phase == ENDED, self.method.joint)
        self.record = replace(cut, status="running", cost=_cut(cut.cost, learned))
        if self.hardware.leads:
            if self.damages:
                self.folder.write(self.record)
            state.take_up(self.files, saved, rows)
        return saved

    def _learn_and_evaluate(self, tasks: list[Task], saved: Phase | None) -> None:
        last = tasks[-1].index
        for task in tasks:
            with seeded(*self.purpose, task.index, "begin"), mistakes.told(self.method, f"begin_task of {task.name}"):
                self.method.begin_task(task)
            mistakes.check_begun(self.method, task)
            self.method.to(self.hardware.device)
        here = saved if saved is not None and saved.task == last else None
        if here is not None:
            state.restore(self.method, here.method)
        if saved is None or saved.finished <= last:
            self._learn(tasks, here)
            self._save(last, ENDED)
        for task in tasks:
            self._evaluate(task.index + 1)

    def _learn(self, tasks: list[Task], saved: Phase | None) -> None:
        """Prepare, fit, end; ``saved`` if an earlier process has prepared."""
        index, chosen = tasks[-1].index, [self.data[task.index] for task in tasks]
        names = " + ".join(task.name for task in tasks[:1]) + (f" + {len(tasks) - 1} more" if tasks[1:] else "")
        where = f"task {index + 1}/{len(self.stream)} {names}"
        lesson = Lesson(
            chosen, (*self.purpose, index), state.FitCheckpoints(self.files, index), where,
            first=sum(map(self._steps, self.data[: tasks[0].index])), balanced=self.config.sampling == "balanced",
        )  # fmt: skip
        with self.method.learning():
            if saved is None:
                seconds = sum(self._look(data, "prepare", where) for data in chosen)
                self._save(index, BEGUN, seconds)
            else:
                seconds = saved.seconds
            fitting, images = fit(self.method, lesson, self.hardware, self.precision, self.display, self.logger)
            seconds += fitting + sum(self._look(data, "end", where) for data in chosen)
        rate = images / fitting if fitting else 0.0
        self.record = replace(self.record, cost=self._with_costs(len(tasks), seconds, rate))
        self.display.say(f"{where}: learned in {seconds:.1f} s" + (f", {rate:,.0f} samples/s" if fitting else ""))

    def _look(self, data: TaskData, purpose: str, where: str) -> float:
        """Show the method a task's training set before (``prepare``) or after training (``end``); seconds."""
        started = time.perf_counter()
        self.display.phase(f"{where}  {purpose}")
        visit = self.method.prepare_task if purpose == "prepare" else self.method.end_task
        full = told_when_full(f"{where}, {purpose}_task", None, PASS_BATCH)
        known = mistakes.told(self.method, f"{where}, {purpose}_task")
        with seeded(*self.purpose, data.task.index, purpose), full, known:
            look(self.method, visit, data, self.hardware.device)
        name = not_finite(self.method.state_dict(), infinite=True)
        if name is not None:
            raise Diverged(Divergence(data.task.name, f"diverged, {name} is not a number after {purpose}_task"))
        return time.perf_counter() - started

    def _steps(self, data: TaskData) -> int:
        return self.method.budget.steps(len(data.splits["train"]))

    def _evaluate(self, stage: int) -> None:
        """Fill row ``stage`` of every score matrix, unless an earlier process did."""
        if self.record.stages > stage or not self.hardware.leads:
            return
        self.display.phase(f"evaluating after {stage} of {len(self.stream)} tasks")
        started = time.perf_counter()
        full = told_when_full(f"evaluating after {stage} of {len(self.stream)} tasks", None, PASS_BATCH)
        known = mistakes.told(self.method, f"evaluating after {stage} of {len(self.stream)} tasks")
        with seeded(*self.purpose, stage, "evaluate"), full, known:
            cells = self.evaluator.row(stage)
        rows = {
            metric: {protocol: _scores(cells[protocol], self._measures(metric)) for protocol in PROTOCOLS}
            for metric in self.record.scores
        }
        router = [cell.router_accuracy if cell else None for cell in cells["hidden"]]
        self.record = self.record.with_row(stage, rows, router)
        if stage == len(self.stream):
            self._keep_last(cells)
        state.write_predictions(self.files, stage, cells, self.stream, self.data, self.config.split)
        seconds = [*self.record.cost.eval_seconds, time.perf_counter() - started]
        self.record = replace(self.record, cost=replace(self.record.cost, eval_seconds=seconds))
        self.folder.write(self.record)
        self.display.matrix(self.record)
        if self.logger is not None:
            scores = {
                f"{metric}_{protocol}/{task.name}": value
                for metric, protocols in rows.items()
                for protocol in PROTOCOLS
                for task, value in zip(self.stream, protocols[protocol], strict=True)
                if value is not None
            }
            self.logger.log_metrics(scores, sum(map(self._steps, self.data[:stage])))

    def _keep_last(self, cells: Cells) -> None:
        """Of the final model: where it sent which samples, its score of each, and which samples belong together."""
        routed = [list(cell.routed) if cell and cell.routed else None for cell in cells["hidden"]]
        confusion = None if None in routed else [row for row in routed if row is not None]
        hits, groups = kept_of_samples(cells, [task.name for task in self.stream])
        self.record = replace(
            self.record, router_confusion=confusion, hits=hits, groups=groups,
            class_recall=apart.class_recall(cells, self.stream) if self.record.kind.labelled else None,
            class_confusion=apart.class_confusion(cells, self.stream),
            subgroups=apart.subgroups(cells, self.stream),
        )  # fmt: skip

    def _finish(self) -> None:
        """What the final model answers without an input, then all that stays, the record last."""
        kind = self.record.kind
        if kind.withheld and self.config.inputs == "both":
            self.record = replace(self.record, missing={name: self._without(name) for name in kind.withheld})
        cost = replace(self.record.cost, peak_memory_mib=[peak_memory(self.hardware.device)])
        summary = summarise(kind, self.record.scores, self.record.missing)
        made = replace(self.record.provenance, finished=now())
        arrays, tested = state.all_predictions(self.files, len(self.stream) + 1), self.config.split
        answers = answer_lines(arrays, self.stream, self.data, tested, judged)
        shown = shown_samples(arrays, self.stream, self.data, tested, self.made)
        groups = self.method.partition()
        partition = Partition.of(groups, [task.modality for task in self.stream]) if groups is not None else None
        left = state.keep(self.folder, self.method, arrays, answers, self.config.keep_images)
        self.record = replace(
            self.record, cost=cost, summary=summary, provenance=made, status="complete", samples=shown,
            blind=guessed(self.data, tested), partition=partition, files=left
        )  # fmt: skip
        self.folder.finish(self.record)

    def _without(self, missing: str) -> dict[str, list[float | None]]:
        """Protocol -> the primary metric of the final model where every sample lacks an input."""
        self.display.phase(f"evaluating with the {missing} withheld")
        (there,) = (name for name in self.record.kind.inputs if name != missing)
        full = told_when_full(f"evaluating with the {missing} withheld", None, PASS_BATCH)
        with seeded(*self.purpose, "withhold", missing), full:
            cells = self.evaluator.withheld(there)
        return {protocol: _scores(row, self._measures(OWN)) for protocol, row in cells.items()}

    def _measures(self, metric: str) -> list[str]:
        """The metric of each column of its matrix."""
        own = self.record.stream.measures
        return own if metric == OWN else [metric] * len(own)

    def _save(self, task: int, phase: str, seconds: float = 0.0) -> None:
        if self.hardware.leads:
            self.folder.write(self.record)
            state.save_phase(self.files, Phase(task, phase, seconds, self.method.state_dict()))

    def _with_costs(self, tasks: int, seconds: float, rate: float) -> Costs:
        """The costs of some tasks that were learned together behind those so far."""
        cost, own = self.record.cost, self.method.state_dict()
        return replace(
            cost,
            trainable_params=cost.trainable_params + tasks * [_size(self.method.trainable_parameters())],
            stored_params=cost.stored_params
            + tasks * [_size(p for n, p in self.method.named_parameters() if n in own)],
            stored_bytes=cost.stored_bytes + tasks * [sum(t.numel() * t.element_size() for t in own.values())],
            train_seconds=cost.train_seconds + tasks * [seconds / tasks],
            images_per_second=cost.images_per_second + tasks * [rate],
        )


def kept_of_samples(
    cells: Cells, names: Sequence[str]
) -> tuple[dict[str, dict[str, SampleScores | None]], dict[str, SampleGroups] | None]:
    """What a record keeps of the samples of a row: by protocol and task their scores, by task what belongs together."""
    hits: dict[str, dict[str, SampleScores | None]] = {protocol: {} for protocol in cells}
    groups: dict[str, SampleGroups] = {}
    for protocol, row in cells.items():
        for name, cell in zip(names, row, strict=True):
            hits[protocol][name] = None
            if cell is not None and cell.hits is not None:
                hits[protocol][name] = SampleScores.packed(cell.hits, cell.parts)
            if cell is not None and cell.groups is not None:
                groups[name] = SampleGroups.packed(np.unique(cell.groups, return_inverse=True)[1])
    return hits, groups or None


def _scores(cells: Sequence[Cell | None], measures: Sequence[str]) -> list[float | None]:
    """A row, of each cell its metric; null where there is no cell, no answer in it, or the task lacks the metric."""
    values = [None if cell is None else cell.metrics.get(name) for cell, name in zip(cells, measures, strict=True)]
    return [None if value is None or np.isnan(value) else value for value in values]


def _size(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _cut(cost: Costs, tasks: int) -> Costs:
    """The costs of the first tasks: what was written of a task that had not ended is measured again."""
    names = ("trainable_params", "stored_params", "stored_bytes", "train_seconds", "images_per_second")
    return replace(cost, **{name: getattr(cost, name)[:tasks] for name in names})


def peak_memory(device: torch.device) -> float:
    """MiB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
