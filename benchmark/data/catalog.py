"""Stream files and cards: read, validated, resolved. Every error names the file and the key."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

from benchmark import kinds
from benchmark.data.yaml_files import check_keys, read, text_of, texts_of
from benchmark.errors import UserError, shown, unknown
from benchmark.stream import LABEL_SPACES, Label, Stream, Task

STREAM_KEYS = ("name", "version", "description", "label_space", "orders", "tasks")
TASK_KEYS = ("card", "name", "modality", "kind", "source", "classes", "template", "mirror", "max_new_tokens")
CARD_KEYS = ("title", "homepage", "obtain", "preparation", "publication", "licence", "md5", "notes")
DRAWN = ("splits", "fractions", "seed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{,99}")
LONGEST = 500  # characters of a class's name
TABLES = ("overall", "matrix", "forgetting", "bwt", "pairs", "recall", "subgroups", "missing")  # files of leaderboards
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class SourceKeys:
    """What a task may say of a source of one kind.

    Args:
        own: the keys beside those of every task.
        path: what the key of this name has to be, a file or a folder.
        texts: whether it gives tasks of every kind, and not of images alone.
        places: whether the reader itself looks for a file, in the data folder and beside the stream file.
    """

    own: tuple[str, ...]
    path: str = "file"
    texts: bool = False
    places: bool = False


SOURCES = {
    "npz": SourceKeys(("path",)),
    "medmnist": SourceKeys(("flag", "size", "multi_label"), places=True),
    "folder": SourceKeys(("path", "folders", *DRAWN), path="folder"),
    "table": SourceKeys(
        ("path", "images", "suffix", "columns", "values", "rows", "subgroups", "allow_leak", *DRAWN), texts=True
    ),
    "phantom": SourceKeys(
        (
            "generator",
            "regions",
            "seed",
            "sizes",
            "notes",
            "captions",
            "wording",
            "region",
            "shift",
            "talk",
            "factors",
            "words",
            "meanings",
            "forms",
        ),
        texts=True,
    ),
    "function": SourceKeys(("arguments",), texts=True),  # written as package.module:function
}


def root() -> Path:
    """The folder of cards and streams: ``datasets`` in a checkout, ``benchmark/catalog`` in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "catalog"
    return installed if installed.is_dir() else package.parent / "datasets"


@dataclass(frozen=True)
class Source:
    """Where one task's samples come from: a kind and its options, resolved but not read."""

    where: str
    kind: str
    classes: tuple[str, ...]
    options: Mapping[str, Any] = field(hash=False)
    task_kind: str = "classification"


@dataclass(frozen=True)
class Recipe:
    """A stream as described by its file: the tasks in listed order, where their samples come from, the orders."""

    file: Path
    description: str
    stream: Stream
    sources: tuple[Source, ...]
    orders: tuple[tuple[int, ...], ...]

    @property
    def source_kinds(self) -> tuple[str, ...]:
        """Each kind of source that a task has, once."""
        return tuple(sorted({source.kind for source in self.sources}))

    def permutation(self, order: int) -> tuple[int, ...]:
        """A listed order; beyond the listed ones a permutation that depends on its number alone."""
        if order < len(self.orders):
            return self.orders[order]

        def draw(task: int) -> bytes:
            return hashlib.sha256(f"{order}:{task}".encode()).digest()

        return tuple(sorted(range(len(self.stream)), key=draw))


def names(folder: str) -> list[str]:
    """Names of the shipped ``streams`` or ``cards``."""
    return sorted(path.stem for path in (root() / folder).glob("*.yaml"))


def load(name: str, data: Path | None) -> Recipe:
    """A stream by name, or by the path of its YAML file; ``data`` is where relative paths are looked up.

    With ``data`` None the stream is described but its files are not looked for.

    Raises:
        UserError: unknown stream, missing file, misspelt key, value of the wrong kind.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = root() / "streams" / f"{name}.yaml"
        if not NAME.fullmatch(name) or not isfile(path):
            raise unknown("stream", name, names("streams"))
    content = read(path)
    check_keys(content, STREAM_KEYS, str(path))
    stream_name = _name(content, path, f"{path}: name")
    if stream_name.lower().split(".")[-1] in TABLES:
        raise UserError(f"{path}: name: {stream_name!r} ends like the name of another table of the leaderboards")
    version = content.get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or abs(version) > 10**9:
        raise UserError(f"{path}: version: expected a whole number, got {shown(version)}")
    space = content.get("label_space", "own")
    if space not in LABEL_SPACES:
        raise unknown("label_space", space, LABEL_SPACES, str(path))
    raw = content.get("tasks")
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{path}: tasks: expected a list of at least one task")
    entries = [_task(item, f"{path}: tasks[{i}]", data, path.parent) for i, item in enumerate(raw)]
    stream = _stream(entries, stream_name, version, space, path)
    description = content.get("description") or ""
    if not isinstance(description, str):
        raise UserError(f"{path}: description: expected text, got {shown(description)}")
    sources = tuple(source for _, source, _ in entries)
    return Recipe(path, description, stream, sources, _orders(content.get("orders"), len(entries), path))


def _stream(
    entries: list[tuple[dict[str, Any], Source, list[str]]], name: str, version: int, space: str, path: Path
) -> Stream:
    task_names = [entry["name"] for entry, _, _ in entries]
    if len(set(task_names)) < len(task_names):
        twice = next(n for n in task_names if task_names.count(n) > 1)
        raise UserError(f"{path}: tasks: the name {twice!r} stands twice")
    kind = kinds.joined({entry["kind"] for entry, _, _ in entries})
    if space == "shared" and not kind.labelled:
        raise UserError(f"{path}: label_space: shared, but {kind.name} tasks have no labels")
    classes = [source.classes for _, source, _ in entries]
    if space == "shared" and len(set(classes)) > 1:
        raise UserError(f"{path}: label_space: shared, but the tasks' classes differ")
    tasks, first = [], 0
    for index, (entry, source, templates) in enumerate(entries):
        templates = entries[0][2] if space == "shared" else templates
        labels = tuple(
            Label(first + i, label, tuple(template.format(label) for template in templates))
            for i, label in enumerate(source.classes)
        )
        first += 0 if space == "shared" else len(labels)
        name_of, modality = entry["name"], entry["modality"]
        tasks.append(Task(index, name_of, modality, entry["kind"], labels, len(entries), entry["mirror"]))
    return Stream(name, version, space, tuple(tasks))


def _task(item: Any, where: str, data: Path | None, folder: Path) -> tuple[dict[str, Any], Source, list[str]]:
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a task's keys and values, got {shown(item)}")
    if "card" in item:
        card = item["card"] if isinstance(item["card"], str) else ""
        card_path = root() / "cards" / f"{card}.yaml"
        if not NAME.fullmatch(card) or not isfile(card_path):
            raise unknown("card", item["card"], names("cards"), where)
        item = read(card_path) | item
    kind_of_source, function = _kind_of_source(item, where)
    allowed = SOURCES[kind_of_source]
    check_keys(item, (*TASK_KEYS, *CARD_KEYS, *allowed.own), where)
    entry = {"name": _name(item, where, f"{where}.name"), "modality": text_of(item, "modality", where)}
    _check_line(entry["modality"], f"{where}.modality")
    entry["mirror"] = item.get("mirror", True)
    if not isinstance(entry["mirror"], bool):
        raise UserError(f"{where}.mirror: expected true or false, got {shown(entry['mirror'])}")
    entry["kind"] = kind = item.get("kind", "classification")
    if kind not in [*kinds.KINDS]:  # of a list, for what a file says may have no hash
        raise unknown("kind", kind, kinds.KINDS, where)
    if kinds.of(kind).reads_text and not allowed.texts:
        raise UserError(f"{where}.kind: source {kind_of_source!r} gives classification tasks only")
    classes, templates = _classes(item, kind, where)
    options = {key: item[key] for key in allowed.own if key in item}
    if "path" in allowed.own:
        options["path"] = _find(text_of(item, "path", where), f"{where}.path", data, folder, allowed.path)
    if allowed.places:
        options["places"] = () if data is None else (data, folder)
    if function:
        options["function"] = function
    return entry, Source(where, kind_of_source, tuple(classes), options, kind), templates


def _name(content: Mapping[str, Any], where: object, at: str) -> str:
    """A name that may stand in a path."""
    name = text_of(content, "name", where)
    if not NAME.fullmatch(name):
        raise UserError(f"{at}: {shown(name)} must be of letters, digits, '_', '-' and '.', at most 100 of them")
    return name


def _check_line(text: str, where: str) -> None:
    if len(text.splitlines()) != 1 or "\t" in text or text != text.strip() or len(text) > LONGEST:
        raise UserError(
            f"{where}: expected a line of at most {LONGEST} characters, no blanks around, got {shown(text)}"
        )


def _kind_of_source(item: Mapping[str, Any], where: str) -> tuple[str, str]:
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


def _classes(item: Mapping[str, Any], kind: str, where: str) -> tuple[list[str], list[str]]:
    """The names of the classes and the templates of their prompts; a kind without labels has neither."""
    if not kinds.of(kind).labelled:
        for key in ("classes", "template"):
            if key in item:
                raise UserError(f"{where}.{key}: a {kind} task has none")
        return [], []
    classes = texts_of(item, "classes", where)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"{where}.classes: expected at least two different names")
    alike: dict[str, str] = {}
    for name in classes:
        _check_line(name, f"{where}.classes")
        other = alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            raise UserError(f"{where}.classes: {shown(other)} and {shown(name)} are one name to the backbone")
    templates = texts_of(item, "template", where)
    for template in templates:
        if template.count("{}") != 1 or {"{", "}"} & set(template.replace("{}", "")):
            raise UserError(
                f"{where}.template: {shown(template)} must contain {{}} once, for the class's name, and no other braces"
            )
    return classes, templates


def _find(given: str, where: str, data: Path | None, folder: Path, wanted: str) -> Path:
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


def _orders(given: Any, tasks: int, path: Path) -> tuple[tuple[int, ...], ...]:
    if given is None:
        return (tuple(range(tasks)),)
    if not isinstance(given, list) or not given:
        raise UserError(f"{path}: orders: expected a list of orders, each a list of task indices")
    for i, order in enumerate(given):
        whole = isinstance(order, list) and all(type(task) is int for task in order)
        if not whole or sorted(order) != list(range(tasks)):
            raise UserError(f"{path}: orders[{i}]: {shown(order)} is no permutation of 0..{tasks - 1}")
    return tuple(tuple(order) for order in given)
