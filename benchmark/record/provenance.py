"""Where a record comes from: the fingerprint of the code behind a score, the commit, the versions, the device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.record.schema import Provenance
from benchmark.record.syntax import Code, read_code

PACKAGES = ("torch", "lightning", "peft", "open_clip_torch", "torchmetrics", "numpy", "timm")
ROOT = Path(__file__).resolve().parents[2]  # the checkout, or the folder a wheel was unpacked to
COMPUTING = (  # for every run: files as they are, folders whole
    "benchmark/stream.py", "benchmark/kinds", "benchmark/metrics.py", "benchmark/texts", "benchmark/data/identity.py",
    "benchmark/data/cache.py", "benchmark/data/tensors.py", "benchmark/data/asked.py", "benchmark/data/batches.py",
    "benchmark/data/seen_once.py",
    "benchmark/running/load.py", "benchmark/running/loop.py", "benchmark/running/fit.py",
    "benchmark/running/evaluate.py", "benchmark/running/seeds.py", "benchmark/running/hardware.py",
    "benchmark/running/answers",
)  # fmt: skip
DATA, SOURCES, PHANTOM = (("benchmark", "data", *more) for more in ((), ("sources",), ("phantom",)))
RESOLVED = ("catalog", "yaml_files")  # of data: what they make of a stream's file is in its hash


def fingerprint(root: Path, method_file: Path, sources: Iterable[str]) -> str:
    """16 hex digits that change when the code behind a score does: all that can change a run's numbers.

    The sha256 over what these files say (:mod:`benchmark.record.syntax`) and over their paths below ``root``: the
    method's file with the ``methods`` files that it imports, directly or through others, what computes for every run
    (:data:`COMPUTING`), and the readers of the stream's sources with what they import of ``benchmark.data``.

    Args:
        sources: the kinds of source of the stream, such as ``phantom``.

    Raises:
        UserError: a file is missing or no Python.
    """
    root, method_file = Path(root).resolve(), Path(method_file).resolve()
    computing = [root / name for name in COMPUTING]
    there = {file for place in computing for file in (place.rglob("*.py") if place.is_dir() else [place])}
    files = imported(root, method_file) | _reading(root, sources)
    files |= {file: _code(root, file) for file in there - files.keys() if file.exists()}
    named = {
        file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name: code
        for file, code in files.items()
    }
    digest = hashlib.sha256()
    for name, code in sorted(named.items()):
        digest.update(f"{name}\0{code.digest}\0".encode())
    return digest.hexdigest()[:16]


def imported(root: Path, file: Path) -> dict[Path, Code]:
    """A method's file and the files below ``root/methods`` that it imports, with the packages around them; of a file
    elsewhere also those beside it.

    Raises:
        UserError: a file is missing or no Python.
    """

    def found(name: tuple[str, ...]) -> Iterator[Path]:
        if name[:1] == ("methods",):
            yield root.joinpath(*name).with_suffix(".py")
            yield from (root.joinpath(*name[:end], "__init__.py") for end in range(1, len(name) + 1))
        elif name and not file.is_relative_to(root):
            yield file.parent.joinpath(name[0]).with_suffix(".py")

    return _closure(root, [file], found)


def _reading(root: Path, sources: Iterable[str]) -> dict[Path, Code]:
    """The readers of these kinds of source, and the files of ``benchmark.data`` that they import.

    The package of readers imports them all, to choose one, and is left out; that of phantoms finds its drawings by
    name, and is there as a whole.
    """
    from benchmark.data.sources import READERS

    def found(name: tuple[str, ...]) -> Iterator[Path]:
        if name == PHANTOM:
            yield from root.joinpath(*PHANTOM).rglob("*.py")
        elif name[:2] == DATA and name not in (DATA, SOURCES) and name[2] not in RESOLVED:
            yield root.joinpath(*name).with_suffix(".py")

    readers = [str(vars(READERS[kind])["__name__"]).rpartition(".")[2] for kind in sources]
    return _closure(root, [root.joinpath(*SOURCES, f"{name}.py") for name in readers], found)


def _closure(root: Path, start: Iterable[Path], found: Callable[[tuple[str, ...]], Iterator[Path]]) -> dict[Path, Code]:
    """These files and all that they import, as far as ``found`` gives a file for the name of an import."""
    files: dict[Path, Code] = {}
    seen: set[tuple[str, ...]] = set()
    waiting = list(start)
    while waiting:
        file = waiting.pop()
        if file not in files:
            files[file] = _code(root, file)
            names = set(files[file].imports) - seen
            seen |= names
            waiting += [path for name in sorted(names) for path in found(name) if path not in files and path.is_file()]
    return files


def _code(root: Path, file: Path) -> Code:
    try:
        return read_code(file.read_bytes(), file.parent.relative_to(root).parts if file.is_relative_to(root) else ())
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as Python ({error})") from None


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
    root: Path,
    method_file: Path,
    sources: Iterable[str],
    device: str,
    data: Mapping[str, str],
    started: str,
    more: Sequence[str] = (),
) -> Provenance:
    """Where a run came from, which goes on.

    Args:
        root: the checkout (or the folder a wheel was unpacked to) that holds ``benchmark`` and ``methods``.
        method_file: the file of the method's class.
        sources: the kinds of source of the stream.
        device: in words, such as ``NVIDIA H100`` or ``cpu (16 threads)``.
        data: the sha256 of each task's data, by task name.
        started: as ``now()`` writes it. more: packages that this run uses beside those of every run.

    ``git_dirty`` looks at code and catalog alone: results are written while runs go on and change no score. Both git
    entries are None where ``root`` is not itself a repository, such as a package installed inside someone else's.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    packages: dict[str, str | None] = {}
    for name in (*PACKAGES, *more):
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
        fingerprint=fingerprint(root, method_file, sources),
        python=platform.python_version(),
        packages=packages,
        device=device,
        data=dict(data),
        started=started,
        processor=processor(),
    )


def processor() -> str | None:
    """The name of this machine's processor, where the system tells it."""
    import platform

    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name"))
    return next(names, None) or platform.machine() or None
