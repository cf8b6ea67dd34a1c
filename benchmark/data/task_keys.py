"""The keys of one task, in a stream file or a card: what they may say. Every error names the file and the key."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

from benchmark import kinds
from benchmark.data.yaml_files import text_of, texts_of
from benchmark.errors import UserError, shown, unknown

IN_WORDS = ("metric", "instruction", "answers", "max_new_tokens")
TASK_KEYS = ("card", "name", "modality", "kind", "source", "classes", "template", "mirror", *IN_WORDS)
CARD_KEYS = ("title", "homepage", "obtain", "preparation", "publication", "licence", "md5", "notes")
DRAWN = ("splits", "fractions", "seed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{,99}")
LONGEST = 500  # characters of a class's name, or of a legal answer
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
INSTRUCTION = "What does the image show?"  # of a task of classes that brings none
MOST_WORDS = 500  # of an instruction
LIMIT = 100  # tokens of an answer, where a task does not say
MOST_TOKENS = 2048  # that an answer may be told to have


@dataclass(frozen=True)
class SourceKeys:
    """What a task may say of a source of one kind.

    Args:
        own: the keys beside those of every task.
        gives: the kinds of its tasks.
        paths: keys that name what has to be there -> a file or a folder.
        places: whether the reader itself looks for a file, in the data folder and beside the stream file.
    """

    own: tuple[str, ...]
    gives: tuple[str, ...] = ("classification",)
    paths: Mapping[str, str] = field(default_factory=dict)
    places: bool = False


SOURCES = {
    "npz": SourceKeys(("path",), paths={"path": "file"}),
    "medmnist": SourceKeys(("flag", "size", "multi_label"), places=True),
    "cifar100": SourceKeys((), places=True),
    "folder": SourceKeys(("path", "folders", *DRAWN), paths={"path": "folder"}),
    "table": SourceKeys(
        ("path", "images", "suffix", "columns", "values", "rows", "subgroups", "allow_leak", *DRAWN),
        gives=tuple(kinds.KINDS), paths={"path": "file"},
    ),
    "llava": SourceKeys(
        ("train", "test", "images", "fractions", "seed"), gives=("generation",),
        paths={"train": "file", "test": "file", "images": "folder"},
    ),
    "phantom": SourceKeys(
        (
            "generator", "regions", "seed", "sizes", "notes", "captions", "wording", "region", "shift", "talk",
            "factors", "words", "meanings", "forms",
        ),
        gives=tuple(kinds.KINDS),
    ),
    "function": SourceKeys(("arguments",), gives=tuple(kinds.KINDS)),  # written as package.module:function
}  # fmt: skip


def name_of(content: Mapping[str, Any], where: object, at: str) -> str:
    """A name that may stand in a path."""
    name = text_of(content, "name", where)
    if not NAME.fullmatch(name):
        raise UserError(f"{at}: {shown(name)} must be of letters, digits, '_', '-' and '.', at most 100 of them")
    return name


def check_line(text: str, where: str) -> None:
    if len(text.splitlines()) != 1 or "\t" in text or text != text.strip() or len(text) > LONGEST:
        raise UserError(
            f"{where}: expected a line of at most {LONGEST} characters, no blanks around, got {shown(text)}"
        )


def kind_of_source(item: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The kind of source, and for ``package.module:function`` that text."""
    given = item.get("source")
    valid = (*(kind for kind in SOURCES if kind != "function"), "package.module:function")
    if given is None:
        raise UserError(f"{where}: the key 'source' is missing (one of {', '.join(valid)})")
    if isinstance(given, str) and FUNCTION.fullmatch(given):
        return "function", given
    if given not in valid[:-1]:
        raise unknown("source", given, valid, where)
    return given, ""


def classes_of(item: Mapping[str, Any], kind: str, where: str) -> tuple[list[str], list[str]]:
    """The names of the classes and the templates of their prompts; a kind without labels has neither."""
    if not kinds.of(kind).labelled:
        for key in ("classes", "template"):
            if key in item:
                raise UserError(f"{where}.{key}: a {kind} task has none")
        return [], []
    classes = texts_of(item, "classes", where)
    check_different(classes, f"{where}.classes", "names")
    templates = texts_of(item, "template", where)
    for template in templates:
        if template.count("{}") != 1 or {"{", "}"} & set(template.replace("{}", "")):
            raise UserError(
                f"{where}.template: {shown(template)} must contain {{}} once, for the class's name, and no other braces"
            )
    return classes, templates


def words_of(item: Mapping[str, Any], kind_name: str, where: str) -> dict[str, Any]:
    """What a task says of how it is asked and answered in words: fields of :class:`benchmark.stream.Task`.

    An empty metric and empty answers are those that the samples tell (:mod:`benchmark.data.settle`).
    """
    kind = kinds.of(kind_name)
    for key in IN_WORDS[1:]:
        if key in item and not kind.speaks and not (key == "instruction" and kind.labelled):
            raise UserError(f"{where}.{key}: a {kind.name} task has none")
    words: dict[str, Any] = {"instruction": INSTRUCTION if kind.labelled else "", "max_new_tokens": LIMIT * kind.speaks}
    if "metric" in item:
        valid = kind.primaries or (kind.primary,)
        if item["metric"] not in [*valid]:
            raise unknown("metric", item["metric"], valid, where)
        words["metric"] = item["metric"] if kind.primaries else ""
    if "instruction" in item:
        words["instruction"] = text_of(item, "instruction", where).strip()
        if len(words["instruction"].split()) > MOST_WORDS:
            raise UserError(f"{where}.instruction: expected at most {MOST_WORDS} words")
    if "answers" in item:
        words["answers"] = tuple(texts_of(item, "answers", where))
        check_different(words["answers"], f"{where}.answers", "answers")
    if "max_new_tokens" in item:
        count = item["max_new_tokens"]
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_TOKENS:
            raise UserError(f"{where}.max_new_tokens: expected a whole number, 1 to {MOST_TOKENS}, got {shown(count)}")
        words["max_new_tokens"] = count
    return words


def check_different(texts: Sequence[str], where: str, what: str) -> None:
    """Refuse fewer than two lines, the same one twice, or two that a tokenizer would not tell apart."""
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise UserError(f"{where}: expected at least two different {what}")
    alike: dict[str, str] = {}
    for text in texts:
        check_line(text, where)
        other = alike.setdefault(" ".join(unicodedata.normalize("NFKC", text).casefold().split()), text)
        if other != text:
            raise UserError(f"{where}: {shown(other)} and {shown(text)} are one name to the backbone")


def found_at(given: str, where: str, data: Path | None, folder: Path, wanted: str) -> Path:
    """A file or folder: as given if absolute or without ``data``, else below ``data``, else beside the stream file."""
    if data is None:
        return Path(given)
    candidates = [Path(given)] if Path(given).is_absolute() else [data / given, folder / given]
    for candidate in candidates:
        if isdir(candidate) if wanted == "folder" else isfile(candidate):
            return candidate
    raise UserError(
        f"{where}: {wanted} not found: {candidates[0]} (give the folder of the data: DATA=dir or --data dir)"
    )
