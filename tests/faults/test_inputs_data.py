"""What a task's samples lie in, wrong or odd: archives, images, folders, tables, functions."""

from __future__ import annotations

import io
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from PIL import Image, PngImagePlugin

from benchmark.data import sources
from benchmark.data.cache import cached
from benchmark.data.catalog import Source
from benchmark.data.sources.images import MOST_PIXELS, decoded
from tests.refusals import Case, check
from tests.source_files import WHERE, arrays, in_folders, in_table, npz_source, pixels, save

Tally = Callable[..., None]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside, not in, the folder that has to stay as it is."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MBIL_CACHE", str(folder))
    return folder


def read(source: Source) -> None:
    """All that a run reads of a source."""
    sources.identity(source)
    for split in sources.SPLITS:
        for _ in sources.load(source, split).images:
            pass


def member(shape: tuple[int, ...], data: bytes = b"", dtype: str = "|u1", version: tuple[int, int] = (1, 0)) -> bytes:
    """An array's header that says this, and behind it whatever is given."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    raw = file.getvalue()
    return raw[:6] + bytes(version) + raw[8:] + data


def archive(path: Path, **changes: Any) -> None:
    """A good archive, with members replaced by bytes or arrays, or left out (None)."""
    with zipfile.ZipFile(path, "w", changes.pop("method", zipfile.ZIP_DEFLATED)) as made:
        for name, value in (arrays() | changes).items():
            if isinstance(value, np.ndarray):
                with made.open(f"{name}.npy", "w") as file:
                    npy.write_array(file, value)
            elif value is not None:
                made.writestr(f"{name}.npy", value)


ARCHIVES: list[Case] = [
    ("as it should be", {}, None),
    ("stored", {"method": zipfile.ZIP_STORED}, None),
    ("bzip2", {"method": zipfile.ZIP_BZIP2}, None),
    ("Fortran order", {"train_images": np.asfortranarray(arrays()["train_images"])}, None),
    ("30 TB claimed", {"train_images": member((10**7, 1000, 1000, 3), b"abc")}, "does not fit the"),
    ("30 TB of labels claimed", {"train_labels": member((30 * 10**12,))}, "does not fit the"),
    ("more than 2^63 claimed", {"train_images": member((2**40, 2**40, 3), b"abc")}, "does not fit the"),
    ("less claimed than there", {"train_images": member((6, 9, 11), b"x" * 10**6)}, "does not fit the"),
    ("a negative shape", {"train_images": member((-6, 9, 11), b"abc")}, "train_images"),
    ("a shape of texts",
     {"train_images": b"\x93NUMPY\1\0\x40\0{'descr':'|u1','fortran_order':False,'shape':('a',)}"}, "npz"),
    ("a header of code", {"train_images": b"\x93NUMPY\1\0\x20\0__import__('os').system('touch x')"},
     "not readable as npz"),
    ("a deep header", {"train_images": b"\x93NUMPY\1\0\xff\x0f" + b"(" * 4095}, "not readable as npz"),
    ("a header of 4 GB", {"train_images": b"\x93NUMPY\2\0\xff\xff\xff\xff{"}, "not readable as npz"),
    ("version 9", {"train_images": member((6, 9, 11), b"x" * 594, version=(9, 0))}, "not readable as npz"),
    ("version 2 as 1", {"train_images": member((6, 9, 11), b"x" * 594, version=(2, 0))}, "not readable as npz"),
    ("no header", {"train_images": b"hello"}, "not readable as npz"),
    ("nothing", {"train_images": b""}, "not readable as npz"),
    ("a structured type", {"train_images": np.zeros(6, [("a", "u1")])}, "expected uint8"),
    ("big-endian labels", {"train_labels": np.array([0, 1, 2, 0, 1, 2], ">i8")}, None),
    ("labels of uint64", {"train_labels": np.array([0, 1, 2, 0, 1, 2], "u8")}, None),
    ("labels beyond int64", {"train_labels": np.full(6, 2**64 - 1, "u8")}, "labels"),
    ("one number as labels", {"train_labels": np.array(3)}, "does not fit"),
    ("another split missing", {"val_images": None}, "missing array"),
    ("nothing in it", {name: None for name in arrays()}, "missing array"),
    ("names in folders", {"a/train_images": b"x"}, None),
]  # fmt: skip


def test_archives(tmp_path: Path, tally: Tally) -> None:
    def run(changes: dict[str, Any]) -> None:
        archive(path, **changes)
        try:
            read(npz_source(path))
        finally:
            path.unlink()

    path = tmp_path / "set.npz"
    check(ARCHIVES, run, tally, tmp_path)


def test_archives_whose_table_is_wrong(tmp_path: Path, tally: Tally) -> None:
    archive(tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as made, pytest.warns(UserWarning, match="Duplicate name"):
        for name, value in [*arrays().items(), ("train_labels", np.zeros(6, int))]:
            with made.open(f"{name}.npy", "w") as file:
                npy.write_array(file, value)
    encrypted = bytearray(good)
    place = -1
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        while (place := encrypted.find(signature, place + 1)) >= 0:
            encrypted[place + offset] |= 1
    flipped = bytearray(good)
    flipped[300] ^= 255
    zeros = member((6, 3 * 10**4, 10**4), b"\0" * 10**6)
    archive(tmp_path / "zeros.npz", train_images=zeros)
    for name, content in {
        "encrypted": encrypted, "flipped": flipped, "half": good[: len(good) // 2], "behind": b"x" * 99 + good,
        "more": good + b"x" * 99, "empty": b"", "text": b"PK", "array": member((10**13,), b"abc"),
    }.items():  # fmt: skip
        (tmp_path / f"{name}.npz").write_bytes(bytes(content))
    os.mkfifo(tmp_path / "fifo.npz")
    check(
        [
            ("a member twice", "twice.npz", "train_labels: stands twice"),
            ("encrypted", "encrypted.npz", "not readable as npz"),
            ("a flipped byte", "flipped.npz", "not readable as npz"),
            ("cut short", "half.npz", "not readable as npz"),
            ("zeros", "zeros.npz", "does not fit the"),
            ("empty", "empty.npz", "not readable as npz"),
            ("two letters", "text.npz", "not readable as npz"),
            ("one array of 10 TB", "array.npz", "not readable as npz"),
            ("something before it", "behind.npz", None),
            ("something behind it", "more.npz", None),
        ],
        lambda name: read(npz_source(tmp_path / name)), tally, tmp_path,
    )  # fmt: skip


def drawn(path: Path, size: tuple[int, int] = (12, 9), mode: str = "RGB", **options: Any) -> None:
    """An image of one colour, which is quickly packed however large it is."""
    Image.new(mode, size).save(path, **options)


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes whose header says this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def with_text(path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("bomb", "x" * 10**7, zip=True)
    drawn(path, pnginfo=text)


def frames(path: Path, **options: Any) -> None:
    first, *rest = (Image.fromarray(pixels(i)) for i in range(20))
    first.save(path, save_all=True, append_images=rest, **options)


PICTURES: list[tuple[str, str, Callable[[Path], object], str | None]] = [
    ("RGB", "a.png", drawn, None),
    ("one pixel", "a.png", lambda path: drawn(path, (1, 1)), None),
    ("grey and transparent", "a.png", lambda path: drawn(path, mode="LA"), None),
    ("RGBA", "a.png", lambda path: drawn(path, mode="RGBA"), None),
    ("palette", "a.png", lambda path: drawn(path, mode="P"), None),
    ("one bit", "a.png", lambda path: drawn(path, mode="1"), None),
    ("16 bits", "a.png", lambda path: drawn(path, mode="I;16"), None),
    ("16 bits, big-endian", "a.tif", lambda path: drawn(path, mode="I;16B"), None),
    ("CMYK", "a.jpg", lambda path: drawn(path, mode="CMYK"), None),
    ("YCbCr", "a.tif", lambda path: drawn(path, mode="YCbCr"), None),
    ("Lab", "a.tif", lambda path: drawn(path, mode="LAB"), None),
    ("floats", "a.tif", lambda path: drawn(path, mode="F"), "floating-point"),
    ("an animated GIF", "a.gif", frames, None),
    ("a TIFF of 20 pages", "a.tif", frames, None),
    ("an animated PNG", "a.png", frames, None),
    ("an animated WebP", "a.webp", frames, None),
    ("a PNG named JPEG", "a.jpg", lambda path: drawn(path, format="PNG"), None),
    ("an upper-case ending", "a.PNG", lambda path: drawn(path, format="PNG"), None),
    ("a name of a language", "größe 日本.png", drawn, None),
    ("a long name", f"{'x' * 240}.png", drawn, None),
    ("a name in Latin-1", os.fsdecode(b"gr\xf6\xdfe.png"), lambda path: drawn(path, format="PNG"), None),
    ("a line end in its name", "a\nb.png", drawn, None),
    ("a bomb", "a.png", lambda path: bomb(path, 60_000, 60_000), "not readable as an image"),
    ("a bomb below PIL's error", "a.png", lambda path: bomb(path, 12_000, 12_000), "at most 90,000,000"),
    ("a bomb below PIL's warning", "a.png", lambda path: bomb(path, 9000, 9000), "not readable as an image"),
    ("the largest side", "a.png", lambda path: bomb(path, 2**31 - 1, 2**31 - 1), "not readable as an image"),
    ("no pixels", "a.png", lambda path: bomb(path, 0, 0), "not readable as an image"),
    ("no pixels in one line", "a.png", lambda path: bomb(path, 0, 9), "not readable as an image"),
    ("a line", "a.png", lambda path: drawn(path, (1, 50_000)), "one side is more than 1000 times the other"),
    ("nearly a line", "a.png", lambda path: drawn(path, (2, 2000)), None),
    ("a text that is a bomb", "a.png", with_text, "not readable as an image"),
    ("empty", "a.png", lambda path: path.touch(), "not readable as an image"),
    ("a text", "a.png", lambda path: path.write_text("hello"), "not readable as an image"),
    ("PostScript", "a.png", lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "image"),
    ("PostScript by its name", "a.eps", lambda path: drawn(path, format="EPS"), "not readable as an image"),
    ("SVG", "a.png", lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "image"),
    ("cut short", "a.png", lambda path: path.write_bytes(whole()[:60]), "not readable as an image"),
    ("a fifo", "a.png", lambda path: os.mkfifo(path), "no file but a fifo"),
    ("a folder", "a.png", lambda path: path.mkdir(), None),
    ("a device", "a.png", lambda path: path.symlink_to("/dev/zero"), "no file but a device"),
    ("a dangling link", "a.png", lambda path: path.symlink_to("nothing"), "file not found"),
    ("a link to itself", "a.png", lambda path: path.symlink_to("a.png"), "not readable"),
    ("a link to the folder above", "up", lambda path: path.symlink_to(".."), None),
    ("a link to an image", "a.png", lambda path: path.symlink_to("NORMAL-0.png"), None),
    ("a hidden file", ".a.png", lambda path: path.touch(), None),
    ("another file", "a.txt", lambda path: path.touch(), None),
]  # fmt: skip


def whole() -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(0, (50, 50, 3))).save(file, "PNG")
    return file.getvalue()


def two_classes(folder: Path) -> Path:
    for c, name in enumerate(("NORMAL", "PNEUMONIA")):
        for i in range(10):
            save(folder / name / f"{name}-{i}.png", pixels(100 * c + i))
    return folder


def removed(path: Path) -> None:
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_images_in_a_folder(tmp_path: Path, tally: Tally) -> None:
    root = two_classes(tmp_path / "classed")

    def run(case: tuple[str, Callable[[Path], object]]) -> None:
        path = root / "NORMAL" / case[0]
        case[1](path)
        try:
            read(in_folders(root))
        finally:
            removed(path)

    check([(name, (file, make), says) for name, file, make, says in PICTURES], run, tally, tmp_path)


def test_of_several_frames_the_first_is_the_image(tmp_path: Path) -> None:
    frames(tmp_path / "a.tif")
    assert np.array_equal(decoded(tmp_path / "a.tif"), pixels(0))
    frames(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(decoded(tmp_path / "a.webp"), pixels(0))
    assert MOST_PIXELS <= 90_000_000


OPTIONS: list[Case] = [
    ("nothing more", {}, None),
    ("folders above", {"folders": ["../classed/NORMAL", "PNEUMONIA"]}, "without '..'"),
    ("folders elsewhere", {"folders": ["/etc", "PNEUMONIA"]}, "below the task's own"),
    ("a folder that is there, from the root", {"folders": ["{root}/NORMAL", "PNEUMONIA"]}, "below the task's own"),
    ("a folder twice", {"folders": ["NORMAL", "NORMAL"]}, "2 different names"),
    ("one folder", {"folders": ["NORMAL"]}, "2 different names"),
    ("a folder for a number", {"folders": [1, 2]}, "unknown class folder"),
    ("folders of nothing", {"folders": ["", "PNEUMONIA"]}, None),
    ("folders of a mapping", {"folders": {"a": 1}}, "2 different names"),
    ("folders of lists", {"folders": [["NORMAL"], ["PNEUMONIA"]]}, "2 different names"),
    ("a NUL in a folder", {"folders": ["NOR\0MAL", "PNEUMONIA"]}, "unknown class folder"),
    ("a long folder", {"folders": ["x" * 5000, "PNEUMONIA"]}, "unknown class folder"),
    ("a split above", {"splits": {"train": "../classed"}}, "without '..'"),
    ("a split elsewhere", {"splits": {"train": "/etc"}}, "below the task's own"),
    ("a split that is not there", {"splits": {"train": "nowhere"}}, "folder not found"),
    ("no train", {"splits": {"test": "NORMAL"}}, "expected the folder of train"),
    ("splits of a list", {"splits": ["train"]}, "expected keys and values"),
    ("an unknown split", {"splits": {"trian": "a"}}, "unknown key 'trian'"),
    ("splits twice", {"splits": {"train": "NORMAL", "test": "NORMAL"}}, "different names"),
    ("fractions of all", {"fractions": {"val": 0.5, "test": 0.5}}, "nothing is left"),
    ("fractions of none", {"fractions": {"val": 0}}, "between 0 and 1"),
    ("fractions of NaN", {"fractions": {"val": float("nan")}}, "between 0 and 1"),
    ("fractions below", {"fractions": {"val": -0.1}}, "between 0 and 1"),
    ("fractions of true", {"fractions": {"val": True}}, "between 0 and 1"),
    ("a tiny fraction", {"fractions": {"val": 1e-300}}, "val: no images"),
    ("fractions of train", {"fractions": {"train": 0.5}}, "unknown key 'train'"),
    ("a seed of text", {"seed": "a"}, "whole number"),
    ("a seed of true", {"seed": True}, "whole number"),
    ("a huge seed", {"seed": 10**30}, None),
]


def test_options_of_a_folder(tmp_path: Path, tally: Tally) -> None:
    root = two_classes(tmp_path / "classed")

    def run(options: dict[str, Any]) -> None:
        folders = options.get("folders", ["NORMAL", "PNEUMONIA"])
        if isinstance(folders, list):
            folders = [name.format(root=root) if isinstance(name, str) else name for name in folders]
        read(in_folders(root, **options | {"folders": folders}))

    cases = [case for case in OPTIONS if case[0] != "folders of nothing"]
    check(cases, run, tally, tmp_path)


ROWS = "file,finding,split,patient\n" + "".join(
    f"{i}.png,{'normal lungs' if i % 2 else 'pneumonia'},{('train', 'train', 'val', 'test')[i // 2 % 4]},p{i}\n"
    for i in range(16)
)
SPLIT = {"image": "file", "label": "finding", "split": "split"}
LEAKS = ROWS.replace(",p2\n", ",p0\n").replace(",p4\n", ",p0\n")

TABLES: list[tuple[str, str | bytes, dict[str, Any], str | None]] = [
    ("as it should be", ROWS, {}, None),
    ("a BOM", b"\xef\xbb\xbf" + ROWS.encode(), {}, None),
    ("Windows line ends", ROWS.replace("\n", "\r\n"), {}, None),
    ("empty lines", ROWS.replace("\n", "\n\n"), {}, None),
    ("cells in quotes", ROWS.replace("0.png", '"0.png"', 1), {}, None),
    ("blanks around cells", ROWS.replace(",pneumonia,", ", pneumonia ,"), {}, None),
    ("a column too few in a row", ROWS.replace(",p0\n", "\n"), {}, None),
    ("a column too many in a row", ROWS.replace(",p0\n", ",p0,more\n"), {}, "not readable as a table"),
    ("a column too many in all rows", ROWS.replace("\n", ",more\n").replace("patient,more", "patient"), {}, "table"),
    ("a column twice", ROWS.replace("patient", "file"), {}, "the column 'file' stands twice"),
    ("another column twice", ROWS.replace("split,patient", "split,split"), {}, "the column 'split' stands twice"),
    ("columns without a name", ROWS.replace("patient", ""), {}, None),
    ("no rows", "file,finding,split,patient\n", {}, "no images in this split"),
    ("nothing", "", {}, "not readable as a table"),
    ("only blanks", " \n\n", {}, "not readable as a table"),
    ("a NUL", ROWS.replace("0.png", "0\0.png"), {}, "table.csv"),
    ("not UTF-8", ROWS.encode() + b"\xff.png,pneumonia,train,p\n", {}, "not readable as a table"),
    ("UTF-16", ROWS.encode("utf-16"), {}, "not readable as a table"),
    ("a quote that never ends", ROWS + '"', {}, "not readable as a table"),
    ("a huge field", ROWS.replace("p3\n", "p" * 10**6 + "\n"), {}, None),
    ("a missing label", ROWS.replace("normal lungs", "", 1), {}, "unknown label ''"),
    ("an unknown label", ROWS.replace("normal lungs", "normal", 1), {}, "unknown label 'normal'"),
    ("a label in other letters", ROWS.replace("normal lungs", "Normal Lungs", 1), {}, "unknown label 'Normal Lungs'"),
    ("labels as numbers", ROWS.replace("normal lungs", "0").replace("pneumonia", "1"), {}, None),
    ("labels as floats", ROWS.replace("normal lungs", "0.0").replace("pneumonia", "1.0"), {}, "unknown label"),
    ("a label below 0", ROWS.replace("normal lungs", "-1"), {}, "unknown label '-1'"),
    ("a label too many", ROWS.replace("normal lungs", "2"), {}, "unknown label '2'"),
    ("a missing split", ROWS.replace(",val,", ",,"), {}, "unknown split ''"),
    ("a split in other letters", ROWS.replace(",val,", ",VAL,"), {}, "unknown split 'VAL'"),
    ("no train", ROWS.replace(",train,", ",test,"), {}, "train: no images"),
    ("an image that is missing", ROWS.replace("0.png", "none.png", 1), {}, "image not found"),
    ("no name of an image", ROWS.replace("0.png", "", 1), {}, "image not found"),
    ("a long name of an image", ROWS.replace("0.png", "x" * 5000, 1), {}, "image not found"),
    ("a folder as an image", ROWS.replace("0.png", ".", 1), {}, "image not found"),
    ("a fifo as an image", ROWS.replace("0.png", "fifo.png", 1), {}, "image not found"),
    ("an image above", ROWS.replace("0.png", "../secret.png", 1), {}, "outside of the table's folder"),
    ("an image above, in a detour", ROWS.replace("0.png", "x/../../secret.png", 1), {},
     "outside of the table's folder"),
    ("an image elsewhere", ROWS.replace("0.png", "/etc/passwd", 1), {}, "outside of the table's folder"),
    ("an image from the root, inside", ROWS.replace("0.png", "{root}/0.png", 1), {}, None),
    ("a detour that stays inside", ROWS.replace("0.png", "sub/../0.png", 1), {}, None),
    ("images above", ROWS, {"images": ".."}, "without '..'"),
    ("images elsewhere", ROWS, {"images": "/etc"}, "below the task's own"),
    ("images of a number", ROWS, {"images": 5}, "a folder or a list"),
    ("images of nothing", ROWS, {"images": []}, "a folder or a list"),
    ("a suffix of a number", ROWS, {"suffix": 5}, "expected text"),
    ("a suffix that leads up", ROWS, {"suffix": "/../../secret.png"}, "outside of the table's folder"),
    ("a suffix up from a folder", ROWS.replace("0.png", "sub", 1), {"suffix": "/../../secret.png"}, "outside"),
    ("columns of a list", ROWS, {"columns": ["file"]}, "expected keys and values"),
    ("columns of lists", ROWS, {"columns": {"image": ["file"], "label": "finding"}}, "different names"),
    ("columns of nothing", ROWS, {"columns": {}}, "the column of 'image' is missing"),
    ("one column for two", ROWS, {"columns": {"image": "file", "label": "file"}}, "different names"),
    ("an unknown column", ROWS, {"columns": {"image": "fil", "label": "finding"}}, "did you mean 'file'?"),
    ("a column of nothing", ROWS, {"columns": {"image": "", "label": "finding"}}, "unknown column ''"),
    ("rows of nothing", ROWS, {"rows": {"patient": "nobody"}}, "unknown value 'nobody'"),
    ("rows of true", ROWS, {"rows": {"patient": True}}, "yes and no in quotes"),
    ("rows of a list", ROWS, {"rows": ["patient"]}, "column: value"),
    ("rows of no values", ROWS, {"rows": {"patient": []}}, "expected text or numbers"),
    ("rows of an unknown column", ROWS, {"rows": {"who": "p1"}}, "unknown column 'who'"),
    ("values of one", ROWS, {"values": ["pneumonia"]}, "2 different names"),
    ("values twice", ROWS, {"values": ["a", "a"]}, "2 different names"),
    ("values of lists", ROWS, {"values": [[1], [2]]}, "2 different names"),
    ("subgroups of a text", ROWS, {"subgroups": "patient"}, "list of different names"),
    ("subgroups of an unknown column", ROWS, {"subgroups": ["who"]}, "unknown column 'who'"),
    ("subgroups with missing cells", ROWS.replace(",p3\n", ",\n"), {"subgroups": ["patient"]}, None),
    ("groups that are whole", ROWS, {"columns": SPLIT | {"group": "patient"}}, None),
    ("a group in three splits", LEAKS, {"columns": SPLIT | {"group": "patient"}},
     "1 of 14 groups are in more than one split: 'p0' (allow_leak"),
    ("groups in two splits, named", ROWS.replace(",p1", ",p"), {"columns": SPLIT | {"group": "patient"}},
     "groups are in more"),
    ("a group in three splits, passed", LEAKS, {"columns": SPLIT | {"group": "patient"}, "allow_leak": True}, None),
    ("a group in three splits, refused", LEAKS, {"columns": SPLIT | {"group": "patient"}, "allow_leak": False},
     "allow_leak: true"),
    ("groups that are drawn whole", LEAKS, {"columns": {"image": "file", "label": "finding",
     "group": "patient"}}, None),
    ("a leak of text", ROWS, {"allow_leak": "yes"}, "true or false"),
    ("a leak of a number", ROWS, {"allow_leak": 1}, "true or false"),
]  # fmt: skip


def some_images(folder: Path) -> Path:
    (folder / "t" / "sub").mkdir(parents=True)
    for i in range(16):
        save(folder / "t" / f"{i}.png", pixels(i))
    save(folder / "secret.png", pixels(99))
    os.mkfifo(folder / "t" / "fifo.png")
    return folder / "t"


def test_tables(tmp_path: Path, tally: Tally) -> None:
    folder = some_images(tmp_path)

    def run(case: tuple[str | bytes, dict[str, Any]]) -> None:
        content, options = case
        content = content.encode() if isinstance(content, str) else content
        (folder / "table.csv").write_bytes(content.replace(b"{root}", str(folder).encode()))
        try:
            source = in_table(folder / "table.csv", **{"columns": SPLIT} | options)
            read(source)
            sources.groups(source), sources.subgroups(source)
        finally:
            (folder / "table.csv").unlink()

    check([(name, (content, options), says) for name, content, options, says in TABLES], run, tally, tmp_path)


def test_three_groups_are_named_and_how_many_there_are(tmp_path: Path) -> None:
    folder = some_images(tmp_path)
    lines = ROWS
    for i in range(16):
        lines = lines.replace(f",p{i}\n", f",q{i % 2 + i // 8}\n") if i not in (7, 15) else lines
    (folder / "table.csv").write_text(lines)
    with pytest.raises(sources.table.UserError, match=r"3 of 5 groups are in more than one split: 'q0', 'q1', 'q2' "):
        sources.identity(in_table(folder / "table.csv", columns=SPLIT | {"group": "patient"}))


LINES: list[Case] = [
    ("as it should be", '{{"file": "{i}.png", "finding": {c}}}', None),
    ("a column twice", '{{"file": "{i}.png", "file": "0.png", "finding": {c}}}', "the column 'file' stands twice"),
    ("nested", '{{"file": ["{i}.png"], "finding": {c}}}', "expected text or a number, got a list"),
    ("a mapping", '{{"file": {{"a": "{i}.png"}}, "finding": {c}}}', "expected text or a number, got a dict"),
    ("nested, where nobody looks", '{{"file": "{i}.png", "finding": {c}, "more": [1, [2]]}}', None),
    ("deep", '{{"file": "{i}.png", "finding": {c}, "more": ' + "[" * 100_000 + "}}", "not readable as a table"),
    ("half a character", '{{"file": "{i}.png", "finding": "\\ud800"}}', "got half a character"),
    ("null", '{{"file": null, "finding": {c}}}', "image not found"),
    ("NaN", '{{"file": "{i}.png", "finding": NaN}}', "unknown label ''"),
    ("floats that are whole", '{{"file": "{i}.png", "finding": {c}.0}}', None),
    ("true and false", '{{"file": "{i}.png", "finding": true}}', "unknown label 'True'"),
    ("a list", '["{i}.png", {c}]', "unknown column"),
    ("a number", "{i}", "table.jsonl"),
    ("unfinished", '{{"file": "{i}.png"', "not readable as a table"),
    ("text", "hello {i}", "not readable as a table"),
    ("a huge number", '{{"file": "{i}.png", "finding": 1' + "0" * 400 + "}}", "unknown label"),
    ("a number of 9,999 digits", '{{"file": "{i}.png", "finding": ' + "9" * 9999 + "}}", "not readable as a table"),
]


def test_lines_of_json(tmp_path: Path, tally: Tally) -> None:
    folder = some_images(tmp_path)

    def run(line: str) -> None:
        text = "\n".join(line.format(i=i, c=i % 2) for i in range(16))
        (folder / "table.jsonl").write_text(text)
        try:
            read(in_table(folder / "table.jsonl"))
        finally:
            (folder / "table.jsonl").unlink()

    check(LINES, run, tally, tmp_path)


GOOD = "{'images': np.zeros((4, 8, 8), np.uint8), 'labels': [0, 1, 0, 1]}"
FUNCTIONS: list[Case] = [  # the body of a function, and what is said
    ("as it should be", f"return {GOOD}", None),
    ("it prints", f"print('x'); return {GOOD}", None),
    ("it exits", "import sys; sys.exit(3)", "SystemExit: 3"),
    ("it exits well", "raise SystemExit", "failed: SystemExit"),
    ("it ends like a generator", "raise GeneratorExit('x')", "failed: GeneratorExit"),
    ("it fails", "raise ValueError('two\\nlines')", "ValueError: two lines"),
    ("it fails for ever", "return load(split)", "RecursionError"),
    ("it runs out of memory", "raise MemoryError", "failed: MemoryError"),
    ("it stops", "raise StopIteration", "failed: StopIteration"),
    ("its error cannot be told", "class E(Exception):\n        def __str__(self): raise E\n    raise E", "failed: E"),
    ("it yields", f"yield {GOOD}", "[0]: expected an image and its label"),
    ("nothing", "pass", "expected a mapping"),
    ("a list", "return [1, 2]", "[0]: expected an image and its label"),
    ("no keys", "return {}", "'images' is missing"),
    ("an unknown key", f"return {GOOD} | {{'lables': 1}}", "did you mean 'labels'?"),
    ("texts", f"return {GOOD} | {{'texts': ['a'] * 4}}", "a classification task has none"),
    ("floats", f"return {GOOD} | {{'images': np.zeros((4, 8, 8))}}", "expected uint8, got float64"),
    ("objects", f"return {GOOD} | {{'images': [object()] * 4}}", "expected uint8, got object"),
    ("ragged images", f"return {GOOD} | {{'images': [[1], [1, 2]]}}", "images: "),
    ("None", f"return {GOOD} | {{'images': None}}", "expected uint8"),
    ("a text", f"return {GOOD} | {{'images': 'a.png'}}", "expected uint8"),
    ("no images", f"return {GOOD} | {{'images': np.zeros((0, 8, 8), np.uint8), 'labels': []}}", "none empty"),
    ("labels of text", f"return {GOOD} | {{'labels': ['a', 'b', 'a', 'b']}}", "expected integers"),
    ("labels of true", f"return {GOOD} | {{'labels': [True, False] * 2}}", "expected integers"),
    ("labels of floats", f"return {GOOD} | {{'labels': [0.0, 1.0] * 2}}", "expected integers"),
    ("too few labels", f"return {GOOD} | {{'labels': [0]}}", "does not fit 4 samples"),
    ("labels too high", f"return {GOOD} | {{'labels': [0, 1, 2, 0]}}", "lists 2 classes"),
    ("labels beyond int64", f"return {GOOD} | {{'labels': np.full(4, 2**64 - 1, np.uint64)}}", "lists 2 classes"),
    ("labels in columns", f"return {GOOD} | {{'labels': [[0], [1], [0], [1]]}}", "does not fit 4 samples"),
 
       ("a mapping that fails",
     f"from collections import UserDict\n    class M(UserDict):\n        def __iter__(self): raise OSError('x')\n"
     f"    return M({GOOD})", "failed: OSError: x"),
    ("an array that fails",
     f"class A:\n        def __array__(self, *a, **k): raise OSError('x')\n    return {GOOD} | {{'images': A()}}",
     "images: OSError: x"),
]  # fmt: skip


def test_functions(tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(case: tuple[int, str]) -> None:
        number, body = case
        (folder / f"odd_source_{number}.py").write_text(f"import numpy as np\ndef load(split):\n    {body}\n")
        try:
            read(Source(WHERE, "function", ("a", "b"), {"function": f"odd_source_{number}:load"}))
        finally:
            (folder / f"odd_source_{number}.py").unlink()

    check([(name, (i, body), says) for i, (name, body, says) in enumerate(FUNCTIONS)], run, tally, tmp_path)
    check(
        [
            ("a module that exits", "import sys; sys.exit(1)", "cannot be imported: SystemExit: 1"),
            ("a module that is no Python", "def", "cannot be imported: SyntaxError"),
            ("a module without it", "lode = print", "did you mean 'lode'?"),
            ("a name that is no function", "load = 5", "unknown function 'load'"),
        ],
        lambda text: module(folder, text), tally, tmp_path,
    )  # fmt: skip


def module(folder: Path, text: str) -> None:
    name = f"odd_module_{zlib.crc32(text.encode())}"
    (folder / f"{name}.py").write_text(text)
    try:
        read(Source(WHERE, "function", ("a", "b"), {"function": f"{name}:load"}))
    finally:
        (folder / f"{name}.py").unlink()


def test_a_bomb_in_the_middle_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    root = two_classes(tmp_path / "classed")
    bomb(root / "NORMAL" / "z.png", 60_000, 60_000)
    source = in_folders(root)
    with pytest.raises(sources.table.UserError, match="not readable as an image"):
        cached(source, sources.identity(source), 8)
    assert not [path for path in cache.iterdir() if path.is_dir() and path.name != "digests"]
