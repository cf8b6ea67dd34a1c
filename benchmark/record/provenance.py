"""Where a record comes from: the fingerprint of the code behind a score, the commit, the versions, the device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from benchmark.errors import UserError
from benchmark.record.schema import Provenance

PACKAGES = ("torch", "lightning", "peft", "open_clip_torch", "torchmetrics", "numpy", "timm")
ROOT = Path(__file__).resolve().parents[2]  # the checkout, or the folder a wheel was unpacked to
COMPUTING = (  # beside what reads data
    "benchmark/kinds", "benchmark/metrics.py", "benchmark/running/answers", "benchmark/running/evaluate.py",
    "benchmark/running/fit.py", "benchmark/running/loop.py", "benchmark/running/seeds.py",
)  # fmt: skip


def fingerprint(root: Path, method_file: Path) -> str:
    """16 hex digits that change when the code behind a score changes.

    The sha256 over the method's file, the ``methods`` files it imports, directly or through others, and the files of
    ``benchmark`` that compute (:data:`COMPUTING` and data), in sorted order of their path below ``root``; path and
    content both count, kinds of line ends do not.

    Raises:
        UserError: a file is missing or no Python.
    """
    root, method_file = Path(root).resolve(), Path(method_file).resolve()
    computing = [root / name for name in ("benchmark/data", *COMPUTING)]
    files = {
        method_file,
        *(file for place in computing for file in (place.rglob("*.py") if place.is_dir() else [place])),
    }
    waiting = [method_file]
    while waiting:
        imported = set(_imported(root, waiting.pop())) - files
        files |= imported
        waiting.extend(imported)
    digest = hashlib.sha256()
    named = {(file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name): file for file in files}
    for name, file in sorted(named.items()):
        if file.exists():
            content = file.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _imported(root: Path, file: Path) -> Iterator[Path]:
    """The files below ``root/methods`` that ``file`` imports, anywhere in it, and the packages around them."""
    try:
        package = file.parent.relative_to(root).parts if file.is_relative_to(root) else ()
        names = _modules(file.read_bytes(), package)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as Python ({error})") from None
    for name in names:
        if name[:1] == ("methods",):
            parents = [root.joinpath(*name[:end], "__init__.py") for end in range(1, len(name) + 1)]
            yield from (path for path in (root.joinpath(*name).with_suffix(".py"), *parents) if path.is_file())


@lru_cache(maxsize=256)
def _modules(source: bytes, package: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """What a file of this content in this package imports, split at the dots; most methods share most files."""
    import ast

    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = (*start, *(node.module.split(".") if node.module else ()))
            found += [base, *((*base, alias.name) for alias in node.names)]
    return tuple(found)


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, or None where there is no git, no repository, or no answer within 5 seconds."""
    import subprocess

    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, env=environment, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def collect(
    root: Path, method_file: Path, device: str, data: Mapping[str, str], started: str, finished: str | None = None
) -> Provenance:
    """Where a run came from.

    Args:
        root: the checkout (or the folder a wheel was unpacked to) that holds ``benchmark`` and ``methods``.
        method_file: the file of the method's class.
        device: in words, such as ``NVIDIA H100`` or ``cpu (16 threads)``.
        data: the sha256 of each task's data, by task name.
        started, finished: as ``now()`` writes them; finished is None while the run goes on.

    ``git_dirty`` looks at code and catalog alone: results are written while runs go on and change no score. Both git
    entries are None where ``root`` is not itself a repository, such as a package installed inside someone else's.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    top = _git(root, "rev-parse", "--show-toplevel")
    ours = top is not None and Path(top).resolve() == Path(root).resolve()
    changes = _git(root, "status", "--porcelain", "--", "benchmark", "methods", "datasets", "pyproject.toml")
    return Provenance(
        git_sha=_git(root, "rev-parse", "HEAD") if ours else None,
        git_dirty=bool(changes) if ours and changes is not None else None,
        fingerprint=fingerprint(root, method_file),
        python=platform.python_version(),
        packages=packages,
        device=device,
        data=dict(data),
        started=started,
        finished=finished,
    )
