"""The loss of an answer's tokens, and which they are: the released numbers, and what is otherwise than released."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.parts.tokens import UNLEARNED, answer_labels, token_loss
from tests.golden_files import close, golden, leaf

NAMES = ("c/token_loss_a", "c/token_loss_mismatch")
START, END = 7, 2  # "[/INST]" and "</s>" of the golden vocabulary
DROPPED = ("c/token_loss_mismatch", 1)  # the sample with the token that is also the one for padding

seeds = st.integers(0, 10**6)
spoken = st.lists(st.integers(10, 19), max_size=4)


def expected_labels(name: str, i: int) -> Tensor:
    """As released, but for the sample that is dropped there: its answer is the fourth last token and on."""
    g = golden(name)
    labels = g[f"labels_{i}"].clone()
    if (name, i) == DROPPED:
        assert (labels == UNLEARNED).all()
        labels[-3:] = g[f"ids_{i}"][-3:]
    return labels


# ---- which tokens are learned -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_learned_as_officially(name: str) -> None:
    g = golden(name)
    for i in range(int(g["n"])):
        labels = answer_labels(g[f"ids_{i}"], START, END)
        assert labels.dtype == torch.int64 and torch.equal(labels, expected_labels(name, i))
        padded = answer_labels(g["batch_ids"], START, END)[i]
        assert torch.equal(padded[: len(labels)], labels) and (padded[len(labels) :] == UNLEARNED).all()


@given(
    st.lists(st.tuples(spoken, spoken), max_size=3),
    st.integers(0, 3),
    st.sampled_from([0, END, -1]),
    st.sampled_from([(7,), (3, 7), (4, 3, 7)]),
    st.sampled_from([(2,), (2, 5)]),
)  # fmt: skip
def test_every_round_s_answer_with_its_end(
    rounds: list[tuple[list[int], list[int]]], padding: int, pad: int, start: tuple[int, ...], end: tuple[int, ...]
) -> None:
    """Whatever is asked, with padding on either side, and markers of several tokens."""
    ids, labels = [pad] * padding, [UNLEARNED] * padding
    for asked, answered in rounds:
        ids += [*asked, -200, *start, *answered, *end]
        labels += [UNLEARNED] * (len(asked) + 1 + len(start)) + [*answered, *end]
    ids, labels = ids + [pad] * padding, labels + [UNLEARNED] * padding
    expected = torch.tensor(labels, dtype=torch.int64)
    told = torch.tensor(ids, dtype=torch.int64)
    assert torch.equal(answer_labels(told, start, end), expected)
    assert torch.equal(answer_labels(torch.stack([told, told]), start, end), torch.stack([expected, expected]))
    if len(start) == len(end) == 1:
        assert torch.equal(answer_labels(told, start[0], end[0]), expected)


def test_what_is_no_whole_answer() -> None:
    def labels(*ids: int) -> list[int]:
        return answer_labels(torch.tensor(ids), START, END).tolist()

    no = UNLEARNED
    assert labels(1, 11, 12) == [no] * 3  # nothing is answered
    assert labels(1, 11, START) == [no] * 3
    assert labels(END, 11, START, 12, 13) == [no, no, no, 12, 13]  # cut off: what is there is learned
    assert labels(11, START, END, END, 12) == [no, no, END, no, no]  # an empty answer; one end is enough
    assert labels(11, START, 12, START, 13, END, 14) == [no, no, 12, START, 13, END, no]  # the answer names the marker
    assert labels(11, START, -200, 12, -1, END) == [no, no, no, 12, no, END]
    assert labels() == []


# ---- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_official_one(name: str) -> None:
    g = golden(name)
    logits = leaf(g["logits"])
    over_tokens = token_loss(logits, g["batch_labels"], over="tokens")
    close(over_tokens, g["loss"].to(over_tokens.dtype), 1e-6)
    close(torch.autograd.grad(over_tokens, logits)[0], g["grad_logits"], 1e-6)
    counts = g["answer_tokens"]
    assert torch.equal(counts, (g["batch_labels"] != UNLEARNED).sum(dim=1))
    close(over_tokens * counts.sum() / 100, g["loss_num_items_100"].to(over_tokens.dtype), 1e-6)
    for loss in (token_loss(logits, g["batch_labels"]), token_loss(logits, g["batch_labels"], "samples")):
        close(loss, g["own_loss_per_sample_mean"].to(loss.dtype), 1e-6)


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(2, 7), st.booleans())
def test_the_loss_is_its_formula(seed: int, samples: int, length: int, vocabulary: int, double: bool) -> None:
    generator, dtype = torch.Generator().manual_seed(seed), torch.float64 if double else torch.float32
    logits = (2 * torch.randn(samples, length, vocabulary, generator=generator, dtype=dtype)).requires_grad_(True)
    labels = torch.randint(vocabulary, (samples, length), generator=generator)
    labels[torch.rand(samples, length, generator=generator) < 0.5] = UNLEARNED
    told = [
        [-float(logits[b, t - 1].log_softmax(dim=0)[labels[b, t]]) for t in range(1, length) if labels[b, t] >= 0]
        for b in range(samples)
    ]
    each = [sum(sample) / len(sample) for sample in told if sample]
    every = [loss for sample in told for loss in sample]
    tolerance = 1e-9 if double else 1e-5
    for over, losses in (("samples", each), ("tokens", every)):
        loss = token_loss(logits, labels, over)
        assert loss.dtype == dtype and loss.shape == ()
        assert math.isclose(float(loss), sum(losses) / max(1, len(losses)), rel_tol=tolerance, abs_tol=tolerance)
        grad = torch.autograd.grad(loss, logits)[0]
        learned = torch.nn.functional.pad(labels[:, 1:] != UNLEARNED, (0, 1))
        assert torch.isfinite(grad).all() and (grad[~learned] == 0).all()
        assert (grad[learned].abs().sum(dim=-1) > 0).all()


def test_a_report_weighs_as_much_as_a_word() -> None:
    logits = torch.zeros(2, 41, 3)
    logits[1, :, 0] = 5.0
    labels = torch.full((2, 41), UNLEARNED)
    labels[0, 1], labels[1, 1:] = 0, 0
    word, report = math.log(3), float(-logits[1, 0].log_softmax(dim=0)[0])
    assert math.isclose(token_loss(logits, labels), (word + report) / 2, rel_tol=1e-5)
    assert math.isclose(token_loss(logits, labels, "tokens"), (word + 40 * report) / 41, rel_tol=1e-5)


def test_a_batch_without_an_answer_has_no_loss() -> None:
    logits, labels = torch.randn(2, 5, 3, requires_grad=True), torch.full((2, 5), UNLEARNED)
    labels[:, 0] = 1  # nothing stands before the first token
    for over in ("samples", "tokens"):
        loss = token_loss(logits, labels, over)
        assert float(loss) == 0 and not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_half_precision_the_loss_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(2, 9, 50).to(dtype), torch.randint(50, (2, 9))
    with torch.autocast("cpu", torch.bfloat16):
        loss = token_loss(logits, labels)
    assert loss.dtype == torch.float32
    close(loss, token_loss(logits.float(), labels), 1e-6)


def test_another_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="batches"):
        token_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), over="batches")
