"""``data``: what is here, what is in a stream's data, and the page that shows it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmark import cli
from benchmark.config import families, space
from benchmark.data import catalog, sources
from benchmark.data.cache import resized
from benchmark.report import contact_sheet
from tests.source_files import pixels, save


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Two classes in folders of images of odd sizes; an image in two splits, a class that no task has."""
    for place, split in enumerate(("train", "val", "test")):
        for number in range(3):
            for label, name in enumerate(("flat", "round")):
                shape = (20 + number, 31 + 2 * label, 3)
                save(tmp_path / "x" / split / name / f"{number}.png", pixels(100 * place + 10 * label + number, shape))
    save(tmp_path / "x" / "test" / "flat" / "twice.png", pixels(0, (20, 31, 3)))
    save(tmp_path / "x" / "train" / "other" / "1.png", pixels(7))
    task = {"name": "shapes", "modality": "ct <b>", "source": "folder", "path": "x", "classes": ["flat", "round"],
            "template": "{}"}  # fmt: skip
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "tasks": [task]}))
    return file


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["data", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_streams_data_are_counted_and_shown(stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "--stream", str(stream), "--to", str(tmp_path / "pages"))
    assert code == 0 and "train 6 images, 31 x 20 to 33 x 22" in out and "flat 4; round 3" in out
    assert "passed over:" in out and "train/other (1 images)" in out
    assert "stands twice: shapes (1 of test also in train or val)" in out
    page = (tmp_path / "pages" / "mine.html").read_text()
    assert "ct &lt;b&gt;" in page and "train/other" in page and "1 of test also in train" in page
    assert "http" not in page.replace("http-equiv", "")
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="" title="([^"]+)"', page)
    assert [name for _, name in shown] == ["0.png", "1.png", "2.png"] + ["0.png", "1.png", "2.png", "twice.png"] + 2 * [
        "0.png", "1.png", "2.png",
    ]  # fmt: skip
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0][0]))))
    assert np.array_equal(first.transpose(2, 0, 1), resized([pixels(0, (20, 31, 3))], 64)[0])


def test_an_image_that_cannot_be_read_is_one_line(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x" / "test" / "round" / "zz.png").write_text("no image")
    code, _, error = told(capsys, "--stream", str(stream), "--to", str(tmp_path / "pages"))
    assert code == 2 and error.count("\n") == 1 and "zz.png: not readable as an image" in error
    assert not (tmp_path / "pages" / "mine.html").exists()


def test_a_sheet_has_a_row_for_every_modality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sheets" / "smoke.png"
    code, out, _ = told(capsys, "--stream", "smoke", "--to", str(tmp_path), "--sheet", str(file))
    assert code == 0 and out.splitlines()[-1] == str(file)
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    recipe = catalog.load("smoke", None)
    for row, source in enumerate(recipe.sources):  # the first test image of each modality, but for the fewer colours
        left, top = contact_sheet.BESIDE, contact_sheet.ABOVE + row * (contact_sheet.SIDE + 4 * contact_sheet.GAP)
        shown = picture[top : top + contact_sheet.SIDE, left : left + contact_sheet.SIDE]
        assert np.abs(shown - sources.load(source, "test").images[0].astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stream", "smoke", "--sheet", "x.jpg"), "--sheet: expected a file that ends in .png, got 'x.jpg'"),
        (("--sheet", "x.png"), "--sheet x.png: of which stream? --stream NAME"),
    ],
)
def test_what_is_no_sheet_is_refused(
    options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, error = told(capsys, *options)
    assert code == 2 and error == f"error: {said}\n" and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_sheet_of_the_first_page_is_what_is_drawn() -> None:
    shipped = Image.open(Path(__file__).resolve().parents[2] / "datasets" / "phantoms.png").convert("RGB")
    recipe, framing = catalog.load("phantom20", None), space.framing(families.USUAL)
    drawn = Image.open(io.BytesIO(contact_sheet.sheet(recipe, framing))).convert("RGB")
    assert np.array_equal(np.asarray(shipped), np.asarray(drawn))


def test_what_is_here_and_where_the_rest_is_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "--data", str(tmp_path))
    assert code == 0 and "phantom8: ready" in out and "medical10: 10 tasks are not ready" in out
    assert re.search(r"pathvqa_closed: path: file not found: .*closed.csv\n +From the homepage.*https?://", out)
    assert "(give the folder of the data" not in out
    code, out, error = told(capsys, "--stream", "medical10", "--data", str(tmp_path), "--to", str(tmp_path / "pages"))
    assert code == 2 and error.count("\n") == 1 and "10 tasks are not ready" in error
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize("name", ["smoke_generation", "smoke_retrieval", "smoke_fusion"])
def test_streams_with_texts_are_shown_with_them(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = told(capsys, "--stream", name, "--to", str(tmp_path))
    page = (tmp_path / f"{name}.html").read_text()
    assert code == 0 and page.count('class="told"') >= 12
