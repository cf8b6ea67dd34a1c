"""Answers to read in the report: images are those that were answered, forgetting is marked, nothing acts as HTML."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_records import QUESTIONS, save, talking
from PIL import Image

from benchmark import report
from benchmark.data import catalog, identity, sources
from benchmark.data.sources import phantoms
from benchmark.record.answers import shown_places
from benchmark.record.parts import LONGEST_SAID, AnswerSample, Provenance
from benchmark.record.schema import Record
from benchmark.record.stored import read_all
from benchmark.report import pictures, plates, reading, views

STREAM = "phantom_mbiil8"
TASKS = {"pathology_questions": ("generation", ""), "radiology_reports": ("generation", "f1")}
SIZE = 192  # test samples of both


def made_of(stream: str = STREAM, method: str = "ewc", key: str = "01", **changes: object) -> Record:
    """A record of two tasks of the stream, as a run leaves it, with the same two answers everywhere."""
    recipe = catalog.load(stream, None)
    data = dict(zip((task.name for task in recipe.stream), identity.identities(recipe), strict=True))
    record = talking(method, key, tasks=TASKS, samples=SIZE)
    there = {task.name: source for task, source in zip(recipe.stream, recipe.sources, strict=True)}
    asked = {task: sources.dialogue(there[task])["test"] for task in TASKS}
    samples = {
        task: [
            AnswerSample.of(*turns[place][:2], turns[place][1], "no <b>idea</b> & more") for place in shown_places(SIZE)
        ]
        for task, turns in asked.items()
    }
    provenance = Provenance(fingerprint="aa", finished="2026-01-01T00:00:00+00:00", data=data)
    config = replace(record.config, stream=stream)
    return replace(record, samples=samples, provenance=provenance, config=config, **changes)  # type: ignore[arg-type]


def test_pictures_are_the_samples_of_these_places_and_no_others() -> None:
    """Of a task with a shift too; the whole split need not be drawn."""
    source = catalog.load("smoke_generation", None).sources[1]
    for more in ({}, {"shift": {"noise": 0.1}}):
        asked = replace(source, options={**source.options, **more})
        whole, some = phantoms.load(asked, "test").images, phantoms.pictures(asked, "test", [5, 2])
        assert np.array_equal(np.stack(some), np.asarray(whole)[[5, 2]])


def test_images_are_drawn_again_only_where_they_are_the_same_data() -> None:
    record = made_of()
    found = pictures.addresses(record)
    assert found.keys() == TASKS.keys() and {len(images) for images in found.values()} == {8}
    recipe = catalog.load(STREAM, None)
    drawn = phantoms.pictures(recipe.sources[0], "test", shown_places(SIZE))
    for address, image in zip(found["pathology_questions"], drawn, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(b64decode(address.removeprefix("data:image/jpeg;base64,")))), float)
        others = [np.abs(shown - other).mean() for other in drawn]
        assert np.argmin(others) == [np.array_equal(image, other) for other in drawn].index(True)
    other = {"pathology_questions": "0" * 64, "radiology_reports": record.provenance.data["radiology_reports"]}
    changed = replace(record, provenance=replace(record.provenance, data=other))
    assert pictures.addresses(changed).keys() == {"radiology_reports"}
    for gone in ("nowhere", "nowhere/stream.yaml"):
        assert pictures.addresses(replace(record, config=replace(record.config, stream=gone))) == {}
    assert pictures.addresses(replace(record, hits=None)) == {} == pictures.addresses(replace(record, samples=None))


class Words(HTMLParser):
    """The images of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(str(dict(attributes)["src"]))

    def handle_data(self, data: str) -> None:
        self.text += data


def built(results: Path, *records: Record) -> str:
    report.build(save(results, *records))
    return (results / "report" / "index.html").read_text(encoding="utf-8")


def test_the_page_shows_them_once_for_all_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "render", lambda *_, **__: ('<svg viewBox="0 0 1 1"></svg>', b""))
    records = [made_of(), made_of(method="lwf", key="02")]
    html = built(tmp_path / "one", *records)
    page = Words(html)
    assert len(page.images) == 16 and all(src.startswith("data:image/jpeg;base64,") for src in page.images)
    assert "<b>idea" not in html and page.text.count("no <b>idea</b> & more") == 32
    assert html.count('class="forgotten"><small>forgotten</small>') == 32  # right when learned, wrong at the end
    assert "pathology questions: exact match; 16 of 16 answers forgotten" in page.text
    assert "without the image" in page.text and "Distinct, identity hidden" in page.text
    assert html == built(tmp_path / "other", *records[::-1])  # to the byte
    assert len(html) < 400_000


def test_without_images_and_without_answers_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "render", lambda *_, **__: ('<svg viewBox="0 0 1 1"></svg>', b""))
    plain = talking("ewc", "01", tasks=QUESTIONS)
    page = Words(built(tmp_path / "plain", plain))
    assert not page.images and page.text.count("its image cannot be drawn here") == 6
    html = built(tmp_path / "silent", replace(plain, samples=None))
    assert reading.NOWHERE in Words(html).text and "-reading" not in html


def test_what_is_right_and_what_is_forgotten() -> None:
    samples = [("q", "a small mass", "a small mass", "a mass"), ("q", "yes", "no", "no"), ("q", "yes", "Yes.", "yes"),
               ("q", "yes", "x" * LONGEST_SAID, "no")]  # fmt: skip
    told = {task: [AnswerSample.of(*one) for one in samples] for task in TASKS}
    exact, f1 = reading.of_stream(views.stream_view([replace(made_of(), samples=told)]))
    assert [shot.replies[0].forgotten for shot in exact.shots] == [True, False, False, False]
    assert [shot.replies[0].forgotten for shot in f1.shots] == [False] * 4  # two words of three are kept
    assert (exact.forgotten, exact.replies, exact.graded, f1.graded) == (1, 4, False, True)
    assert exact.shots[2].replies[0].own.right and exact.shots[3].replies[0].own.right is None


def test_cells_of_habits_are_those_of_the_records(tmp_path: Path) -> None:
    records = [talking("ewc", "01", seed) for seed in (0, 1)]
    (method,) = views.stream_view(read_all(save(tmp_path, *records))).methods
    assert [habit.words for habit in method.habits] == ["format kept", "distinct", "truncated", "fact F1"]
    facts = method.habits[-1]
    assert facts.columns == [4]  # of reports alone
    for stage in range(1, 6):
        mean = np.mean([record.scores["fact_f1"]["given"][stage][4] for record in records])
        assert facts.matrix["given"][stage] == [pytest.approx(mean)]
    assert facts.matrix["hidden"][1] == [None] and method.blind == [None, None, 0.25, 0.25, 0.25]
