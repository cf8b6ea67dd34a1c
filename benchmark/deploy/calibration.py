"""Temperature scaling: probabilities that say how often a method is right (Guo et al., ICML 2017, section 4.2).

The temperature T of softmax(scores / T) is chosen by the likelihood of the validation labels, once for every task whose
classes are the candidates and once for the classes of all tasks. The likeliest class stays what it is. What is found
stays in the run's folder, so that answers and exports on a machine without the data have it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from benchmark.data import catalog
from benchmark.data.batches import task_data
from benchmark.data.identity import identities
from benchmark.deploy.trained import Trained
from benchmark.errors import UserError
from benchmark.record.files import write_text
from benchmark.running.answers.classification import calibration_error
from benchmark.stream import Task

KEPT = "temperature.json"  # in the run's folder
ALL = "*"  # in the place of a task's name: the classes of all tasks, and the method finds the task
RANGE = 1e-3, 1e3  # of temperatures
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Temperature:
    """What scores are divided by.

    Attributes:
        value: above 1 where the scores promise too much.
        chosen_on, measured_on: validation and test samples.
        before, after: the expected calibration error of the test samples with the scores as they are, and divided.
    """

    value: float
    chosen_on: int
    measured_on: int
    before: float
    after: float

    @property
    def sentence(self) -> str:
        return (
            f"temperature {self.value:.3g}, chosen on {self.chosen_on} validation samples: on {self.measured_on} test "
            f"samples the expected calibration error is {100 * self.after:.1f} % with it and {100 * self.before:.1f} % "
            "without"
        )


def kept(run: Path, task: Task | None) -> Temperature | None:
    """What was found for a task, or for the classes of all, of a run.

    Raises:
        UserError: the file is not what this suite writes.
    """
    return _every(run).get(_name(task))


def _every(run: Path) -> dict[str, Temperature]:
    """By name of the task."""
    path = run / KEPT
    if not path.is_file():
        return {}
    try:
        return {name: Temperature(**found) for name, found in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: not what predict --calibrate writes: remove it") from None


def calibrated(run: Path, trained: Trained, task: Task | None, data: Path, inputs: str = "both") -> Temperature:
    """The temperature of a run for a task's classes, or those of all tasks; found once, and kept.

    Raises:
        UserError: the data are not there, a split is empty, or the method has no scores to compare.
    """
    every = _every(run)
    if _name(task) in every:
        return every[_name(task)]
    splits = _answers(trained, task, data, inputs)
    empty = [split for split, (scores_NC, _) in splits.items() if not len(scores_NC)]
    if empty or any(scores_NC.isnan().any() for scores_NC, _ in splits.values()):
        why = f"no {empty[0]} sample" if empty else f"{trained.record.method} has no answer"
        raise UserError(f"--calibrate: {why} of {trained.record.config.stream}")
    value = fitted(*splits["val"])
    scores_NC, target_N = splits["test"]
    errors = [calibration_error(scores_NC / scale, target_N) for scale in (1.0, value)]
    found = Temperature(value, len(splits["val"][0]), len(scores_NC), *errors)
    told = {name: asdict(each) for name, each in (every | {_name(task): found}).items()}
    write_text(run / KEPT, json.dumps(told, indent=1, sort_keys=True) + "\n")
    return found


def fitted(scores_NC: Tensor, target_N: Tensor) -> float:
    """The temperature under which the labels are likeliest.

    Args:
        scores_NC: over the candidates. target_N: column of the true label.
    """
    scores_NC = scores_NC.double()

    def surprise(log_t: float) -> float:
        return F.cross_entropy(scores_NC / torch.tensor(log_t).exp(), target_N).item()

    low, high = torch.tensor(RANGE).log().tolist()
    return float(torch.tensor(minimize_scalar(surprise, bounds=(low, high), method="bounded").x).exp())


def _name(task: Task | None) -> str:
    return ALL if task is None else task.name


@torch.no_grad()
def _answers(trained: Trained, task: Task | None, data: Path, inputs: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Of val and test (N, C) scores over the candidates and (N,) columns of the true labels, of a task or of all."""
    method, config = trained.method, trained.record.config
    labels = trained.stream.labels() if task is None else task.labels
    columns = {label.id: column for column, label in enumerate(labels)}
    recipe = catalog.load(config.stream, data)
    known = identities(recipe)
    listed = {each.name: place for place, each in enumerate(recipe.stream)}
    answers = {split: ([torch.empty(0, len(labels))], [torch.empty(0, dtype=torch.long)]) for split in ("val", "test")}
    backbone = method.backbone
    for each in trained.stream if task is None else [task]:
        place = listed[each.name]
        found = task_data(
            each, recipe.sources[place], known[place], backbone.image_size, config.limit, backbone.tokenizer, inputs,
            framing=backbone.framing,
        )  # fmt: skip
        for split, (scores, targets) in answers.items():
            for batch in found.batches(split, CPU, inputs):
                scores.append(method.scores(batch, labels, task).float())
                targets.append(torch.tensor([columns[label] for label in batch["label"].tolist()]))
    return {split: (torch.cat(scores), torch.cat(targets)) for split, (scores, targets) in answers.items()}
