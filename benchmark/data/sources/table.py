"""``source: table``: a row for each image, or for each image and text, or for each image, instruction and answer, and
files beside the table.

Of generation tasks the column ``type`` says which questions are OPEN and which CLOSED; without it all are open, and
closed where the task lists legal answers. Where the task has an instruction, the table has no column of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark import kinds
from benchmark.data.catalog import Source
from benchmark.data.sources.dialogues import answer, check_legal, is_closed, question
from benchmark.data.sources.held_out import drawn
from benchmark.data.sources.in_files import (
    Sample,
    as_split,
    content_identity,
    group_numbers,
    image_files,
    none_empty,
)
from benchmark.data.sources.options import inside, named, names, one_for_each_class
from benchmark.data.sources.pairs import components
from benchmark.data.sources.split import SPLITS, Split
from benchmark.data.sources.spreadsheet import as_text, cells_of
from benchmark.errors import UserError, shown, unknown

COLUMNS = ("image", "label", "split", "group", "text", "instruction", "answer", "type")
MOST_SUBGROUPS = 50  # values of a column: more are no subgroups, but an age or a name


def load(source: Source, split: str) -> Split:
    return as_split(source, listed(source)[split])


def identity(source: Source) -> str:
    return content_identity(source, listed(source))


def groups(source: Source) -> dict[str, NDArray[np.int64]]:
    """The number of every sample's group by split, without the splits where each sample is a group of its own."""
    return group_numbers(listed(source))


def subgroups(source: Source) -> dict[str, dict[str, NDArray[np.str_]]]:
    """By split and column of ``subgroups`` what stands there for every sample; a missing cell is the value ''."""
    columns = names(source, "subgroups")
    if not columns:
        return {}
    return {
        split: {
            column: np.array([sample.subgroups[place] for sample in samples], np.str_)
            for place, column in enumerate(columns)
        }
        for split, samples in listed(source).items()
    }


def listed(source: Source) -> dict[str, list[Sample]]:
    """A sample for each row: its file, its label, its text, and if there are such columns its split, its group and its
    subgroups.

    Raises:
        UserError: an option is wrong, a column, file or class is missing, a text is empty, a split has no images.
    """
    path, columns, apart = Path(source.options["path"]), _columns(source), names(source, "subgroups")
    wanted = {f"columns.{key}": column for key, column in columns.items()}
    wanted |= {f"subgroups[{place}]": column for place, column in enumerate(apart)}
    numbers, found = cells_of(path, wanted, source.options.get("rows", {}), source.where)
    cells = {key: found[f"columns.{key}"] for key in columns}
    told = [found[f"subgroups[{place}]"] for place in range(len(apart))]
    for column, values in zip(apart, told, strict=True):
        if len(set(values)) > MOST_SUBGROUPS:
            many = f"column {column!r} has {len(set(values))} values, at most {MOST_SUBGROUPS} are subgroups"
            raise UserError(f"{path}: {source.where}.subgroups: {many}")
    samples = [
        replace(sample, subgroups=tuple(values[place] for values in told))
        for place, sample in enumerate(_samples(source, path, columns, numbers, cells))
    ]
    given = named(source, "splits", SPLITS)
    if "split" not in columns:
        if given:
            raise UserError(f"{source.where}.splits: there is no columns.split that these values could stand in")
        return none_empty(source, drawn(source, samples, SPLITS))
    split_of = {as_text(value): split for split, value in (given or {split: split for split in SPLITS}).items()}
    splits: dict[str, list[Sample]] = {}
    for number, split, sample in zip(numbers, cells["split"], samples, strict=True):
        if split not in split_of:
            raise unknown("split", split, split_of, f"{path}: row {number}: column {columns['split']!r}")
        splits.setdefault(split_of[split], []).append(sample)
    if "train" not in splits:
        raise UserError(f"{path}: train: no images in this split")
    if not _passes(source) and "group" in columns:
        _check_whole(path, columns["group"], cells["group"], cells["split"])
    missing = [split for split in SPLITS if split not in splits]
    return none_empty(source, splits | drawn(source, splits["train"], missing))


def _passes(source: Source) -> bool:
    """Whether groups may be in several splits."""
    given = source.options.get("allow_leak", False)
    if not isinstance(given, bool):
        raise UserError(f"{source.where}.allow_leak: expected true or false, got {shown(given)}")
    return given


def _check_whole(path: Path, column: str, groups: list[str], splits: list[str]) -> None:
    """Refuse groups, patients say, of which some samples are learned and others are tested."""
    of: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        if group:
            of.setdefault(group, set()).add(split)
    torn = [group for group, found in of.items() if len(found) > 1]
    if torn:
        named = ", ".join(map(shown, torn[:3])) + (", ..." if len(torn) > 3 else "")
        raise UserError(
            f"{path}: column {column!r}: {len(torn)} of {len(of)} groups are in more than one split: {named} "
            "(allow_leak: true of the task passes them)"
        )


def _columns(source: Source) -> dict[str, str]:
    """What is read -> the name of its column: image, label, text, instruction and answer as the kind of task needs."""
    kind, columns = kinds.of(source.task_kind), named(source, "columns", COLUMNS)
    asked = kind.speaks and not source.instruction
    for key, needed in (
        ("image", True), ("label", kind.labelled), ("text", kind.reads_text), ("instruction", asked),
        ("answer", kind.speaks),
    ):  # fmt: skip
        if needed and key not in columns:
            raise UserError(f"{source.where}.columns: the column of {key!r} is missing: {key}: name in the table")
    refused = [*([] if kind.labelled else ["label"]), *(["text"] if kind.speaks else ["instruction", "answer", "type"])]
    for key in refused:
        if key in columns:
            raise UserError(f"{source.where}.columns.{key}: a {kind.name} task has none")
    if kind.speaks and not asked and "instruction" in columns:
        raise UserError(f"{source.where}.columns.instruction: the task has an instruction, which is that of every row")
    return columns


def _samples(
    source: Source, path: Path, columns: Mapping[str, str], numbers: list[int], cells: Mapping[str, list[str]]
) -> list[Sample]:
    kind, none = kinds.of(source.task_kind), [""] * len(numbers)
    labels = _labels(source, path, columns, numbers, cells)
    paths = _found(source, path, numbers, cells["image"])
    texts = cells["text"] if kind.reads_text else none
    for number, text in zip(numbers, texts, strict=True):
        if kind.reads_text and not text:
            raise UserError(f"{path}: row {number}: column {columns['text']!r}: the text is empty")
    groups = [
        f"group:{group}" if group else f"image:{image}"
        for image, group in zip(cells["image"], cells.get("group", none), strict=True)
    ]
    if not kind.labelled:
        groups = joined_groups(groups, cells["image"], cells["image"] if kind.speaks else texts)
    samples = [Sample(*row) for row in zip(paths, labels, groups, texts, strict=True)]
    return (
        _dialogue(source, [f"{path}: row {number}" for number in numbers], samples, cells) if kind.speaks else samples
    )


def _dialogue(source: Source, places: list[str], samples: list[Sample], cells: Mapping[str, list[str]]) -> list[Sample]:
    """The samples with what is asked and answered in each row."""
    asked = cells.get("instruction", [source.instruction] * len(samples))
    types = cells.get("type", ["CLOSED" if source.answers else "OPEN"] * len(samples))
    found = [
        replace(sample, text=question(text, place), answer=answer(told, place), closed=is_closed(of, place))
        for place, sample, text, told, of in zip(places, samples, asked, cells["answer"], types, strict=True)
    ]
    check_legal(source, [(place, each.answer) for place, each in zip(places, found, strict=True) if each.closed])
    return found


def _labels(
    source: Source, path: Path, columns: Mapping[str, str], numbers: list[int], cells: Mapping[str, list[str]]
) -> list[int]:
    """The class of every row; without labels 0, for splits are then drawn from all rows alike."""
    kind = kinds.of(source.task_kind)
    if not kind.labelled:
        if "values" in source.options:
            raise UserError(f"{source.where}.values: a {kind.name} task has no classes")
        return [0] * len(numbers)
    values = [as_text(value) for value in one_for_each_class(source, "values")]
    counted = {} if "values" in source.options else {str(i): i for i in range(len(values))}
    labels = counted | {value: i for i, value in enumerate(values)}
    for number, label in zip(numbers, cells["label"], strict=True):
        if label not in labels:
            raise unknown("label", label, labels, f"{path}: row {number}: column {columns['label']!r}")
    return [labels[label] for label in cells["label"]]


def joined_groups(groups: list[str], images: list[str], texts: list[str]) -> list[str]:
    """What shares a group, an image or a text is one group, with the first of their names.

    Of generation tasks the images stand for the texts: questions recur by nature.
    """
    numbers = components(groups, images, texts).tolist()
    first: dict[int, str] = {}
    for group, number in zip(groups, numbers, strict=True):
        first[number] = min(group, first.get(number, group))
    return [first[number] for number in numbers]


def _found(source: Source, table: Path, numbers: list[int], names: list[str]) -> list[Path]:
    """The files of a table's images, looked for in ``images`` (one folder or several) beside the table."""
    given = source.options.get("images", ".")
    given = given if isinstance(given, list) else [given]
    suffix = source.options.get("suffix", "")
    if not given or not all(isinstance(folder, str) for folder in given):
        raise UserError(f"{source.where}.images: expected a folder or a list of folders, got {shown(given)}")
    if not isinstance(suffix, str):
        raise UserError(f"{source.where}.suffix: expected text such as '.jpg', got {shown(suffix)}")
    folders = [table.parent / inside(folder, f"{source.where}.images") for folder in given]
    candidates = [[folder / (name + suffix) for folder in folders if name] or folders[:1] for name in names]
    return image_files([f"{table}: row {row}" for row in numbers], candidates, folders, "the table's folder")
