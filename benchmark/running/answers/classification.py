"""Classification: logits over the candidates' labels, graded sample by sample and class by class.

Legend: N samples, C candidates, K classes of the task.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score, multiclass_recall

from benchmark.kinds import classification
from benchmark.metrics import expected_calibration_error
from benchmark.running.answers.question import Cell, Question

SPECIFICITY = 0.9  # at which sensitivities are told
SAME = 1e-5  # of the largest logit; one image's logits in batches of other sizes differ by 2e-7 of it


def answered(question: Question) -> Cell:
    """``logits`` float16 (N, C) with the identity given, else ``answer`` int64 (N,) label ids, -1 without an answer."""
    logits, labels, routed = [], [], []
    batches = question.data[question.task.index].batches(question.split, question.device, question.inputs)
    for number, batch in enumerate(batches):
        logits_BC, route_B = question.scores(batch, number)
        logits.append(logits_BC)
        labels.append(batch["label"].cpu())
        routed.append(route_B)
    logits_NC, labels_N = torch.cat(logits), torch.cat(labels)
    ids_C = torch.tensor([label.id for label in question.candidates])
    target_N = torch.searchsorted(ids_C, labels_N)
    own_K = torch.tensor([i for i, label in enumerate(question.candidates) if label in question.task.labels])
    answers_N = torch.where(logits_NC.isnan().any(1), -1, ids_C[logits_NC.nan_to_num().argmax(1)])
    kept = {"answer": answers_N.numpy()} if question.hidden else {"logits": logits_NC.numpy().astype(np.float16)}
    hits = None if (answers_N < 0).any() else (answers_N == labels_N).numpy()
    metrics, samples = sample_metrics(logits_NC, target_N, own_K), question.samples
    recalls_K = class_recalls(answers_N, labels_N, ids_C[own_K])
    cell = Cell(
        metrics, kept, hits, samples.groups, subgroups=samples.subgroups, recalls=recalls_K, **question.routes(routed)
    )  # fmt: skip
    if question.hidden or hits is None:
        return cell
    confusion_KK = class_confusion(answers_N, labels_N, ids_C[own_K])
    sensitivity_K = sensitivities(logits_NC[:, own_K], labels_N[:, None] == ids_C[own_K])
    return replace(cell, confusion=confusion_KK, sensitivity=sensitivity_K)


def class_recalls(answers_N: Tensor, labels_N: Tensor, ids_K: Tensor) -> NDArray[np.float64]:
    """(K,) the share of each class's samples that are answered rightly; NaN for a class without a sample, and for all
    classes where a sample has no answer.

    Args:
        answers_N, labels_N: label ids, -1 without an answer. ids_K: of the task's labels.
    """
    own_NK = (labels_N[:, None] == ids_K).numpy()
    counts_K, hits_K = own_NK.sum(0), own_NK[(answers_N == labels_N).numpy()].sum(0)
    known_K = (counts_K > 0) & bool((answers_N >= 0).all())
    return np.where(known_K, hits_K / np.maximum(counts_K, 1), np.nan)


def class_confusion(answers_N: Tensor, labels_N: Tensor, ids_K: Tensor) -> NDArray[np.int64]:
    """(K, K) how many samples of a class, a row, are answered with which of the task's classes.

    Args:
        answers_N, labels_N: label ids. ids_K: of the task's labels.
    """
    shown_NK, said_NK = labels_N[:, None] == ids_K, answers_N[:, None] == ids_K
    return (shown_NK.long().T @ said_NK.long()).numpy()


def sensitivities(logits_NK: Tensor, own_NK: Tensor) -> NDArray[np.float64]:
    """(K,) the share of each class's samples that are found at a specificity of at least :data:`SPECIFICITY`; NaN for a
    class without samples, or without others.

    A sample is taken for the class where the odds of the class are above a threshold, the lowest that leaves out so
    many of the others. What is above by no more than rounding is not above.

    Args:
        logits_NK: over the task's labels. own_NK: whether a sample shows the class.
    """
    logits_NK = logits_NK.float().cpu()
    odds_NK, tie = log_odds(logits_NK).numpy(), SAME * logits_NK.abs().max().item()
    found_K = np.full(own_NK.shape[1], np.nan)
    for k, own_N in enumerate(own_NK.numpy().T):
        of_it, others = odds_NK[own_N, k], np.sort(odds_NK[~own_N, k])[::-1]
        if len(of_it) and len(others):
            mistaken = int((1 - SPECIFICITY) * len(others) + 1e-9)
            found_K[k] = (of_it > others[mistaken] + tie).mean()
    return found_K


def calibration_error(logits_NC: Tensor, target_N: Tensor) -> float:
    """The expected calibration error of the answers under the softmax over all candidates, of whatever the method gives
    as its scores: cosines that are scaled, or the outputs of a regression."""
    answer_N = logits_NC.argmax(1)
    confidence_N = logits_NC.double().softmax(1).gather(1, answer_N[:, None])[:, 0].clamp(max=1)
    return expected_calibration_error(confidence_N.numpy(), (answer_N == target_N).numpy())


def sample_metrics(logits_NC: Tensor, target_N: Tensor, own_K: Tensor) -> dict[str, float]:
    """Metrics on samples, as fractions; all NaN where the method has no answer (NaN logits).

    Args:
        logits_NC: over the candidates. target_N: column of the true label. own_K: columns of the task's own labels.

    Averages over classes run over the task's classes that the test set contains. AUROC is one class against the rest of
    the task's samples, ranked by the odds of the class among the task's own: the labels of other tasks, by which a
    router's choice shifts a sample's logits as a whole, have no say in it. Differences below :data:`SAME` of the
    largest of these logits are rounding, and ties.
    """
    if logits_NC.isnan().any():
        return dict.fromkeys(classification.KIND.metrics, float("nan"))
    logits_NC, target_N, own_K = logits_NC.float().cpu(), target_N.cpu(), own_K.cpu()
    classes = logits_NC.shape[1]
    counts_C = torch.bincount(target_N, minlength=classes)
    present_C = counts_C > 0
    rankable_K = present_C[own_K] & (counts_C[own_K] < len(target_N))
    own_NK = logits_NC[:, own_K]
    odds_NK, tie = log_odds(own_NK).numpy(), SAME * own_NK.abs().max().item()
    aurocs = [auroc(odds_NK[:, k], (target_N == own_K[k]).numpy(), tie) for k in rankable_K.nonzero()[:, 0].tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes without samples: left out below
        recall_C = multiclass_recall(logits_NC, target_N, num_classes=classes, average=None)
        f1_C = multiclass_f1_score(logits_NC, target_N, num_classes=classes, average=None)
        accuracy = multiclass_accuracy(logits_NC, target_N, num_classes=classes, average="micro")
    return {
        "accuracy": accuracy.item(),
        "balanced_accuracy": recall_C[present_C].mean().item(),
        "macro_auroc": fmean(aurocs) if aurocs else float("nan"),
        "macro_f1": f1_C[present_C].mean().item(),
        "ece": calibration_error(logits_NC, target_N),
    }


def log_odds(logits_NK: Tensor) -> Tensor:
    """float64 (N, K) log(p / (1 - p)) of p = softmax: in the order of p, but where that is 0 or 1 to all digits too."""
    logits_NK = logits_NK.double()
    log_p_NK = logits_NK.log_softmax(dim=1)
    top_N1 = logits_NK.argmax(dim=1, keepdim=True)
    others_N1 = logits_NK.scatter(1, top_N1, -torch.inf).logsumexp(dim=1, keepdim=True)
    odds_NK = log_p_NK - torch.log1p(-log_p_NK.exp())  # of the likeliest class p may be 1
    return odds_NK.scatter(1, top_N1, logits_NK.gather(1, top_N1) - others_N1)


def auroc(score_N: NDArray[np.float64], positive_N: NDArray[np.bool_], tie: float) -> float:
    """The share of pairs in which the positive has the higher score; scores within ``tie`` are equal, and half a pair.

    Score by score upwards, what is no further than ``tie`` from the one before is equal to it; where many follow so,
    in steps of ``tie``.
    """
    order_N = score_N.argsort(kind="stable")
    rising_N, positive_N = score_N[order_N], positive_N[order_N]
    begins_N = np.diff(rising_N, prepend=-np.inf) > tie
    step_N = (rising_N - rising_N[begins_N][begins_N.cumsum() - 1]) // max(tie, np.finfo(float).tiny)
    group_N = (begins_N | (np.diff(step_N, prepend=0) != 0)).cumsum() - 1
    positives_G, negatives_G = np.bincount(group_N, positive_N), np.bincount(group_N, ~positive_N)
    pairs = positives_G @ (negatives_G.cumsum() - negatives_G / 2)
    return float(pairs / (positive_N.sum() * (~positive_N).sum()))
