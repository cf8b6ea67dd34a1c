"""The files that an unfinished run goes on from, each with a digest. No torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from benchmark.disk import Data, digest, make_room, remove, write_bytes
from benchmark.errors import UserError
from benchmark.record.files import write_json

MANIFEST = "digests.json"
NAMES = r"^(predictions-\d{1,9}\.npz|method-\d{1,9}-(begun|ended)\.pt|fit-\d{1,9}-\d{1,9}\.ckpt)$"


class _Manifest(msgspec.Struct):
    """``digest`` is of the rest: damage of the manifest is told from damage of what it names."""

    run: list[str]
    files: dict[Annotated[str, Meta(pattern=NAMES)], str]
    digest: str


class StateFiles:
    """A folder of files, and a manifest that is written after them: what it does not name is not there.

    Every version of a file has a name of its own, so that a process that is killed before it writes the manifest leaves
    the older ones, which the manifest still names. What another run has left, or an earlier moment, is damage.

    Args:
        folder: theirs alone.
        run: what tells the run from all others.

    Attributes:
        damaged: name -> what is wrong with it, of files that are not as the manifest says, or of the manifest.
    """

    def __init__(self, folder: Path, run: Sequence[object]) -> None:
        self.folder, self.run = folder, [str(part) for part in run]
        self.damaged: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        told = self._told()
        for name in told:
            wrong = _wrong(folder / name, told[name])
            if not wrong:
                self._digests[name] = told[name]
            elif MANIFEST not in self.damaged:
                self.damaged[name] = wrong

    def _told(self) -> dict[str, str]:
        """What the manifest says; nothing, and ``damaged`` says why, where it cannot be read."""
        manifest = self.folder / MANIFEST
        if not os.path.lexists(manifest):
            return {}
        try:
            told = msgspec.json.decode(manifest.read_bytes(), type=_Manifest)
        except (OSError, ValueError) as error:  # msgspec's are ValueErrors
            self.damaged[MANIFEST] = f"damaged ({' '.join(str(error).split())})"
            return {}
        if told.run != self.run:
            self.damaged[MANIFEST] = "damaged (of another run)"
            return {}
        if told.digest != self._digest(told.files):
            self.damaged[MANIFEST] = "damaged (what it says does not fit its digest)"
        return told.files

    def _digest(self, files: dict[str, str]) -> str:
        return digest(msgspec.json.encode([self.run, files], order="sorted"))

    @property
    def names(self) -> Collection[str]:
        """The files that are whole."""
        return self._digests.keys()

    def get(self, name: str) -> bytes:
        """The content of a file, as it was written.

        Raises:
            UserError: it has changed since this process found it whole.
        """
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.folder / name}: {error.strerror}; the same command goes on without it") from None
        if digest(data) != self._digests[name]:
            raise UserError(f"{self.folder / name}: damaged; the same command goes on without it")
        return data

    def put(self, name: str, data: Data, instead_of: Collection[str] = ()) -> None:
        """Write a file, which takes the place of others; those are there until it is whole."""
        make_room(self.folder / name)
        write_bytes(self.folder / name, data)
        self._digests[name] = digest(data)
        self._forget(instead_of)

    def keep(self, names: Collection[str]) -> None:
        """Remove all but these, what no manifest names as well."""
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            remove(self.folder)
        if not self.folder.is_dir():
            return
        if self.damaged or set(names) != set(self._digests):
            make_room(self.folder / MANIFEST)
            self._forget([name for name in self._digests if name not in names])
        for path in self.folder.iterdir():
            if path.name not in (*names, MANIFEST):
                remove(path)

    def _forget(self, names: Collection[str]) -> None:
        """The manifest as things are now, without these; then they go."""
        for name in names:
            self._digests.pop(name, None)
        said = {"run": self.run, "files": self._digests, "digest": self._digest(self._digests)}
        write_json(self.folder / MANIFEST, said)
        for name in names:
            remove(self.folder / name)


def _wrong(path: Path, told: str) -> str:
    if not path.is_file():
        return f"not there, {MANIFEST} names it"
    try:
        return "" if digest(path.read_bytes()) == told else f"damaged (its digest is not the one in {MANIFEST})"
    except OSError as error:
        return f"damaged ({error.strerror})"
