"""Files are put on disk whole or not at all, and whatever is in the way can be removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmark import disk


def test_a_write_that_fails_names_the_file_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    disk.write_bytes(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        disk.write_bytes(file, b"new")
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_the_file_and_its_folder_are_on_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace = os.replace

    def synced(opened: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{opened}") else "file")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("renamed"), replace(old, new)))
    disk.write_bytes(tmp_path / "a" / "file", b"data")
    assert done == ["file", "renamed", "folder"]


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(opened: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{opened}"):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unable)
    disk.write_bytes(tmp_path / "file", memoryview(b"data"))
    assert (tmp_path / "file").read_bytes() == b"data"


def test_anything_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    (kept / "inner" / "file").write_text("stays")
    here = tmp_path / "here"
    (here / "locked" / "deep").mkdir(parents=True)
    (here / "locked" / "deep" / "file").write_text("goes")
    (here / "link").symlink_to(kept)
    for folder in (here / "locked" / "deep", here / "locked"):
        folder.chmod(0o500)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").write_text("goes")
    for name in ("here", "dangling", "link", "file", "nothing", "file/below"):
        disk.remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "inner" / "file").read_text() == "stays"


def test_a_folder_that_vanishes_while_it_is_read_has_nothing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that failed before it wrote anything takes its folders away, beside runs that look around."""
    for name in ("b/one/run.json", "a/two/run.json", "a/.hidden/run.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    every = [tmp_path / "a/two/run.json", tmp_path / "b/one/run.json"]
    assert disk.below(tmp_path, "*/*/run.json") == every and disk.below(tmp_path / "none", "*") == []
    scan = os.scandir

    def vanishing(path: str) -> object:
        if os.fspath(path).rstrip("/").endswith("/a"):
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert disk.below(tmp_path, "*/*/run.json") == every[1:]
