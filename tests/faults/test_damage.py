"""Every file that is read back, damaged in six ways: it is named in one line, never used, and made again.

Damaged are finished runs, runs that were stopped at several moments, and caches of images; the same command must come
to what an undamaged run has left, to the byte.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmark.cli import main
from benchmark.data import catalog, identity
from benchmark.data.cache import cached
from benchmark.data.sources import Split
from benchmark.record.state_files import StateFiles
from tests.faults.small_runs import STREAMS, command, folder_of, outcome

WAYS = ("truncated", "emptied", "flipped", "deleted", "swapped", "replaced")
MOMENTS = {  # files of the state that are written then
    "after an evaluation": 6, "between two phases": 7, "in a fit": 9, "learned": 10, "begun": 3, "joined": 5,
}  # fmt: skip


class Stopped(BaseException):
    """The process is gone."""


def damage(file: Path, way: str, other: Path) -> bool:
    """Damage a file; False where this changes nothing.

    Args:
        other: a well-formed file of the same kind, of another run.
    """
    data, chance = file.read_bytes(), random.Random(f"{file.name} {way}")
    if way == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif way == "emptied":
        file.write_bytes(b"")
    elif way == "flipped":
        place = chance.randrange(len(data))
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :])
    elif way == "deleted":
        file.unlink()
    elif way == "swapped":
        if not other.is_file() or other.read_bytes() == data:
            return False
        shutil.copy(other, file)
    else:
        file.unlink()
        if chance.randrange(2):
            file.mkdir()
            (file / "inside").write_bytes(b"garbage")
        else:
            file.write_bytes(chance.randbytes(len(data)))
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, int | None], Path]:
    """By method, kind and how many files of the state were written (None: it is whole): the results of two seeds."""
    known: dict[tuple[str, str, int | None], Path] = {}

    def results(method: str, kind: str, puts: int | None) -> Path:
        if (method, kind, puts) not in known:
            here = known[method, kind, puts] = tmp_path_factory.mktemp("made")
            for seed in (0, 1):
                stopped_after(puts, command(here, method, kind, seed=seed))
        return known[method, kind, puts]

    return results


def stopped_after(puts: int | None, arguments: list[str]) -> None:
    """Run until so many files of the state are written, or to the end."""
    put, left = StateFiles.put, [puts]

    def counted(files: StateFiles, *arguments: object) -> None:
        put(files, *arguments)  # type: ignore[arg-type]
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateFiles, "put", counted)
        with suppress(Stopped):
            assert main(arguments) == 0 and puts is None


def copied(results: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return shutil.copytree(results, to)


def again(results: Path, method: str, kind: str, capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, object]:
    """The same command once more, which names each damaged file in one line, and what it leaves."""
    capsys.readouterr()
    assert main(command(results, method, kind)) == 0
    told = capsys.readouterr().err.splitlines()
    for name in names:
        assert len([line for line in told if line.startswith("warning: ") and name in line]) == 1, told
    assert len(told) == len(names), told
    return outcome(folder_of(results))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


SLOW = pytest.mark.slow
FINISHED = [
    ("ncm", "classification", False),
    *(pytest.param("sequential_lora", kind, True, marks=SLOW) for kind in STREAMS),
]
UNFINISHED = [
    ("sequential_lora", "classification", "in a fit", None),
    *(pytest.param("sequential_lora", kind, "in a fit", True, marks=SLOW) for kind in STREAMS),
    *(
        pytest.param("sequential_lora", "classification", moment, False, marks=SLOW)
        for moment in ("after an evaluation", "between two phases", "learned")
    ),
    *(pytest.param("joint_lora", "classification", moment, False, marks=SLOW) for moment in ("begun", "joined")),
]


def ways(number: int, every: bool) -> tuple[str, ...]:
    """All, or one: another for the next file."""
    return WAYS if every else (WAYS[number % len(WAYS)],)


@pytest.mark.parametrize(("method", "kind", "every"), FINISHED)
def test_a_finished_run(
    method: str, kind: str, every: bool, made: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], tally: Callable[..., None],
) -> None:  # fmt: skip
    """What is derived from the record is written again, all else by the whole run."""
    whole = made(method, kind, None)
    expected = outcome(folder_of(whole))
    for number, name in enumerate(name for name in files(folder_of(whole)) if not name.endswith(".csv")):
        for way in ways(number, every):
            results = copied(whole, tmp_path / "results")
            if damage(folder_of(results) / name, way, folder_of(whole, 1) / name):
                assert again(results, method, kind, capsys, f"/{name}") == expected, (name, way)
                tally("files of finished runs damaged, named and made again")


ONE_QUICK = ["classification", *(pytest.param(kind, marks=SLOW) for kind in list(STREAMS)[1:])]


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_the_tables_of_a_finished_run(
    kind: str, made: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], tally: Callable[..., None]
) -> None:
    """All of them at once, each in another way."""
    whole = made("zero_shot", kind, None)
    expected, record = outcome(folder_of(whole)), (folder_of(whole) / "run.json").read_bytes()
    names = [name for name in files(folder_of(whole)) if name.endswith(".csv")]
    for first in range(len(WAYS)):
        results = copied(whole, tmp_path / "results")
        damaged = []
        for number, name in enumerate(names):
            other = folder_of(results) / names[number - 1]
            if damage(folder_of(results) / name, WAYS[(first + number) % len(WAYS)], other):
                damaged.append(f"/{name}")
        assert again(results, "zero_shot", kind, capsys, *damaged) == expected
        assert (folder_of(results) / "run.json").read_bytes() == record  # nothing ran
        tally("files of finished runs damaged, named and made again", len(damaged))


@pytest.mark.parametrize(("method", "kind", "moment", "every"), UNFINISHED)
def test_an_unfinished_run(
    method: str, kind: str, moment: str, every: bool | None, made: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], tally: Callable[..., None],
) -> None:  # fmt: skip
    expected = outcome(folder_of(made(method, kind, None)))
    begun = made(method, kind, MOMENTS[moment])
    names = [name for name in files(folder_of(begun)) if not name.endswith(".csv")]  # these are written, never read
    assert len(names) >= 4 and "run.json" in names and "state/digests.json" in names
    for number, name in enumerate(names if every is not None else names[:3]):
        for way in ways(number, bool(every)):
            results = copied(begun, tmp_path / "results")
            if damage(folder_of(results) / name, way, folder_of(begun, 1) / name):
                assert again(results, method, kind, capsys, f"/{name}") == expected, (name, way)
                tally("files of unfinished runs damaged, named and done without")


OLDER = [("run.json", 3), ("run.json", 6), ("state/digests.json", 6), ("state/digests.json", 8)]


@pytest.mark.parametrize(("name", "puts"), [pytest.param(*each, marks=SLOW) for each in OLDER])
def test_an_older_version_of_a_file(
    name: str, puts: int, made: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    tally: Callable[..., None],
) -> None:  # fmt: skip
    """It is well-formed and of the same run: the rest of the state tells that it is not of this moment."""
    method, kind = "sequential_lora", "classification"
    results = copied(made(method, kind, MOMENTS["in a fit"]), tmp_path / "results")
    shutil.copy(folder_of(made(method, kind, puts)) / name, folder_of(results) / name)
    capsys.readouterr()
    assert main(command(results, method, kind)) == 0
    told = capsys.readouterr().err.splitlines()
    assert told and all(line.startswith("warning: ") for line in told)
    assert outcome(folder_of(results)) == outcome(folder_of(made(method, kind, None)))
    tally("older versions of files seen")


def other_samples(folder: Path) -> Iterator[str]:
    """Well-formed caches that are wrong: each has been made in the folder when its name comes."""
    val, test = folder / "val_images.npy", folder / "test_images.npy"
    content = val.read_bytes()
    shutil.copy(test, val)
    test.write_bytes(content)
    yield "splits changed places"
    for name in ("labels", "images"):
        part = folder / f"train_{name}.npy"
        np.save(part, np.roll(np.load(part), 1, axis=0))
        yield f"{name} of others"
    if (folder / "train_pairs.npy").exists():
        np.save(folder / "train_pairs.npy", np.load(folder / "train_pairs.npy")[::-1])
        yield "pairs of others"
        texts = folder / "test_texts.json"
        texts.write_text(texts.read_text().replace("a", "e"))
        yield "texts of others"


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_a_cache(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tally: Callable[..., None],
) -> None:  # fmt: skip
    """Every file of a task's cache, and caches that are whole and wrong."""
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    recipe = catalog.load(STREAMS[kind], Path())
    told = identity.identities(recipe)
    expected = content(cached(recipe.sources[0], told[0], 16))
    (folder,) = (tmp_path / "cache").iterdir()
    cached(recipe.sources[1], told[1], 16)
    (other,) = (path for path in (tmp_path / "cache").iterdir() if path != folder)
    good = copied(folder, tmp_path / "good")

    def mended(what: str, *names: str) -> None:
        capsys.readouterr()
        assert content(cached(recipe.sources[0], told[0], 16)) == expected, what
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: ") and any(name in line for name in names), (what, line)
        assert content(cached(recipe.sources[0], told[0], 16)) == expected and not capsys.readouterr().err
        assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, other.name])
        tally("caches damaged, named and made again")

    names = files(good)
    assert len(names) == (7 if kind == "classification" else 13)
    for name in names:
        for way in WAYS:
            copied(good, folder)
            if damage(folder / name, way, other / name):
                mended(f"{name} {way}", f"/{name}")
    for what in other_samples(copied(good, folder)):
        mended(what, *names)
    copied(other, folder)
    mended("of another task", "digests.json")
    shutil.rmtree(folder)
    folder.write_text("no folder")
    mended("a file", "digests.json")


def content(splits: dict[str, Split]) -> str:
    return repr(
        [
            (name, split.images.tobytes(), split.labels.tolist(), split.texts, np.array(split.pairs).tolist())  # type: ignore[union-attr]
            for name, split in splits.items()
        ]
    )
