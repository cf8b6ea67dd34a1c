"""NCM: a class is the direction of the sum of all its samples' unit features, in however many tasks they come."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Budget
from methods.ncm import NCM
from tests import tiny


def batch(seed: int, ids: list[int], n: int) -> dict[str, Tensor]:
    return {"image": tiny.images(n, seed) // (seed + 1), "label": torch.tensor([ids[i % len(ids)] for i in range(n)])}


def learned(*tasks: tuple[list[int], list[dict[str, Tensor]]]) -> NCM:
    method = NCM()
    method.attach(tiny.backbone(), Budget())
    method.eval()
    for index, (ids, batches) in enumerate(tasks):
        method.begin_task(tiny.task(index, ids))
        method.end_task(method.tasks[-1], batches)
    return method


@torch.no_grad()
def test_a_class_that_comes_again_is_the_mean_of_all_its_samples() -> None:
    """Three domains of unlike size: its score is the cosine with the mean direction of all samples alike."""
    ids, domains = [0, 1], [batch(0, [0, 1], 40), batch(1, [0, 1], 6), batch(2, [0, 1], 10)]
    method, query = learned(*((ids, [domain]) for domain in domains)), batch(3, ids, 12)
    labels = method.tasks[0].labels
    z_NE = F.normalize(torch.cat([method.embed_image(domain) for domain in domains]).double(), dim=1)
    y_N = torch.cat([domain["label"] for domain in domains])
    means_CE = F.normalize(torch.stack([z_NE[y_N == label].mean(dim=0) for label in ids]), dim=1)
    cosines_BC = F.normalize(method.embed_image(query).double(), dim=1) @ means_CE.mT
    expected_BC = method.backbone.logit_scale.exp() * cosines_BC
    assert (method.scores(query, labels, None) - expected_BC).abs().max() < 1e-4
    assert (learned((ids, domains)).scores(query, labels, None) - expected_BC).abs().max() < 1e-4


@torch.no_grad()
def test_a_class_without_samples_is_scored_by_its_text() -> None:
    method, query = learned(([0, 1], [batch(0, [0, 1], 8)])), batch(1, [0], 4)
    labels = tiny.task(1, [1, 2]).labels
    text_BC = method.backbone.logits(method.embed_image(query), method.backbone.class_features(labels))
    found_BC = method.scores(query, labels, None)
    assert torch.equal(found_BC[:, 1], text_BC[:, 1]) and not torch.allclose(found_BC[:, 0], text_BC[:, 0])
