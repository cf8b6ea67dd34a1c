"""What a trained method says of new images: a CSV with the task, the class and its probability for every image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmark.data.cache import resized
from benchmark.data.sources.images import Images
from benchmark.deploy.trained import Trained, load
from benchmark.errors import UserError
from benchmark.record.files import csv_text, decimals, write_text
from benchmark.stream import Task

COLUMNS = ("image", "task", "class", "probability")
BATCH = 64


def predict(
    run: Path, images: Path, task: str | None, to: Path, top: int = 1, inputs: str | None = None,
    method: str | None = None,
) -> int:  # fmt: skip
    """Write ``to``: ``top`` rows for every image below ``images``, the likeliest class first; returns how many images.

    Args:
        task: whose classes are the candidates; None: the classes of all tasks, and the method finds the task.
        inputs: ``image`` to let a run that learned from image and text answer without the text.
        method: the plug-in that made the run, ``package.module:Class``, if one did: it is imported.

    ``task`` in the CSV is the one given, or where the method has a router the one it sends the image to, else the task
    of the class. ``probability`` is the softmax over the candidates, which no method here was trained to calibrate.

    Raises:
        UserError: no such run, no images, a file that is none, or a method that cannot answer so.
    """
    if top < 1:
        raise UserError(f"--top: expected a whole number of at least 1, got {top}")
    paths = _images(images)
    trained = load(run, method)
    kind = trained.record.kind
    if trained.method.backbone.speaks:
        raise UserError(f"{run}: a run on a vision-language model answers questions, and predict asks none: it names "
                        "the classes of a CLIP")  # fmt: skip
    if not kind.labelled:
        raise UserError(f"{run}: a {kind.name} run finds texts and has no classes to predict")
    if kind.reads_text and "image" not in (inputs, trained.record.config.inputs):
        raise UserError(
            f"{run}: learned from image and text, of which images are one: --inputs image answers from them"
        )
    chosen = None if task is None else trained.task(task)
    if chosen is None and trained.method.requires_task_id:
        raise UserError(f"{run}: {trained.record.method} has to be told the task: --task NAME")
    rows: list[list[str]] = []
    with torch.no_grad():
        for start in range(0, len(paths), BATCH):
            rows += _answers(trained, images, paths[start : start + BATCH], chosen, top)
    write_text(to, csv_text(COLUMNS, rows))
    return len(paths)


def _images(folder: Path) -> list[Path]:
    """Every image below a folder, sorted; or the one file that is named."""
    if folder.is_file():
        return [folder]
    known = Image.registered_extensions()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    if not paths:
        raise UserError(f"--images {folder}: {'no image in this folder' if folder.is_dir() else 'no such folder'}")
    return paths


def _answers(trained: Trained, folder: Path, paths: Sequence[Path], task: Task | None, top: int) -> Iterator[list[str]]:
    method, stream = trained.method, trained.stream
    pixels = resized(Images(paths), method.backbone.image_size, method.backbone.framing)
    batch = {"image": torch.from_numpy(pixels)}
    labels = stream.labels() if task is None else task.labels
    probability_BC = method.scores(batch, labels, task).float().softmax(dim=1)
    if probability_BC.isnan().any():
        raise UserError(f"{trained.record.method} has no answer {'without a task' if task is None else 'here'}")
    route_B = method.route(batch) if task is None else None
    best_Bk = probability_BC.topk(min(top, len(labels)), dim=1)
    for row, path in enumerate(paths):
        name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
        for chance, column in zip(best_Bk.values[row].tolist(), best_Bk.indices[row].tolist(), strict=True):
            label = labels[column]
            yield [name, _task(trained, task, route_B, row, label.id), label.name, decimals(chance)]


def _task(trained: Trained, task: Task | None, route_B: Tensor | None, row: int, label: int) -> str:
    if task is not None:
        return task.name
    routed = -1 if route_B is None else int(route_B[row])
    if routed >= 0:
        return trained.stream.tasks[routed].name
    owners = [each.name for each in trained.stream if label in [own.id for own in each.labels]]
    return owners[0] if len(owners) == 1 else ""  # one label space for all domains: the class tells no task
