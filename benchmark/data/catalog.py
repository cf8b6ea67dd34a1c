"""Stream files and cards: read, validated, resolved. Every error names the file and the key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import isfile
from pathlib import Path
from typing import Any

from benchmark import kinds
from benchmark.data.task_keys import (
    CARD_KEYS,
    NAME,
    SOURCES,
    TASK_KEYS,
    check_line,
    classes_of,
    found_at,
    kind_of_source,
    name_of,
    words_of,
)
from benchmark.data.yaml_files import check_keys, read, text_of
from benchmark.errors import UserError, shown, unknown
from benchmark.stream import LABEL_SPACES, Label, Stream, Task

STREAM_KEYS = ("name", "version", "description", "ranked", "label_space", "orders", "tasks")
TABLES = ("overall", "matrix", "forgetting", "bwt", "pairs", "recall", "subgroups", "missing")  # files of leaderboards


def root() -> Path:
    """The folder of cards and streams: ``datasets`` in a checkout, ``benchmark/catalog`` in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "catalog"
    return installed if installed.is_dir() else package.parent / "datasets"


@dataclass(frozen=True)
class Source:
    """Where one task's samples come from: a kind and its options, resolved but not read.

    ``instruction`` and ``answers`` are what the file says of a generation task: what is asked of samples that bring no
    question, and the legal answers of closed ones; empty where it does not.
    """

    where: str
    kind: str
    classes: tuple[str, ...]
    options: Mapping[str, Any] = field(hash=False)
    task_kind: str = "classification"
    instruction: str = ""
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A stream as described by its file: the tasks in listed order, where their samples come from, the orders.

    A stream that is not ``ranked`` is one to choose settings on: it has no leaderboard.
    """

    file: Path
    description: str
    stream: Stream
    sources: tuple[Source, ...]
    orders: tuple[tuple[int, ...], ...]
    ranked: bool = True

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


@dataclass(frozen=True)
class _Entry:
    """A task as its file says it, before it has a place and labels in the stream."""

    task: Task
    source: Source
    templates: tuple[str, ...]


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
    stream_name = name_of(content, path, f"{path}: name")
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
    stream = Stream(stream_name, version, space, _tasks(entries, space, path))
    description = content.get("description") or ""
    if not isinstance(description, str):
        raise UserError(f"{path}: description: expected text, got {shown(description)}")
    ranked = content.get("ranked", True)
    if not isinstance(ranked, bool):
        raise UserError(f"{path}: ranked: expected true or false, got {shown(ranked)}")
    sources = tuple(entry.source for entry in entries)
    return Recipe(path, description, stream, sources, _orders(content.get("orders"), len(entries), path), ranked)


def source_of(item: Any, where: str, data: Path, folder: Path) -> Source:
    """Where the samples of one task of a stream's file come from; raises as :func:`load`."""
    return _task(item, where, data, folder).source


def _tasks(entries: Sequence[_Entry], space: str, path: Path) -> tuple[Task, ...]:
    """The tasks in their places; label ids count over those that have labels."""
    task_names = [entry.task.name for entry in entries]
    if len(set(task_names)) < len(task_names):
        twice = next(n for n in task_names if task_names.count(n) > 1)
        raise UserError(f"{path}: tasks: the name {twice!r} stands twice")
    found = {entry.task.kind for entry in entries}
    apart = sorted(name for name in found if not kinds.of(name).labelled and not kinds.of(name).speaks)
    if apart and len(found) > 1:
        others = ", ".join(sorted(found - {*apart}))
        raise UserError(f"{path}: tasks: {apart[0]} tasks cannot stand beside those of another kind ({others})")
    if space == "shared":
        for name in sorted(found):
            if not kinds.of(name).labelled:
                raise UserError(f"{path}: label_space: shared, but {name} tasks have no labels")
        if len({entry.source.classes for entry in entries}) > 1:
            raise UserError(f"{path}: label_space: shared, but the tasks' classes differ")
    tasks, first = [], 0
    for index, entry in enumerate(entries):
        templates = entries[0].templates if space == "shared" else entry.templates
        labels = tuple(
            Label(first + i, label, tuple(template.format(label) for template in templates))
            for i, label in enumerate(entry.source.classes)
        )
        first += 0 if space == "shared" else len(labels)
        tasks.append(replace(entry.task, index=index, labels=labels, of=len(entries)))
    return tuple(tasks)


def _task(item: Any, where: str, data: Path | None, folder: Path) -> _Entry:
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a task's keys and values, got {shown(item)}")
    if "card" in item:
        card = item["card"] if isinstance(item["card"], str) else ""
        card_path = root() / "cards" / f"{card}.yaml"
        if not NAME.fullmatch(card) or not isfile(card_path):
            raise unknown("card", item["card"], names("cards"), where)
        item = read(card_path) | item
    source, function = kind_of_source(item, where)
    allowed = SOURCES[source]
    check_keys(item, (*TASK_KEYS, *CARD_KEYS, *allowed.own), where)
    name, modality = name_of(item, where, f"{where}.name"), text_of(item, "modality", where)
    check_line(modality, f"{where}.modality")
    mirror = item.get("mirror", True)
    if not isinstance(mirror, bool):
        raise UserError(f"{where}.mirror: expected true or false, got {shown(mirror)}")
    kind = item.get("kind", "classification")
    if kind not in [*kinds.KINDS]:  # of a list, for what a file says may have no hash
        raise unknown("kind", kind, kinds.KINDS, where)
    if kind not in allowed.gives:
        raise UserError(f"{where}.kind: source {source!r} gives {allowed.gives[0]} tasks only")
    classes, templates = classes_of(item, kind, where)
    words = words_of(item, kind, where)
    options = {key: item[key] for key in allowed.own if key in item}
    for key, wanted in allowed.paths.items():
        options[key] = found_at(text_of(item, key, where), f"{where}.{key}", data, folder, wanted)
    if allowed.places:
        options["places"] = () if data is None else (data, folder)
    if function:
        options["function"] = function
    asked = {key: words[key] for key in ("instruction", "answers") if key in words and kinds.of(kind).speaks}
    return _Entry(
        Task(0, name, modality, kind, (), 0, mirror, **words),
        Source(where, source, tuple(classes), options, kind, **asked),
        tuple(templates),
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
