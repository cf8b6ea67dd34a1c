"""The suite from Python: a run and what it found, the tables, what there is to choose from.

What is wrong raises :class:`UserError`, a run that came to no end :class:`RunFailed`, with the sentence that the
command line prints. Relative paths are those of the working folder, runs go to ``results/local`` there, and torch is
imported only where something is computed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import endings
from benchmark.errors import RunFailed, UserError, forget_notices, shown, unknown
from benchmark.record import shelves
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.stored import read_record

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame
    from PIL import Image

    from benchmark.deploy.trained import Trained

    Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Image.Image | NDArray[np.uint8]]

__all__ = ["Run", "RunFailed", "UserError", "leaderboard", "load", "methods", "run", "streams"]


def run(method: str | None = None, stream: str | None = None, **options: object) -> Run:
    """Run a method over a stream of tasks, or continue such a run; one that is complete is not run again.

    >>> import benchmark
    >>> run = benchmark.run("ncm", "smoke", seed=0, quiet=True)
    >>> run.folder.name
    'seed0-order0'
    >>> benchmark.run("ncm", "smoke", epoch=3)
    Traceback (most recent call last):
    benchmark.errors.UserError: unknown argument '--epoch' (did you mean '--epochs'?)

    Args:
        method: a file of ``methods/``, ``package.module:Class`` or ``path/to/file.py``; :func:`methods` lists them.
        stream: a file of ``datasets/streams/`` or the path of a YAML file; :func:`streams` lists them.
        options: those of the command ``run``, with ``_`` for other signs: ``seed=1, batch_size=16, force=True``, and
            ``method_rank=16`` for ``--method.rank 16``. ``quiet=True`` prints nothing.

    Raises:
        UserError: anything wrong with the input; nothing has been written then.
        RunFailed: the run has diverged, or the method breaks its contract.
        KeyboardInterrupt: it was interrupted; the same call continues.
    """
    from benchmark.compare.tables import console
    from benchmark.config import arguments
    from benchmark.sweep import one

    named = {"method": method, "stream": stream}
    argv = arguments.typed({name: value for name, value in named.items() if value is not None} | options)
    forget_notices()
    config, _, _ = arguments.parse("run", argv, with_class=False)
    if config.devices != 1:
        raise UserError(f"--devices {config.devices}: several learn together in processes that the command starts: "
                        "python -m benchmark run")  # fmt: skip
    shown_in = console()
    shown_in.quiet = options.get("quiet") is True
    with endings.interruptible():
        config, folder = one.run(argv, shown_in)
    return Run(folder.absolute(), config.method)


def load(folder: str | os.PathLike[str], method: str | None = None) -> Run:
    """The run in a folder: one that was made here, or came from elsewhere.

    >>> import benchmark
    >>> made = benchmark.run("ncm", "smoke", quiet=True)
    >>> benchmark.load(made.folder) == made
    True

    Args:
        folder: with ``run.json`` in it.
        method: of a run whose method is a plug-in, ``package.module:Class``: :meth:`Run.predict` imports it then, never
            because a record says so.

    Raises:
        UserError: there is no record, or a damaged one.
    """
    found = Run(_path("folder", folder).absolute(), method)
    assert found.record
    return found


def leaderboard(stream: str, metric: str | None = None, results: str | os.PathLike[str] = shelves.OWN) -> DataFrame:
    """The leaderboard of a stream: a row per method, settings and protocol, the best first, in fractions.

    The columns are those of ``results/leaderboards/<stream>.csv``; nothing is written. Without ``results`` it has the
    stored runs, and beside them your own, which are marked ``(own)``.

    >>> import benchmark
    >>> table = benchmark.leaderboard("phantom20")
    >>> sorted(table.protocol.unique())
    ['given', 'hidden']

    Args:
        metric: by ``balanced_accuracy`` or ``macro_auroc`` instead of each task's own.
        results: a folder of runs/ that stands for itself.

    Raises:
        UserError: no record of that stream, or none that was measured so.
    """
    import pandas as pd

    from benchmark.compare import leaderboard as board
    from benchmark.compare.rows import LEADERBOARD

    forget_notices()
    if not isinstance(stream, str):
        raise unknown("stream", stream, board.with_records(_path("results", results)))
    rows = board.rows_of(_path("results", results), stream, metric)
    columns = [*LEADERBOARD, *dict.fromkeys(name for row in rows for name in row.more)]
    return pd.DataFrame({name: [_number(row.cells.get(name)) for row in rows] for name in columns})


def methods() -> dict[str, str]:
    """The methods by name, each with a line on what it is.

    >>> import benchmark
    >>> benchmark.methods()["zero_shot"]
    'Zero-shot: the frozen model answers, nothing is learned.'
    """
    from benchmark.config import listing, registry

    unread = registry.drafts()
    return {name: line for name, line in listing.rows("methods") if name not in unread}


def streams() -> dict[str, str]:
    """The streams by name, each with a line on what it is.

    >>> import benchmark
    >>> "phantom8" in benchmark.streams()
    True
    """
    from benchmark.config import listing

    return dict(listing.rows("streams"))


@dataclass(frozen=True)
class Run:
    """One run: a method after every task of a stream, scored on all of them. ``run`` in the examples below is one.

    >>> import benchmark
    >>> run = benchmark.run("ncm", "smoke", quiet=True)

    Attributes:
        folder: with ``run.json``, the matrices, and on the machine that made the run what it learned.
        method: the name that was typed; of a plug-in :meth:`predict` imports it.
    """

    folder: Path
    method: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    @cached_property
    def record(self) -> Record:
        """All that is known of the run, typed: ``run.record.cost.train_seconds``, ``run.record.settings`` ..."""
        return read_record(self.folder)

    @property
    def summary(self) -> DataFrame:
        """The numbers of the run, a row each, with the identity of tasks given and hidden; NaN where undefined.

        >>> float(run.summary.loc["forgetting", "given"])
        0.0

        Raises:
            UserError: the run is unfinished.
        """
        import pandas as pd

        if self.record.summary is None:
            raise UserError(f"{self.folder}: the run is unfinished; what began it continues")
        named = {protocol: [*self.record.summary[protocol]] for protocol in PROTOCOLS}
        told = {
            protocol: {name: self.record.number(protocol, name) for name in names} for protocol, names in named.items()
        }
        return pd.DataFrame(told, dtype=float)

    def matrix(self, protocol: str = "given", metric: str | None = None) -> DataFrame:
        """The score on every task (columns) after every task learned (rows, ``before`` the first one), a fraction; NaN
        where it is undefined.

        >>> run.matrix("hidden").shape
        (3, 2)

        Args:
            protocol: ``given`` or ``hidden``: whether the method is told which task a sample is of.
            metric: one of ``run.record.scores``; default: each task's own.

        Raises:
            UserError: no such protocol or metric.
        """
        import pandas as pd

        scores, metric = self.record.scores, metric or self.record.primary
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        if metric not in scores:
            raise unknown("metric", metric, scores)
        tasks = self.record.stream.task_names
        return pd.DataFrame(scores[metric][protocol], ["before", *tasks], tasks, dtype=float)

    def plot(self, protocol: str = "given", metric: str | None = None) -> Figure:
        """The matrix as a heat map, in per cent: a figure of matplotlib.

        >>> run.plot().savefig("matrix.png")

        Raises:
            UserError: as :meth:`matrix`, or no cell of it is known.
        """
        from benchmark.compare.tables import spoken
        from benchmark.report.figures import score_matrix, shown_alone

        scores, metric = self.matrix(protocol, metric), metric or self.record.primary
        if scores.isna().all(axis=None):
            raise UserError(f"{self.folder}: no {spoken(metric)} with the identity {protocol}")
        words = f"{self.record.method}, {spoken(metric)} in per cent"
        return shown_alone(score_matrix, scores.values.tolist(), list(scores.columns), protocol, words)

    def predict(
        self, images: Images, task: str | None = None, top: int = 1, inputs: str | None = None,
        instruction: str | None = None, abstain: float = 0.0, calibrate: str | os.PathLike[str] | None = None,
    ) -> DataFrame:  # fmt: skip
        """What the method says of new images: a row each, with the columns of the command ``predict``.

        >>> import numpy
        >>> noise = numpy.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), numpy.uint8)
        >>> run.predict(list(noise))[["image", "task"]].shape
        (2, 2)

        Args:
            images: a folder, a file, or several images: files, PIL images (grey or RGB), arrays of uint8 (H, W) or
                (H, W, 3), which are named by their number.
            task: whose classes to choose from; None: the method finds the task.
            top: so many classes of an image, the likeliest first.
            inputs: ``image`` to let a run that learned from image and text answer without the text.
            instruction: what is asked of every image, of a run that answers in words.
            abstain: no class below this probability.
            calibrate: the folder of data: probabilities by the temperature that fits the stream's validation samples.

        Raises:
            UserError: the run left nothing on this machine, no image is readable, or the method cannot answer so.
        """
        import pandas as pd

        from benchmark.deploy import new_images, predict

        data = None if calibrate is None else _path("calibrate", calibrate)
        asked = predict.Request(task, top, inputs, instruction, abstain, data)
        if isinstance(images, str | os.PathLike):
            pictures = new_images.below(_path("images", images))
        else:
            pictures = new_images.of(images)
        said = predict.answered(self.folder, self._trained, pictures, asked)
        found = pd.DataFrame(said.rows, columns=list(said.columns))
        return found.assign(**{name: pd.to_numeric(found[name]) for name in ("margin", "probability") if name in found})

    @cached_property
    def _trained(self) -> Trained:
        from benchmark.deploy import trained

        return trained.load(self.folder, self.method)


def _path(name: str, value: object) -> Path:
    """A path that is typed; what is empty would be the working folder."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip() or "\0" in str(value):
        raise UserError(f"{name}: expected a path, got {shown(value)}")
    return Path(value)


def _number(value: Any) -> Any:
    return math.nan if value is None else value
