"""Lightning's loggers by the names it gives them; the record is written with or without one."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


def check(name: str | None) -> None:
    """Raises UserError if the package of this logger is not installed."""
    if name not in (None, "csv") and find_spec(str(name)) is None:
        raise UserError(f"--logger {name}: the package is not installed: pip install {name}")


def made(name: str, folder: Path, title: str) -> Logger:
    """The logger of a run; its files go to ``<the run's folder>/logs``, which git ignores.

    Args:
        title: of the run, where the service shows names. wandb and mlflow read their own environment variables.
    """
    from lightning.pytorch import loggers
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    # Lightning has it from the environment that it was imported in, whoever's that is
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if name == "csv":  # a run that continues writes another part: Lightning removes a file that is there
        part = f"part{len(list(logs.glob('part*'))) + 1}"
        return loggers.CSVLogger(folder, name="logs", version=part, flush_logs_every_n_steps=1)
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="logs", version="")
    if name == "wandb":
        return loggers.WandbLogger(title, save_dir=logs, project="mbil-bench")
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(logs / 'mlflow.db').resolve()}")
    return loggers.MLFlowLogger("mbil-bench", run_name=title, tracking_uri=uri)
