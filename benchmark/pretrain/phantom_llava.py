"""Trains the default vision-language model, ``phantom-llava``: LLaVA's layout on the frozen tower of phantom-clip.

    python -m benchmark pretrain --model phantom-llava

The projector and a small Llama learn together, from the answers of dialogues about made images (Liu et al., NeurIPS
2023, whose two stages so small a model does not need). An image passes the frozen tower once. Matrices are trained by
Muon (Jordan, 2024), whose steps turn every direction of a matrix alike, the rest by AdamW: with AdamW alone the loss
ended at more than twice as much. Of no class of a ranked stream is there an image, but where a class is a single
factor; wordings of instructions and seeds are those of no stream.

Legend: N images, P image tokens, D width of the tower's layers that are shown, L tokens of a dialogue, B batch.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.data import phantom
from benchmark.data.phantom import vocabulary
from benchmark.disk import write_bytes
from benchmark.pretrain import forbidden, lessons, llava_layout
from benchmark.pretrain.muon import Muon
from methods.base import cosine
from methods.parts.backbones import WEIGHTS

KINDS = ("classification", "generation")  # of the streams whose classes are held out
SAMPLES, EPOCHS, BATCH, LR = 60_000, 3, 64, 3e-3
AT_ONCE = 500  # images that pass the tower together
SORTED = 32  # batches of which samples of like length are put together
SAVED = 200  # steps after which what has been learned is kept
CLIP = WEIGHTS / "phantom-clip"
UNFINISHED = "unfinished.pt"


@dataclass(frozen=True)
class Lessons:
    """Images as the tower shows them and what is said of them.

    Attributes:
        shown_NPD: float16. ids_NL: tokens, PAD behind the last.
        weight_NL: what each token counts as something to be said: those of an answer of n tokens 1 / sqrt(n), lest
            reports drown yes and no; 0 elsewhere.
    """

    shown_NPD: Tensor
    ids_NL: Tensor
    weight_NL: Tensor

    def batches(self, size: int, seed: int) -> Iterator[Tensor]:
        """Sample indices of every step of an epoch, of like length each."""
        generator = torch.Generator().manual_seed(seed)
        lengths_N = (self.ids_NL != llava_layout.PAD).sum(1)
        batches: list[Tensor] = []
        for some in torch.randperm(len(lengths_N), generator=generator).split(size * SORTED):
            batches += [part for part in some[lengths_N[some].argsort(stable=True)].split(size) if len(part) == size]
        yield from (batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())


def made(samples: int, workers: int, processor: Any, tower: nn.Module) -> Lessons:
    """As many images of every generator and a dialogue about each, read by the tower and the tokenizer."""
    regions = forbidden.regions(KINDS)
    chunks = -(-samples // (lessons.CHUNK * len(phantom.GENERATORS)))
    jobs = [(name, chunk, regions[name]) for chunk in range(chunks) for name in phantom.GENERATORS]
    shown, said = [], []
    with ProcessPoolExecutor(workers) as pool:
        for images, talks in pool.map(lessons.chunk, *zip(*jobs, strict=True)):
            shown.append(_shown(images, processor, tower))
            said += talks
    return Lessons(torch.cat(shown), *_tokens(said, processor.tokenizer))


@torch.no_grad()
def _shown(images: np.ndarray[Any, np.dtype[np.uint8]], processor: Any, tower: nn.Module) -> Tensor:
    """(N, P, D) the layers of the tower that the projector is shown, side by side."""
    rows = []
    for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(AT_ONCE):
        pixels = processor.image_processor(images=list(part), return_tensors="pt")["pixel_values"]
        layers = tower(pixels, output_hidden_states=True).hidden_states
        rows.append(torch.cat([layers[place] for place in llava_layout.SEEN], dim=-1).half())
    return torch.cat(rows)


def _tokens(said: list[list[lessons.Exchange]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    """(N, L) ids of dialogues as the chat template writes them, and (N, L) the weight of each."""
    written = ["".join(f" {asked} <answer> {answer} </s>" for asked, answer in talk) for talk in said]
    rows = tokenizer(written, add_special_tokens=False)["input_ids"]
    ids_NL = torch.full((len(rows), max(map(len, rows))), llava_layout.PAD, dtype=torch.int16)
    weight_NL = torch.zeros(ids_NL.shape, dtype=torch.float16)
    for i, row in enumerate(rows):
        ids_NL[i, : len(row)] = torch.tensor(row)
        begins = [place for place, token in enumerate(row) if token == llava_layout.ANSWER]
        ends = [place for place, token in enumerate(row) if token == llava_layout.END]
        for begin, end in zip(begins, ends, strict=True):
            weight_NL[i, begin + 1 : end + 1] = (end - begin) ** -0.5
    return ids_NL, weight_NL


def drawn() -> tuple[Any, Any]:
    """The model with phantom-clip's tower and weights drawn for the rest, and its processor."""
    from transformers import LlavaForConditionalGeneration

    clip = json.loads((CLIP / "open_clip_config.json").read_text())
    words = sorted({*vocabulary.words(), *lessons.words()})
    config, processor = llava_layout.layout(words, clip)
    torch.manual_seed(lessons.SEED)
    model: Any = LlavaForConditionalGeneration(config)
    tower = load_file(str(CLIP / "open_clip_model.safetensors"))
    named = llava_layout.tower_weights({name: values.float() for name, values in tower.items()})
    model.model.vision_tower.load_state_dict(named)
    model.model.vision_tower.requires_grad_(False)
    return model, processor


def loss_of(model: Any, known: Lessons, chosen_B: Tensor) -> Tensor:
    """Scalar cross-entropy of the answers of these dialogues, each read with all that stands before it."""
    ids_BL = known.ids_NL[chosen_B].long()
    ids_BL = ids_BL[:, : int((ids_BL != llava_layout.PAD).sum(1).max())]
    shown_BPD = model.model.multi_modal_projector(known.shown_NPD[chosen_B].float())
    read = torch.cat([shown_BPD, model.get_input_embeddings()(ids_BL)], dim=1)
    hidden_BLD = model.model.language_model(inputs_embeds=read, use_cache=False).last_hidden_state
    said_BL = hidden_BLD[:, shown_BPD.shape[1] - 1 : -1]  # each token by what stands before it
    weight_BL = known.weight_NL[chosen_B, : ids_BL.shape[1]].float()
    told = weight_BL > 0
    losses = F.cross_entropy(model.lm_head(said_BL[told]), ids_BL[told], reduction="none")
    return (losses * weight_BL[told]).sum() / weight_BL[told].sum()


def optimizers(model: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the words, AdamW for words, norms and biases."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [p for name, p in learned.items() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in learned.items() if p.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, lr),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def pretrain(
    to: Path, samples: int = SAMPLES, epochs: int = EPOCHS, batch_size: int = BATCH, lr: float = LR, workers: int = 2,
    console: Console | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make the lessons, train, write what transformers loads, in fp16. Stopped, the same call goes on.

    Returns:
        What was measured: seconds, dialogues per second.
    """
    console = console or Console()
    started = time.perf_counter()
    model, processor = drawn()
    known = made(samples, workers, processor, model.model.vision_tower)
    making = time.perf_counter() - started
    console.print(f"{len(known.ids_NL):,} dialogues in {making:.0f} s", highlight=False)
    steps = epochs * sum(1 for _ in known.batches(batch_size, 0))
    learners = optimizers(model, lr)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda step: cosine(step, max(1, steps // 20), steps))
        for each in learners
    ]
    parts: list[Any] = [model, *learners, *schedules]
    asked = [samples, epochs, batch_size, lr]
    first = _resumed(to / UNFINISHED, parts, asked)
    begun, total = time.perf_counter(), torch.zeros(())
    model.train()
    step = 0
    for epoch in range(epochs):
        for chosen in known.batches(batch_size, lessons.SEED + epoch):
            step += 1
            if step <= first:
                continue
            loss = loss_of(model, known, chosen)
            loss.backward()
            for learner, schedule in zip(learners, schedules, strict=True):
                learner.step()
                learner.zero_grad()
                schedule.step()
            total += loss.detach()
            if step % SAVED == 0:
                rate = (step - first) / (time.perf_counter() - begun)
                console.print(f"step {step}/{steps}  loss {total / SAVED:.3f}  {rate * batch_size:,.0f} dialogues/s  "
                              f"{(steps - step) / rate:.0f} s left", highlight=False)  # fmt: skip
                total.zero_()
                kept = io.BytesIO()
                torch.save({"asked": asked, "step": step, "parts": [part.state_dict() for part in parts]}, kept)
                write_bytes(to / UNFINISHED, kept.getvalue())
    trained = time.perf_counter() - begun
    _written(model, processor, to)
    (to / UNFINISHED).unlink(missing_ok=True)
    rate = (steps - first) * batch_size / trained
    return {"made_seconds": making, "train_seconds": trained, "dialogues_per_second": rate}


def _resumed(file: Path, parts: list[Any], asked: list[float]) -> int:
    """Steps that a stopped call of the same arguments has done; they are in ``parts`` then."""
    if not file.is_file():
        return 0
    kept = torch.load(file, weights_only=True)
    if kept["asked"] != asked:
        return 0
    for part, state in zip(parts, kept["parts"], strict=True):
        part.load_state_dict(state)
    return int(kept["step"])


def _written(model: Any, processor: Any, to: Path) -> None:
    model.eval().half().save_pretrained(to)
    processor.save_pretrained(to)
    (to / "model.safetensors").chmod(0o644)  # which safetensors writes for its user alone
    for file in to.glob("*.json"):  # lines that a version control can show
        told = json.loads(file.read_text())
        told.pop("transformers_version", None)
        write_bytes(file, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
