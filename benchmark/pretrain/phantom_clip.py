"""Trains the default CLIP, ``phantom-clip``: a small CLIP on captioned phantoms.

    python -m benchmark pretrain

Symmetric contrastive loss (Radford et al., ICML 2021) on images and captions of all nine generators, and a regression
of the six factors from the image embedding, whose head is dropped afterwards: it says densely what a caption says in
words, without which so small a tower would need many times the images. No image comes from a class of a shipped stream
of classification that is ranked and has classes of its own: factors that fall into a region of one of its tasks are
drawn again, and seeds differ.

Legend: B batch, P pairs, E embedding, N samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from benchmark.data import phantom
from benchmark.disk import write_bytes
from benchmark.pretrain import forbidden
from methods.base import cosine

SEED = 770_001  # of the images: no shipped stream's seed
CHUNK = 250
REGRESSION = 20.0  # weight of the factors' mean squared error

MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}


def render_chunk(
    name: str, regions: list[phantom.Region], chunk: int
) -> tuple[NDArray[np.uint8], list[str], NDArray[np.float32]]:
    """``CHUNK`` images of one generator outside the regions, their captions and their factors (CHUNK, 6).

    Half of the captions tell all factors, half two to four of them, in any order.
    """
    module = phantom.generator(name)
    factor_names = sorted(module.FACTORS)
    rng = np.random.default_rng([phantom.VERSION, SEED, phantom.GENERATORS.index(name), chunk])
    captions, told = [], []
    images = np.empty((CHUNK, phantom.SIZE, phantom.SIZE, 3), np.uint8)
    for i in range(CHUNK):
        factors = phantom.draw_factors({}, factor_names, rng)
        while any(phantom.inside(factors, region) for region in regions):
            factors = phantom.draw_factors({}, factor_names, rng)
        images[i] = module.render(factors, rng, phantom.SIZE)
        mentioned = rng.permutation(factor_names)[: len(factor_names) if rng.random() < 0.5 else rng.integers(2, 5)]
        captions.append(phantom.caption(name, factors, list(mentioned)))
        told.append([factors[factor] for factor in factor_names])
    return images, captions, np.array(told, np.float32)


def render_all(samples: int, workers: int) -> tuple[Tensor, list[str], Tensor]:
    """(N, 3, H, W) uint8 images, as many of every generator, their captions, and their factors (N, 6)."""
    regions = forbidden.regions()
    chunks = -(-samples // (CHUNK * len(phantom.GENERATORS)))
    jobs = [(name, regions[name], chunk) for chunk in range(chunks) for name in phantom.GENERATORS]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(render_chunk, *zip(*jobs, strict=True)))
    images = torch.from_numpy(np.concatenate([images for images, _, _ in parts])).permute(0, 3, 1, 2).contiguous()
    factors = torch.from_numpy(np.concatenate([factors for _, _, factors in parts]))
    return images, [caption for _, captions, _ in parts for caption in captions], factors


def batches(modalities_N: Tensor, size: int, epochs: int) -> Iterator[Tensor]:
    """Sample indices of every step. A batch is of three modalities: factors are the lesson, not modalities."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        groups = torch.randperm(len(phantom.GENERATORS), generator=generator).chunk(3)
        parts = [torch.isin(modalities_N, group).nonzero().squeeze(1) for group in groups]
        shuffled = [part[torch.randperm(len(part), generator=generator)] for part in parts]
        full = [batch for part in shuffled for batch in part.split(size) if len(batch) == size]
        yield from (full[i] for i in torch.randperm(len(full), generator=generator).tolist())


def pretrain(
    to: Path, samples: int = 90_000, epochs: int = 8, batch_size: int = 96, lr: float = 1.5e-3, workers: int = 2,
    console: Console | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make the images, train, write ``open_clip_config.json`` and fp16 weights that ``local-dir:`` loads.

    Returns:
        What was measured: seconds, images per second, the last loss.
    """
    import open_clip

    console = console or Console()
    started = time.perf_counter()
    images_NCHW, captions, factors_N6 = render_all(samples, workers)
    made = time.perf_counter() - started
    console.print(f"{len(captions):,} captioned phantoms in {made:.0f} s")
    torch.manual_seed(SEED)
    model = open_clip.model.CLIP(**MODEL)
    tokens_NL = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])(captions)  # type: ignore[index]
    # Captions use a few hundred of the tokens: train those rows alone, the rest of the table keeps its initial values.
    used, tokens_NL = tokens_NL.unique(return_inverse=True)
    table = model.token_embedding
    model.token_embedding = torch.nn.Embedding.from_pretrained(table.weight[used].detach(), freeze=False)
    mean, std = (torch.tensor(PREPROCESS[key]).view(3, 1, 1) for key in ("mean", "std"))
    decay = [p for n, p in model.named_parameters() if p.ndim > 1 and "token_embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim <= 1 or "token_embedding" in n]
    head = torch.nn.Linear(MODEL["embed_dim"], 6 * len(phantom.GENERATORS))  # type: ignore[arg-type]
    others += list(head.parameters())
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    modalities_N = torch.arange(len(captions)) // CHUNK % len(phantom.GENERATORS)
    steps = len(list(batches(modalities_N, batch_size, epochs)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, max(1, steps // 20), steps))
    begun, totals = time.perf_counter(), torch.zeros(2)
    model.train()
    for step, chosen in enumerate(batches(modalities_N, batch_size, epochs), start=1):
        images = (images_NCHW[chosen].float() / 255 - mean) / std
        flip = torch.rand(len(chosen), 1, 1, 1) < 0.5
        image_BE = model.encode_image(torch.where(flip, images.flip(-1), images))
        told = head(image_BE).unflatten(1, (-1, 6))[torch.arange(len(chosen)), modalities_N[chosen]]
        regression = F.mse_loss(told, factors_N6[chosen])
        paired = slice(step % 2, None, 2)  # every other image meets its caption: texts cost as much as images
        text_PE = model.encode_text(tokens_NL[chosen[paired]], normalize=True)
        logits_PP = model.logit_scale.exp() * F.normalize(image_BE[paired], dim=-1) @ text_PE.T
        target = torch.arange(len(text_PE))
        contrast = (F.cross_entropy(logits_PP, target) + F.cross_entropy(logits_PP.T, target)) / 2
        loss = contrast + REGRESSION * regression
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))
        totals += torch.stack([contrast.detach(), regression.detach()])
        if step % 500 == 0:
            rate = step * batch_size / (time.perf_counter() - begun)
            left = (steps - step) * batch_size / rate
            parts = f"contrastive {totals[0] / 500:.3f}  factors {totals[1] / 500:.4f}"
            console.print(f"step {step}/{steps}  {parts}  {rate:,.0f} images/s  {left:.0f} s left", highlight=False)
            totals = torch.zeros(2)
    trained = time.perf_counter() - begun
    with torch.no_grad():
        table.weight[used] = model.token_embedding.weight
    model.token_embedding = table
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    write_bytes(to / "open_clip_model.safetensors", save(state))
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    write_bytes(to / "open_clip_config.json", (json.dumps(config, indent=1) + "\n").encode())
    return {"made_seconds": made, "train_seconds": trained, "images_per_second": steps * batch_size / trained}
