"""The parts of a record, each as a stretch of ``run.json`` has it."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]  # finite
FileName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[^/\\\x00-\x1f]+$")]  # a record's place is a path


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
class Hits:
    """Whether each of ``n`` test samples was answered rightly: base64 of ``numpy.packbits``."""

    n: Annotated[int, Meta(ge=1)]
    bits: str

    @property
    def whole(self) -> bool:
        """Whether these are the bits of ``n`` samples."""
        try:
            return len(b64decode(self.bits, validate=True)) == -(-self.n // 8)
        except ValueError:
            return False

    def unpacked(self) -> NDArray[np.bool_]:
        """A boolean for each sample (N,)."""
        import numpy as np

        return np.unpackbits(np.frombuffer(b64decode(self.bits), np.uint8), count=self.n).astype(bool)
