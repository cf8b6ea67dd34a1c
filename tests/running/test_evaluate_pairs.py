"""Retrieval and fusion in evaluation: galleries, several matches, withheld inputs, and what a method may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark import metrics
from benchmark.compare import tables
from benchmark.config.run_config import RunConfig
from benchmark.data.batches import Batches, Samples, Subgrouping, TaskData
from benchmark.errors import UserError
from benchmark.record.parts import SampleScores
from benchmark.record.schema import SCHEMA, Record, StreamEntry, TaskEntry, unmeasured
from benchmark.record.stored import write_record
from benchmark.record.summary import missing_rows, summarise
from benchmark.running.answers.question import Cell
from benchmark.running.answers.retrieval import query_groups
from benchmark.running.evaluate import Evaluator
from benchmark.running.loop import kept_of_samples
from benchmark.stream import Label, Stream, Task
from methods.base import IncrementalMethod, belongs, contrastive_loss

CPU = torch.device("cpu")
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PAIRS = [
    torch.tensor([[0, 0], [1, 1], [1, 2], [2, 2]]),  # image 1 has two texts, text 2 has two images
    torch.tensor([[0, 0], [1, 0], [2, 1]]),
    torch.tensor([[0, 0], [1, 1]]),
]


def task(index: int, kind: str, labels: tuple[Label, ...] = ()) -> Task:
    return Task(index, f"task{index}", "radiology", kind, labels, len(PAIRS))


def features(index: int, inputs: str) -> Tensor:
    """(rows, E) drawn once for every item of a task."""
    rows = int(PAIRS[index][:, int(inputs == "text")].max()) + 1
    seed = 2 * index + (inputs == "text")
    return F.normalize(torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def evaluator(method: Any, stream: Stream, data: list[TaskData], gallery: str = "seen") -> Evaluator:
    return Evaluator(method, stream, data, RunConfig(gallery=gallery), "32-true", CPU)


class Known:
    """Answers with the features above; an item carries (task, row) in its pixels or tokens. Notes what it is shown."""

    joint = requires_task_id = training = task_free = False

    def __init__(self) -> None:
        self.seen: list[tuple[set[str], bool]] = []
        self.routed = 0

    def eval(self) -> None: ...

    def train(self, mode: bool) -> None: ...

    def answers_from(self, task: Task, protocol: str) -> None:
        return None

    def route(self, batch: dict[str, Tensor]) -> Tensor:
        self.routed += 1
        return torch.zeros(len(next(iter(batch.values()))), dtype=torch.long)

    def represent(self, batch: dict[str, Tensor], task: Task | None, route: Tensor | None = None) -> Tensor:
        self.seen.append((set(batch), task is None))
        assert (task is None) == (route is not None)
        inputs = "image" if "image" in batch else "text"
        where = batch["image"][:, 0, 0, :2] if inputs == "image" else batch["text"]
        return torch.stack([3 * features(int(index), inputs)[row] for index, row in where.tolist()])


def retrieval() -> tuple[Stream, list[TaskData]]:
    tasks, data = tuple(task(i, "retrieval") for i in range(len(PAIRS))), []
    for index, pairs in enumerate(PAIRS):
        counts = (pairs.max(dim=0).values + 1).tolist()
        images = torch.zeros(counts[0], 3, 2, 2, dtype=torch.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = index, torch.arange(counts[0])
        texts = torch.stack([torch.full((counts[1],), index), torch.arange(counts[1])], dim=1)
        samples = Samples(images, torch.arange(len(pairs)), texts, pairs)
        data.append(TaskData(tasks[index], {"test": samples}))
    return Stream("r", 1, "own", tasks), data


def oracle(own: int, gallery: Sequence[int], way: str) -> list[int]:
    """Ranks by sorting, query by query, everything by hand."""
    asking, asked = ("image", "text") if way == "i2t" else ("text", "image")
    ranks = []
    for query, vector in enumerate(features(own, asking)):
        found = []
        for other in gallery:
            for item, candidate in enumerate(features(other, asked)):
                pair = [query, item] if way == "i2t" else [item, query]
                found.append((float(vector @ candidate), other == own and pair in PAIRS[own].tolist()))
        found.sort(key=lambda pair: -pair[0])
        ranks.append(1 + next(i for i, (_, match) in enumerate(found) if match))
    return ranks


@pytest.mark.parametrize("policy", ["seen", "task", "all"])
def test_ranks_in_every_gallery(policy: str) -> None:
    stream, data = retrieval()
    method = Known()
    row = evaluator(method, stream, data, policy).row(2)
    hidden = {"seen": (0, 1), "task": None, "all": (0, 1, 2)}[policy]
    for protocol, learned in (("given", 3), ("hidden", 2)):
        for index, cell in enumerate(row[protocol]):
            if index >= learned:
                assert cell is None
                continue
            gallery = [index] if protocol == "given" or hidden is None else hidden
            assert cell is not None
            for way in metrics.DIRECTIONS:
                expected = oracle(index, gallery, way)
                assert cell.arrays[f"{way}_rank"].tolist() == expected
                assert cell.metrics[f"{way}_r1"] == pytest.approx(np.mean(np.array(expected) <= 1))
                assert cell.metrics[f"{way}_mrr"] == pytest.approx(np.mean(1 / np.array(expected)))
            assert cell.hits is not None and cell.groups is not None
            kept = SampleScores.packed(cell.hits, cell.parts)  # of every image, then of every text
            assert kept.weighed().mean() == pytest.approx(cell.metrics["mean_recall"])
            ranks = np.concatenate([cell.arrays[f"{way}_rank"] for way in metrics.DIRECTIONS])
            assert kept.unpacked().tolist() == [np.mean([rank <= k for k in (1, 5, 10)]) for rank in ranks]
            # images first, then each text with the first of its images
            assert cell.groups.tolist() == [[0, 1, 2, 0, 1, 1], [0, 1, 2, 0, 2], [0, 1, 0, 1]][index]
    assert [cell.router_accuracy if cell else None for cell in row["hidden"]] == [1.0, 0.0, None]


def test_the_record_keeps_scores_and_groups_of_samples() -> None:
    plain = Cell({}, {}, np.array([True, False, True]), np.array([9, 4, 9]))
    alone = Cell({}, {}, np.array([True, True]))
    asked = Cell({}, {}, np.array([1 / 3, 1.0, 0.0]), np.array([0, 0, 1]), (1, 2))
    silent = Cell({}, {}, None)
    hits, groups = kept_of_samples(
        {"given": [plain, alone, asked], "hidden": [None, silent, asked]}, ("plain", "alone", "asked")
    )
    given, hidden = hits["given"], hits["hidden"]
    assert given["plain"] == SampleScores(3, bits="oA==") and hidden["plain"] is hidden["alone"] is None
    assert given["asked"] == hidden["asked"] and given["asked"] is not None and given["asked"].parts == [1, 2]
    assert given["asked"].unpacked() == pytest.approx([1 / 3, 1, 0])
    assert groups is not None and set(groups) == {"plain", "asked"}
    assert groups["plain"].unpacked().tolist() == [1, 0, 1]
    assert kept_of_samples({"given": [alone], "hidden": [alone]}, ("alone",))[1] is None


def test_queries_of_a_patient_belong_together() -> None:
    pairs = np.array([[0, 0], [1, 1], [1, 2], [2, 3]])
    assert query_groups(pairs, np.array([7, 5, 5, 7])).tolist() == [7, 5, 7, 7, 5, 5, 7]


def test_a_query_is_in_the_subgroup_of_its_first_pair() -> None:
    stream, data = retrieval()
    sex = Subgrouping.by(np.array(["f", "m", "", "f"]))  # of the four pairs of three images and three texts
    data[0] = TaskData(data[0].task, {"test": replace(data[0].splits["test"], subgroups={"sex": sex})})
    cell = evaluator(Known(), stream, data).row(1)["given"][0]
    assert cell is not None
    found = cell.subgroups["sex"]
    assert [found.values[number] for number in found.numbers] == ["f", "m", "f", "f", "m", ""]


def test_a_method_never_sees_a_pair_a_label_or_which_sample_it_is() -> None:
    stream, data = retrieval()
    method = Known()
    evaluator(method, stream, data).row(3)
    for told, shown in ((False, [{"image"}, {"text"}]), (True, [{"image", "task"}, {"text", "task"}])):
        assert {frozenset(names) for names, hidden in method.seen if hidden != told} == {*map(frozenset, shown)}


def test_the_router_is_asked_once_for_every_hidden_batch() -> None:
    """And what it says is passed on, so that the frozen model is passed once."""
    stream, data = retrieval()
    method = Known()
    evaluator(method, stream, data).row(3)
    assert method.routed == sum(hidden for _, hidden in method.seen) == 6


def test_items_are_embedded_once_a_row() -> None:
    stream, data = retrieval()
    method = Known()
    evaluator(method, stream, data, "all").row(3)
    assert len(method.seen) == 2 * 3 * 2  # protocols, tasks, images and texts


class Frozen(Known):
    """Never changes, and has no router."""

    route, task_scores = IncrementalMethod.route, IncrementalMethod.task_scores

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...]:
        return ("frozen",)

    def represent(self, batch: dict[str, Tensor], task: Task | None) -> Tensor:
        return super().represent(batch, task, torch.zeros(0) if task is None else None)


def computed(method: Any, gallery: str) -> int:
    """Cells of the rows after each stage that are not taken from an earlier row."""
    stream, data = retrieval()
    asked = evaluator(method, stream, data, gallery)
    for stage in range(4):
        asked.row(stage)
    return asked.computed


@pytest.mark.parametrize(("gallery", "hidden"), [("task", 3), ("all", 3), ("seen", 6)])
def test_a_hidden_cell_is_computed_again_only_where_something_changed(gallery: str, hidden: int) -> None:
    """Without a router nothing does but the gallery; with one it may."""
    assert computed(Frozen(), gallery) == 3 + hidden
    routing = type("Routing", (Frozen,), {"route": Known.route, "represent": Known.represent})()
    assert computed(routing, gallery) == 3 + 6
    scored = {"task_scores": lambda self, batch: torch.zeros(len(next(iter(batch.values()))), 3)}
    assert computed(type("Scoring", (Frozen,), scored | {"represent": Known.represent})(), gallery) == 3 + 6
    vague = type("Vague", (Frozen,), {"answers_from": Known.answers_from})()
    assert computed(vague, gallery) == 4 * 3 + 6


def test_golden_retrieval_metrics() -> None:
    """R@k per task over the whole gallery, as LPI's evaluation prints them, in per cent."""
    with np.load(GOLDEN / "lpi_retrieval_metrics_a.npz", allow_pickle=False) as file:
        golden = dict(file)
    scores, owner = golden["scores_i2t"], golden["txt2img"]
    positive = owner[None, :] == np.arange(len(scores))[:, None]
    for index in range(len(golden["i2t"])):
        images, texts = golden["img_task"] == index, golden["txt_task"] == index
        i2t = metrics.best_ranks(scores[images], positive[images])
        t2i = metrics.best_ranks(scores.T[texts], positive.T[texts])
        found = metrics.match_metrics({"i2t": i2t, "t2i": t2i})
        for place, k in enumerate(metrics.RECALLS):
            assert 100 * found[f"i2t_r{k}"] == pytest.approx(golden["i2t"][index, place], rel=1e-9)
            assert 100 * found[f"t2i_r{k}"] == pytest.approx(golden["t2i"][index, place], rel=1e-9)
        six = np.concatenate([golden["i2t"][index], golden["t2i"][index]])
        assert 100 * found["mean_recall"] == pytest.approx(six.mean(), rel=1e-9)


def test_golden_forgetting_of_lpi() -> None:
    """Their forgetting is ours with the sign turned; their average is over the stages since a task was learned."""
    with np.load(GOLDEN / "lpi_forgetting_t4.npz", allow_pickle=False) as file:
        golden = dict(file)
    recalls = golden["R"]
    for place in range(3):
        matrix = np.vstack([np.full((1, recalls.shape[1]), np.nan), recalls[:, :, place]])
        assert -metrics.forgetting(matrix) == pytest.approx(golden["forget_r1_r5_r10_mean"][place], rel=1e-9)


def test_queries_without_a_match_and_without_an_answer() -> None:
    ranks = metrics.best_ranks([[0.2, 0.1], [0.3, 0.3]], [[False, False], [True, False]])
    assert ranks.tolist() == [float("inf"), 2.0]
    assert metrics.match_metrics({"i2t": ranks, "t2i": ranks})["i2t_mrr"] == pytest.approx(0.25)
    lost = metrics.match_metrics({"i2t": metrics.best_ranks([[np.nan]], [[True]]), "t2i": ranks})
    assert set(lost) == set(metrics.MATCHES) and all(np.isnan(value) for value in lost.values())


# ---- fusion and inputs --------------------------------------------------------------------------------------------


class Halves:
    """Answers right from the text (its token is the label), from an image alone always with the first label."""

    joint = requires_task_id = training = task_free = False
    eval, train, answers_from = Known.eval, Known.train, Known.answers_from

    def route(self, batch: dict[str, Tensor]) -> None:
        return None

    def scores(self, batch: dict[str, Tensor], labels: Sequence[Label], task: Task | None) -> Tensor:
        if "text" not in batch:
            return torch.eye(len(labels))[torch.zeros(len(batch["image"]), dtype=torch.long)]
        column = {label.id: i for i, label in enumerate(labels)}
        return torch.eye(len(labels))[[column[i] for i in batch["text"][:, 0].tolist()]]


def fusion() -> tuple[Stream, list[TaskData]]:
    labels = [tuple(Label(2 * i + j, f"{i}{j}", (f"{i} {j}",)) for j in range(2)) for i in range(2)]
    tasks = tuple(task(i, "fusion", labels[i]) for i in range(2))
    data = []
    for each in tasks:
        ids = torch.tensor([label.id for label in each.labels])
        pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]])  # two images, two texts, four samples
        samples = Samples(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), ids[pairs[:, 1]], ids[:, None], pairs)
        data.append(TaskData(each, {"test": samples}))
    return Stream("f", 1, "own", tasks), data


def test_what_is_withheld_is_withheld() -> None:
    stream, data = fusion()
    halves = evaluator(Halves(), stream, data)
    full = [cell.metrics["accuracy"] for cell in halves.row(2)["given"] if cell]
    without_text = halves.withheld("image")
    assert full == [1.0, 1.0]
    assert [cell.metrics["accuracy"] for cell in without_text["given"] if cell] == [0.5, 0.5]
    assert [cell.metrics["accuracy"] for cell in without_text["hidden"] if cell] == [0.5, 0.0]
    assert [cell.metrics["accuracy"] for cell in halves.withheld("text")["given"] if cell] == [1.0, 1.0]


def test_batches_select_pairs() -> None:
    data = fusion()[1]
    (batch,) = data[1].batches("test", CPU)
    assert batch["text"][:, 0].tolist() == [2, 3, 3, 2] == batch["label"].tolist() and len(batch["image"]) == 4
    assert batch["task"].tolist() == [1] * 4 and batch["index"].tolist() == [0, 1, 2, 3]
    (alone,) = data[1].batches("test", CPU, "image")
    assert set(alone) == {"image", "label", "task", "index"}
    (texts,) = data[1].items("test", CPU, "text")
    assert texts["text"].tolist() == [[2], [3]] and "image" not in texts


@pytest.mark.parametrize("inputs", ["both", "image", "text"])
def test_joined_tasks_keep_their_pairs(inputs: str) -> None:
    data = fusion()[1]
    parts = [each.splits["test"].only(inputs) for each in data]
    batches = Batches([(part, i) for i, part in enumerate(parts)], 3, CPU)
    seen = [{name: batch.get(name) for name in ("text", "label", "task")} for batch in batches]
    assert torch.cat([batch["label"] for batch in seen]).tolist() == [0, 1, 1, 0, 2, 3, 3, 2]
    assert torch.cat([batch["task"] for batch in seen]).tolist() == [0] * 4 + [1] * 4
    if inputs != "image":
        assert torch.cat([batch["text"] for batch in seen])[:, 0].tolist() == [0, 1, 1, 0, 2, 3, 3, 2]
    assert batches.samples == 8


# ---- the contrastive loss -----------------------------------------------------------------------------------------


def test_contrastive_loss_is_clips_for_one_match_each() -> None:
    with np.load(GOLDEN / "lpi_losses_task1.npz", allow_pickle=False) as file:
        golden: dict[str, Any] = {name: torch.tensor(file[name]) for name in file.files if "prompt" not in name}
    same = torch.eye(len(golden["image_features"]), dtype=torch.bool)
    loss = contrastive_loss(golden["image_features"], golden["text_features"], same, golden["logit_scale"].exp())
    assert float(loss) == pytest.approx(float(golden["loss:base_loss"]), rel=2e-4)


def test_what_belongs_together_is_no_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(4, 5, generator=generator) for _ in range(2))
    batch = {"label": torch.tensor([7, 7, 8, 8]), "task": torch.tensor([0, 0, 0, 1])}
    same = belongs(batch)
    assert same.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    logits = 10 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    terms = []
    for matrix in (logits, logits.T):
        for i in range(4):
            log_p = matrix[i] - matrix[i].logsumexp(0)
            terms.append(-np.mean([float(log_p[j]) for j in range(4) if same[i, j]]))
    assert float(contrastive_loss(image, text, same, 10.0)) == pytest.approx(np.mean(terms), rel=1e-5)


# ---- records and tables -------------------------------------------------------------------------------------------


def test_missing_rates_are_the_expected_accuracy() -> None:
    """Against a simulation that withholds the image of each sample with the given probability."""
    rng = np.random.default_rng(0)
    full, without = rng.random(200) < 0.8, rng.random(200) < 0.5
    gone = rng.random((20000, 200)) < 0.3
    simulated = np.where(gone, without, full).mean()
    assert metrics.at_missing_rate(full.mean(), without.mean(), 0.3) == pytest.approx(simulated, abs=1e-3)


def record(kind: str, **changes: Any) -> Record:
    stream = StreamEntry("s", "s", [TaskEntry("one"), TaskEntry("two")], kind=kind)
    fields = unmeasured(stream)
    matrices = {"given": [[0.2, 0.3], [0.8, 0.3], [0.6, 0.9]], "hidden": [[None, None], [0.7, None], [0.4, 0.9]]}
    fields["scores"] = dict.fromkeys(fields["scores"], matrices)
    return Record(schema=SCHEMA, key="0" * 12, method="m", stream=stream, seed=0, order=0, **fields, **changes)


def test_summary_of_retrieval_has_both_directions() -> None:
    made = record("retrieval")
    summary = summarise(made.kind, made.scores)
    assert made.primary == "mean_recall" and summary["given"]["last_acc"] == pytest.approx(0.75)
    assert summary["hidden"]["i2t_r10"] == pytest.approx(0.65)
    assert summary["given"]["t2i_forgetting"] == pytest.approx(0.2) == -summary["given"]["t2i_bwt"]
    assert "balanced_acc" not in summary["given"]


def test_missing_modality_of_a_record(tmp_path: Path) -> None:
    missing = {"image": {"given": [0.5, 0.5], "hidden": [0.2, None]},
               "text": {"given": [0.1, 0.5], "hidden": [0.2, 0.3]}}  # fmt: skip
    made = record("fusion", missing=missing)
    summary = summarise(made.kind, made.scores, made.missing)["given"]
    assert summary["image_drop"] == pytest.approx(0.25) and summary["text_drop"] == pytest.approx(0.45)
    assert summary["dominance"] == pytest.approx((0.25 - 0.45) / 0.7)
    rows = {tuple(row[:3]): row[3:] for row in missing_rows(made)}
    assert rows["given", "none", "0.0"] == ["0.600000", "0.900000", "0.750000"]
    assert rows["given", "image", "1.0"] == ["0.500000", "0.500000", "0.500000"]
    assert rows["given", "both", "0.5"] == ["0.450000", "0.700000", "0.575000"]
    assert rows["hidden", "image", "0.3"][1:] == ["", ""]
    write_record(tmp_path, made)
    header, *lines = (tmp_path / "missing_modality.csv").read_text().splitlines()
    assert header == "protocol,missing,rate,one,two,mean" and len(lines) == len(rows) == 2 * 16
    from rich.console import Console

    console = Console(width=100, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    console.print(tables.missing_table(made))
    printed = console.export_text()
    assert "image (given)" in printed and "57.5" in printed


# ---- what does not go together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ranpac", "smoke_fusion"), "method 'ranpac' learns classification, not stream 'smoke_fusion' (fusion)"),
        (("zero_shot", "smoke", "--inputs", "text"), "--inputs text: only fusion"),
        (("zero_shot", "smoke_fusion", "--gallery", "all"), "--gallery all: only retrieval"),
    ],
)
def test_kinds_and_settings_that_do_not_fit_are_refused(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    from benchmark.config import arguments as parsing
    from benchmark.config.resolve import resolve

    method, stream, *rest = arguments
    argv = ["--method", method, "--stream", stream, "--results", str(tmp_path), *rest]
    config, card, _ = parsing.parse("run", argv, with_class=False)
    with pytest.raises(UserError, match=says.replace("(", r"\(").replace(")", r"\)")):
        resolve(config, card, cuda=False)
    assert not list(tmp_path.iterdir())
