"""What a method's author does wrong, said where the method is called: in one sentence, with the author's own line.

Every check is made once a task or once an epoch, reads no number from a device and costs microseconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.endings import in_words
from benchmark.errors import RunFailed, spot, through
from benchmark.stream import Task
from methods.base import IncrementalMethod, WrongLoss

CALLED = (  # what the harness, or the contract's own code, calls of a method, each with the arguments of the contract
    "attach", "begin_task", "prepare_task", "learning", "loss", "penalty", "end_task", "trainable_parameters", "scores",
    "represent", "embed", "embed_image", "embed_text", "answer", "likelihood", "views", "task_scores", "route",
    "answers_from", "partition", "outputs", "graded", "kept_samples", "acting",
)  # fmt: skip


@contextmanager
def told(method: IncrementalMethod | type[IncrementalMethod], where: str) -> Iterator[None]:
    """Inside, an error that comes through the method's own file ends the run in one line that names its line there.

    Args:
        where: what is being done, in words.

    Raises:
        RunFailed: of an error that no other rule puts into words (:func:`benchmark.endings.in_words`).
    """
    cls = method if isinstance(method, type) else type(method)
    try:
        yield
    except WrongLoss as error:
        raise broken(cls, "loss", str(error)) from error
    except Exception as error:
        line = through(error, files(cls)) if in_words(error) is None else None
        if line is None:
            raise
        raise RunFailed(f"{where}: {line}") from error


def broken(cls: type[IncrementalMethod], name: str, what: str) -> RunFailed:
    """``Mine.loss gives ..., expected ... (methods/mine.py:12: def loss(self, batch):)``."""
    return RunFailed(f"{cls.__name__}.{name} {what}{place(cls, name)}")


def check_class(cls: type[IncrementalMethod]) -> None:
    """Refuse a class whose functions cannot be called with the arguments of the contract.

    Raises:
        RunFailed: naming the function and the arguments.
    """
    for name in CALLED:
        function = inspect.getattr_static(cls, name)
        if not inspect.isfunction(function):
            continue
        wanted = inspect.signature(getattr(IncrementalMethod, name)).parameters.values()
        names = [each.name for each in wanted if each.default is each.empty][1:]
        try:
            inspect.signature(function).bind(None, *names)
        except TypeError as error:
            raise broken(cls, name, f"is called as {name}({', '.join(names)}): {error}") from None


def check_built(method: IncrementalMethod) -> None:
    """Refuse a method whose ``__init__`` has not called that of its base.

    Raises:
        RunFailed: it has not.
    """
    if not hasattr(method, "_tuned") or not isinstance(vars(method).get("tasks"), list):
        raise broken(type(method), "__init__", "does not call super().__init__(), which has to come first")


def check_begun(method: IncrementalMethod, task: Task) -> None:
    """Refuse a method whose ``begin_task`` has not called that of its base.

    Raises:
        RunFailed: it has not.
    """
    if not method.tasks or method.tasks[-1] is not task:
        raise broken(type(method), "begin_task", "does not call super().begin_task(task), which has to come first")


def check_trainable(method: IncrementalMethod) -> list[nn.Parameter]:
    """What the method says that training may change.

    Raises:
        RunFailed: it is no list of parameters that are parts of the method, each once, and not frozen.
    """
    cls, found = type(method), method.trainable_parameters()
    if not isinstance(found, (list, tuple)):
        raise _untrainable(cls, f"a {type(found).__name__}, expected a list of parameters")
    names = {id(parameter): name for name, parameter in method.named_parameters(remove_duplicate=False)}
    for place, parameter in enumerate(found):
        if not isinstance(parameter, nn.Parameter):
            raise _untrainable(cls, f"a {type(parameter).__name__} at place {place}, expected parameters")
        name = names.get(id(parameter))
        if name is None:
            told = f"a parameter of shape {tuple(parameter.shape)} at place {place} that is no part of the method"
            raise _untrainable(cls, f"{told}: assign it to self, or to an nn.ParameterList that is")
        if not parameter.requires_grad:
            raise _untrainable(cls, f"{name}, which is frozen: begin_task says requires_grad_(True) of what is trained")
    if len({id(parameter) for parameter in found}) < len(found):
        raise _untrainable(cls, "a parameter twice")
    return list(found)


def check_grown(method: IncrementalMethod, known: Iterable[nn.Parameter]) -> None:
    """Refuse a method that has made parameters since its optimiser was made.

    Args:
        known: what :func:`check_trainable` gave before that.

    Raises:
        RunFailed: naming one of them.
    """
    ids = {id(parameter) for parameter in known}
    new = {id(parameter) for parameter in method.trainable_parameters()} - ids
    if new:
        name = next((name for name, each in method.named_parameters() if id(each) in new), "one")
        what = f"gives {name} since training began, which the optimiser does not have: begin_task makes what is trained"
        raise broken(type(method), "trainable_parameters", what)


def check_features(method: IncrementalMethod, features: Any, rows: int) -> Tensor:
    """(B, E) features that are shared by several questions.

    Raises:
        RunFailed: they are none.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != rows:
        raise broken(type(method), "represent", f"gives {described(features)}, expected ({rows}, E) features")
    return features


def described(value: Any) -> str:
    """A value in words: ``float32 of shape (8, 2)``, or what it is where it is no tensor."""
    if not isinstance(value, torch.Tensor):
        return "None" if value is None else f"a {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)}".removeprefix("torch.")


def _untrainable(cls: type[IncrementalMethod], what: str) -> RunFailed:
    return broken(cls, "trainable_parameters", f"gives {what}")


def files(cls: type[IncrementalMethod]) -> list[str]:
    """Where a class and those it descends from are written, but for the contract."""
    above = cls.__mro__[: cls.__mro__.index(IncrementalMethod)]
    return [file for each in above if (file := _written(each)) is not None]


def _written(cls: type[Any]) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except TypeError:  # of a class made in a terminal
        return None


def place(cls: type[IncrementalMethod], name: str) -> str:
    """Where a class, or the nearest one above it, writes a function; nothing where only the contract does."""
    for each in cls.__mro__[: cls.__mro__.index(IncrementalMethod)]:
        function = inspect.unwrap(vars(each)[name]) if name in vars(each) else None
        if inspect.isfunction(function):
            return f" ({spot(function.__code__.co_filename, function.__code__.co_firstlineno)})"
    return ""
