"""The parts of a record, each as a stretch of ``run.json`` has it."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1 + 1e-6)]  # sums of float32 may end just above 1
Amount = Annotated[float, Meta(ge=0, le=1e300)]  # finite
FileName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[^/\\\x00-\x1f]+$")]  # a record's place is a path
LeftFile = Annotated[  # a path below the run's folder
    str, Meta(pattern=r"^(predictions\.npz|method\.safetensors|experts(/(?!\.{1,2}(/|$))[^/\\\x00-\x1f]+){2})$")
]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Configuration:
    """All that can change a result but the seed and the order, as ``config.key.configuration`` gives it.

    ``inputs``, ``gallery``, ``weights`` and ``versions`` are later than the first records, which do not have them.
    ``weights`` are what tells the backbone's from others; ``versions`` of the method, the budget and the method's
    parts, those above 1.
    """

    epochs: Count = 0
    batch_size: Count = 0
    optimizer: str = ""
    lr: float = 0.0
    weight_decay: float = 0.0
    schedule: str = ""
    warmup: float = 0.0
    augment: str = ""
    method: str = ""
    stream: str = ""
    backbone: str = ""
    pretrained: str | None = None
    limit: int | None = None
    split: str = "test"
    sampling: str = ""
    inputs: str = "both"
    gallery: str = "seen"
    precision: str = ""
    weights: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    method_args: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """A setting as ``settings`` names it: ``epochs``, or ``method.rank``."""
        bare = name.removeprefix("method.")
        return self.method_args.get(bare) if bare != name else getattr(self, name)


@dataclass(frozen=True)
class Costs:
    """What a run took: a number for each task learned (``eval_seconds``: for each row), the peak once."""

    trainable_params: list[Count] = field(default_factory=list)
    stored_params: list[Count] = field(default_factory=list)
    stored_bytes: list[Count] = field(default_factory=list)
    train_seconds: list[Amount] = field(default_factory=list)
    eval_seconds: list[Amount] = field(default_factory=list)
    images_per_second: list[Amount] = field(default_factory=list)
    peak_memory_mib: list[Amount] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of training and evaluation, without start-up."""
        return sum(self.train_seconds) + sum(self.eval_seconds)


@dataclass(frozen=True)
class Verified:
    """That the run was made again and gave the same bytes: by which code, when, where.

    ``beside``: the record's own commit, where this machine gives other bytes than the record with either code, and the
    same with both.
    """

    code: str
    finished: str
    device: str | None = None
    processor: str | None = None
    python: str | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    git_sha: str | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a run came from (``benchmark.record.provenance``); times are ISO 8601 with their zone."""

    git_sha: str | None = None
    git_dirty: bool | None = None
    fingerprint: str = ""
    python: str | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    device: str | None = None
    data: dict[str, str] = field(default_factory=dict)
    started: str | None = None
    finished: str | None = None
    processor: str | None = None  # later than the first records
    verified: Verified | None = None


@dataclass(frozen=True)
class Divergence:
    """Where a run stopped for good: the first number that was not finite.

    Attributes:
        task: as the stream names it. what: is not finite, in words.
        epoch, step: of the task's training, from 1; None where it was not training. loss: as Python writes it.
        lr: the learning rate of that step.
    """

    task: str
    what: str
    epoch: Count | None = None
    step: Count | None = None
    loss: str | None = None
    lr: Amount | None = None

    @property
    def sentence(self) -> str:
        """``task chest_opacity: epoch 1, step 3: the loss is nan (learning rate 10000)``."""
        when = "" if self.epoch is None else f"epoch {self.epoch}, step {self.step}: "
        loss = "" if self.loss is None else f"loss {self.loss}, "
        rate = "" if self.lr is None else f" ({loss}learning rate {self.lr:g})"
        return f"task {self.task}: {when}{self.what}{rate}"


@dataclass(frozen=True)
class SampleScores:
    """The primary metric of each of ``n`` test samples or queries: ``bits`` where all are 0 or 1, else ``levels``.

    Attributes:
        bits: base64 of ``numpy.packbits``.
        levels: base64 of zlib of uint8, 255 = 1.
        parts: of how many samples each of several means consists whose mean is the task's score, such as the queries by
            image and those by text; empty: one mean over all.
    """

    n: Annotated[int, Meta(ge=1)]
    bits: str = ""
    levels: str = ""
    parts: list[Count] = field(default_factory=list)

    @classmethod
    def packed(cls, scores: NDArray[Any], parts: Sequence[int] = ()) -> SampleScores:
        """Of booleans (N,), or of fractions, to 1/255."""
        import numpy as np

        if scores.dtype == bool:
            return cls(len(scores), bits=b64encode(np.packbits(scores).tobytes()).decode(), parts=list(parts))
        levels = np.round(255 * scores).astype(np.uint8)
        return cls(len(scores), levels=_deflated(levels.tobytes()), parts=list(parts))

    @property
    def whole(self) -> bool:
        """Whether these are the scores of ``n`` samples."""
        try:
            packed = len(b64decode(self.bits, validate=True)) == -(-self.n // 8) and not self.levels
            levels = not self.bits and len(_inflated(self.levels)) == self.n
        except ValueError:
            return False
        return (packed or levels) and (not self.parts or (sum(self.parts) == self.n and min(self.parts) > 0))

    def unpacked(self) -> NDArray[np.float64]:
        """The scores (N,), in [0, 1]."""
        import numpy as np

        if self.bits:
            return np.unpackbits(np.frombuffer(b64decode(self.bits), np.uint8), count=self.n).astype(np.float64)
        return np.frombuffer(_inflated(self.levels), np.uint8) / 255.0

    def weighed(self) -> NDArray[np.float64]:
        """The scores (N,), each times what it counts, so that their mean is the task's score."""
        import numpy as np

        if not self.parts:
            return self.unpacked()
        return self.unpacked() * np.repeat([self.n / (len(self.parts) * size) for size in self.parts], self.parts)


@dataclass(frozen=True)
class SampleGroups:
    """Which of ``n`` test samples belong together (a patient, an image and its captions): base64 of zlib of uint32."""

    n: Annotated[int, Meta(ge=1)]
    numbers: str

    @classmethod
    def packed(cls, numbers: NDArray[Any]) -> SampleGroups:
        """Of whole numbers (N,)."""
        return cls(len(numbers), _deflated(numbers.astype("<u4").tobytes()))

    @property
    def whole(self) -> bool:
        """Whether these are the groups of ``n`` samples."""
        try:
            return len(_inflated(self.numbers)) == 4 * self.n
        except ValueError:
            return False

    def unpacked(self) -> NDArray[np.int64]:
        """The number of each sample's group (N,)."""
        import numpy as np

        return np.frombuffer(_inflated(self.numbers), "<u4").astype(np.int64)


@dataclass(frozen=True)
class SubgroupScore:
    """The primary metric of the ``n`` test samples or queries of a subgroup; None without an answer, and for retrieval
    where only images, or only texts, are in it."""

    n: Annotated[int, Meta(ge=1)]
    score: Share | None


def _deflated(data: bytes) -> str:
    return b64encode(zlib.compress(data, 9)).decode()


def _inflated(text: str) -> bytes:
    """The bytes behind ``_deflated``; ValueError where there are none."""
    try:
        return zlib.decompress(b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from None
