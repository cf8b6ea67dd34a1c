"""``source: package.module:function``: samples that a function of the user's own returns for a split.

For classification that may be a data set of (image, label), such as torch's and torchvision's (:mod:`items`). Else
``function(split, **arguments)`` returns a mapping with ``images`` uint8 (N, H, W) or (N, H, W, 3), ``labels`` (P,)
integers (not for retrieval), and for fusion and retrieval ``texts`` (M) and, where sample i is not image i and text i,
``pairs`` (P, 2) integers: image row and text row of every sample. For generation ``texts`` are the instructions and the
answers, ``pairs`` (P, 3) integers the image, the instruction and the answer of every sample, and ``closed`` (P,) bool,
if it is there, tells closed questions from open ones; without it all are open, and closed where the task lists answers.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import kinds
from benchmark.data.catalog import Source
from benchmark.data.sources import items
from benchmark.data.sources.dialogues import answer, check_legal, question
from benchmark.data.sources.pairs import components, numbered
from benchmark.data.sources.split import SPLITS, Split
from benchmark.data.sources.spreadsheet import is_text
from benchmark.errors import UserError, shown, unknown

KEYS = ("images", "labels", "texts", "pairs", "closed")
EXPECTED = {np.uint8: "uint8", np.integer: "integers", np.bool_: "true and false"}


def load(source: Source, split: str) -> Split:
    """What the function returns for a split, checked.

    Raises:
        UserError: the function is not there, fails, or returns something else.
    """
    returned, where = _called(source, split), f"{source.where}: {source.options['function']}({split!r})"
    kind = kinds.of(source.task_kind)
    if isinstance(returned["images"], list) and kind.labelled and not (kind.reads_text or kind.speaks):
        varied = all(isinstance(image, np.ndarray) and image.ndim in (2, 3) for image in returned["images"])
        if varied and len({image.shape for image in returned["images"]}) > 1:
            return Split(returned["images"], _labels(source, returned, len(returned["images"]), where))
    images = _array(returned, "images", where, np.uint8)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or 0 in images.shape:
        raise UserError(f"{where}: images: expected (N, H, W) or (N, H, W, 3), none empty, got {images.shape}")
    texts: tuple[str, ...] = ()
    pairs = None
    with_texts = kind.reads_text or kind.speaks
    for key, read in (("texts", with_texts), ("pairs", with_texts), ("closed", kind.speaks)):
        if key in returned and not read:
            raise UserError(f"{where}: {key}: a {kind.name} task has none")
    if kind.speaks:
        return _dialogue(source, returned, images, where)
    if kind.reads_text:
        texts, pairs = _paired(returned, len(images), where)
    if not kind.labelled:
        assert pairs is not None, "without labels it is texts that belong to images"
        return Split(images, components(pairs[:, 0], pairs[:, 1]), texts, pairs)
    return Split(images, _labels(source, returned, len(images) if pairs is None else len(pairs), where), texts, pairs)


def _labels(source: Source, returned: Mapping[str, Any], count: int, where: str) -> NDArray[np.int64]:
    """(P,) the class of every sample."""
    labels = _array(returned, "labels", where, np.integer)
    if labels.shape != (count,):
        raise UserError(f"{where}: labels: {labels.shape} does not fit {count} samples, one label each")
    if labels.min() < 0 or labels.max() >= len(source.classes):
        span, classes = f"{labels.min()}..{labels.max()}", len(source.classes)
        raise UserError(f"{where}: labels: {span}, but {source.where}.classes lists {classes} classes")
    return labels.astype(np.int64)


def identity(source: Source) -> str:
    """sha256 over the arrays and texts of every split."""
    digest = hashlib.sha256(source.task_kind.encode())
    for split in SPLITS:
        found = load(source, split)
        images = found.images if isinstance(found.images, list) else [found.images]
        for array in (*images, found.labels, found.pairs, found.closed):
            if isinstance(array, np.ndarray):
                digest.update(f"{split}{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        digest.update(json.dumps(found.texts).encode())
    return digest.hexdigest()


def _called(source: Source, split: str) -> Mapping[str, Any]:
    where, name = source.where, source.options["function"]
    arguments = source.options.get("arguments", {})
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise UserError(f"{where}.arguments: expected names and values, got {shown(arguments)}")
    module_name, function_name = name.split(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit, GeneratorExit) as error:  # whatever the module does when it is imported
        raise UserError(f"{where}.source: {module_name} cannot be imported: {_line(error)}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown("function", function_name, there, f"{where}.source: {module_name}")
    try:
        returned = function(split, **arguments)
        returned = dict(returned) if isinstance(returned, Mapping) else returned
        if items.is_dataset(returned) and source.task_kind == "classification":
            returned = items.arrays(returned, f"{where}: {name}({split!r})")
    except UserError:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:  # the user's own code
        raise UserError(f"{where}: {name}({split!r}) failed: {_line(error)}") from None
    if not isinstance(returned, Mapping):
        raise UserError(
            f"{where}: {name}({split!r}): expected a mapping with images and labels, or a data set of them, got "
            f"{type(returned).__name__}"
        )
    for key in returned:
        if key not in KEYS:
            raise unknown("key", key, KEYS, f"{where}: {name}({split!r})")
    kind = kinds.of(source.task_kind)
    for key, needed in (
        ("images", True), ("labels", kind.labelled), ("texts", kind.reads_text or kind.speaks), ("pairs", kind.speaks),
    ):  # fmt: skip
        if needed and key not in returned:
            raise UserError(f"{where}: {name}({split!r}): the key {key!r} is missing")
    return returned


def _dialogue(source: Source, returned: Mapping[str, Any], images: NDArray[np.uint8], where: str) -> Split:
    """Samples of a generation task: images, what is asked and what is answered."""
    if source.instruction:
        raise UserError(f"{source.where}.instruction: the function brings its own questions")
    texts, pairs = _paired(returned, len(images), where, 3)
    asked = {text: question(texts[text], f"{where}: texts[{text}]") for text in sorted({*pairs[:, 1].tolist()})}
    told = {text: answer(texts[text], f"{where}: texts[{text}]") for text in sorted({*pairs[:, 2].tolist()})}
    closed = np.full(len(pairs), bool(source.answers))
    if "closed" in returned:
        closed = _array(returned, "closed", where, np.bool_)
        if closed.shape != (len(pairs),):
            raise UserError(f"{where}: closed: {closed.shape} does not fit {len(pairs)} samples")
    if closed.any():
        rows = np.flatnonzero(closed).tolist()
        check_legal(source, [(f"{where}: pairs[{row}]", told[int(pairs[row, 2])]) for row in rows])
    written = [asked[row] for row in pairs[:, 1].tolist()] + [told[row] for row in pairs[:, 2].tolist()]
    places, text_rows = numbered(written)
    pairs = np.stack([pairs[:, 0], *text_rows.reshape(2, -1)], axis=1)
    return Split(images, numbered(pairs[:, 2].tolist())[1], tuple(written[place] for place in places), pairs, closed)


def _paired(
    returned: Mapping[str, Any], images: int, where: str, columns: int = 2
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Different texts, and the pairs (P, columns) that name an image and texts."""
    texts = returned["texts"]
    texts = texts.tolist() if isinstance(texts, np.ndarray) else texts
    right = isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts)
    if not right or not all(text.strip() and is_text(text) for text in texts):
        raise UserError(f"{where}: texts: expected a list of texts, none empty")
    if "pairs" not in returned:
        if len(texts) != images:
            raise UserError(
                f"{where}: texts: {len(texts)} do not fit {images} images; pairs would tell which go together"
            )
        pairs = np.arange(images).repeat(2).reshape(-1, 2)
    else:
        pairs = _array(returned, "pairs", where, np.integer)
    if pairs.ndim != 2 or pairs.shape[1] != columns or not len(pairs):
        raise UserError(f"{where}: pairs: expected (P, {columns}), at least one row, got {pairs.shape}")
    if pairs.min() < 0 or (pairs.max(axis=0) >= (images, *[len(texts)] * (columns - 1))).any():
        raise UserError(f"{where}: pairs: a row lies outside the {images} images and {len(texts)} texts")
    places, rows = numbered(texts)
    pairs = np.concatenate([pairs[:, :1], rows[pairs[:, 1:]]], axis=1).astype(np.int64)
    return tuple(texts[place] for place in places), pairs


def _array(returned: Mapping[str, Any], key: str, where: str, kind: Any) -> NDArray[Any]:
    try:
        array = np.asarray(returned[key])
    except Exception as error:  # the user's own classes
        raise UserError(f"{where}: {key}: {_line(error)}") from None
    if not np.issubdtype(array.dtype, kind):
        raise UserError(f"{where}: {key}: expected {EXPECTED[kind]}, got {array.dtype}")
    return array


def _line(error: BaseException) -> str:
    """An error's kind and message, which the user's own class may have made unreadable."""
    with suppress(Exception):
        return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return type(error).__name__
