"""The loop over tasks: the only file that owns a Trainer.

For each task: begin, prepare, fit, end, evaluate. The state after each phase is on disk, so a run that was killed goes
on at its last finished phase or epoch. Everything random in (task, epoch) is seeded from (seed, order, task, epoch,
purpose): an epoch is a pure function of the state it starts from, and no state of a generator is ever saved.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from benchmark import records
from benchmark.data.module import TaskData, training_batches
from benchmark.evaluate import PROTOCOLS, Cell, Evaluator
from benchmark.progress import Display
from benchmark.stream import Stream, Task
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


class EpochEnd(L.Callback):
    """Seeds each epoch, shows each step, and puts the state on disk after each epoch."""

    def __init__(self, path: Path, where: str, display: Display, purpose: tuple[object, ...]) -> None:
        self.path, self.where, self.display, self.purpose = path, where, display, purpose

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.manual_seed(derive_seed(*self.purpose, trainer.current_epoch, "steps"))
        self.started, self.seen = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += len(batch["label"])
        loss = outputs["loss"].item() if batch_idx % 10 == 0 or trainer.is_last_batch else None
        where = f"{self.where}  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.display.step(where, loss, self.seen / max(time.perf_counter() - self.started, 1e-9))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        temporary = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary)
        temporary.replace(self.path)


class Loop:
    """One run of a method over a stream.

    Args:
        method: attached to its backbone, on the device.
        data: the tasks' samples, in the run's order.
        record: what is known of the run so far (``benchmark.records``); its scores are filled here.
        folder: the run's folder.
    """

    def __init__(
        self, method: IncrementalMethod, stream: Stream, data: list[TaskData], record: records.Record, folder: Path,
        device: torch.device, display: Display, full_evaluation: bool = False,
    ) -> None:  # fmt: skip
        self.method, self.stream, self.data, self.record = method, stream, data, record
        self.folder, self.state, self.device, self.display = folder, folder / "state", device, display
        config = record["config"]
        self.budget, self.purpose = method.budget, (record["seed"], record["order"])
        self.precision, self.balanced = config["precision"], config["sampling"] == "balanced"
        dtype = AUTOCAST[self.precision]
        gallery = config.get("gallery", "seen")
        self.evaluator = Evaluator(method, stream, data, record["split"], device, dtype, full_evaluation, gallery)

    # ---- phases ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All phases that are not finished yet; at the end the record is complete and the state is gone."""
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
                self._learn(tasks, prepared=saved is not None and saved["task"] == last)
                self._save_state(last, "ended")
                (self.state / f"fit-{last}.ckpt").unlink(missing_ok=True)
            for task in tasks:
                self._evaluate(task.index + 1)
        self._withhold()
        cost["peak_memory_mib"].append(self._peak_memory())
        self._finish()

    def _learn(self, tasks: list[Task], prepared: bool) -> None:
        """Prepare, fit, end."""
        index, started = tasks[-1].index, time.perf_counter()
        chosen = [self.data[task.index] for task in tasks]
        names = " + ".join(task.name for task in tasks[:1]) + (f" + {len(tasks) - 1} more" if tasks[1:] else "")
        where = f"task {index + 1}/{len(self.stream)} {names}"
        with self.method.learning():
            if not prepared:
                for data in chosen:
                    self._look(self.method.prepare_task, data, "prepare", where)
                self._save_state(index, "begun")
            fitted = self._fit(chosen, index, where)
            for data in chosen:
                self._look(self.method.end_task, data, "end", where)
        seconds = time.perf_counter() - started
        own = self.method.state_dict()
        cost = self.record["cost"]
        for _task in tasks:
            cost["trainable_params"].append(sum(p.numel() for p in self.method.trainable_parameters()))
            cost["stored_params"].append(sum(p.numel() for n, p in self.method.named_parameters() if n in own))
            cost["stored_bytes"].append(sum(t.numel() * t.element_size() for t in own.values()))
            cost["train_seconds"].append(seconds / len(tasks))
            cost["images_per_second"].append(fitted)
        self.display.say(
            f"{where}: learned in {seconds:.1f} s, {fitted:,.0f} images/s" if fitted else f"{where}: learned"
        )

    def _look(self, visit: Any, data: TaskData, purpose: str, where: str) -> None:
        """Show a method the training set: un-augmented, in fixed order, in eval mode, in full precision."""
        self.display.phase(f"{where}  {purpose}")
        self.method.eval()
        with seeded(*self.purpose, data.task.index, purpose), full_precision():
            visit(data.task, data.batches("train", self.device))

    def _fit(self, chosen: list[TaskData], index: int, where: str) -> float:
        """Train with a Trainer of its own (a reused one trains only its first task); images per second."""
        if not self.method.trainable_parameters():
            return 0.0
        purpose, checkpoint = (*self.purpose, index), self.state / f"fit-{index}.ckpt"
        trainer: L.Trainer

        def epoch_seed() -> int:
            return derive_seed(*purpose, trainer.current_epoch, "shuffle")

        loader = training_batches(chosen, self.budget.batch_size, self.device, epoch_seed, self.balanced)
        trainer = L.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=self.precision,
            max_epochs=self.budget.epochs,
            callbacks=[EpochEnd(checkpoint, where, self.display, purpose)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.method.train()
        started, resumed = time.perf_counter(), checkpoint.is_file()
        with torch.random.fork_rng():
            trainer.fit(self.method, loader, ckpt_path=checkpoint if resumed else None, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        self.method.to(self.device)  # the strategy's teardown moves it to the CPU
        return 0.0 if resumed else loader.samples * self.budget.epochs / (time.perf_counter() - started)

    def _evaluate(self, stage: int) -> None:
        """Fill row ``stage`` of every score matrix, unless an earlier process did."""
        if self.record["stages"] > stage:
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
        self._write_predictions(stage, row)
        self.record["cost"]["eval_seconds"].append(time.perf_counter() - started)
        self.record["stages"] = stage + 1
        records.write_record(self.folder, self.record)

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

    def _save_state(self, task: int, phase: str) -> None:
        """``phase``: begun (prepared; epochs are in the fit checkpoint) or ended."""
        records.write_record(self.folder, self.record)
        temporary = self.state / "method.tmp"
        torch.save({"task": task, "phase": phase, "method": self.method.state_dict()}, temporary)
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
        """Predictions in one file, experts in PEFT's format, the record complete, the state gone."""
        arrays: dict[str, np.ndarray] = {}
        for stage in range(len(self.stream) + 1):
            with np.load(self.state / f"predictions-{stage}.npz", allow_pickle=False) as part:
                arrays.update(part)
        with open(self.folder / "predictions.tmp", "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        (self.folder / "predictions.tmp").replace(self.folder / "predictions.npz")
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
