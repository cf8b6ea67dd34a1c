"""What a trained method says of new images, as a CSV: a class with its probability, or an answer in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import kinds
from benchmark.data.cache import resized
from benchmark.data.task_keys import MOST_WORDS
from benchmark.deploy.calibration import calibrated
from benchmark.deploy.new_images import Picture, below, pixels
from benchmark.deploy.trained import Trained, load
from benchmark.errors import UserError, unknown
from benchmark.record.files import csv_text, decimals, write_text
from benchmark.stream import Task
from methods.base import Batch, with_route

CLASSES = ("image", "task", "margin", "class", "probability", "note")
WORDS = ("image", "task", "margin", "instruction", "answer", "note")
BATCH, SPOKEN = 64, 16  # images at a time, of a CLIP and of a vision-language model
CUT = "cut off: the longest answer allowed"
Rows = list[tuple[str, ...]]  # of one image, behind its name
Answers = Callable[[Batch], list[Rows]]


@dataclass(frozen=True)
class Request:
    """What is asked of a method about images.

    Args:
        task: whose classes are the candidates, or who answers; None: the classes of all tasks, and the method finds
            the task. ``task`` of an answer is the one given, or where the method has a router the one it sends the
            image to, else the task of the class; its ``margin`` is how far the router's score of that task lies above
            the next one's (:meth:`methods.base.IncrementalMethod.task_scores`): at 0 it is a toss-up.
        top: so many classes of an image, the likeliest first.
        inputs: ``image`` to let a run that learned from image and text answer without the text.
        instruction: what is asked of every image, for an answer in words; None: what the task itself asks.
        abstain: an image whose likeliest class is less probable gets none.
        calibrate: the folder of data, to divide the scores by the temperature under which the validation samples of the
            run's stream are likeliest (:mod:`benchmark.deploy.calibration`).

    Raises:
        UserError: a number out of range.
    """

    task: str | None = None
    top: int = 1
    inputs: str | None = None
    instruction: str | None = None
    abstain: float = 0.0
    calibrate: Path | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UserError(f"--top: expected a whole number of at least 1, got {self.top}")
        if not 0 <= self.abstain < 1:
            raise UserError(f"--abstain: expected a probability, at least 0 and less than 1, got {self.abstain}")
        if self.inputs not in (None, "image"):
            raise unknown("--inputs", self.inputs, ["image"])


@dataclass(frozen=True)
class Said:
    """What a method said: ``columns``, the rows of all images, the images that could not be read with the reason, and
    how the probabilities were calibrated, if they were."""

    columns: tuple[str, ...]
    rows: Rows
    unread: list[str]
    calibrated: str = ""


def predict(
    run: Path, images: Path, asked: Request, to: Path, method: str | None = None, overwrite: bool = False
) -> str:
    """Write ``to``: what the method of a run says of every image below ``images``; returns in a line what was done.

    Args:
        method: the plug-in that made the run, ``package.module:Class``, if one did: it is imported.

    Raises:
        UserError: no such run, no image or none that is readable, ``to`` is there, or a method that cannot answer so.
    """
    if to.exists() and not overwrite:
        raise UserError(f"--to {to}: there is something already; --overwrite replaces it")
    pictures = below(images)
    said = answered(run, load(run, method), pictures, asked)
    write_text(to, csv_text(said.columns, said.rows))
    return (
        f"{to}: {len(pictures)} image{'s' * (len(pictures) > 1)}"
        + (f", {len(said.unread)} of them not readable (column note)" if said.unread else "")
        + said.calibrated
    )


def answered(run: Path, trained: Trained, pictures: Sequence[tuple[str, Picture]], asked: Request) -> Said:
    """What the method of a run says of images.

    Of classes ``top`` rows for an image, the likeliest first; ``probability`` is the softmax over the candidates, which
    no method here was trained to calibrate: ``calibrate`` does. Of tasks that are answered in words the instruction and
    the answer. A file that is not readable has a row with the reason as its ``note``.

    Args:
        pictures: each with its name: a file, or pixels of uint8 as (H, W) grey or (H, W, 3).

    Raises:
        UserError: none of the images is readable, or a method that cannot answer so.
    """
    chosen = None if asked.task is None else trained.task(asked.task)
    if chosen is None and trained.method.requires_task_id:
        raise UserError(f"{run}: {trained.record.method} has to be told the task: --task NAME")
    among, told = list(trained.stream) if chosen is None else [chosen], ""
    speaks = any(kinds.of(each.kind).speaks for each in among)
    if speaks:
        typed = {"--top": asked.top > 1, "--abstain": asked.abstain, "--inputs": asked.inputs,
                 "--calibrate": asked.calibrate}  # fmt: skip
        option = next((name for name, value in typed.items() if value), "")
        if option:
            raise UserError(f"{option}: is for classes, and {asked.task or run} is answered in words")
        question = _question(among, asked.instruction, asked.task or str(run))
        answers: Answers = partial(_in_words, trained, chosen, question)
    else:
        _check_classes(trained, run, asked.inputs, asked.instruction)
        question = _question(among, None, asked.task or str(run)) if trained.method.backbone.speaks else ""
        if asked.calibrate is not None and trained.method.backbone.speaks:
            raise UserError(f"--calibrate: is for the scores of a CLIP, and {run} learned on a vision-language model")
        found = None if asked.calibrate is None else calibrated(
            run, trained, chosen, asked.calibrate, asked.inputs or trained.record.config.inputs
        )  # fmt: skip
        scale, told = (1.0, "") if found is None else (found.value, f"; {found.sentence}")
        answers = partial(_as_classes, trained, chosen, asked.top, asked.abstain, scale)
    rows: Rows = []
    unread = []
    size = SPOKEN if trained.method.backbone.speaks else BATCH
    for part in (pictures[start : start + size] for start in range(0, len(pictures), size)):
        read = [pixels(picture) for _, picture in part]
        images_here = [image for image in read if not isinstance(image, str)]
        with torch.no_grad():
            found_here = iter(answers(_batch(trained, images_here, question)) if images_here else [])
        for (name, _), image in zip(part, read, strict=True):
            unread += [f"{name}: {image}"] if isinstance(image, str) else []
            told_here = [("", "", "", "", image)] if isinstance(image, str) else next(found_here)
            rows += [(name, *row) for row in told_here]
    if len(unread) == len(pictures):
        raise UserError(f"--images: none is readable; {unread[0]}")
    return Said(WORDS if speaks else CLASSES, rows, unread, told)


def _check_classes(trained: Trained, run: Path, inputs: str | None, instruction: str | None) -> None:
    kind, reads = trained.record.kind, any(kinds.of(task.kind).reads_text for task in trained.stream)
    if instruction is not None:
        raise UserError(f"--instruction: is for answers in words, and {run} answers with one of its classes")
    if kind.searches:
        raise UserError(f"{run}: a {kind.name} run finds texts and has no classes to predict")
    if reads and "image" not in (inputs, trained.record.config.inputs):
        raise UserError(
            f"{run}: learned from image and text, of which images are one: --inputs image answers from them"
        )


def _question(asked: Sequence[Task], typed: str | None, who: str) -> str:
    """What is asked of every image: what is typed, or what the tasks themselves ask."""
    if typed is not None:
        if not typed.strip() or len(typed.split()) > MOST_WORDS:
            raise UserError(f"--instruction: expected 1 to {MOST_WORDS} words, got {len(typed.split())}")
        return typed.strip()
    own = {task.instruction for task in asked}
    if len(own) > 1 and "" not in own:
        raise UserError(f"{who}: its tasks ask different things: say whose by --task NAME")
    if "" in own:
        raise UserError(f"{who}: its samples brought their own questions: say what is asked by --instruction TEXT")
    return own.pop()


def _batch(trained: Trained, images: Sequence[NDArray[np.uint8]], question: str) -> Batch:
    """What the method is given of these images; of a vision-language model with the question to each of them."""
    backbone = trained.method.backbone
    pixels_BCHW = torch.from_numpy(resized(images, backbone.image_size, backbone.framing))
    if not backbone.speaks:
        return {"image": pixels_BCHW}
    language = trained.method.language
    return {"image": language.seen(pixels_BCHW), "prompt": language.prompts([question]).repeat(len(images), 1)}


def _as_classes(
    trained: Trained, task: Task | None, top: int, abstain: float, scale: float, batch: Batch
) -> list[Rows]:
    """Of every image the task, a class and its probability, ``top`` times."""
    method, labels = trained.method, trained.stream.labels() if task is None else task.labels
    route_B, margins = method.route(batch) if task is None else None, _margins(trained, task, batch)
    scores_BC = method.scores(batch, labels, task, **with_route(method.scores, route_B))
    probability_BC = (scores_BC.float() / scale).softmax(dim=1)
    if probability_BC.isnan().any():
        raise UserError(f"{trained.record.method} has no answer {'without a task' if task is None else 'here'}")
    best_Bk = probability_BC.topk(min(top, len(labels)), dim=1)
    rows: list[Rows] = []
    for row, (chances, columns) in enumerate(zip(best_Bk.values.tolist(), best_Bk.indices.tolist(), strict=True)):
        found = [(labels[column], chance) for column, chance in zip(columns, chances, strict=True)]
        told: Rows = [
            (_task(trained, task, route_B, row, label.id), margins[row], label.name, decimals(p), "")
            for label, p in found
        ]
        whose, margin, name, chance, _ = told[0]
        unsure: Rows = [(whose, margin, "", chance, f"no class: {name} is less probable than {abstain:g}")]
        rows.append(unsure if chances[0] < abstain else told)
    return rows


def _in_words(trained: Trained, task: Task | None, question: str, batch: Batch) -> list[Rows]:
    """Of every image the task, the question and the answer."""
    method, ask = trained.method, cast(Any, trained.method.answer)
    route_B, margins = method.route(batch) if task is None else None, _margins(trained, task, batch)
    answers = ask(batch, task, **with_route(ask, route_B))
    cut = ["" if getattr(answer, "stopped", True) else CUT for answer in answers]
    return [
        [(_task(trained, task, route_B, row), margins[row], question, str(answer), cut[row])]
        for row, answer in enumerate(answers)
    ]


def _margins(trained: Trained, task: Task | None, batch: Batch) -> list[str]:
    """Of every image how far its routed task scores above the next one; nothing where no router is asked."""
    scores_BT = trained.method.task_scores(batch) if task is None else None
    if scores_BT is None or scores_BT.shape[1] < 2:
        return [""] * len(batch["image"])
    first_B, next_B = scores_BT.float().topk(2, dim=1).values.unbind(dim=1)
    return [decimals(margin) for margin in (first_B - next_B).tolist()]


def _task(trained: Trained, task: Task | None, route_B: Tensor | None, row: int, label: int = -1) -> str:
    if task is not None:
        return task.name
    routed = -1 if route_B is None else int(route_B[row])
    if routed >= 0:
        return trained.stream.tasks[routed].name
    owners = [each.name for each in trained.stream if label in [own.id for own in each.labels]]
    return owners[0] if len(owners) == 1 else ""  # one label space for all domains: the class tells no task
