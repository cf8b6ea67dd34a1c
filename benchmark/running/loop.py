"""The loop over tasks: the only file that owns a Trainer.

For each task: begin, prepare, fit, end, evaluate. The state after each phase is on disk, so a run that was killed goes
on at its last finished phase or epoch. Everything random in (task, epoch) is seeded from (seed, order, task, epoch,
purpose): an epoch is a pure function of the state it starts from, and no state of a generator is ever saved.
"""

from __future__ import annotations

import base64
import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from safetensors.torch import save_file

from benchmark.data.batches import TaskData, training_batches
from benchmark.record import records
from benchmark.running.evaluate import PROTOCOLS, Cell, Evaluator
from benchmark.running.progress import Display
from benchmark.stream import Share, Stream, Task
from methods.base import IncrementalMethod

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def derive_seed(*parts: object) -> int:
    """A seed in 0..2^63-1 from anything printable: equal parts, equal seed, on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Inside, torch's global generators are seeded from ``parts``; outside, they are as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(*parts))
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, products of float32 matrices are float32 on every device: what methods add up there must not be TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def packed(cell: Cell | None) -> dict[str, Any] | None:
    """A cell's hits for JSON: ``n`` samples as base64 of ``numpy.packbits``; None without an answer."""
    if cell is None or cell.hits is None:
        return None
    return {"n": len(cell.hits), "bits": base64.b64encode(np.packbits(cell.hits).tobytes()).decode()}


@dataclass(frozen=True)
class Hardware:
    """Where a run computes: ``device`` is this process's, one of ``devices`` of its kind that learn together.

    ``strategy`` is Lightning's; the process of rank 0 alone evaluates and writes.
    """

    device: torch.device
    devices: int = 1
    strategy: str = "auto"
    rank: int = 0


class EpochEnd(L.Callback):
    """Seeds each epoch, shows and logs steps, and puts the state on disk after each epoch.

    ``seconds``: of all finished epochs, those of earlier processes included.

    Args:
        path: of the checkpoint. where: the task, in words. purpose: of the task's seeds.
        first: steps of the tasks before this one.
    """

    def __init__(
        self, path: Path, where: str, purpose: tuple[object, ...], first: int, display: Display, logger: Logger | None
    ) -> None:
        self.path, self.where, self.purpose, self.first = path, where, purpose, first
        self.display, self.logger, self.seconds = display, logger, 0.0

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint["seconds"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.manual_seed(derive_seed(*self.purpose, trainer.current_epoch, "steps"))
        self.started, self.seen = time.perf_counter(), 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        pl_module.share = trainer.train_dataloader.share(batch_idx)  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        share: Share | None = pl_module.share  # type: ignore[assignment]
        self.seen += len(batch["label"]) if share is None else share.size
        step = self.first + trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        where = f"{self.where}  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        loss = None  # reading it waits for the device
        rate = self.seen / max(time.perf_counter() - self.started, 1e-9)
        if batch_idx % 10 == 0 or trainer.is_last_batch:
            loss = outputs["loss"].item()
            if self.logger is not None:
                self.logger.log_metrics({"loss": loss, "images_per_second": rate}, step)
        self.display.step(where, step, loss, rate)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.share = None  # type: ignore[assignment]
        self.seconds += time.perf_counter() - self.started
        temporary = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.path)


class Loop:
    """One run of a method over a stream.

    Args:
        method: attached to its backbone, on the device.
        data: the tasks' samples, in the run's order.
        record: what is known of the run so far (``benchmark.record.records``); its scores are filled here.
        folder: the run's folder.
        logger: one of Lightning's, for losses and scores besides the record.
    """

    def __init__(
        self, method: IncrementalMethod, stream: Stream, data: list[TaskData], record: records.Record, folder: Path,
        hardware: Hardware, display: Display, full_evaluation: bool = False, logger: Logger | None = None,
    ) -> None:  # fmt: skip
        self.method, self.stream, self.data, self.record = method, stream, data, record
        self.folder, self.state, self.display, self.logger = folder, folder / "state", display, logger
        self.hardware, self.device, self.leads = hardware, hardware.device, hardware.rank == 0
        config = record["config"]
        self.budget, self.purpose = method.budget, (record["seed"], record["order"])
        self.precision, self.balanced = config["precision"], config["sampling"] == "balanced"
        dtype = AUTOCAST[self.precision]
        gallery = config.get("gallery", "seen")
        self.evaluator = Evaluator(method, stream, data, record["split"], self.device, dtype, full_evaluation, gallery)

    # ---- phases ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All phases that are not finished yet; at the end the record is complete and the state is gone.

        Processes of other ranks learn along; what they are told on disk is what the first one has written.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        saved = self._load_state()
        cost = self.record["cost"]
        self._evaluate(0)
        groups = [list(self.stream)] if self.method.joint else [[task] for task in self.stream]
        for tasks in groups:
            last = tasks[-1].index
            done = saved is not None and (saved["task"], saved["phase"]) >= (last, "ended")
            for task in tasks:
                with seeded(*self.purpose, task.index, "begin"):
                    self.method.begin_task(task)
                self.method.to(self.device)
            if saved is not None and saved["task"] == last:
                self._restore(saved["method"])
            if not done:
                self._learn(tasks, saved if saved is not None and saved["task"] == last else None)
                if self.leads:
                    self._save_state(last, "ended")
                    (self.state / f"fit-{last}.ckpt").unlink(missing_ok=True)
            for task in tasks:
                self._evaluate(task.index + 1)
        if self.leads:
            self._withhold()
            cost["peak_memory_mib"].append(self._peak_memory())
            self._finish()

    def _learn(self, tasks: list[Task], saved: dict[str, Any] | None) -> None:
        """Prepare, fit, end; ``saved`` if an earlier process has prepared."""
        index = tasks[-1].index
        chosen = [self.data[task.index] for task in tasks]
        names = " + ".join(task.name for task in tasks[:1]) + (f" + {len(tasks) - 1} more" if tasks[1:] else "")
        where = f"task {index + 1}/{len(self.stream)} {names}"
        with self.method.learning():
            if saved is None:
                seconds = sum(self._look(self.method.prepare_task, data, "prepare", where) for data in chosen)
                if self.leads:
                    self._save_state(index, "begun", seconds)
            else:
                seconds = saved["seconds"]
            fitting, images = self._fit(chosen, index, where)
            seconds += fitting + sum(self._look(self.method.end_task, data, "end", where) for data in chosen)
        own = self.method.state_dict()
        cost = self.record["cost"]
        for _task in tasks:
            cost["trainable_params"].append(sum(p.numel() for p in self.method.trainable_parameters()))
            cost["stored_params"].append(sum(p.numel() for n, p in self.method.named_parameters() if n in own))
            cost["stored_bytes"].append(sum(t.numel() * t.element_size() for t in own.values()))
            cost["train_seconds"].append(seconds / len(tasks))
            cost["images_per_second"].append(images / fitting if fitting else 0.0)
        rate = f", {images / fitting:,.0f} images/s" if fitting else ""
        self.display.say(f"{where}: learned in {seconds:.1f} s{rate}")

    def _look(self, visit: Any, data: TaskData, purpose: str, where: str) -> float:
        """Show a method the training set: un-augmented, in fixed order, in eval mode, in full precision; seconds."""
        started = time.perf_counter()
        self.display.phase(f"{where}  {purpose}")
        self.method.eval()
        with seeded(*self.purpose, data.task.index, purpose), full_precision():
            visit(data.task, data.batches("train", self.device))
        return time.perf_counter() - started

    def _fit(self, chosen: list[TaskData], index: int, where: str) -> tuple[float, int]:
        """Train with a Trainer of its own (a reused one trains only its first task); seconds and images seen in them,
        earlier processes included."""
        if not self.method.trainable_parameters():
            return 0.0, 0
        purpose, checkpoint = (*self.purpose, index), self.state / f"fit-{index}.ckpt"
        trainer: L.Trainer

        def epoch_seed() -> int:
            return derive_seed(*purpose, trainer.current_epoch, "shuffle")

        hardware, budget = self.hardware, self.budget
        part = hardware.rank, hardware.devices
        loader = training_batches(chosen, budget.batch_size, self.device, epoch_seed, self.balanced, part)
        first = sum(self.steps(data) for data in self.data[: chosen[0].task.index])
        watch = EpochEnd(checkpoint, where, purpose, first, self.display, self.logger)
        trainer = L.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=hardware.devices,
            strategy=hardware.strategy,
            use_distributed_sampler=False,
            precision=self.precision,
            max_epochs=budget.epochs,
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.method.train()
        ckpt_path = checkpoint if checkpoint.is_file() else None
        with torch.random.fork_rng():
            trainer.fit(self.method, loader, ckpt_path=ckpt_path, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        self.method.to(self.device)  # the strategy's teardown moves it to the CPU
        return watch.seconds, loader.samples * budget.epochs

    def steps(self, data: TaskData) -> int:
        """Training steps of a task."""
        return self.budget.steps(len(data.splits["train"]))

    def _evaluate(self, stage: int) -> None:
        """Fill row ``stage`` of every score matrix, unless an earlier process did."""
        if self.record["stages"] > stage or not self.leads:
            return
        self.display.phase(f"evaluating after {stage} of {len(self.stream)} tasks")
        started = time.perf_counter()
        with seeded(*self.purpose, stage, "evaluate"):
            row = self.evaluator.row(stage)
        for metric in self.record["scores"]:
            for protocol in PROTOCOLS:
                cells = row[protocol]
                values = [None if c is None or np.isnan(c.metrics[metric]) else c.metrics[metric] for c in cells]
                self.record["scores"][metric][protocol][stage] = values
        self.record["router_accuracy"][stage] = [c.router_accuracy if c else None for c in row["hidden"]]
        if stage == len(self.stream):
            routed = [cell.routed if cell else None for cell in row["hidden"]]
            self.record["router_confusion"] = None if None in routed else routed
            self.record["hits"] = {
                protocol: {task.name: packed(cell) for task, cell in zip(self.stream, cells, strict=True)}
                for protocol, cells in row.items()
            }
        self._write_predictions(stage, row)
        self.record["cost"]["eval_seconds"].append(time.perf_counter() - started)
        self.record["stages"] = stage + 1
        records.write_record(self.folder, self.record)
        self.display.matrix(self.record)
        if self.logger is not None:
            self.logger.log_metrics(self._row(stage), sum(map(self.steps, self.data[:stage])))

    def _row(self, stage: int) -> dict[str, float]:
        """The scores after a stage by name: ``accuracy_given/lung_ct``."""
        return {
            f"{metric}_{protocol}/{task.name}": value
            for metric, scores in self.record["scores"].items()
            for protocol in PROTOCOLS
            for task, value in zip(self.stream, scores[protocol][stage], strict=True)
            if value is not None
        }

    def _withhold(self) -> None:
        """Of fusion: what the final model answers without the image, and without the text."""
        if self.stream.kind != "fusion" or self.record["config"].get("inputs", "both") != "both":
            return
        self.display.phase("evaluating with the image or the text withheld")
        primary, self.record["missing"] = self.record["primary"], {}
        for missing, there in zip(records.INPUTS, reversed(records.INPUTS), strict=True):
            with seeded(*self.purpose, "withhold", missing):
                rows = self.evaluator.withheld(there)
            self.record["missing"][missing] = {
                protocol: [c.metrics[primary] if c else None for c in cells] for protocol, cells in rows.items()
            }

    # ---- state on disk --------------------------------------------------------------------------------------------

    def _save_state(self, task: int, phase: str, seconds: float = 0.0) -> None:
        """``phase``: begun (prepared in so many seconds; epochs are in the fit checkpoint) or ended."""
        records.write_record(self.folder, self.record)
        temporary = self.state / "method.tmp"
        state = {"task": task, "phase": phase, "seconds": seconds, "method": self.method.state_dict()}
        torch.save(state, temporary)
        temporary.replace(self.state / "method.pt")

    def _load_state(self) -> dict[str, Any] | None:
        """The last saved phase; the record is cut back to what belongs to it."""
        path = self.state / "method.pt"
        saved = torch.load(path, map_location=self.device, weights_only=True) if path.is_file() else None
        finished = 0 if saved is None else saved["task"] + (saved["phase"] == "ended")
        for name in ("trainable_params", "stored_params", "stored_bytes", "train_seconds", "images_per_second"):
            del self.record["cost"][name][finished:]
        return saved

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        missing, unexpected = self.method.load_state_dict(state, strict=False)
        lost = [name for name in missing if name in self.method.state_dict()] + list(unexpected)
        if lost:
            raise RuntimeError(f"the saved state does not fit the method: {', '.join(lost[:5])}")

    def _write_predictions(self, stage: int, row: dict[str, list[Cell | None]]) -> None:
        """Per stage and task ``<stage>/<task>/<protocol>_<name>``; once per task its labels, of retrieval its pairs."""
        arrays: dict[str, np.ndarray] = {}
        for task in self.stream if stage == 0 else ():
            samples = self.data[task.index].splits[self.record["split"]]
            arrays[f"labels/{task.name}"] = samples.labels.numpy()
            if samples.pairs is not None:
                arrays[f"pairs/{task.name}"] = samples.pairs.numpy()
        for protocol, cells in row.items():
            for task, cell in zip(self.stream, cells, strict=True):
                for name, values in cell.arrays.items() if cell else ():
                    arrays[f"{stage}/{task.name}/{protocol}_{name}"] = values
        with open(self.state / "predictions.tmp", "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        (self.state / "predictions.tmp").replace(self.state / f"predictions-{stage}.npz")

    def _finish(self) -> None:
        """Predictions in one file, the method, its experts in PEFT's format, the record complete, the state gone."""
        arrays: dict[str, np.ndarray] = {}
        for stage in range(len(self.stream) + 1):
            with np.load(self.state / f"predictions-{stage}.npz", allow_pickle=False) as part:
                arrays.update(part)
        with open(self.folder / "predictions.tmp", "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        (self.folder / "predictions.tmp").replace(self.folder / "predictions.npz")
        own = {name: tensor.detach().cpu().clone() for name, tensor in self.method.state_dict().items()}
        save_file({name: tensor.contiguous() for name, tensor in own.items()}, self.folder / "method.tmp")
        (self.folder / "method.tmp").replace(self.folder / "method.safetensors")
        experts: Any = getattr(self.method, "experts", None)
        for name in getattr(experts, "names", ()):
            experts.save(name, self.folder / "experts" / name)
        self.record["summary"] = records.summarise(
            self.record["scores"], self.record["primary"], self.record.get("missing")
        )
        self.record["provenance"]["finished"] = records.now()
        self.record["status"] = "complete"
        records.write_record(self.folder, self.record)
        shutil.rmtree(self.state)

    def _peak_memory(self) -> float:
        """MiB: of the device, or of this process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
