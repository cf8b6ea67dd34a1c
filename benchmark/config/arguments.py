"""The arguments of a run, in two stages: the method's name first, then its class's arguments.

``--method mslora_cr --method.rank 16``, or in a config file ``method: {name: mslora_cr, rank: 16}``. Defaults come
from RunConfig and the method's ``__init__``, then ``--preset`` (PRESETS of its file, or what it was tuned to),
``--config``, the command line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmark.config import tuned
from benchmark.config.registry import MethodCard, card, load, named
from benchmark.config.run_config import WHOLE, RunConfig
from benchmark.data import catalog
from benchmark.data.yaml_files import check_keys, read
from benchmark.errors import UserError, shown, unknown

SKIP = {"method", "method_args"}
OF_A_FILE = ("method", "preset", *(f.name for f in fields(RunConfig) if f.name not in SKIP))
NUMBERS = {f"--{name}": int for name in WHOLE} | {f"--{name}": float for name in ("lr", "weight_decay", "warmup")}
DIGITS = re.compile(r"[+-]?[0-9]{1,40}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MISFIT = re.compile(  # a message of jsonargparse: the argument, what it could be, what it is
    r"""Parser key "([^"]+)": (.*Expected a .*?)\.? (?:Got|Given value type: \S+ '\w+'> Given) value: (.*)"""
)
WANTED = re.compile(r"Literal\[([^\]]*)\]|<class '(int|float|bool|str)'>")
SPOKEN = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
FLAGS = ("--force", "--quiet", "--full_evaluation", "--keep_images")


def parse(verb: str, argv: Sequence[str], with_class: bool) -> tuple[RunConfig, MethodCard, type[Any] | None]:
    """Parse ``run`` or ``plan``; with the class its arguments are checked against its signature, else its source.

    Raises:
        UserError: any argument that does not fit. SystemExit: after ``--help`` or ``--print_config``.
    """
    argv = _normalised(list(argv))
    method = _find_method(argv)
    if method is None:
        if not {"-h", "--help"} & set(argv):
            raise UserError(f"--method is missing, for example: python -m benchmark {verb} --method mslora_cr")
        _parser(verb, None, None).parse_args(["--help"])
    method = named(str(method))
    described = card(method)
    argv = _with_numbers(argv, described)
    cls = load(method) if with_class else None
    parser = _parser(verb, described, cls)
    given = parsed(parser, _with_preset(argv, described))
    values = given.as_dict() if hasattr(given, "as_dict") else vars(given)
    method_args = {k: v for k, v in values.pop("method").items() if k != "name"}
    for name, value in method_args.items():
        if value is None and described.defaults.get(name) is not None:
            raise UserError(f"--method.{name}: expected a value, got null")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--method.{name}: expected a number, got {value}")
    values = {name: value for name, value in values.items() if name not in ("config", "preset", "print_config")}
    return RunConfig(**values, method=method, method_args=method_args), described, cls


def preset_of(argv: Sequence[str]) -> str:
    """The preset that is typed or stands in the config file; empty for none."""
    return _value(_normalised(list(argv)), "--preset") or ""


def preset_values(preset: str, described: MethodCard, stream: str, backbone: str) -> Mapping[str, Any]:
    """What a preset of a method says on a stream: an entry of its PRESETS, or what it was tuned to.

    Raises:
        UserError: there is none of the name, or the method was not tuned for the stream's kinds.
    """
    if preset == tuned.PRESET:
        return tuned.values(described, catalog.load(stream, None).stream.kinds, backbone)
    if preset not in described.presets:
        raise unknown("--preset", preset, [*described.presets, tuned.PRESET])
    return described.presets[preset]


def typed(options: Mapping[str, object]) -> list[str]:
    """The options of a call as words of the command line: ``batch_size=8, method_rank=16`` is ``--batch_size=8
    --method.rank=16``.

    Raises:
        UserError: an option that ``run`` does not have, or a value that cannot be typed.
    """
    known, words = ("config", *OF_A_FILE), []
    for name, value in options.items():
        argument = "--" + re.sub("^method_", "method.", name)
        if name not in known and not argument.startswith("--method."):
            raise unknown("argument", argument, [f"--{each}" for each in known])
        value = value.tolist() if hasattr(value, "tolist") else value  # of numpy
        try:
            word = str(value) if isinstance(value, str | Path) else json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"{argument}: expected a number, a text, true or false, got {shown(value)}") from None
        words.append(f"{argument}={word}")
    return words


def _parser(verb: str, described: MethodCard | None, cls: type[Any] | None) -> Any:
    from jsonargparse import ActionConfigFile, ArgumentParser

    about = described.doc if described else "Run a method over a stream; --method NAME --help shows its own arguments."
    prog = f"python -m benchmark {verb}"
    parser = ArgumentParser(prog=prog, description=about, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML with any of these arguments")
    parser.add_argument(
        "--preset", type=str | None, default=None, help="a PRESETS entry of the method's file, or tuned"
    )
    parser.add_class_arguments(RunConfig, nested_key=None, skip=SKIP)
    parser.add_argument("--method.name", type=str, help="the method")
    if described is not None and cls is not None:
        parser.add_class_arguments(cls, "method", fail_untyped=False)
    elif described is not None:
        for name, default in described.defaults.items():
            kind = type(default) if default is not None else Any
            parser.add_argument(f"--method.{name}", type=float | int if kind is float else kind, default=default)
    return parser


def parsed(parser: Any, argv: list[str]) -> Any:
    """What the parser makes of the arguments; every complaint is one line with the nearest valid argument."""
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        text = " ".join(str(error).split())
        raise UserError(_nearest(text, parser)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(" ".join(str(error).split())) from None


def _nearest(text: str, parser: Any) -> str:
    """The parser's message; for an unknown argument with the nearest valid one, for a value that does not fit with what
    would.
    """
    misfit = MISFIT.fullmatch(text)
    if misfit and (wanted := WANTED.findall(misfit[2])):
        fits = dict.fromkeys(names.replace("'", "").replace(", ", " or ") or SPOKEN[kind] for names, kind in wanted)
        return f"--{misfit[1]}: expected {' or '.join(fits)}, got {shown(misfit[3])}"
    known = [option for action in parser._actions for option in action.option_strings]
    for word in text.replace("'", " ").replace(",", " ").split():
        name = word.split("=")[0]
        if name.startswith("--") and name not in known and ("nrecognized" in text or "unknown" in text.lower()):
            return str(unknown("argument", name, known))
    return text


def _normalised(argv: list[str]) -> list[str]:
    """Short forms written out: ``--method X`` is ``--method.name X``, a bare ``--force`` is ``--force true``."""
    out: list[str] = []
    for i, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option == "--method":
            word = "--method.name" + equals + value
        elif word in FLAGS and (i + 1 == len(argv) or argv[i + 1].startswith("--")):
            word += "=true"
        out.append(word)
    places = [i for i, word in enumerate(out) if word.split("=")[0] == "--config"]
    path = _value(out, "--config")
    if path is None:
        return out
    if len(places) > 1:
        raise UserError("--config: given twice")
    content = _of_file(path)
    preset = content.pop("preset", None)
    if preset is not None and _value(out, "--preset") is None:
        out.append(f"--preset={preset}")
    (place,) = places
    out[place : place + (2 if out[place] == "--config" else 1)] = [f"--config={json.dumps(content)}"]
    return out


def _value(argv: list[str], option: str) -> str | None:
    """What is typed for an option, the last of several."""
    found = None
    for i, word in enumerate(argv):
        if word.startswith(option + "="):
            found = word.removeprefix(option + "=")
        elif word == option and i + 1 < len(argv):
            found = argv[i + 1]
    return found


def _chosen(argv: list[str], name: str) -> str:
    """What is typed for an option of a run or stands in its config file, else the default."""
    config = json.loads(_value(argv, "--config") or "{}")
    value = _value(argv, f"--{name}") or config.get(name) or getattr(RunConfig, name)
    return str(value)


def _of_file(path: str) -> dict[str, Any]:
    """What a config file says; there too the method may be given by its name alone."""
    content, where = read(Path(path), "--config"), f"--config {path}"
    check_keys(content, OF_A_FILE, where)
    method = content.get("method", {})
    method = {"name": method} if isinstance(method, str) else method
    if not isinstance(method, dict) or not isinstance(method.get("name", ""), str):
        raise UserError(f"{where}: method: expected its name, or name and arguments, got {shown(method)}")
    if not isinstance(content.get("preset", ""), str):
        raise UserError(f"{where}: preset: expected its name, got {shown(content['preset'])}")
    return content | ({"method": method} if method else {})


def _with_numbers(argv: list[str], described: MethodCard) -> list[str]:
    """Numbers as people write them: 010 is ten, and what only YAML takes for a number (1:30, 0x10, 1_000) is none."""
    kinds: dict[str, type] = dict(NUMBERS)
    kinds |= {f"--method.{name}": type(value) for name, value in described.defaults.items()}
    out = list(argv)
    for i, word in enumerate(argv):
        option, equals, typed = word.partition("=")
        kind = kinds.get(option)
        if kind not in (int, float) or not (equals or i + 1 < len(argv)):
            continue
        text = (typed if equals else argv[i + 1]).strip()
        if text == "null":
            continue
        if not (DIGITS if kind is int else DECIMAL).fullmatch(text) or not math.isfinite(float(text)):
            wanted = "a whole number" if kind is int else "a number"
            raise UserError(f"{option}: expected {wanted}, got {shown(text)}")
        number = str(int(text)) if kind is int else text
        out[i if equals else i + 1] = f"{option}={number}" if equals else number
    return out


def _find_method(argv: list[str]) -> str | None:
    """The method's name, wherever it is given."""
    name, config = _value(argv, "--method.name"), _value(argv, "--config")
    if name is None and config is not None:
        name = json.loads(config).get("method", {}).get("name")
    return name


def _with_preset(argv: list[str], described: MethodCard) -> list[str]:
    """A preset's values in front of what is typed, so that the command line wins."""
    preset = _value(argv, "--preset")
    if preset is None:
        return argv
    values = dict(preset_values(preset, described, _chosen(argv, "stream"), _chosen(argv, "backbone")))
    nested = {f"method.{name}": value for name, value in values.pop("method", {}).items()}
    return [f"--{name}={value}" for name, value in (values | nested).items()] + argv
