"""The report: its numbers are the leaderboard's, it needs nothing but itself, it says what it does not have."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from made_records import MIXED, QUESTIONS, flat, made, on, save, talking, told_apart, with_hits

from benchmark import cli, report
from benchmark.compare import comparisons, leaderboard
from benchmark.compare.rows import PairRow
from benchmark.config import arguments
from benchmark.errors import UserError
from benchmark.record.partition import Partition
from benchmark.record.parts import ClassConfusion
from benchmark.record.schema import Configuration, Record, StreamEntry, TaskEntry
from benchmark.record.stored import read_all, read_record
from benchmark.record.summary import summarise
from benchmark.report import breakdown, caveats, figures, findings, labels, latex, modality, origins, plates, views
from benchmark.report.wording import MINUS, NONE, exact, per_cent, recall, shown
from tests.golden_files import GOLDEN

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("ct_lung", "mri_brain", "ct_liver", "us_breast")
ODD = 'text=<b>"x"&'


class Page(HTMLParser):
    """Rows of leaderboards (id of the table: cells by column), links, ids, tags, and the text of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.boards: dict[str, list[dict[str, tuple[str, str]]]] = {}
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self._board = self._column = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        at = dict(attributes)
        self.tags.append((tag, at))
        self.links += [at["href"] or ""] if tag == "a" else []
        self.ids += [at["id"] or ""] if "id" in at else []
        if tag == "table":
            self._board = at.get("id") or ""
            self.boards.setdefault(self._board, [])
        elif tag == "tr" and "data-protocol" in at:
            self.boards[self._board].append({})
        elif tag in ("td", "th") and "data-v" in at and self._board:
            self._column = at.get("data-c") or "method"
            self.boards[self._board][-1][self._column] = (at["data-v"] or "", "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._column = ""

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._column:
            value, text = self.boards[self._board][-1][self._column]
            self.boards[self._board][-1][self._column] = value, text + data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def many() -> list[Record]:
    """Two seeds of three methods, one of them tuned as well, of four tasks in three modalities."""
    rows = (
        ("ewc", "01", {}),
        ("lwf", "02", {}),
        ("er", "03", {"group": "keeps images"}),
        ("ewc", "04", {"settings": ODD}),
    )
    found = [made(method, key, seed, tasks=TASKS, **more) for method, key, more in rows for seed in (0, 1)]
    routed = [[None] * 4] * 4 + [[0.5, 1.0, 0.25, 1.0]]
    found[:2] = [replace(record, router_accuracy=routed) for record in found[:2]]
    return [*found, made("zero_shot", "05", tasks=TASKS)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = save(tmp_path_factory.mktemp("results"), *many())
    report.build(results)
    return results


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page((built / "report" / "index.html").read_text(encoding="utf-8"))


def test_what_classes_are_taken_for_is_shown_where_it_is_often(tmp_path: Path) -> None:
    counts = {"lung_ct": [[9, 1], [2, 8]], "retina_oct": [[10, 0], [0, 10]], "skin": [[5, 5], [1, 9]]}
    tasks = [replace(task, labels=["healthy", "ill"]) for task in made().stream.tasks]
    told = {task: ClassConfusion(rows, [0.5, None]) for task, rows in counts.items()}
    records = [
        replace(record, stream=replace(record.stream, tasks=tasks), class_confusion=told)
        for record in (made("ewc", "01"), made("ewc", "01", seed=1), made("lwf", "02"))
    ]
    view = views.stream_view(records)
    (panel,) = breakdown.confusions(view)
    assert panel.protocol == "given" and panel.names == ["ewc", "lwf"]
    assert [(line.task, *line.words) for line in panel.lines] == [("lung_ct", "ill", "healthy"),
                                                                 ("skin", "healthy", "ill")]  # fmt: skip
    assert [line.cells for line in panel.lines] == [[0.2, 0.2], [0.5, 0.5]] and panel.lines[1].lines == 1
    (panel,) = breakdown.sensitivities(view)
    assert [line.cells for line in panel.lines[:2]] == [[0.5, 0.5], [None, None]]
    assert breakdown.confusions(views.stream_view([made()])) == []
    report.build(save(tmp_path, *records))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "What classes are taken for" in page and "Sensitivity at a fixed specificity" in page


def test_numbers_are_the_leaderboards(built: Path, page: Page) -> None:
    rows = leaderboard.rows(read_all(built))
    shown_rows = page.boards["three-board"]
    assert len(shown_rows) == len(rows) == 10
    for row, cells in zip(rows, shown_rows, strict=True):
        for column in report.COLUMNS:
            value, text = cells[column.key]
            assert value == exact(getattr(row, column.key), column.key)
            if column.key.endswith("acc_mean") or column.key == "forgetting_mean":
                assert text.split()[0] == per_cent(getattr(row, column.key))
        low, high = row.last_acc_ci_low, row.last_acc_ci_high
        interval = cells["last_acc_ci_low"][1].strip()
        assert interval == (f"{100 * low:.1f} to {100 * high:.1f}" if low is not None else NONE)
    assert {cells["rank"][1].strip() for cells in shown_rows if cells["method"][0] == "zero_shot"} == {"n=1"}


def test_claims_are_held_against_the_records_that_are_shown(tmp_path: Path, page: Page) -> None:
    """Without runs of both sides of one there is no such table."""
    assert "What papers claim" not in page.text
    names = ("er", "01", 0.7), ("sequential_lora", "02", 0.6)
    records = [made(name, key, seed, given=np.full((4, 3), score)) for name, key, score in names for seed in (0, 1)]
    report.build(save(tmp_path, *records))
    text = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8")).text
    assert "What papers claim" in text and "replay over sequential LoRA three given 2 +10.00" in text


def test_matrix_is_the_mean_over_seeds(built: Path, page: Page) -> None:
    seeds = [r for r in read_all(built) if r.key == "02"]
    mean = np.mean([r.matrix("given") for r in seeds], axis=0)
    view = views.stream_view(read_all(built))
    method = next(method for method in view.methods if method.key == "02")
    assert np.array(method.matrix["given"]) == pytest.approx(mean)
    assert method.matrix["hidden"][1] == [pytest.approx(mean[1][0]), None, None, None]
    assert method.curve["given"] == pytest.approx([mean[i, :i].mean() for i in range(1, 5)])
    drops = [same for same, _ in (modality.step_drops(r.matrix("given"), ["ct", "mri", "ct", "us"]) for r in seeds)]
    assert method.steps["given"][0] == pytest.approx(np.mean(drops))
    cells = " ".join(per_cent(value) for value in mean[-1])
    assert cells in page.text


def test_the_page_needs_nothing_but_itself(built: Path, page: Page) -> None:
    text = (built / "report" / "index.html").read_text(encoding="utf-8")
    assert "://" not in text and "@import" not in text
    assert not [tag for tag, at in page.tags if "src" in at or (tag == "link" and at["rel"] != "icon")]
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", text))
    for link in page.links:
        assert link.startswith(("#", "figures/", "tables/", "../leaderboards/", "../runs/"))
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("../leaderboards/"):
            assert (built / "report" / link).is_file(), link


def test_links_to_csvs_are_those_that_are_written(built: Path, page: Page) -> None:
    names = {link.rsplit("/", 1)[1] for link in page.links if "/leaderboards/" in link}
    assert names == {path.name for path in leaderboard.build(built)}


def test_every_figure_is_described_and_on_disk(built: Path, page: Page) -> None:
    pictures = [at for tag, at in page.tags if tag == "svg" and at.get("aria-hidden") != "true"]
    assert pictures and all(at["role"] == "img" and len(at["aria-label"]) > 20 for at in pictures)
    assert len(set(page.ids)) == len(page.ids)
    for path in (built / "report" / "figures").iterdir():
        assert (
            path.suffix in (".png", ".svg")
            and path.with_suffix(".svg").is_file()
            and path.with_suffix(".png").is_file()
        )
        head = path.read_bytes()[:100]
        assert head.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_what_is_missing_is_said(page: Page) -> None:
    assert "made before each sample's answer was kept" in page.text
    assert "made before confusions were kept" in page.text
    assert "made before recall per class was kept" in page.text and "Subgroups" not in page.text
    assert "ct_lung 50.0, mri_brain 100.0, ct_liver 25.0, us_breast 100.0 per cent" in page.text
    assert "Ranks over streams need at least 3 streams" in page.text
    assert "Not ranked, one run only, which says nothing about chance: zero_shot." in page.text
    assert f"Not ranked, other settings than the defaults, tuned or official: ewc ({ODD})." in page.text
    assert "This method answers without a router." in page.text


def test_text_from_records_is_escaped(built: Path, page: Page) -> None:
    text = (built / "report" / "index.html").read_text(encoding="utf-8")
    assert ODD not in text and "text=&lt;b&gt;&#34;x&#34;&amp;" in text and ODD in page.text


def test_same_records_same_bytes(built: Path, tmp_path: Path) -> None:
    again = many()
    random.Random(1).shuffle(again)
    report.build(save(tmp_path, *again))

    def files(results: Path) -> dict[str, bytes]:
        folder = results / "report"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path) == files(built)


def test_pairs_and_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where records have hits and confusions, the page has the differences and the shares."""
    monkeypatch.setattr(plates, "render", lambda *_, **__: ('<svg viewBox="0 0 1 1"></svg>', b""))
    hits = {"ewc": [1, 1, 1, 0], "lwf": [0, 0, 1, 0]}
    found = [with_hits(made(method, key, seed), dict.fromkeys(("lung_ct", "retina_oct", "skin"), hits[method]))
             for method, key in (("ewc", "01"), ("lwf", "02")) for seed in (0, 1)]  # fmt: skip
    routed, sent = [[None] * 3] * 3 + [[0.5, 1.0, 0.25]], [[2, 1, 1], [0, 4, 0], [1, 2, 1]]
    found = [replace(record, router_accuracy=routed, router_confusion=sent) for record in found]
    report.build(save(tmp_path, *found), to=tmp_path / "elsewhere" / "deep")
    page = Page((tmp_path / "elsewhere" / "deep" / "index.html").read_text(encoding="utf-8"))
    titles = [at["title"] for tag, at in page.tags if tag == "td" and "title" in at]
    assert [title for title in titles if title.startswith("ewc minus lwf: 50.0 points, 95 % ")]
    assert [title for title in titles if title.startswith("lwf minus ewc: -50.0 points, 95 % ")]
    for row, cells in zip(leaderboard.rows(found), page.boards["three-board"], strict=True):
        assert row.last_acc_ci_low is not None and row.last_acc_ci_high is not None
        ends = f"{100 * row.last_acc_ci_low:.1f} to {100 * row.last_acc_ci_high:.1f}"
        assert cells["last_acc_ci_low"][1].strip() == ends
    text = (tmp_path / "elsewhere" / "deep" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'title="ewc minus lwf: 50[^"]*">([^<]*)<', text) == ["50.0"] * 2
    assert re.findall(r'title="lwf minus ewc: -50[^"]*">([^<]*)<', text) == [f"{MINUS}50.0"] * 2
    assert "lung ct 50.0 25.0 25.0 retina oct 0.0 100.0 0.0 skin 25.0 50.0 25.0" in page.text
    assert "../../runs/three/ewc/01/seed0-order0/run.json" in page.links
    assert "no two tasks share a modality" in page.text


def test_unusual_streams_are_shown(tmp_path: Path) -> None:
    """One task; no row with default settings; no answer when the identity is hidden; nothing but zero cost."""
    silent = made("isolated", "03", tasks=TASKS, group="needs identity")
    scores = silent.scores | {"accuracy": silent.scores["accuracy"] | {"hidden": [[None] * 4] * 5}}
    silent = replace(silent, scores=scores, summary=summarise(silent.kind, scores))
    silent = on("silent", silent)
    single = on("single", made("ncm", "01", tasks=("lung",), given=[[0.5], [0.9]]))
    single = replace(single, cost=replace(single.cost, trainable_params=[0], train_seconds=[0.0]))
    tuned = made("ewc", "02", settings="lr=1")
    report.build(save(tmp_path, silent, single, tuned))
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert {name for name in page.boards if name} == {"silent-board", "single-board", "three-board"}
    assert "no answer" in page.text and "Without training" not in page.text  # of one run nothing is said
    assert "All with lr=1." in (tmp_path / "report/tables/three-lr-1.tex").read_text(encoding="utf-8")
    assert "Not ranked, one run only, which says nothing about chance: every method." in page.text


def test_what_a_kind_has_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recalls where test items are the candidates, scores without an input where one was withheld, chance of labels."""
    monkeypatch.setattr(plates, "render", lambda *_, **__: ('<svg viewBox="0 0 1 1"></svg>', b""))
    plain = on("plain", made("ewc", "01"))
    asking = on("asking", made("ewc", "01", kind="retrieval"))
    both = on("both", made("ewc", "01", kind="fusion", given=np.full((4, 3), 0.8)))
    missing = {"image": dict.fromkeys(("given", "hidden"), [0.2] * 3),
               "text": dict.fromkeys(("given", "hidden"), [0.6] * 3)}  # fmt: skip
    both = replace(both, missing=missing, summary=summarise(both.kind, both.scores, missing))
    shown_of = {}
    for record in (plain, asking, both):
        results = save(tmp_path / record.stream.name / record.stream.folder, record)
        report.build(results)
        shown_of[record.stream.folder] = Page((results / "report" / "index.html").read_text(encoding="utf-8")).text
    for folder, text in shown_of.items():
        assert ("guessing scores" in text) == (folder != "asking")
        assert ("R@1 i→t R@5 i→t R@10 i→t R@1 t→i R@5 t→i R@10 t→i MRR i→t MRR t→i" in text) == (folder == "asking")
        assert ("image missing text missing image or text missing drop, image drop, text dominance" in text) == (
            folder == "both"
        )
    # 80 with both; from 30 to 100 per cent lacking the image, the text, one of the two; drops and dominance
    assert (
        "ewc 80.0 62.0 50.0 38.0 26.0 20.0 74.0 70.0 66.0 62.0 60.0 68.0 60.0 52.0 44.0 40.0 60.0 20.0 0.50"
        in shown_of["both"]
    )


def test_classes_and_subgroups_have_a_column_for_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "render", lambda *_, **__: ('<svg viewBox="0 0 1 1"></svg>', b""))
    found = [
        told_apart(made(method, key, seed), {"lung_ct": [recall], "skin": [0.0]},
                   {"skin": {"sex": {"": (3, None), "f": (5, recall)}}})
        for method, key, recall in (("ewc", "01", 0.5), ("lwf", "02", 0.25)) for seed in (0, 1)
    ]  # fmt: skip
    results = save(tmp_path, *found, made("er", "03"), made("ewc", "04", settings="rank=16"))
    report.build(results)
    page = Page((results / "report" / "index.html").read_text(encoding="utf-8"))
    names = " ".join(row.method for row in leaderboard.rows(found) if row.protocol == "given")
    first = ("50.0", "25.0") if names == "ewc lwf" else ("25.0", "50.0")
    assert f"task class {names} lung ct a {' '.join(first)} retina oct a skin a 0.0 0.0" in page.text
    assert f"task column value samples {names} skin sex not told 3 sex f 5 {' '.join(first)}" in page.text
    links = {link.rsplit("/", 1)[1] for link in page.links if "/leaderboards/" in link}
    assert links == {path.name for path in leaderboard.build(results)} >= {"three.recall.csv", "three.subgroups.csv"}
    (column,) = (column for column in report.COLUMNS if column.key == "ece_mean")
    assert column.first == "ascending"  # the lower the better


def test_errors_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no whole records below"):
        report.build(tmp_path)
    save(tmp_path, made(limit=3))
    with pytest.raises(UserError, match="no whole records below"):
        report.build(tmp_path)
    save(tmp_path, made(seed=1))
    with pytest.raises(UserError, match="did you mean 'three'"):
        report.build(tmp_path, ["thre"])
    assert cli.main(["report", "--results", str(tmp_path), "--stream", "other"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown stream with whole records 'other'")
    assert not (tmp_path / "report").exists()


def test_the_verb_imports_no_torch_and_keeps_no_state(tmp_path: Path) -> None:
    save(tmp_path, made(), made("lwf", seed=1), made(seed=2, limit=3))
    program = (
        "import sys; from benchmark.cli import main; assert main(sys.argv[1:]) == 0\n"
        "print([m for m in ('torch', 'lightning', 'methods', 'matplotlib.pyplot') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, "report", "--results", str(tmp_path), "--to", str(tmp_path / "out")]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert output == [str(tmp_path / "out" / name) for name in ("index.html", "figures", "tables")] + ["[]"]
    text = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text
    assert "limited" not in text and "2 methods, 2 runs." in text


# Its parts


def test_a_command_makes_the_committed_runs_again() -> None:
    """The command is understood, and says the settings that the record has."""
    stored = sorted((ROOT / "results" / "runs" / "phantom_notes6").glob("*_lora/*/seed0-order0/run.json"))
    first = GOLDEN / "first_edition_joint_lora.json"
    for path in (*stored, first):
        record = read_record(path)
        words = origins.command(record).split()
        assert words[:4] == ["python", "-m", "benchmark", "run"]
        config, card, _ = arguments.parse("run", words[4:], with_class=False)
        assert (config.method, config.stream, config.seed) == (record.method, "phantom_notes6", 0)
        since = "method.candidates=own" if path == first else ""  # an argument that it has had since
        assert config.settings(card).split() == [*record.settings.split(), *since.split()]


def test_a_command_quotes_values() -> None:
    record = made(settings="lr=0.001 method.places=[0, 1] method.kind=a b", order=1)
    config = Configuration(lr=0.001, stream="my stream.yaml", method_args={"places": [0, 1], "kind": "a b"})
    assert origins.command(replace(record, config=config)) == (
        "python -m benchmark run --method ewc --stream 'my stream.yaml' --backbone phantom-clip --seed 0 --order 1 "
        "--lr 0.001 --method.places '[0, 1]' --method.kind 'a b'"
    )


@pytest.mark.parametrize("tasks", [QUESTIONS, MIXED], ids=["questions", "mixed"])
def test_answers_in_words_beside_guesses_without_the_image(tasks: dict[str, tuple[str, str]]) -> None:
    records = [talking(*place, seed, tasks=tasks) for place in (("ewc", "01"), ("lwf", "02")) for seed in (0, 1)]
    given, hidden = breakdown.answers(views.stream_view(records))
    assert (given.protocol, hidden.protocol) == ("given", "hidden")
    assert given.names[0] == "without the image" and sorted(given.names[1:]) == ["ewc", "lwf"]
    own = ["exact match", "likeliest answer", "format kept", "truncated", "distinct"]
    told = [(line.task, line.lines, *line.words) for line in given.lines]
    assert told[:5] == [("path_vqa", 5 * (place == 0), word) for place, word in enumerate(own)]
    assert told[10:12] == [("ct_reports", 6, "token F1"), ("ct_reports", 0, "fact F1")]
    last = [record.matrix("given")[-1][record.stream.task_names.index("ct_reports")] for record in records[:2]]
    f1, facts = given.lines[10:12]
    assert f1.cells[0] == 0.25 and f1.cells[given.names.index("ewc")] == pytest.approx(np.mean(last))
    assert facts.cells[0] is None
    without = [replace(record, blind=None) for record in records]
    assert breakdown.answers(views.stream_view(without))[0].names == given.names[1:]
    assert breakdown.answers(views.stream_view(many())) == []


def test_groups_of_tasks_are_shown_with_their_agreement(tmp_path: Path) -> None:
    modalities = ["lung", "retina", "skin"]
    together = [made("medcrp", seed=seed, partition=Partition.of([0, 1, 0], modalities)) for seed in (0, 1)]
    other = made("medcrp", order=1, partition=Partition.of([0, 1, 2], modalities[::-1]))
    records = [*together, other, *(made("ewc", "02", seed) for seed in (0, 1))]
    view = views.stream_view(records)
    (mine,) = (method for method in view.methods if method.method == "medcrp")
    assert [[task.name for task in group] for group in mine.groups] == [["lung_ct", "skin"], ["retina_oct"]]
    assert mine.agreements == [0.0, 0.0, 1.0]
    report.build(save(tmp_path, *records))
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert page.text.count("Groups of tasks") == 1  # nothing is said of a method without groups
    shown_as = " ".join(page.text.split())
    assert "0.00; over 3 runs 0.00 to 1.00." in shown_as
    assert "lung ct lung , skin skin retina oct retina" in shown_as


def test_questions_and_answers_are_shown_whatever_they_say(tmp_path: Path) -> None:
    report.build(save(tmp_path, talking("ewc", "01"), talking("lwf", "02")))
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "<script>alert" not in html and 'No. <script>alert("x")</script> & so on' in page.text
    assert html.count("Answers to read</h3>") == 1 and page.text.count("when just learned") == 6
    assert page.text.count("Cell by cell: format kept, distinct, truncated, fact F1") == 2
    assert "Score matrix, identity given" in page.text
    assert "each task is scored by its own metric, accuracy, exact match or token F1." in page.text
    assert "5 tasks of classification, fusion and generation" in page.text
    assert "ct, token F1" in page.text  # under the name of a column


def test_chance() -> None:
    tasks = [TaskEntry("one", labels=["a", "b"]), TaskEntry("other", labels=["a", "b", "c", "d"])]
    stream = StreamEntry("s", "s", tasks)
    assert views.chance(stream) == {"given": 0.375, "hidden": pytest.approx(1 / 6)}
    shared = replace(stream, label_space="shared", tasks=tasks[1:] * 3)
    assert views.chance(shared) == {"given": 0.25, "hidden": 0.25}
    assert views.chance(replace(stream, kind="retrieval")) is None
    assert views.chance(talking(tasks=MIXED).stream) is None is views.chance(talking(tasks=QUESTIONS).stream)
    both = talking(tasks={"skin_a": ("classification", ""), "skin_b": ("fusion", "")})
    assert views.chance(both.stream) == {"given": 0.5, "hidden": 0.25}


def test_scores_of_a_model_without_weights_are_said_to_mean_nothing() -> None:
    drawn = caveats.evidence(views.stream_view([replace(talking(), backbone="tiny-llava")]))
    assert [line for line in drawn if "tiny-llava is a layout without trained weights" in line]
    assert not [line for line in caveats.evidence(views.stream_view([talking()])) if "weights" in line]


def test_the_headline() -> None:
    groups = [flat("a", "01", 0.7, 0.72), flat("b", "02", 0.5, 0.52), flat("c", "03", 0.9, 0.9, group="joint"),
              flat("d", "04", 0.3, 0.32, group="keeps images")]  # fmt: skip
    records = [record for group in groups for record in group]
    rows = leaderboard.rows(records)
    best = [(group, best["given"].method, best["hidden"].method) for group, best in findings.best_of_groups(rows)]
    assert best == [("plain", "a", "a"), ("keeps images", "d", "d"), ("joint", "c", "c")]
    assert findings.lead(rows, [], "accuracy")[0] == findings.Lead(
        told="Told which task it is", who="c", score="90.0 ± 0.0 % accuracy", next=""
    )
    equal = [replace(row, last_acc_mean=0.9) for row in rows]
    assert findings.lead(equal, [], "accuracy")[0].who == "a, b, c and d"
    plain = [row for row in rows if row.group == "plain"]
    said = "Next among equals is b, 51.0 ± 1.4 %; "
    assert (
        findings.lead(plain, [], "accuracy")[0].next == f"{said}whether that is chance cannot be said of these records."
    )
    pair = PairRow(
        "default", "given", "phantom-clip", "a", "b", 2, 90, 0.2, 0.01, 0.39, 0.04, 0.04, key_a="01", key_b="02"
    )
    for changes, told in (
        ({}, "the two can be told apart (p 0.040 after Holm's correction over all pairs)."),
        ({"p_holm": 0.12}, "the two cannot be told apart (p 0.120 after Holm's correction over all pairs)."),
        ({"n_cells": 1}, "the two trained models can be told apart (p 0.040 after Holm's correction over all pairs)."),
        ({"p_holm": float("nan")}, "whether that is chance cannot be said of these records."),
        ({"protocol": "hidden"}, "whether that is chance cannot be said of these records."),
    ):
        assert findings.lead(plain, [replace(pair, **changes)], "accuracy")[0].next == said + told
    assert (
        findings.forgetting(rows)[0]
        == "Identity given: 3 of 3 methods forget nothing (a, learned 71.0; b, learned 51.0; d, learned 31.0); "
        "most by d, learned 31.0 (0.0)."
    )
    assert findings.forgetting(rows)[1].startswith(
        "Identity hidden, where a growing list of candidates may count as loss too: 3 of 3 methods"
    )
    assert caveats.unranked(rows) == [("not the same seeds and orders as its rivals, or no rival", ["d", "c"])]


def test_who_has_no_rank_among_equals_is_no_rival() -> None:
    """Of other seeds and orders: two runs of an easy order stand above six of two orders."""
    six = [record for order in (0, 1) for record in (
        *flat("a", "01", 0.7, 0.72, 0.71, order=order), *flat("b", "02", 0.6, 0.62, 0.61, order=order))]  # fmt: skip
    rows = leaderboard.rows([*six, *flat("easy", "03", 0.8, 0.8)])
    assert {row.method for row in rows if row.rank is None} == {"easy"}
    first = findings.lead(rows, [], "accuracy")[0]
    assert first.who == "a" and first.next.startswith("Next among equals is b")


def marks() -> Iterator[labels.Mark]:
    generator = np.random.default_rng(0)
    for place in range(20):
        yield labels.Mark(f"method_{place}", "plain" if place % 2 else "joint", *generator.random(2).tolist())


def test_figures_are_the_same_every_time_and_follow_the_theme() -> None:
    first, again = (figures.render("name", figures.scatter, list(marks()), "x", "y") for _ in range(2))
    assert first == again and first[0] != figures.render("other", figures.scatter, list(marks())[:9], "x", "y")[0]
    drawn = figures.inline(first[0], 'a "label" <of> it')
    assert drawn.startswith("<svg ") and 'aria-label="a &quot;label&quot; &lt;of&gt; it"' in drawn
    assert "currentColor" in drawn and "var(--plain)" in drawn and "var(--joint)" in drawn and "var(--line)" in drawn
    for colour in figures.THEMED:
        assert colour not in drawn
    assert "<title>method_3 (plain): x " in drawn


def test_names_in_a_figure_do_not_cover_each_other() -> None:
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.scatter(list(marks()), "x", "y")
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) > 15
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_critical_differences() -> None:
    """Five streams are drawn, four are counted; a bar spans what the test leaves together."""
    table = tuple((0.9, 0.5, 0.1) for _ in range(5))
    five = comparisons.Across("given", "plain", "clip", tuple("abcde"), ("best", "middle", "worst"), table)
    four = comparisons.Across("hidden", "joint", "clip", tuple("abcd"), ("best", "middle", "worst"), table[:4])
    images: plates.Images = {}
    drawn, said = plates.critical_differences([five, four], images)
    assert list(images) == ["critical-difference-plain-clip-given"] and len(drawn) == 1
    assert said == "A critical-difference diagram needs 5 streams. Fewer are there for joint, identity hidden: 4."
    svg = images["critical-difference-plain-clip-given"][0]
    assert "critical difference 1.48" in svg and all(
        name in svg for name in ("best  1.00", "middle  2.00", "3.00  worst")
    )


def test_latex(tmp_path: Path) -> None:
    text = latex.leaderboard("my_stream", "accuracy", leaderboard.rows(many()), "")
    assert r"\toprule" in text and r"\bottomrule" in text and "my\\_stream" in text.split("\\label")[0]
    assert text.count(r"\textbf{") == 4  # the best of two groups under two protocols
    assert "zero\\_shot & plain & 1 & " in text and ODD not in text


def test_how_values_are_written() -> None:
    assert per_cent(-0.0312) == f"{MINUS}3.1" and per_cent(-0.00001) == "0.0" and per_cent(None) == NONE
    assert shown(1852928, "trainable_params") == "1,852,928" and shown(2**20, "stored_bytes") == "1.00"
    assert [recall(key) for key in ("i2t_r10", "t2i_mrr")] == ["R@10 i→t", "MRR t→i"]
    assert exact(1.5, "rank") == "1.50" and exact(None, "rank") == "" and exact(0.5, "bwt_mean") == "0.500000"
