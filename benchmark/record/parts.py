"""The parts of a record, each as a stretch of ``run.json`` has it."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROTOCOLS = ("given", "hidden")
MOST_SHOWN = 8  # samples of a task whose answers stand in the record
MOST_SAMPLES = 10_000_000  # of a task, and of all tasks together

Count = Annotated[int, Meta(ge=0, le=2**53)]
Samples = Annotated[int, Meta(ge=1, le=MOST_SAMPLES)]
Share = Annotated[float, Meta(ge=0, le=1 + 1e-6)]  # sums of float32 may end just above 1
Amount = Annotated[float, Meta(ge=0, le=1e15)]  # seconds, MiB, images a second
Setting = Annotated[float, Meta(ge=-1e300, le=1e300)]  # finite
Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\Z")
]  # becomes a path, or a part of a file's name
_IN_EXPERTS = r"experts(/[A-Za-z0-9][A-Za-z0-9_.-]{0,199}){2}"
LeftFile = Annotated[  # a path below the run's folder
    str, Meta(pattern=rf"^(predictions\.npz|answers\.jsonl\.gz|method\.safetensors|{_IN_EXPERTS})\Z")
]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{0,64}\Z")]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,64}\Z")]
Label = Annotated[str, Meta(max_length=4000)]
Text = Annotated[  # a path, a device, settings: without what would act on a terminal, and without halves of characters
    str, Meta(max_length=4000, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]*\Z")
]
LONGEST_SAID = 2000
_NOT_SAID = r"\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
Said = Annotated[  # a question or an answer: as Text, but for its length and its line ends
    str, Meta(max_length=LONGEST_SAID, pattern=rf"^[^{_NOT_SAID}]*\Z")
]
_DAY_AND_TIME, _ZONE = (
    r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?",
    r"(Z|[+-][0-2][0-9]:[0-5][0-9])",
)
Time = Annotated[str, Meta(pattern=rf"{_DAY_AND_TIME}{_ZONE}?\Z")]
ZonedTime = Annotated[str, Meta(pattern=rf"{_DAY_AND_TIME}{_ZONE}\Z")]


@dataclass(frozen=True)
class Configuration:
    """All that can change a result but the seed and the order, as ``config.key.configuration`` gives it.

    ``inputs``, ``gallery``, ``over``, ``weights`` and ``versions`` are later than the first records, which lack them.
    ``weights`` are what tells the backbone's from others; ``versions`` of the method, the budget and the method's
    parts, those above 1.
    """

    epochs: Count = 0
    batch_size: Count = 0
    optimizer: Text = ""
    lr: Setting = 0.0
    weight_decay: Setting = 0.0
    schedule: Text = ""
    warmup: Setting = 0.0
    augment: Text = ""
    method: Text = ""
    stream: Text = ""
    backbone: Text = ""
    pretrained: Text | None = None
    limit: int | None = None
    split: str = "test"
    sampling: Text = ""
    inputs: Text = "both"
    gallery: Text = "seen"
    over: Text = "samples"
    precision: Text = ""
    weights: Text = ""
    versions: dict[str, Count] = field(default_factory=dict)
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

    code: Word
    finished: Time
    device: Text | None = None
    processor: Text | None = None
    python: Text | None = None
    packages: dict[str, Text | None] = field(default_factory=dict)
    git_sha: Hex | None = None
    beside: Hex | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a run came from (``benchmark.record.provenance``); times are ISO 8601 with their zone."""

    git_sha: Hex | None = None
    git_dirty: bool | None = None
    fingerprint: Word = ""
    python: Text | None = None
    packages: dict[str, Text | None] = field(default_factory=dict)
    device: Text | None = None
    data: dict[str, Text] = field(default_factory=dict)
    started: ZonedTime | None = None
    finished: Time | None = None
    processor: Text | None = None  # later than the first records
    bleu: Text | None = None  # sacrebleu's signature, of runs that answer in words
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

    n: Samples
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
            levels = not self.bits and len(_inflated(self.levels, self.n)) == self.n
        except ValueError:
            return False
        return (packed or levels) and (not self.parts or (sum(self.parts) == self.n and min(self.parts) > 0))

    def unpacked(self) -> NDArray[np.float64]:
        """The scores (N,), in [0, 1]."""
        import numpy as np

        if self.bits:
            return np.unpackbits(np.frombuffer(b64decode(self.bits), np.uint8), count=self.n).astype(np.float64)
        return np.frombuffer(_inflated(self.levels, self.n), np.uint8) / 255.0

    def weighed(self) -> NDArray[np.float64]:
        """The scores (N,), each times what it counts, so that their mean is the task's score."""
        import numpy as np

        if not self.parts:
            return self.unpacked()
        return self.unpacked() * np.repeat([self.n / (len(self.parts) * size) for size in self.parts], self.parts)


@dataclass(frozen=True)
class SampleGroups:
    """Which of ``n`` test samples belong together (a patient, an image and its captions): base64 of zlib of uint32."""

    n: Samples
    numbers: str

    @classmethod
    def packed(cls, numbers: NDArray[Any]) -> SampleGroups:
        """Of whole numbers (N,)."""
        return cls(len(numbers), _deflated(numbers.astype("<u4").tobytes()))

    @property
    def whole(self) -> bool:
        """Whether these are the groups of ``n`` samples."""
        try:
            return len(_inflated(self.numbers, 4 * self.n)) == 4 * self.n
        except ValueError:
            return False

    def unpacked(self) -> NDArray[np.int64]:
        """The number of each sample's group (N,)."""
        import numpy as np

        return np.frombuffer(_inflated(self.numbers, 4 * self.n), "<u4").astype(np.int64)


@dataclass(frozen=True)
class Repeats:
    """What stands twice in a task's data: samples of ``test`` that are in train or val as well, samples of ``val`` that
    are in train as well, images under two ``labels``."""

    test: Count = 0
    val: Count = 0
    labels: Count = 0


@dataclass(frozen=True)
class SubgroupScore:
    """The primary metric of the ``n`` test samples or queries of a subgroup; None without an answer, and for retrieval
    where only images, or only texts, are in it."""

    n: Samples
    score: Share | None


@dataclass(frozen=True)
class ClassConfusion:
    """How the final model, told the task, takes its K classes for one another.

    Attributes:
        counts: (K, K) test samples: a row is the class that they show, a column the one that was answered.
        sensitivity: (K,) the share of a class's samples that are found where at least nine tenths of the task's others
            are not taken for it; None where there are none of it, or no others.
    """

    counts: list[list[Count]]
    sensitivity: list[Share | None]


def said(text: str) -> str:
    """A text as ``Said`` may hold it: what acts on a terminal, or is half a character, replaced; the rest cut off."""
    plain = re.sub(f"[{_NOT_SAID}]", "\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n").replace("\t", " "))
    return plain if len(plain) <= LONGEST_SAID else plain[: LONGEST_SAID - 1] + "…"


@dataclass(frozen=True)
class AnswerSample:
    """A test sample of made data: its question and reference, and two answers with the identity given.

    Attributes:
        own: after the task's own stage. last: of the final model.
    """

    question: Said
    reference: Said
    own: Said
    last: Said

    @classmethod
    def of(cls, question: str, reference: str, own: str, last: str) -> AnswerSample:
        """Of any texts (``said``)."""
        return cls(said(question), said(reference), said(own), said(last))


def _deflated(data: bytes) -> str:
    return b64encode(zlib.compress(data, 9)).decode()


def _inflated(text: str, size: int) -> bytes:
    """The ``size`` bytes behind ``_deflated``, one more where there are more; ValueError where there are none.

    A few bytes may stand for gigabytes, which are not made to be counted.
    """
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(data) <= size and not stream.eof:
        raise ValueError("cut short")
    return data
