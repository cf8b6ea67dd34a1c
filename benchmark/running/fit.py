"""Training on one task, or on all at once: the only file that owns a Trainer.

Every epoch is seeded from (seed, order, task, epoch, purpose) and ends with a checkpoint, so it is a pure function of
the state it starts from, and a killed fit goes on at its last finished epoch.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from benchmark.data.batches import TaskData, training_batches
from benchmark.errors import RunFailed
from benchmark.record.parts import Divergence
from benchmark.running import mistakes
from benchmark.running.divergence import Diverged, first_not_finite, not_finite
from benchmark.running.hardware import Hardware, full_precision
from benchmark.running.memory_limit import told_when_full
from benchmark.running.progress import Display
from benchmark.running.seeds import derive_seed
from benchmark.running.state import FitCheckpoints
from benchmark.stream import Share
from methods.base import IncrementalMethod

WAIT = timedelta(days=30)  # of processes that learn together for one that evaluates


@dataclass(frozen=True)
class Lesson:
    """What is learned in one fit.

    Args:
        data: of the tasks, one but for joint training.
        purpose: what the fit's random numbers are seeded from.
        checkpoints: where the state after each epoch is written.
        where: the task in words, ``task`` its name. first: training steps before this fit.
    """

    data: Sequence[TaskData]
    purpose: tuple[object, ...]
    checkpoints: FitCheckpoints
    where: str
    first: int = 0
    balanced: bool = False

    @property
    def task(self) -> str:
        return " + ".join(data.task.name for data in self.data)


def fit(
    method: IncrementalMethod, lesson: Lesson, hardware: Hardware, precision: str, display: Display,
    logger: Logger | None = None,
) -> tuple[float, int]:  # fmt: skip
    """Train with a Trainer of its own (a reused one trains only its first task).

    Returns:
        Seconds and images seen in them, earlier processes included; zeros for a method that trains nothing.

    Raises:
        Diverged: a loss or a trained parameter is not finite; the last state on disk is from before.
        RunFailed: the method breaks its contract, or raises an error in its own file.
        UserError: there is no memory left for a batch.
    """
    trained = mistakes.check_trainable(method)
    if not trained:
        return 0.0, 0
    budget, device = method.budget, hardware.device
    trainer: L.Trainer

    def epoch_seed() -> int:
        return derive_seed(*lesson.purpose, trainer.current_epoch, "shuffle")

    part = hardware.rank, hardware.devices
    loader = training_batches(lesson.data, budget.batch_size, device, epoch_seed, lesson.balanced, part)
    watch = EpochEnd(lesson, display, logger, trained)
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=hardware.devices,
        strategy=strategy(hardware),
        use_distributed_sampler=False,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=budget.epochs,
        callbacks=[watch],
        plugins=[lesson.checkpoints],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    method.train()
    # Lightning's handler makes of SIGTERM an exit with status 0
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    full = told_when_full(f"{lesson.where}, training", budget.batch_size)
    known = mistakes.told(method, f"{lesson.where}, training")
    with torch.random.fork_rng(), _interruptible(), full, known:
        try:
            trainer.fit(method, loader, ckpt_path=lesson.checkpoints.last, weights_only=True)
        except MisconfigurationException as error:
            raise RunFailed(f"{type(method).__name__}: {' '.join(str(error).split())}") from error
    method.to(device)  # the strategy's teardown moves it to the CPU
    return watch.seconds, loader.samples * budget.epochs


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning makes of Ctrl-C an exit with status 1, and is deaf to it from then on: here it stays what it was."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != before:
            signal.signal(signal.SIGINT, before)


def strategy(hardware: Hardware) -> str | DDPStrategy:
    """Lightning's. Of several processes the others wait in a collective as long as the first one evaluates."""
    if hardware.devices == 1:
        return hardware.strategy
    return DDPStrategy(timeout=WAIT, find_unused_parameters=hardware.strategy.endswith("_true"))


def look(method: IncrementalMethod, visit: Any, data: TaskData, device: torch.device) -> None:
    """Show a method a task's training set: un-augmented, in fixed order, in eval mode, in full precision."""
    method.eval()
    with full_precision():
        visit(data.task, data.batches("train", device))


class EpochEnd(L.Callback):
    """Seeds each epoch, shows and logs steps, and puts the state on disk after each epoch, if it is finite.

    ``seconds``: of all finished epochs, those of earlier processes included.
    """

    def __init__(
        self, lesson: Lesson, display: Display, logger: Logger | None, trained: Sequence[nn.Parameter]
    ) -> None:
        self.lesson, self.display, self.logger, self.seconds = lesson, display, logger, 0.0
        self.trained = trained  # what the optimiser has
        self.unread: list[tuple[int, float, Tensor]] = []  # step of the task, learning rate, loss on its device

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What a method has found in its look at the data may differ in the last bits: all go on with the first's.

        Of parameters and buffers the strategy does the same.
        """
        if trainer.world_size == 1:
            return
        memory: Any = pl_module.memory
        found = trainer.strategy.broadcast({name: tensor.cpu() for name, tensor in memory.items()})
        if not trainer.is_global_zero:
            for name in [name for name in memory if name not in found]:
                del memory[name]
            for name, tensor in found.items():
                memory[name] = tensor.to(memory[name].device if name in memory else pl_module.device)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint["seconds"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.manual_seed(derive_seed(*self.lesson.purpose, trainer.current_epoch, "steps"))
        self.started, self.seen = time.perf_counter(), 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        pl_module.share = trainer.train_dataloader.share(batch_idx)  # type: ignore[union-attr]
        self.lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if not loss.requires_grad:
            method: Any = pl_module
            raise mistakes.broken(type(method), "loss", "depends on no parameter that is trained")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        share: Share | None = pl_module.share  # type: ignore[assignment]
        self.unread.append((trainer.global_step, self.lr, outputs["loss"]))
        self.seen += len(batch["label"]) if share is None else share.size
        step = self.lesson.first + trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        where = f"{self.lesson.where}  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        loss = None  # reading it waits for the device
        rate = self.seen / max(time.perf_counter() - self.started, 1e-9)
        if batch_idx == 0:
            mistakes.check_grown(pl_module, self.trained)  # type: ignore[arg-type]
        if batch_idx % 10 == 0 or trainer.is_last_batch:
            loss = self.loss = self._read(trainer)
            if self.logger is not None:
                self.logger.log_metrics({"loss": loss, "images_per_second": rate}, step)
        self.display.step(where, step, loss, rate)

    def _read(self, trainer: L.Trainer) -> float:
        """The last loss; one wait for the device for all losses since the last look, which have to be finite.

        Of processes that learn together it is that of the whole batch, for all of them alike.
        """
        steps, rates, losses = zip(*self.unread, strict=True)
        self.unread = []
        found: Any = trainer.strategy.reduce(torch.stack(losses), reduce_op="mean")
        values: list[float] = found.tolist()
        bad = first_not_finite(values)
        if bad is not None:
            epoch, loss = trainer.current_epoch + 1, str(values[bad])
            what = "diverged, the loss is not finite"
            raise Diverged(Divergence(self.lesson.task, what, epoch, steps[bad], loss, rates[bad]))
        return values[-1]

    def _check(self, trainer: L.Trainer, method: IncrementalMethod, loss: float) -> None:
        """The trained parameters have to be finite."""
        trained = {id(parameter) for parameter in method.trainable_parameters()}
        name = not_finite({name: value for name, value in method.named_parameters() if id(value) in trained})
        if name is not None:
            epoch, step = trainer.current_epoch + 1, trainer.global_step
            what = f"diverged, the parameter {name} is not finite"
            raise Diverged(Divergence(self.lesson.task, what, epoch, step, str(loss), self.lr))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.share = None  # type: ignore[assignment]
        self._check(trainer, pl_module, self.loss)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - self.started
        trainer.save_checkpoint(self.lesson.checkpoints.after(trainer.current_epoch))
