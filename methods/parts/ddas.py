"""DDAS, the task selector of MoE-Adapters: an auto-encoder per task; the best at a sample names its task.

u   = sigmoid(features)                                  frozen features of an image, F values in (0, 1)
r_t = sigmoid(W2_t ReLU(W1_t u + b1_t) + b2_t)           code of 100; trained on mean (r_t - u)^2 of task t's images
e_t = mean over F of (r_t - u)^2                         the error of a sample
a   = argmin over (reference, 1, ..., T) of e;  the reference if e_a > threshold;  reference = plain CLIP, route -1

The reference is there for what no task has seen. The paper trains one on TinyImageNet; here its error is infinite, so
only the threshold leads to it, and only trained auto-encoders take part (the official code has all of them compete from
the start, untrained). Decide sample by sample: over a whole test batch of one data set the choice is nearly an oracle.

Odd axes: F features, c code, T auto-encoders trained so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from methods.parts.memory import Memory

CODE, STEPS, BATCH = 100, 300, 64
PARTS = ("enc_w", "enc_b", "dec_w", "dec_b")
ALEXNET = "alexnet-owt-7be5be79.pth"


def autoencode(u_BF: Tensor, enc_w: Tensor, enc_b: Tensor, dec_w: Tensor, dec_b: Tensor) -> Tensor:
    """(B, F) reconstructions in (0, 1). enc_w: (c, F), enc_b: (c,), dec_w: (F, c), dec_b: (F,)."""
    return F.linear(F.linear(u_BF, enc_w, enc_b).relu(), dec_w, dec_b).sigmoid()


def reconstruction_errors(u_BF: Tensor, enc_w: Tensor, enc_b: Tensor, dec_w: Tensor, dec_b: Tensor) -> Tensor:
    """(B, T) mean squared error of each sample under each auto-encoder; the weights as in ``autoencode``, T of each."""
    parts = zip(enc_w, enc_b, dec_w, dec_b, strict=True)
    return torch.stack([((autoencode(u_BF, *weights) - u_BF) ** 2).mean(dim=-1) for weights in parts], dim=-1)


def select_route(errors: Tensor, threshold: float) -> Tensor:
    """(...) the task, from 0, of the smallest error; -1 if that is the reference's or exceeds ``threshold``.

    Args:
        errors: (..., 1 + T): the reference's first (infinite if there is none), then the T tasks'.
    """
    least, position = errors.min(dim=-1)
    return torch.where(least > threshold, -1, position - 1)


def learning_rate(epoch: int, base: float = 0.01) -> float:
    """A tenth every ten epochs of the task's training set."""
    return base * 0.1 ** (epoch // 10)


def fit(u_NF: Tensor, samples: int) -> list[Tensor]:
    """The four weights of an auto-encoder after STEPS steps of Adam.

    Args:
        u_NF: what the steps can see: the whole training set, or as many of its samples as they draw.
        samples: size of the training set, from which the epochs of the learning rate are counted.
    """
    features, device = u_NF.shape[1], u_NF.device
    encoder, decoder = nn.Linear(features, CODE).to(device), nn.Linear(CODE, features).to(device)
    weights = [*encoder.parameters(), *decoder.parameters()]
    adam = torch.optim.Adam(weights, lr=learning_rate(0), weight_decay=1e-4)
    per_epoch = -(-samples // BATCH)
    for step in range(STEPS):
        if step % per_epoch == 0:
            chunks = torch.randperm(len(u_NF)).to(device).split(BATCH)
            adam.param_groups[0]["lr"] = learning_rate(step // per_epoch)
        u_BF = u_NF[chunks[step % per_epoch]].float()
        adam.zero_grad()
        ((autoencode(u_BF, *weights) - u_BF) ** 2).mean().backward()
        adam.step()
    return [weight.detach() for weight in weights]


def learn(memory: Memory, inputs: Callable[[Tensor], Tensor], batches: Iterable[dict[str, Tensor]]) -> None:
    """Train the next task's auto-encoder and keep it; ``inputs`` turns uint8 images into u (B, F).

    Features of no more images are computed than the steps draw, and they are held in half precision: AlexNet's take
    87 kB an image.
    """
    samples, first = sum(len(batch["image"]) for batch in batches), 0
    kept_N = torch.zeros(samples, dtype=torch.bool)
    kept_N[torch.randperm(samples)[: STEPS * BATCH]] = True
    rows = []
    with torch.no_grad():
        for batch in batches:
            images = batch["image"]
            kept = kept_N[first : first + len(images)].to(images.device)
            first += len(images)
            if kept.any():
                rows.append(inputs(images[kept]).half())
    with torch.enable_grad():
        weights = fit(torch.cat(rows), samples)
    for name, weight in zip(PARTS, weights, strict=True):
        memory.append(f"ddas_{name}", weight[None])


def errors(memory: Memory, u_BF: Tensor, whole_batch: bool) -> Tensor:
    """(B, T) each task's error of each sample; with ``whole_batch`` their mean for all, as in the official code."""
    with torch.autocast(u_BF.device.type, enabled=False):
        errors_BT = reconstruction_errors(u_BF.float(), *(memory[f"ddas_{name}"] for name in PARTS))
    return errors_BT.mean(dim=0).expand_as(errors_BT) if whole_batch else errors_BT


def of_clip(features_BE: Tensor) -> Tensor:
    """u (B, F) from CLIP's image features, scaled to components of size 1 before they are squashed."""
    return (F.normalize(features_BE.float(), dim=-1) * math.sqrt(features_BE.shape[1])).sigmoid()


def of_alexnet(net: nn.Module, images_BCHW: Tensor) -> Tensor:
    """u (B, F) from AlexNet's features of normalised images."""
    resized = F.interpolate(images_BCHW, size=(224, 224), mode="bicubic", align_corners=False, antialias=True)
    return net(resized).flatten(1).sigmoid()


def alexnet() -> nn.Module:
    """Frozen AlexNet up to its last convolution: (B, 3, 224, 224) -> (B, 256, 13, 13), from torch.hub's cache.

    Raises:
        ValueError: the weights are not there; nothing is downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not path.is_file():
        raise ValueError(f"features 'alexnet' need torchvision's weights at {path}: put them there, or use 'clip'")
    with torch.device("meta"):
        layers = torchvision.models.alexnet().features[:-2]  # without the last ReLU and max-pool
    state = torch.load(path, weights_only=True, map_location="cpu")
    prefix = "features."
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    layers.load_state_dict(state, assign=True)
    return layers.eval().requires_grad_(False)
