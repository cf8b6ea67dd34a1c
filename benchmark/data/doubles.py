"""What stands twice in a task's data: one image in two splits, or under two labels. Counted once, then remembered.

An image is what its decoded pixels are, before they are resized, so that copies count in whatever file they lie. With
texts a sample of two splits is counted by its image as well: the words of questions and reports recur by nature. Where
nearly every text of the training split is there once, such as the reports of patients, a text in two splits is counted
like an image. An image of generation tasks has several questions by nature: what counts there is an image with its
instruction, in two splits or under two answers. Made samples are not looked at: each is drawn on its own. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.catalog import Recipe, Source
from benchmark.data.sources.contents import cache_folder
from benchmark.data.sources.dialogues import plain
from benchmark.data.sources.split import SPLITS, Split
from benchmark.disk import write_bytes

VERSION = 1
OWN = 0.9  # the share of different texts from which on a text is its sample's own
QUICK = 2000  # images in files that ``plan`` decodes for this; more are counted when a run reads them
LARGE = 200 << 20  # bytes of an archive that ``plan`` reads for this
COUNTS = ("test", "val", "labels")
WARNING = "warning: data that stand twice: "  # before what is told of them


def of_stream(recipe: Recipe, identities: Sequence[str], quick: bool = False) -> dict[str, dict[str, int]]:
    """The counts (:func:`counted`) of the tasks, in listed order, in whose data something stands twice.

    Args:
        identities: of the tasks' samples.
        quick: leave out what is not known yet and takes long to count.

    Raises:
        UserError: samples cannot be read.
    """
    found: dict[str, dict[str, int]] = {}
    for task, source, identity in zip(recipe.stream, recipe.sources, identities, strict=True):
        if source.kind == "phantom":
            continue
        memory = cache_folder() / "doubles" / f"{identity[:24]}-v{VERSION}.json"
        counts = _remembered(memory, identity)
        if counts is None and not (quick and _long(source)):
            counts = counted(source)
            _remember(memory, identity, counts)
        if counts is not None and any(counts.values()):
            found[task.name] = counts
    return found


def told(found: Mapping[str, Mapping[str, int]]) -> str:
    """The tasks with their counts in words; empty where nothing stands twice."""
    said = []
    for task, counts in found.items():
        parts = [
            (counts["test"], "of test also in train or val"),
            (counts["val"], "of val also in train"),
            (counts["labels"], "under two labels"),
        ]
        said.append(f"{task} ({', '.join(f'{count:,} {words}' for count, words in parts if count)})")
    return "; ".join(said)


def counted(source: Source) -> dict[str, int]:
    """How many samples of ``test`` are in train or val as well, how many of ``val`` in train, and how many images (with
    texts: images with their text) stand under two ``labels``, or answers.
    """
    kind = kinds.of(source.task_kind)
    images: dict[str, list[bytes]] = {}
    texts: dict[str, list[bytes]] = {}
    labels_of: dict[tuple[bytes, bytes], set[int | str]] = {}
    for split in SPLITS:
        loaded = sources.load(source, split)
        images[split], texts[split] = _contents(loaded)
        labels: list[int | str] = loaded.labels.tolist() if kind.labelled else []
        if kind.speaks and loaded.pairs is not None:
            labels = [plain(loaded.texts[row]) for row in loaded.pairs[:, 2].tolist()]
            images[split] = [image + text for image, text in zip(images[split], texts[split], strict=True)]
        for image, text, label in zip(images[split], texts[split], labels, strict=bool(labels)):
            labels_of.setdefault((image, text), set()).add(label)
    own_texts = kind.reads_text and len(set(texts["train"])) >= OWN * len(texts["train"])
    seen = [images, *([texts] if own_texts else [])]
    return {
        "test": _also(seen, "test", ("train", "val")),
        "val": _also(seen, "val", ("train",)),
        "labels": sum(len(labels) > 1 for labels in labels_of.values()),
    }


def _contents(loaded: Split) -> tuple[list[bytes], list[bytes]]:
    """The digest of every sample's image, and of its text (one for all where there are none)."""
    image_N = [_digest(f"{image.shape}".encode(), np.ascontiguousarray(image).data) for image in loaded.images]
    if loaded.pairs is None:
        return image_N, [b""] * len(image_N)
    text_M = [_digest(text.encode("utf-8", "surrogatepass")) for text in loaded.texts]
    pairs = loaded.pairs.tolist()
    return [image_N[image] for image, *_ in pairs], [text_M[text] for _, text, *_ in pairs]


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _also(seen: Sequence[Mapping[str, Sequence[bytes]]], split: str, others: Sequence[str]) -> int:
    """How many samples of a split are in other splits as well, by any of their parts."""
    twice: NDArray[np.bool_] = np.zeros(len(seen[0][split]), bool)
    for parts in seen:
        there = {part for other in others for part in parts[other]}
        twice |= np.array([part in there for part in parts[split]], bool)
    return int(twice.sum())


def _long(source: Source) -> bool:
    """Whether counting means to decode many files or a large one, or to download it."""
    if source.kind in ("npz", "medmnist"):
        path = source.options["path"] if source.kind == "npz" else sources.medmnist.found(source)
        return path is None or Path(path).stat().st_size > LARGE
    if source.kind not in sources.LISTING:
        return bool(sources.downloads(source))
    return sum(map(len, sources.LISTING[source.kind].listed(source).values())) > QUICK


def _remembered(memory: Path, identity: str) -> dict[str, int] | None:
    """What was counted before; None where nothing was, or what is there is not whole."""
    with suppress(OSError, ValueError):
        told = json.loads(memory.read_bytes())
        if isinstance(told, dict) and told == _sealed(identity, told.get("counts")):
            return {name: int(told["counts"][name]) for name in COUNTS}
    return None


def _remember(memory: Path, identity: str, counts: dict[str, int]) -> None:
    with suppress(OSError):
        write_bytes(memory, json.dumps(_sealed(identity, counts)).encode())


def _sealed(identity: str, counts: object) -> dict[str, object]:
    """Counts with what they are of and a digest of both."""
    digest = hashlib.sha256(json.dumps([identity, counts]).encode()).hexdigest()
    return {"identity": identity, "counts": counts, "sha256": digest}
