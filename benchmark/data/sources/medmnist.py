"""``source: medmnist``: a 2D set of MedMNIST by its flag, from a file that is there, or downloaded by the package.

The package medmnist is optional (``pip install "mbil-bench[medmnist]"``): without it a file that is there is read. Its
table of addresses and checksums is read as text, for importing the package imports torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.data.catalog import Source
from benchmark.data.sources import npz
from benchmark.data.sources.contents import digests
from benchmark.data.sources.split import Split
from benchmark.errors import UserError, shown, unknown

FLAGS = (
    "pathmnist", "chestmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist",
    "breastmnist", "bloodmnist", "tissuemnist", "organamnist", "organcmnist", "organsmnist",
)  # fmt: skip
SIZES = (28, 64, 128, 224)
MULTI_LABEL = ("chestmnist",)


def load(source: Source, split: str) -> Split:
    """A split, downloaded if the file is not there."""
    return npz.read(source, obtained(source), split, any_of="multi_label" in source.options)


def identity(source: Source) -> str:
    """sha256 of the file's md5; of the official one where the file is not there yet, so nothing is downloaded."""
    path = found(source)
    md5 = digests(path, [path], "md5")[0] if path else _info(source)[f"MD5{_suffix(source)}"]
    described = f"medmnist {md5}" + (" any" if "multi_label" in source.options else "")
    return hashlib.sha256(described.encode()).hexdigest()


def home() -> Path:
    """Where the medmnist package keeps its files."""
    return Path.home() / ".medmnist"


def file_name(source: Source) -> str:
    """``pathmnist.npz`` (28 px) or ``pathmnist_64.npz``.

    Raises:
        UserError: an option is wrong.
    """
    where, options = source.where, source.options
    flag, size = options.get("flag"), options.get("size", 28)
    if flag not in FLAGS:
        raise unknown("flag", flag, FLAGS, where)
    if size not in SIZES or isinstance(size, bool):
        raise UserError(f"{where}.size: expected one of {', '.join(map(str, SIZES))}, got {shown(size)}")
    if flag in MULTI_LABEL and options.get("multi_label") != "any":
        raise UserError(
            f"{where}: {flag} has several labels an image; multi_label: any makes them two classes, "
            "none of the findings (0) and at least one (1)"
        )
    if "multi_label" in options and flag not in MULTI_LABEL:
        raise UserError(f"{where}.multi_label: {flag} has one label an image")
    return f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz"


def found(source: Source) -> Path | None:
    """The set's file in the data folder, beside the stream file or where the package keeps its files."""
    name = file_name(source)
    candidates = [Path(folder) / name for folder in (*source.options.get("places", ()), home())]
    return next((path for path in candidates if path.is_file()), None)


def missing(source: Source) -> str:
    """The set's file, if it is not on this machine."""
    return "" if found(source) else file_name(source)


def obtained(source: Source) -> Path:
    """The set's file, downloaded by the package (which compares its md5) if it is not there.

    Raises:
        UserError: the package is not installed, the download failed.
    """
    path = found(source)
    if path:
        return path
    info, name = _info(source), file_name(source)
    import medmnist

    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home(), prefix=".downloading-") as building:
            size = source.options.get("size", 28)
            getattr(medmnist, info["python_class"])("test", download=True, root=building, size=size)
            os.replace(Path(building) / name, home() / name)
    except (OSError, RuntimeError) as error:
        url = info[f"url{_suffix(source)}"]
        reason = "" if isinstance(error, RuntimeError) else f" ({error})"
        raise UserError(
            f"{source.where}: {name} could not be downloaded{reason}: get {url} into the data folder"
        ) from None
    return home() / name


def _suffix(source: Source) -> str:
    size = source.options.get("size", 28)
    return "" if size == 28 else f"_{size}"


def _info(source: Source) -> dict[str, Any]:
    spec = importlib.util.find_spec("medmnist")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{source.where}: {file_name(source)} is neither in the data folder nor in {home()}; to download it "
            'the medmnist package is needed: pip install "mbil-bench[medmnist]"'
        )
    return _table(Path(spec.origin).with_name("info.py"))[source.options["flag"]]


@cache
def _table(path: Path) -> dict[str, dict[str, Any]]:
    """The package's INFO, a literal."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "INFO":
            return dict(ast.literal_eval(node.value))
    raise UserError(f"{path}: the medmnist package has no table INFO; version 3.0.2 has")
