"""What a stranger has to know of an exported model: a README from the record of its run, and nothing by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmark.compare.stats import interval
from benchmark.compare.tables import percent, spoken
from benchmark.config import families
from benchmark.data import catalog
from benchmark.data.yaml_files import read
from benchmark.deploy.calibration import Temperature
from benchmark.errors import UserError
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.report.origins import command, packages
from benchmark.stream import Task

TOLD = ("title", "publication", "homepage", "licence")  # of a card
HIDDEN = "without being told the task"
LIMITS = """- It answers with one of the classes above whatever the image shows, a photograph of a cat included.
- {calibration}
- Scores are of test images of the same source as the training images: other devices, sites and patients may differ."""
UNCALIBRATED = "Its probabilities are those of a softmax and were not calibrated."
IN_WORDS = """- It answers whatever is asked, about whatever the image shows, and what reads well may be false.
- Scores are of test questions of the same source as the training questions: other wordings and images may differ."""


def card(record: Record, task: Task, temperature: Temperature | None = None) -> str:
    """Markdown: what it is, its data, how it was trained, its scores, what it is for and where it ends, its origin."""
    place = record.stream.task_names.index(task.name)
    kind, before = record.stream.kinds[place], record.stream.task_names[:place]
    after = record.stream.task_names[place + 1 :]
    labels = f"Classes: {'; '.join(label.name for label in task.labels)}.\n\n" if task.labels else ""
    learned = f"Learned before: {', '.join(before) or 'nothing'}; after: {', '.join(after) or 'nothing'}."
    said = families.note(record.backbone)
    calibration = UNCALIBRATED if temperature is None else f"Its probabilities are calibrated: {temperature.sentence}."
    limits = (IN_WORDS if kind.speaks else LIMITS.format(calibration=calibration)) + (f"\n- {said}" if said else "")
    return f"""# {record.method} on {task.name}

What the method `{record.method}` answers the task `{task.name}` ({kind.name}, {task.modality}) with, after the whole
stream `{record.stream.folder}`: the frozen backbone `{record.backbone}` and one LoRA.

{labels}## Data

{_data(record, task)}

## Training

One run, seed {record.seed}, order {record.order}{_limited(record)}. {learned} Settings other than the defaults:
`{record.settings or "none"}`. The command that makes it again, with
`--data FOLDER` where the images are no part of the suite:

    {command(record)}

## Scores

On the {record.split} split after the last task, in per cent{_interval_said(record, task)}:

{chr(10).join(_scores(record, task, place))}

## Use and limits

For research on incremental learning. It is no medical device, and nothing here says that it may be used on patients.

{limits}

## Origin

Commit `{record.provenance.git_sha or "not recorded"}`{" with changes" if record.provenance.git_dirty else ""}, code \
`{record.provenance.fingerprint}`, finished {str(record.provenance.finished)[:16].replace("T", " ")} on \
{record.provenance.device or "a device that is not recorded"}; {packages(record)}.
"""


def _limited(record: Record) -> str:
    return f", on the first {record.limit} samples of each split alone" if record.limit else ""


def _data(record: Record, task: Task) -> str:
    told = _told(record.config.stream, task.name)
    lines = [f"- {name}: {' '.join(str(told[name]).split())}" for name in TOLD if name in told]
    if told.get("source") == "phantom":
        lines.append("- made images, drawn by this suite: they show nobody, and what is learned of them helps nobody")
    elif "licence" not in told:
        lines.append("- licence: not told by the stream's file; ask who gave you the images before the model is shared")
    digest = record.provenance.data.get(task.name)
    lines += [f"- sha256 of the samples: `{digest}`"] if digest else []
    return "\n".join(lines) or "- not described"


def _told(stream: str, task: str) -> dict[str, Any]:
    """What the stream's file says of a task, and the card that it names."""
    try:
        file = catalog.load(stream, None).file
        (item,) = (item for item in map(_whole, read(file)["tasks"]) if item.get("name") == task)
    except (UserError, ValueError):  # gone, or another stream by now
        return {}
    return item


def _whole(item: dict[str, Any]) -> dict[str, Any]:
    path = catalog.root() / "cards" / f"{item.get('card')}.yaml"
    return read(path) | item if "card" in item and path.is_file() else item


def _interval_said(record: Record, task: Task) -> str:
    return ", with the 95 % interval for other test samples" if _hits(record, PROTOCOLS[0], task) is not None else ""


def _hits(record: Record, protocol: str, task: Task) -> Any:
    kept = ((record.hits or {}).get(protocol) or {}).get(task.name)
    return None if kept is None else kept.weighed()


def _scores(record: Record, task: Task, place: int) -> Iterator[str]:
    metric = record.stream.measures[place]
    for protocol in PROTOCOLS:
        hits, score = _hits(record, protocol, task), record.scores[metric][protocol][-1][place]
        groups = (record.groups or {}).get(task.name)
        ends = ""
        if hits is not None:
            _, low, high = interval([hits[None, None]], None if groups is None else [groups.unpacked()])
            ends = f" ({percent(low)} to {percent(high)}, {len(hits)} samples)"
        yield f"- {spoken(metric)}{f', {HIDDEN}' if protocol != PROTOCOLS[0] else ''}: {percent(score)}{ends}"
    recalls = ((record.class_recall or {}).get(PROTOCOLS[0]) or {}).get(task.name)
    if recalls:
        each = zip(record.stream.tasks[place].labels, recalls, strict=True)
        yield "- of each class: " + "; ".join(f"{label} {percent(recall)}" for label, recall in each)
