"""Lightning's loggers by the names it gives them; the record is written with or without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


def made(name: str | None, folder: Path, title: str) -> Logger | None:
    """The logger of a run, or None; files go to ``<run's folder>/logs``, which git ignores.

    Args:
        title: of the run, where the service shows names. wandb and mlflow read their own environment variables.

    Raises:
        UserError: the logger's package is not installed.
    """
    if name is None:
        return None
    from lightning.pytorch import loggers

    try:
        if name == "csv":
            return loggers.CSVLogger(folder, name="logs", version="")
        if name == "tensorboard":
            return loggers.TensorBoardLogger(folder, name="logs", version="")
        if name == "wandb":
            return loggers.WandbLogger(title, save_dir=folder / "logs", project="mbil-bench")
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"file:{(folder / 'logs').resolve()}")
        return loggers.MLFlowLogger("mbil-bench", run_name=title, tracking_uri=uri)
    except ModuleNotFoundError as error:
        raise UserError(f"--logger {name}: pip install {name} ({' '.join(str(error).split())})") from None
