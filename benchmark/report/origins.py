"""Where a number comes from: who made a run, when, with which code, and the command that makes it again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from benchmark.compare.entries import method_args
from benchmark.record.schema import Record
from benchmark.record.stored import path_of


@dataclass(frozen=True)
class ProvenanceView:
    """One run. ``given`` and ``hidden`` are its last scores, ``folder`` is below the folder of the results that it is
    of: the user's ``own``, or the stored ones."""

    seed: int
    order: int
    given: float | None
    hidden: float | None
    finished: str
    commit: str | None
    dirty: bool | None
    fingerprint: str
    device: str | None
    command: str
    folder: str
    own: bool


def provenance_view(run: Record) -> ProvenanceView:
    about = run.provenance
    return ProvenanceView(
        seed=run.seed,
        order=run.order,
        given=run.number("given", "last_acc"),
        hidden=run.number("hidden", "last_acc"),
        finished=str(about.finished),
        commit=about.git_sha,
        dirty=about.git_dirty,
        fingerprint=about.fingerprint,
        device=about.device,
        command=command(run),
        folder=path_of(Path(), run).as_posix(),
        own=run.own,
    )


def command(run: Record) -> str:
    """The command that makes a run again; where its files lie (``--data``) is no part of a record."""
    words = ["python", "-m", "benchmark", "run", "--method", run.config.method or run.method]
    words += ["--stream", run.config.stream or run.stream.name, "--backbone", run.backbone]
    words += ["--seed", str(run.seed), "--order", str(run.order)]
    known = vars(run.config) | {f"method.{name}": value for name, value in run.config.method_args.items()}
    for name in re.findall(r"(?:^| )((?:method\.)?\w+)=", run.settings):
        value = known.get(name)
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    for name, value in method_args(run).items():
        if name not in run.config.method_args:  # it was no argument then
            words += [f"--method.{name}", value]
    return shlex.join(words)


def packages(run: Record) -> str:
    """The versions of Python and of what was installed, as far as they were recorded."""
    versions = {"Python": run.provenance.python} | run.provenance.packages
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not recorded"
