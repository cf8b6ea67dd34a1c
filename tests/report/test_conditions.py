"""What the report says nothing of, what it shows under changed settings, and a look by another metric."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark import cli, report
from benchmark.compare import leaderboard
from benchmark.compare.entries import seen_by
from benchmark.compare.rows import OverallRow
from benchmark.errors import UserError
from benchmark.record.schema import Record
from benchmark.record.summary import summarise
from benchmark.report import caveats, findings, plates, views
from tests.made_records import flat, made, on, save


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is drawn, by name, without drawing it."""
    found: dict[str, Any] = {}

    def render(name: str, *arguments: Any, **_: Any) -> tuple[str, bytes]:
        found[name] = arguments
        return '<svg viewBox="0 0 1 1"></svg>', b""

    monkeypatch.setattr(plates, "render", render)
    return found


def page(results: Path, folder: str = "report") -> str:
    return (results / folder / "index.html").read_text(encoding="utf-8")


def plain() -> list[Record]:
    return [*flat("ewc", "01", 0.9, 0.8), *flat("lwf", "02", 0.7, 0.7)]


def test_trials_are_in_no_sentence_rank_or_count(tmp_path: Path) -> None:
    trials = [
        *(on("smoke_fusion", record) for record in flat("best", "03", 1.0, 1.0)),
        *flat("best", "04", 1.0, 1.0, settings="epochs=1"),
        *flat("best", "05", 1.0, 1.0, limit=8),
    ]
    view = views.stream_view([*plain(), *trials[2:]])
    alone = views.stream_view(plain())
    for said in (
        caveats.evidence,
        lambda view: findings.lead(view.rows, [], ""),
        lambda view: findings.costs(view.rows),
    ):
        assert said(view) == said(alone)
    report.build(save(tmp_path / "both", *plain(), *trials))
    text = page(tmp_path / "both")
    assert "1 stream, 2 methods, 4 runs." in text and "smoke_fusion" not in text
    report.build(tmp_path / "both", ["smoke_fusion"])
    text = page(tmp_path / "both")
    assert "smoke_fusion-board" in text and 'class="lead"' not in text and "0 streams, 0 methods, 0 runs" in text
    with pytest.raises(UserError, match=r"only runs of streams for trials .* --stream smoke_fusion shows them"):
        report.build(save(tmp_path / "smoke", *trials[:2]))


def test_what_is_stale_is_named_row_by_row_only_where_it_is_not_every_row() -> None:
    three = views.stream_view(plain())  # made records: all of other code than the tree's
    mixed = replace(three, rows=[replace(row, stale=row.method == "ewc") for row in three.rows])
    fresh = replace(three, rows=[replace(row, stale=False) for row in three.rows])
    mixed, fresh = replace(mixed, name="mixed"), replace(fresh, name="fresh")
    assert caveats.freshness([three]).endswith("page: every row.")
    assert caveats.freshness([three, mixed, fresh]).endswith(f"page: every row on {three.name}; ewc on mixed.")
    assert caveats.freshness([fresh]) == "Nothing is stale."


def test_a_row_that_is_two_presets_counts_once() -> None:
    rows = leaderboard.rows(plain())
    for twice in ([*rows, *(replace(row, preset="tuned", rank=None) for row in rows)],
                  [*(replace(row, preset="tuned", rank=None) for row in rows), *rows]):  # fmt: skip
        assert sorted(findings.defaults(twice), key=rows.index) == rows
        view = replace(views.stream_view(plain()), rows=twice)
        (given, hidden) = findings.overall([view], [])
        assert (given.score, given.who, given.next) == ("on 1 of 1 streams with several runs of a method", "ewc", "")
        assert hidden.score == given.score


def test_methods_of_one_average_rank_are_named_together() -> None:
    view = views.stream_view(plain())
    ranks = [OverallRow("given", "plain", "phantom-clip", name, 5, view.name, rank, None, None, None)
             for name, rank in (("ewc", 1.8333), ("lwf", 1.8334), ("er", 2.0))]  # fmt: skip
    other = replace(ranks[0], backbone="tiny-clip", method="ncm")
    given, hidden = findings.overall([view], [*ranks, other])
    assert given.next == " Best average rank of the plain methods, over 5 streams: ewc and lwf." and hidden.next == ""


def test_one_run_decides_no_sentence(tmp_path: Path) -> None:
    rows = leaderboard.rows([*plain(), *flat("once", "03", 0.99)])
    assert [lead.who for lead in findings.lead(rows, [], "accuracy")] == ["ewc", "ewc"]
    assert not any("once" in sentence for sentence in (*findings.forgetting(rows), *findings.costs(rows)))
    report.build(save(tmp_path, made("ewc", "01"), made("lwf", "02")))
    text = page(tmp_path)
    assert 'class="lead"' not in text and "No method has run more than once" in text
    assert "What forgets" not in text and "What it costs" not in text


def test_costs_are_no_seconds(tmp_path: Path, drawn: dict[str, Any]) -> None:
    said = findings.costs(leaderboard.rows(plain()))
    assert said and not any(" s " in sentence or "Training" in sentence for sentence in said)
    plates.of_stream(views.stream_view(plain()), {}, False)
    assert {name.split("-")[1] for name in drawn} >= {"parameters", "memory"}
    assert not any("train_seconds" in column.key for column in report.COLUMNS)
    lines = [f"{findings.OPERATORS},,{method},three,{value}" for method, value in (("ewc", 900), ("lwf", 1200))]
    save(tmp_path, *plain())
    (tmp_path / "speed.csv").write_text("\n".join(["quantity,unit,method,stream,value", *lines, "odd"]))
    report.build(tmp_path)
    assert "operators of a training step at the last task: 900 (ewc) to 1,200 (lwf)." in page(tmp_path)


def test_a_sweep_under_one_changed_setting_is_shown_whole(tmp_path: Path, drawn: dict[str, Any]) -> None:
    """Alone, and beside rows with default settings."""
    changed = [replace(run, settings="lr=0.003", key=f"1{run.key}") for run in plain()]
    report.build(save(tmp_path / "alone", *changed))
    names = set(drawn)
    assert {f"three-lr-0-003-{what}-given" for what in ("stability", "parameters", "curves")} <= names
    text = page(tmp_path / "alone")
    assert text.count("lr=0.003. Identity given.") == text.count("lr=0.003. Identity hidden.") >= 4
    assert "<strong>ewc</strong>" in text and "Best of each group, lr=0.003" in text
    tex = (tmp_path / "alone/report/tables/three-lr-0-003.tex").read_text(encoding="utf-8")
    assert "All with lr=0.003." in tex and "ewc & plain & 2" in tex
    assert not (tmp_path / "alone/report/tables/three.tex").exists()
    drawn.clear()
    report.build(save(tmp_path / "both", *plain(), *changed))
    assert names <= set(drawn) and "three-stability-given" in drawn
    assert "ewc" in (tmp_path / "both/report/tables/three-lr-0-003.tex").read_text(encoding="utf-8")
    assert "All with" not in (tmp_path / "both/report/tables/three.tex").read_text(encoding="utf-8")


def test_nothing_empty_is_written_or_announced(tmp_path: Path) -> None:
    tuned = made("ewc", "02", settings="method.strength=1")
    assert [path.name for path in report.build(save(tmp_path, tuned))] == ["index.html"]
    text = page(tmp_path)
    assert "Tables for papers" not in text and "<ul></ul>" not in text and "Stability, plasticity" not in text
    assert "Where every method ends" not in text and '<div class="figures"></div>' not in text


def by_balance(record: Record, score: float) -> Record:
    """The record with this balanced accuracy everywhere."""
    seen = record.scores["accuracy"]
    other = {who: [[None if cell is None else score for cell in row] for row in seen[who]] for who in seen}
    scores = record.scores | {"balanced_accuracy": other}
    return replace(record, scores=scores, summary=summarise(record.kind, scores))


def test_another_metric_ranks_beside_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    records = [by_balance(record, 0.2 if record.method == "ewc" else 0.6) for record in plain()]
    texts = on("texts", made("lpi", "09", kind="retrieval"))
    save(tmp_path, *records, texts)
    leaderboard.build(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "leaderboards").iterdir()}
    ranks = {row.method: row.rank for row in leaderboard.rows(seen_by("balanced_accuracy", records))}
    assert ranks == {"lwf": 1.0, "ewc": 2.0}
    assert cli.main(["leaderboard", "--results", str(tmp_path), "--metric", "balanced_accuracy"]) == 0
    said = capsys.readouterr().out
    assert "three.balanced_accuracy.csv" in said and "balanced accuracy in per cent" in said
    assert "texts:" not in said
    assert "lwf,phantom-clip" in (tmp_path / "leaderboards/three.balanced_accuracy.csv").read_text().splitlines()[1]
    assert {path: path.read_bytes() for path in before} == before
    assert cli.main(["report", "--results", str(tmp_path), "--metric", "balanced_accuracy"]) == 0
    text = page(tmp_path, "report-balanced_accuracy")
    assert "<strong>lwf</strong>" in text and "Balanced accuracy matrix" in text
    assert "What papers claim" not in text and "../leaderboards/three.csv" not in text
    for verb in ("leaderboard", "report"):
        assert cli.main([verb, "--results", str(tmp_path), "--metric", "accurracy"]) == 2
    assert "error: unknown --metric 'accurracy'" in capsys.readouterr().err
    save(tmp_path / "other", texts)
    assert cli.main(["leaderboard", "--results", str(tmp_path / "other"), "--metric", "macro_auroc"]) == 2
