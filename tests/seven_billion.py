"""The memory that LLaVA-1.5-7B takes, by arithmetic: formulas in sizes of the model, of the LoRA and of a batch.

``python -m tests.seven_billion`` prints the tables that methods/README.md shows.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """Of LLaVA: of its decoder ``layers``, ``width``, ``inner`` (of the MLP), ``words``; the rest: of its vision tower.

    Attributes:
        shared: how many heads share one key and value.
        positions: patches of an image and one more.
    """

    layers: int = 32
    width: int = 4096
    inner: int = 11008
    words: int = 32064
    shared: int = 1
    vision_layers: int = 24
    vision_width: int = 1024
    vision_inner: int = 4096
    patch: int = 14
    positions: int = 577

    @property
    def linear(self) -> int:
        """Weights of the layers that LoRA adapts: q, k, v, out of the attention; gate, up, down of the MLP."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.inner)

    @property
    def decoder(self) -> int:
        """Two norms a block and one at the end; words in and out."""
        return self.linear + (2 * self.layers + 1) * self.width + 2 * self.words * self.width

    @property
    def vision(self) -> int:
        """Blocks with biases and two norms; patches, positions, the class, a norm before and one behind."""
        w, f = self.vision_width, self.vision_inner
        block = 4 * (w * w + w) + (w * f + f) + (f * w + w) + 4 * w
        return self.vision_layers * block + 3 * self.patch**2 * w + self.positions * w + w + 4 * w

    @property
    def projector(self) -> int:
        return self.vision_width * self.width + self.width + self.width**2 + self.width

    @property
    def all(self) -> int:
        return self.decoder + self.vision + self.projector


LLAVA = Sizes()


@dataclass(frozen=True)
class Learning:
    """A LoRA of ``rank`` on all linear layers of the decoder, ``batch`` samples a step.

    Attributes:
        cast: whether autocast casts the frozen weights: those of a float16 file in bf16-mixed.
        recomputed: block by block in the backward pass.
        earlier: tasks. tokens: of a sample's image, instruction and answer, of which ``answer`` are learned.
    """

    rank: int
    batch: int
    cast: bool = True
    recomputed: bool = False
    earlier: int = 7
    tokens: int = 704
    answer: int = 64


def lora(rank: int, m: Sizes = LLAVA) -> int:
    """Parameters: r (D_in + D_out) of every layer."""
    return rank * m.layers * (4 * 2 * m.width + 3 * (m.width + m.inner))


def kept(cast: bool, m: Sizes = LLAVA) -> int:
    """Numbers of 2 bytes that autograd keeps for each token and block of the decoder.

    Of the attention q, k, v, its output (4 h) and its input (h), of the MLP its input (h), gate, up, the gate's SiLU
    and the product (4 f), and the inputs of both norms in float32 (4 h); where weights are cast both inputs, q, k, v
    are kept in both types (4 h).
    """
    return (14 if cast else 10) * m.width + 4 * m.inner


def training(run: Learning, m: Sizes = LLAVA) -> dict[str, float]:
    """GiB by what takes it, while a task is learned; weights and activations of 2 bytes, LoRA of 4."""
    n, block = lora(run.rank, m), kept(run.cast, m)
    held = m.width * m.layers + block if run.recomputed else block * m.layers
    bytes_of = {
        "weights": 2 * m.all,
        "the decoder's linear layers, pristine": 2 * m.linear,
        "the same, cast": 2 * m.linear * run.cast / (m.layers if run.recomputed else 1),
        "LoRA with gradients and AdamW's moments": 16 * n,
        "experts of earlier tasks, and their stacks": 2 * 4 * run.earlier * n,
        "activations": 2 * held * run.tokens * run.batch,
        "logits of the answers": 10 * (run.answer + 1) * m.words * run.batch,
    }
    return {name: count / GIB for name, count in bytes_of.items()}


def answering(samples: int, tokens: int = 704, m: Sizes = LLAVA) -> dict[str, float]:
    """GiB by what takes it, while ``samples`` are answered together, prompt and answer ``tokens`` long."""
    bytes_of = {
        "weights": 2 * m.all,
        "the decoder's linear layers, pristine": 2 * m.linear,
        "keys and values": 2 * m.layers * (m.width // m.shared) * 2 * tokens * samples,
        "features of the images": 4 * (m.positions - 1) * m.width * samples,
    }
    return {name: count / GIB for name, count in bytes_of.items()}


def table(columns: dict[str, dict[str, float]]) -> str:
    """Markdown: a line for each part, and their sum."""
    parts = next(iter(columns.values()))
    lines = [["GiB", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(f"{of[name]:.2f}" for of in columns.values())] for name in parts]
    lines += [["**together**", *(f"**{sum(of.values()):.1f}**" for of in columns.values())]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables() -> list[str]:
    """Of training, then of answering."""
    learned = {
        "rank 8, batch 1": training(Learning(8, 1)),
        "rank 64, batch 16": training(Learning(64, 16)),
        "rank 64, batch 16, recomputed": training(Learning(64, 16, recomputed=True)),
        "rank 64, batch 4, 16-mixed": training(Learning(64, 4, cast=False)),
    }
    return [table(learned), table({f"{samples} at a time": answering(samples) for samples in (1, 8, 23)})]


if __name__ == "__main__":
    print("\n\n".join(tables()))
