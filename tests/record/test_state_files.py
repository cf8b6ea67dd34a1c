"""Files with a manifest that is written after them: what a killed process, bad luck or another run left is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.record import state_files
from benchmark.record.state_files import MANIFEST, StateFiles
from tests.record.test_killed import Killed, killed_at

OLD, NEW = "method-0-begun.pt", "method-0-ended.pt"
RUN = ("three", "ewc", "0a", 0, 0, "code")


def opened(folder: Path) -> StateFiles:
    return StateFiles(folder, RUN)


def there(folder: Path) -> dict[str, bytes]:
    files = opened(folder)
    assert not files.damaged
    return {name: files.get(name) for name in files.names}


def test_what_is_put_is_got_by_the_next_process(tmp_path: Path) -> None:
    files = opened(tmp_path / "state")
    assert not (tmp_path / "state").exists() and not files.names
    files.put(OLD, b"old")
    files.put(NEW, b"new", [OLD])
    assert there(tmp_path / "state") == {NEW: b"new"}
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == sorted([MANIFEST, NEW])


def test_a_process_that_is_killed_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    seen = []
    for step in range(100):
        folder = tmp_path / str(step)
        opened(folder).put(OLD, b"old")
        files = opened(folder)
        try:
            with killed_at(step) as done:
                files.put(NEW, b"new", [OLD])
        except Killed:
            seen.append(there(folder))
            continue
        assert len(done) == step and there(folder) == {NEW: b"new"}
        break
    assert [one for at, one in enumerate(seen) if one not in seen[:at]] == [{OLD: b"old"}, {NEW: b"new"}]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink, "empty": lambda file: file.write_bytes(b""), "other": lambda file: file.write_bytes(b"olD"),
    "longer": lambda file: file.write_bytes(b"old."),
    "a link": lambda file: (file.unlink(), file.symlink_to("nowhere")),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("way", DAMAGES)
def test_a_damaged_file_is_told_and_not_got(way: str, tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.put(OLD, b"old")
    files.put(NEW, b"new")
    DAMAGES[way](tmp_path / OLD)
    with pytest.raises(UserError, match=OLD):
        files.get(OLD)
    files = opened(tmp_path)
    assert list(files.damaged) == [OLD] and list(files.names) == [NEW]
    files.keep([NEW])
    assert there(tmp_path) == {NEW: b"new"} and len(list(tmp_path.iterdir())) == 2
    opened(tmp_path).put(OLD, b"again")
    assert there(tmp_path) == {NEW: b"new", OLD: b"again"}


WRONG = {
    "no JSON": b"{", "a list": b"[]", "nothing": b"", "no files": b'{"run": []}', "types": b'{"run": [], "files": [1]}',
    "a path": b'{"run": ["three", "ewc", "0a", "0", "0", "code"], "files": {"../../x": "aa"}}', "bytes": b"\xff\x00",
}  # fmt: skip


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_damaged_manifest_is_told(content: bytes, tmp_path: Path) -> None:
    opened(tmp_path).put(OLD, b"old")
    (tmp_path / MANIFEST).write_bytes(content)
    files = opened(tmp_path)
    assert list(files.damaged) == [MANIFEST] and not files.names
    files.keep([])
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST] and there(tmp_path) == {}


def test_what_another_run_left_is_damage(tmp_path: Path) -> None:
    StateFiles(tmp_path, (*RUN[:-1], "other code")).put(OLD, b"old")
    assert opened(tmp_path).damaged == {MANIFEST: "damaged (of another run)"}


def test_what_no_manifest_names_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    opened(folder).put(OLD, b"old")
    (folder / "fit-0-1.ckpt").write_bytes(b"of a process that was killed")
    (folder / "more" / "deep").mkdir(parents=True)
    opened(folder).keep([OLD])
    assert sorted(path.name for path in folder.iterdir()) == sorted([MANIFEST, OLD])
    assert json.loads((folder / MANIFEST).read_text())["files"].keys() == {OLD}
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")
    opened(folder).keep([])
    assert not folder.exists()
    opened(folder).put(OLD, b"old")
    assert there(folder) == {OLD: b"old"} and state_files.MANIFEST == "digests.json"
