"""Backbones by name, before anything heavy is imported: of which family, which by default, whether files are there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from os.path import exists, isdir, isfile
from pathlib import Path

from benchmark.data.places import regular
from benchmark.errors import UserError, unknown
from benchmark.kinds import Kind

AUTO = "auto"
USUAL, SPEAKING = "phantom-clip", "phantom-llava"  # the defaults: a CLIP, a vision-language model
DRAWN = "tiny-llava"  # a vision-language model of which only the layout is shipped
HUB, LOCAL = "hf:", "local-dir:"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # what a file of weights ends in
OWNER = r"\w[\w.-]*/\w[\w.-]*(@\w[\w.-]*)?"
EXTRA, PACKAGES = "generation", ("transformers", "sacrebleu")  # what answering in words needs beside any run's needs


def by_default(backbone: str, kind: Kind) -> str:
    """The backbone that ``auto`` stands for: of a stream that is answered in words a vision-language model."""
    if backbone != AUTO:
        return backbone
    return SPEAKING if kind.speaks else USUAL


def speaks(backbone: str) -> bool:
    """Whether it is a vision-language model; of a folder its files tell."""
    folder = Path(backbone.removeprefix(LOCAL))
    if backbone.startswith(LOCAL):
        return isfile(folder / "config.json") and not isfile(folder / "open_clip_config.json")
    return backbone in (SPEAKING, DRAWN) or backbone.startswith(HUB)


def learns(learned: Iterable[str], asked: Iterable[str], backbone: str) -> bool:
    """Whether a method that learns these kinds of task learns a stream of those on a backbone.

    What learns from questions on a vision-language model learns classes and notes there as well, for they are asked in
    words like all else; what does not can do nothing with such a model.
    """
    if speaks(backbone):
        learned = {"classification", "fusion", "generation"} if "generation" in learned else set()
    return set(asked) <= set(learned)


def note(backbone: str) -> str:
    """What has to be said wherever scores on a backbone are shown; empty where nothing has."""
    if backbone != DRAWN:
        return ""
    return f"{DRAWN} is a layout without trained weights: scores on it tell that a method runs, and nothing else."


def missing(backbone: str) -> list[str]:
    """Packages of the extra ``generation`` that a backbone needs and that are not installed."""
    return [name for name in PACKAGES if speaks(backbone) and find_spec(name) is None]


def check(backbone: str, pretrained: str | None, kind: Kind, stream: str) -> None:
    """Refuse a backbone that cannot answer what a stream asks, or that is not there.

    Args:
        kind: what holds of the stream's tasks. stream: in words.

    Raises:
        UserError: saying what would be right.
    """
    where, folder = f"--backbone {backbone}", Path(backbone.removeprefix(LOCAL))
    if kind.speaks and backbone.startswith(LOCAL) and not isfile(folder / "open_clip_config.json"):
        regular(folder / "config.json", f"{where}: config.json")
    if kind.speaks and not speaks(backbone):
        one = f"{SPEAKING}, {HUB}OWNER/NAME or {LOCAL}FOLDER of a model of transformers"
        raise UserError(f"{where}: {stream} is answered in words by a vision-language model ({one}); a CLIP learns "
                        "streams of one kind, classification, fusion or retrieval")  # fmt: skip
    if speaks(backbone):
        if pretrained is not None:
            raise UserError(f"--pretrained {pretrained}: backbone {backbone!r} says itself which weights")
        _check_language(backbone, where)
    else:
        _check_clip(backbone, pretrained, where)


def equipped(backbone: str, where: str) -> None:
    """Raise UserError for a backbone whose packages are not installed."""
    if lacking := missing(backbone):
        raise UserError(f"{where}: needs {' and '.join(lacking)}: pip install 'mbil-bench[{EXTRA}]'")


def _check_language(backbone: str, where: str) -> None:
    equipped(backbone, where)
    if backbone.startswith(LOCAL):
        folder = Path(backbone.removeprefix(LOCAL))
        regular(folder / "config.json", f"{where}: config.json")
    elif backbone.startswith(HUB) and not re.fullmatch(HUB + OWNER, backbone, re.ASCII):
        raise UserError(f"{where}: expected {HUB}OWNER/NAME")


def _check_clip(backbone: str, pretrained: str | None, where: str) -> None:
    """What can be said before open_clip is imported: that its files or its architecture are there."""
    if backbone.startswith(LOCAL):
        folder = Path(backbone.removeprefix(LOCAL))
        if backbone == LOCAL or not isdir(folder):
            raise UserError(f"{where}: no such folder (local-dir:FOLDER)")
        regular(folder / "open_clip_config.json", f"{where}: open_clip_config.json")
        return
    if ":" in backbone:
        if not re.fullmatch("hf-hub:" + OWNER, backbone, re.ASCII):
            raise UserError(f"{where}: expected hf-hub:OWNER/NAME, local-dir:FOLDER or an architecture")
        return
    if isfile(Path(backbone) / "open_clip_config.json"):
        raise UserError(f"{where}: a folder is given as {LOCAL}{backbone}")
    spec = find_spec("open_clip")
    tops = (spec and spec.submodule_search_locations) or ()
    architectures = {file.stem for top in tops for file in Path(top).glob("model_configs/*.json")}
    if architectures and backbone.split("/")[0] not in {USUAL, *architectures}:
        raise unknown("--backbone", backbone, [USUAL, "local-dir:FOLDER", *architectures])
    if pretrained is not None and ("/" in pretrained or Path(pretrained).suffix in SUFFIXES or exists(pretrained)):
        regular(Path(pretrained), f"--pretrained {pretrained}")
