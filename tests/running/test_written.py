"""What a run of several kinds writes down, killed or not: each task's own metric, answers in words, some samples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmark import kinds
from benchmark.config.run_config import RunConfig
from benchmark.data.batches import TaskData
from benchmark.record.answers import AnswerLine, read_answers, shown_places
from benchmark.record.folder import RunFolder, State
from benchmark.record.parts import Provenance
from benchmark.record.schema import SCHEMA, Record, StreamEntry, TaskEntry, unmeasured
from benchmark.record.stored import read_record
from benchmark.running import written
from benchmark.running.answers.question import Cell
from benchmark.running.evaluate import Cells
from benchmark.running.hardware import Hardware
from benchmark.running.loop import Loop
from benchmark.running.progress import Display
from benchmark.stream import Label, Stream, Task
from methods.base import IncrementalMethod

N = 20
STREAM = Stream("talk", 1, "own", (
    Task(0, "ct_vqa", "ct", "generation", (), 3, metric="exact"),
    Task(1, "skin_classes", "skin", "classification", (Label(0, "a", ()), Label(1, "b", ())), 3),
    Task(2, "ct_reports", "ct", "generation", (), 3, metric="f1"),
))  # fmt: skip
WILD = ["yes", "", "x" * 2000, "a\nb\u2028", "漢字 é", '"\\{}', "\ud800", "\x1b[2J"]


@dataclass
class Asked:
    """Test samples as a task with questions has them."""

    labels: torch.Tensor
    instructions: tuple[str, ...]
    references: tuple[str, ...]
    closed: Any
    pairs: None = None


def data() -> list[TaskData]:
    asked = Asked(
        torch.zeros(N), tuple(f"question {place}?" for place in range(N)), ("yes",) * N, np.arange(N) % 2 == 0
    )
    return [TaskData(task, {"train": asked, "test": asked}) for task in STREAM]  # type: ignore[dict-item]


def answered(stage: int, task: Task, protocol: str) -> Cell | None:
    """What the model says: told by stage, task and protocol alone."""
    if protocol == "hidden" and task.index >= stage:
        return None
    share = (1 + stage + task.index) / 10 + (protocol == "hidden") / 20
    if task.kind == "classification":
        arrays = {"logits": np.zeros((N, 2), np.float16), "answer": np.zeros(N, int)}
        metrics = dict.fromkeys(kinds.of(task.kind).metrics, share)
        return Cell(metrics, arrays, np.arange(N) % 2 == 0, recalls=np.array([share, 0.5]))
    said = [WILD[(place + stage) % len(WILD)] for place in range(N)]
    arrays = {"answer": np.array(said), "tokens": np.where(np.arange(N) == 2, -1, stage),
              "stopped": np.arange(N) % 3 == 0, "likeliest": np.array(["yes", ""] * (N // 2))}  # fmt: skip
    metrics = dict.fromkeys(kinds.of(task.kind).metrics, share) | {"likelihood": float("nan")}
    return Cell(metrics, arrays, np.linspace(0, 1, N) if task.metric == "f1" else np.arange(N) % 4 == 0)


def judge(_data: TaskData, _split: str, arrays: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [{"exact": said == "yes", "f1": 0.5, "format_kept": len(said) < 9} for said in arrays["answer"].tolist()]


class Scripted(Loop):
    """A run that learns nothing, is stopped before a row, and answers as the script says."""

    stop = -1

    def _learn(self, tasks: list[Task], saved: object) -> None:
        self.record = replace(self.record, cost=self._with_costs(len(tasks), 1.0, 0.0))

    def row(self, stage: int) -> Cells:
        if stage == self.stop:
            raise KeyboardInterrupt
        return {protocol: [answered(stage, task, protocol) for task in STREAM] for protocol in ("given", "hidden")}


class Mute(IncrementalMethod):
    """A method that has nothing to learn."""

    kinds = ("generation", "classification")

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)


def entry() -> StreamEntry:
    return StreamEntry("talk", "talk", [TaskEntry.of(task, STREAM) for task in STREAM], kind="mixed")


def run(folder: Path, stop: int = -1) -> Record:
    place, config = RunFolder(folder), RunConfig(method="mute", stream="talk")
    record = place.found().record
    if record is None:
        record = Record(
            SCHEMA, "0" * 12, "mute", entry(), 0, 0, permutation=[0, 1, 2],
            provenance=Provenance(fingerprint="0" * 16), **unmeasured(entry()),
        )  # fmt: skip
        place.begin(record)
    display, device = Display(Console(), 1, quiet=True), Hardware(torch.device("cpu"))
    loop = Scripted(Mute(), STREAM, data(), config, "32-true", record, place, device, display, made=["ct_reports"])
    loop.stop, loop.evaluator = stop, SimpleNamespace(row=loop.row)  # type: ignore[assignment]
    loop.run()
    return loop.record


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("benchmark.running.loop.judged", judge)
        run(folder)
        yield folder


def test_each_column_is_its_tasks_own_metric(straight: Path) -> None:
    record = read_record(straight)
    assert record.primary == "primary" and record.stream.measures == ["exact", "accuracy", "f1"]
    assert record.matrix("given")[2] == [pytest.approx(share) for share in (0.3, 0.4, 0.5)]
    assert record.scores["accuracy"]["given"][2] == [None, pytest.approx(0.4), None]
    assert record.scores["exact"]["hidden"][2] == [pytest.approx(0.35), None, None]  # the second has no such metric
    assert record.scores["likelihood"]["given"] == [[None] * 3] * 4
    assert record.number("given", "last_acc") == pytest.approx(np.mean([0.4, 0.5, 0.6]))
    hits = (record.hits or {})["given"]
    assert [bool(scores and scores.bits) for scores in hits.values()] == [True, True, False]  # f1 is no bit
    assert (record.class_recall or {})["given"] == {"ct_vqa": [], "skin_classes": [0.5, 0.5], "ct_reports": []}
    names = {path.name for path in straight.glob("*.csv")}
    assert {"primary_given.csv", "primary_hidden.csv", "accuracy_given.csv", "f1_hidden.csv"} <= names
    assert not {"likelihood_given.csv", "likelihood_hidden.csv"} & names  # of which no cell is known
    assert (straight / "exact_given.csv").read_text().splitlines()[-1] == "ct_reports,0.400000,,0.600000"


def test_all_answers_of_the_own_and_the_last_row_stay(straight: Path) -> None:
    record, file = read_record(straight), straight / "answers.jsonl.gz"
    assert (record.files or {})["answers.jsonl.gz"] == sha256(file.read_bytes()).hexdigest()
    lines = list(read_answers(file))
    cells = list(dict.fromkeys((line.task, line.stage, line.protocol) for line in lines))
    assert cells == [
        ("ct_vqa", 1, "given"), ("ct_vqa", 1, "hidden"), ("ct_vqa", 3, "given"), ("ct_vqa", 3, "hidden"),
        ("ct_reports", 3, "given"), ("ct_reports", 3, "hidden"),
    ]  # fmt: skip
    assert len(lines) == N * len(cells) == len(gzip.decompress(file.read_bytes()).splitlines())
    assert lines[1] == AnswerLine(
        task="ct_vqa", stage=1, protocol="given", index=1, prompt="question 1?", reference="yes", answer="x" * 2000,
        type="OPEN", tokens=1, stopped=False, exact=0.0, f1=0.5, format_kept=False, likeliest="",
    )  # fmt: skip
    assert [line.tokens for line in lines[1:4]] == [1, None, 1]
    assert [line.answer for line in lines[:8]] == [*WILD[1:], WILD[0]]
    assert (lines[7].exact, lines[6].type, lines[6].likeliest) == (1.0, "CLOSED", "yes")
    with np.load(straight / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["3/ct_reports/hidden_answer"].tolist()[4] == WILD[7]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_was_killed_leaves_the_same_bytes(straight: Path, stop: int) -> None:
    folder = straight.with_name(f"killed{stop}")
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop)
    assert RunFolder(folder).found().state is State.UNFINISHED and not (folder / "answers.jsonl.gz").exists()
    record = run(folder)
    assert RunFolder(folder).found().state is State.WHOLE
    names = ["answers.jsonl.gz", "predictions.npz", *(path.name for path in straight.glob("*.csv"))]
    assert all((folder / name).read_bytes() == (straight / name).read_bytes() for name in names)
    whole = read_record(straight)
    assert (record.scores, record.samples, record.hits) == (whole.scores, whole.samples, whole.hits)


def test_a_damaged_or_lost_file_of_answers_is_damage(straight: Path) -> None:
    file = straight / "answers.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert RunFolder(straight).found().reason == f"{file}: damaged (its sha256 is not the one in run.json)"
    file.unlink()
    assert RunFolder(straight).found().state is State.DAMAGED
    file.write_bytes(whole)
    assert RunFolder(straight).found().state is State.WHOLE


def test_samples_of_made_data_stand_in_the_record(straight: Path) -> None:
    """Of others none: they may be anybody's."""
    samples = json.loads((straight / "run.json").read_text())["samples"]
    assert list(samples) == ["ct_reports"] and len(samples["ct_reports"]) == 8
    first = samples["ct_reports"][0]
    assert first == {"question": "question 0?", "reference": "yes", "own": "a\nb\ufffd", "last": "a\nb\ufffd"}
    assert all(sample["own"] == sample["last"] for sample in samples["ct_reports"])  # the last task's own row
    arrays = {f"{stage}/ct_vqa/given_answer": np.array([f"after {stage}"] * N) for stage in (1, 3)}
    found = written.shown_samples(arrays, Stream("t", 1, "own", STREAM.tasks[:1] * 3), data(), "test", ["ct_vqa"])
    assert found is not None and (found["ct_vqa"][0].own, found["ct_vqa"][0].last) == ("after 1", "after 3")
    assert written.shown_samples({}, STREAM, data(), "test", []) is None


@pytest.mark.parametrize("samples", [0, 1, 7, 8, 9, 24, 63, 1000])
def test_shown_samples_are_spread_and_do_not_fall_in_step(samples: int) -> None:
    places = shown_places(samples, 8)
    assert len(places) == min(samples, 8) == len(set(places)) and all(0 <= place < samples for place in places)
    assert places == sorted(places) and places[:1] == [0][:samples]
    for period in (2, 3, 4, 5) if samples >= 9 else ():
        assert {place % period for place in places} == set(range(period))
    assert max(places, default=0) >= 0.6 * samples - 8
