"""Stream files and config files that are wrong or odd: bombs of YAML, wrong types, names that are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.data import catalog, sources
from benchmark.data.yaml_files import DEEPEST, MOST_BYTES, read
from benchmark.errors import UserError
from tests.refusals import Case, check

Tally = Callable[..., None]
TASK = {
    "name": "liver",
    "modality": "ct",
    "source": "phantom",
    "generator": "ct",
    "seed": 5,
    "sizes": {"train": 4, "val": 2, "test": 4},
    "classes": ["small lesions", "large lesions"],
    "regions": [{"lesion_size": [0.05, 0.4]}, {"lesion_size": [0.6, 0.95]}],
    "template": "an abdominal CT slice with {}.",
}
STREAM = {"name": "odd", "tasks": [TASK, TASK | {"name": "again", "seed": 6, "classes": ["a", "b"]}]}
GOOD = yaml.safe_dump(STREAM)
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: x}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 15))

# what stands in the file, as text or bytes
FILES: list[Case] = [
    ("as it should be", GOOD, None),
    ("with a BOM", b"\xef\xbb\xbf" + GOOD.encode(), None),
    ("Windows line ends", GOOD.replace("\n", "\r\n"), None),
    ("a date is a text", GOOD + "description: 2020-01-01\n", None),
    ("a date that is none", GOOD + "description: 2020-13-99\n", None),
    ("an explicit text", GOOD.replace("name: odd", "name: !!str 8"), None),
    ("a few aliases", GOOD + "orders: [&o [0, 1], *o]\n", None),
    ("a merge", "x: &t {}\n" + GOOD, "unknown key 'x'"),
    ("JSON", '{"name": "odd", "tasks": []}', "at least one task"),
    ("empty", "", "expected keys and values"),
    ("only a comment", "# nothing\n", "expected keys and values"),
    ("null", "null\n", "expected keys and values"),
    ("a list", "- name: odd\n", "expected keys and values"),
    ("a text", "odd\n", "expected keys and values"),
    ("a number", "8\n", "expected keys and values"),
    ("two documents", GOOD + "---\n" + GOOD, "single document"),
    ("a document that is closed twice", "...\n...\nname: x\n", "YAML"),
    ("a tab", "name: odd\n\ttasks: []\n", "YAML"),
    ("not UTF-8", b"name: \xff\xfe\n", "utf-8"),
    ("UTF-16", GOOD.encode("utf-16"), "utf-8"),
    ("Latin-1", "name: Größe\n".encode("latin-1"), "utf-8"),
    ("a NUL", b"name: o\0dd\n", "YAML"),
    ("an escaped NUL", 'name: "o\\0dd"\n', "control characters"),
    ("an escaped bell", 'description: "\\a"\n', "control characters"),
    ("half a character", 'name: "\\ud800"\n', "odd.yaml: "),
    ("ANSI colours", 'description: "\\e[31mred"\n', "control characters"),
    ("a key with a control character", '"na\\bme": x\n', "control characters"),
    ("unfinished", "name: [odd\n", "YAML"),
    ("an unknown alias", "name: *odd\n", "YAML"),
    ("an unknown tag", "name: !odd x\n", "!odd"),
    ("a Python object", "name: !!python/object:os.system {}\n", "python/object"),
    ("a Python call", "name: !!python/object/apply:os.system [touch sprung]\n", "python/object"),
    ("a Python tuple", "name: !!python/tuple [1, 2]\n", "python/tuple"),
    ("binary", "name: !!binary aGk=\n", "binary"),
    ("binary that is none", "name: !!binary '###'\n", "binary"),
    ("a set", "name: !!set {a, b}\n", "set"),
    ("pairs", "name: !!pairs [a: 1]\n", "pairs"),
    ("the sign =", "name: =\n", "tag:yaml.org,2002:value"),
    ("an int that is none", "version: !!int two\n", "written in decimal"),
    ("a float that is none", "version: !!float two\n", "written in decimal"),
    ("an int of nothing", "version: !!int ''\n", "written in decimal"),
    ("a float of nothing", "version: !!float ''\n", "written in decimal"),
    ("a bool that is none", "version: !!bool perhaps\n", "not readable as YAML"),
    ("an int of 5,000 digits", f"version: {'9' * 5000}\n", "YAML"),
    ("an int of 400 digits", GOOD + f"version: {'9' * 400}\n", "whole number"),
    ("an octal", GOOD + "version: 010\n", "written in decimal"),
    ("a hexadecimal", GOOD + "version: 0x10\n", "written in decimal"),
    ("a time", GOOD + "version: 1:30\n", "written in decimal"),
    ("a time with a fraction", GOOD + "version: 1:30.5\n", "written in decimal"),
    ("underscores", GOOD + "version: 1_000\n", "written in decimal"),
    ("a plain number", GOOD + "version: +10\n", None),
    ("a key twice", GOOD + "name: other\n", "'name' stands twice, first in line"),
    ("a task's key twice", GOOD.replace("  seed: 5\n", "  seed: 5\n  seed: 7\n"), "'seed' stands twice"),
    ("a key twice, once in quotes", GOOD + '"name": other\n', "'name' stands twice"),
    ("a merge twice", "a: &a {b: 1}\nc: {<<: *a, <<: *a}\n", "'<<' stands twice"),
    ("a key that is a list", "[name]: odd\n", "a key is no name"),
    ("a key that is no", "no: odd\n", "'no' is no name"),
    ("a key that is null", "null: odd\n", "'null' is no name"),
    ("a key that is a float", "1.5: odd\n", "'1.5' is no name"),
    ("a key that is a number", "1: odd\n", "unknown key '1'"),
    ("a bomb of aliases", BOMB, "values, aliases written out"),
    ("a bomb of aliases in the name", BOMB + "name: *a9\n", "values, aliases written out"),
    ("a bomb of merges", MERGES, "values, aliases written out"),
    ("an alias of itself", "name: &a [*a]\n", "an alias of what it stands in"),
    ("an alias of a mapping in itself", "name: &a {b: *a}\n", "an alias of what it stands in"),
    ("an alias of the whole", "&a name: odd\ntasks: [*a]\n", "expected a task's keys"),
    ("deep lists", "name: " + "[" * 5000 + "]" * 5000, "nested deeper"),
    ("deep mappings", "".join(f"{' ' * i}a:\n" for i in range(500)), "nested deeper"),
    ("deep flow mappings", "{a: " * 3000 + "}" * 3000, "nested deeper"),
    ("deep by aliases", "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 90)), "unknown key"),
    ("as deep as allowed", "x: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1), "unknown key 'x'"),
    ("a long text", f"description: {'x' * 30_000}\n", "a text of more than"),
    ("many values", "x: [" + "1," * 110_000 + "]\n", "more than 50000 values"),
    ("many values, not all at once", "x: [" + "1," * 60_000 + "]\n", "more than 50000 values, aliases written out"),
    ("a large file", GOOD + "#" * MOST_BYTES, "larger than 1 MiB"),
    ("a large number of keys", "".join(f"k{i}: 1\n" for i in range(3000)), "unknown key 'k0'"),
]


def test_files_of_yaml(tmp_path: Path, tally: Tally) -> None:
    def run(content: str | bytes) -> None:
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        try:
            catalog.load(path, tmp_path)
        finally:
            Path(path).unlink()

    path = str(tmp_path / "odd.yaml")
    check(FILES, run, tally, tmp_path)
    assert len(BOMB.encode()) < 1024 and len(MERGES.encode()) < 1024


def test_what_is_no_file_is_not_opened(tmp_path: Path, tally: Tally) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nothing")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "link.yaml").symlink_to("good.yaml")
    cases: list[Case] = [
        ("a fifo", "fifo.yaml", "no file but a fifo"),
        ("a folder", "folder.yaml", "no file but a folder"),
        ("a dangling link", "dangling.yaml", "file not found"),
        ("a link to itself", "loop.yaml", "not readable"),
        ("a device", "zero.yaml", "no file but a device"),
        ("nothing", "none.yaml", "file not found"),
        ("below a file", "good.yaml/x.yaml", "not readable"),
        ("a long name", f"{'x' * 300}.yaml", "not readable"),
        ("a NUL in its name", "a\0b.yaml", "not readable"),
        ("a link", "link.yaml", None),
    ]
    check(cases, lambda name: catalog.load(str(tmp_path / name), tmp_path), tally, tmp_path)
    check(
        [(name, where, says) for name, where, says in cases if says],
        lambda name: read(tmp_path / name, "--config"), tally, tmp_path,
    )  # fmt: skip


def changed(place: str, value: Any) -> dict[str, Any]:
    """The stream with the value at a place like ``tasks.0.seed``."""
    content: dict[str, Any] = deepcopy(STREAM)
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    at: Any = content
    for key in way:
        at = at[key]
    at[last] = value
    return content


HUGE = "x" * 5000
CASES_OF_KEYS: dict[str, list[tuple[Any, str | None]]] = {
    "name": [
        (" ", "expected text"), ("../up", "must be of letters"), ("a/b", "must be of letters"), (".hidden", "must be"),
        ("a\nb", "must be of letters"), (HUGE, "at most 100"), ("overall", "another table"),
        ("Overall", "another table"),
        ("x.matrix", "another table"), ("größe", "must be of letters"), (["odd"], "expected text"),
        ({"a": 1}, "expected"),
        (True, "expected text, got True"), (None, "expected text, got None"), (1.5, "expected text"),
        ("x.y-z_1", None),
        ("\uff12", "must be of letters"),
    ],
    "version": [
        (1.0, "whole number"), ([1], "whole number"), (10**12, "whole number"), (None, "whole number"), (7, None),
    ],
    "description": [([1, 2], "expected text"), ({"a": 1}, "expected text"), (None, None), ("two\nlines", None)],
    "label_space": [
        (["own"], "unknown label_space"), ({"own": 1}, "unknown label_space"), (None, "unknown"), (1, "unknown"),
    ],
    "orders": [
        ([[0, 1], [1, 0]], None), ([[0, 0]], "no permutation"), ([[True, False]], "no permutation"),
        ([[0]], "no perm"),
        ([0, 1], "no permutation"), ({}, "list of orders"), ([], "list of orders"), ([["0", "1"]], "no permutation"),
        ([[0, 1, 2]], "no permutation"), ([[0.0, 1.0]], "no permutation"), ([[-1, 0]], "no permutation"),
        ([[10**400, 0]], "no permutation"), (None, None),
    ],
    "tasks": [
        (None, "at least one task"), ({}, "at least one task"), ([None], "expected a task's keys"),
        ([[]], "expected a"),
        ([TASK], None), ([TASK, TASK], "'liver' stands twice"), ([TASK] * 500, "stands twice"),
        ([HUGE], "expected a task's"),
    ],
    "tasks.0.card": [
        (["a"], "unknown card"), (5, "unknown card"), ("../cards/pcam", "unknown card"),
        ("/etc/passwd", "unknown card"),
        ("", "unknown card"), (HUGE, "unknown card"), (None, "unknown card"), ({"a": 1}, "unknown card"),
    ],
    "tasks.0.name": [
        ("a b", "must be of letters"), ("..", "must be of letters"), (HUGE, "at most 100"), (3, "expected text"),
        ("CON.x", None), ("liver/../x", "must be of letters"), (None, "expected text"), ("-x", "must be of letters"),
    ],
    "tasks.0.modality": [
        ("a\nb", "expected a line"), (" ct", "no blanks around"), (HUGE, "expected a line"),
        ("Ultraschall, 3D", None), (True, "expected text"),
    ],
    "tasks.0.mirror": [(False, None), (None, "true or false"), ("false", "true or false"), ([], "true or false")],
    "tasks.0.kind": [
        ({}, "unknown kind"), (None, "unknown kind"), (1, "unknown kind"), ("Classification", "unknown kind"),
    ],
    "tasks.0.source": [
        (None, "'source' is missing"), (5, "unknown source"), ("os:system:x", "unknown source"),
        ("a/b:c", "unknown source"),
        ({"a": 1}, "unknown source"), ("npz", "unknown key 'generator'"), (HUGE, "unknown source"),
        ("folder", "unknown key"),
    ],
    "tasks.0.classes": [
        (["Cat", "cat"], "one name to the backbone"), (["cat", "cat "], "no blanks around"),
        (["cat  a", "cat a"], "one name"),
        (["caf\u00e9", "cafe\u0301"], "one name to the backbone"), (["\uff41", "a"], "one name"),
        (["a", ""], "list of texts"),
        (["a", " "], "expected a line"), (["a", "b\nc"], "expected a line"), (["a", None], "list of texts"),
        ([True, False], "yes and no in quotes"), ([1, 2], "in quotes"), ("ab", "two different"),
        ({"a": 1, "b": 2}, "list of"),
        ([["a"], ["b"]], "list of texts"), (["a", HUGE], "expected a line"), (["{}", "{0}"], None),
        (["%s", "{x}"], None),
        (["naïve", "日本語"], None), ([f"class {i}" for i in range(10_000)], "one region for each of the 10000"),
        (["a", "b", "c"], "one region for each of the 3"),
    ],
    "tasks.0.template": [
        ("", "list of texts"), (" ", "must contain {}"), ([], "list of texts"), ([""], "list of texts"),
        (None, "list of"),
        ("{0}", "must contain {}"), ("{{}}", "must contain {}"), ("{} {x}", "must contain {}"), ("{}" + HUGE, None),
        (["a {}", 5], "list of texts"), ("{!r}", "must contain {}"), ("{}", None), ({"a": "{}"}, "list of texts"),
    ],
    "tasks.0.generator": [
        ("CT", "unknown generator"), (None, "unknown generator"), (["ct"], "unknown"), ("os", "unknown"),
    ],
    "tasks.0.seed": [
        (True, "whole number"), (-1, "whole number"), (1.0, "whole number"), ("5", "whole number"),
        (2**63, "whole number"),
        (None, "whole number"), (float("nan"), "whole number"), (0, None), (10**400, "whole number"),
    ],
    "tasks.0.sizes": [
        ({"train": 10**12}, "at most 200,000 images"), ({"train": 150_000, "test": 60_000}, "at most 200,000 images"),
        ({"train": 10**400}, "at most 200,000"), ({"train": 0}, "at least 2"), ({"train": 1}, "at least 2"),
        ([4, 2], "split:"),
        ({"train": 4.0}, "whole number"), ({"trian": 4}, "unknown split"), ({"train": True}, "whole number"),
        ({}, None),
        ({1: 2}, "unknown split"), (None, "split: number"), ({"train": None}, "whole number"),
        ({"val": -5}, "whole number"),
    ],
    "tasks.0.regions": [
        ([], "one region"), ([{}, {}], None), ([{}, None], "expected factor"),
        ([{"lesion": [0, 1]}, {}], "unknown factor"),
        ([{"lesion_size": [0.4, 0.1]}, {}], "within [0, 1]"),
        ([{"lesion_size": [0, float("nan")]}, {}], "within [0, 1]"),
        ([{"lesion_size": [False, True]}, {}], "within [0, 1]"), ([{"lesion_size": [0, float("inf")]}, {}], "within"),
        ([{"lesion_size": 0.5}, {}], "within [0, 1]"), ([{"lesion_size": [0, 1, 2]}, {}], "within"),
        ({}, "one region"),
        ([{"lesion_size": ["0", "1"]}, {}], "within [0, 1]"), ([[0, 1], [0, 1]], "expected factor"),
    ],
    "tasks.0.shift": [
        ({}, "kind: strength"), ({"blurr": 1}, "unknown shift"), ([1], "kind: strength"), ({"noise": True}, "shift"),
    ],
    "tasks.0.notes": [([["x"], ["y"]], "an option of fusion tasks")],
    "tasks.0.path": [("x", "unknown key 'path'")],
    "tasks.0.allow_leak": [(True, "unknown key 'allow_leak'")],
}  # fmt: skip


def test_keys_of_a_stream(tmp_path: Path, tally: Tally) -> None:
    def run(content: dict[str, Any]) -> None:
        Path(path).write_text(yaml.safe_dump(content, allow_unicode=True))
        try:
            for source in catalog.load(path, tmp_path).sources:
                sources.identity(source)
        finally:
            Path(path).unlink()

    path = str(tmp_path / "odd.yaml")
    cases: list[Case] = [
        (f"{place}: {str(value)[:60]}", changed(place, value), says)
        for place, values in CASES_OF_KEYS.items()
        for value, says in values
    ]
    check(cases, run, tally, tmp_path)


def test_a_message_names_the_line_and_shows_little(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(GOOD + "name: other\n")
    with pytest.raises(UserError, match=r"odd\.yaml: line \d+: the key 'name' stands twice, first in line 1$"):
        catalog.load(str(tmp_path / "odd.yaml"), tmp_path)
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(changed("tasks.0.classes", [[["deep"] * 100] * 100] * 100)))
    with pytest.raises(UserError) as error:
        catalog.load(str(tmp_path / "odd.yaml"), tmp_path)
    assert len(str(error.value)) < 400
