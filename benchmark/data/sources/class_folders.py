"""``source: folder``: images in a folder for each class, below a folder for each split or not."""

from __future__ import annotations

import os
from os.path import isdir
from pathlib import Path

from benchmark.data.catalog import Source
from benchmark.data.places import regular
from benchmark.data.sources.held_out import drawn
from benchmark.data.sources.in_files import Sample, as_split, content_identity, none_empty
from benchmark.data.sources.options import inside, named, one_for_each_class
from benchmark.data.sources.split import SPLITS, Split
from benchmark.errors import UserError, unknown


def load(source: Source, split: str) -> Split:
    return as_split(source, listed(source)[split])


def identity(source: Source) -> str:
    return content_identity(source, listed(source))


def listed(source: Source) -> dict[str, list[Sample]]:
    """``<split>/<class>/<images>``, or ``<class>/<images>``: splits that are not there are drawn.

    Raises:
        UserError: an option is wrong, a folder is missing, a class or a split has no images.
    """
    where, root = source.where, Path(source.options["path"])
    folders = [inside(str(name), f"{where}.folders") for name in one_for_each_class(source, "folders")]
    given = named(source, "splits", SPLITS)
    if given and "train" not in given:
        raise UserError(f"{where}.splits: expected the folder of train, and of val and test if there are any")
    tops = {split: root / inside(str(given.get(split, split)), f"{where}.splits") for split in (given or SPLITS)}
    for split, top in tops.items():
        if given and not isdir(top):
            raise UserError(f"{where}.splits.{split}: folder not found: {top}")
    if not isdir(tops["train"]):
        return none_empty(source, drawn(source, _below(source, root, root, folders), SPLITS))
    splits = {
        split: _below(source, top, root, folders, every=split == "train") for split, top in tops.items() if isdir(top)
    }
    missing = [split for split in SPLITS if split not in splits]
    return none_empty(source, splits | drawn(source, splits["train"], missing))


def passed_over(source: Source) -> str:
    """Folders with images that belong to no class that is listed, or to no split, with how many there are in each."""
    root = Path(source.options["path"])
    folders = {str(name).split("/")[0] for name in one_for_each_class(source, "folders")}
    given = source.options.get("splits") or {}
    tops = [root / str(given.get(split, split)) for split in SPLITS]
    there = [top for top in tops if isdir(top)] if given or isdir(tops[0]) else []
    kept = {top.relative_to(root).parts[0] for top in there}
    found = [(folder, kept or folders) for folder in _folders(root)]
    found += [(folder, folders) for top in there for folder in _folders(top)]
    left = {folder: len(_images(folder)) for folder, listed in found if folder.name not in listed}
    told = [f"{folder.relative_to(root).as_posix()} ({count:,} images)" for folder, count in left.items() if count]
    return f"{source.where}: {', '.join(told)} in {root}" if told else ""


def _folders(top: Path) -> list[Path]:
    return sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))


def _below(source: Source, top: Path, root: Path, names: list[str], every: bool = True) -> list[Sample]:
    """Class by class the images below the class's folder, by name; hidden files and other files are passed over."""
    samples = []
    for label, name in enumerate(names):
        folder = top / name
        if not isdir(folder) and every:
            there = [path.name for path in top.iterdir() if path.is_dir() and not path.name.startswith(".")]
            raise unknown("class folder", name, there, f"{source.where}: {top}")
        found = [path.relative_to(root).as_posix() for path in _images(folder)]
        if not found and every:
            raise UserError(f"{folder}: no images")
        for relative in sorted(found):
            path = root / relative
            regular(path, str(path))
            samples.append(Sample(path, label, relative))
    return samples


def _images(folder: Path) -> list[Path]:
    """Every image below a folder, but for hidden files and folders."""
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[Path] = []
    for below, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [file for file in files if os.path.splitext(file)[1].lower() in suffixes]
        found += [Path(below) / file for file in images if not file.startswith(".")]
    return found
