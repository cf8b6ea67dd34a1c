"""How an answer in words is held against its reference: pure functions on strings, fractions in [0, 1]. No torch.

:func:`normalise`, :func:`exact`, :func:`closed_hit`, :func:`f1` and :func:`sentence_bleu` take raw strings and do with
them what the MSLoRA-CR release does, its oddities included; :func:`rouge_l` takes raw strings too. :func:`corpus_bleu`
and :func:`cider_d` take strings as they are to be compared, so that the caller normalises.
"""

from benchmark.texts.corpus import bleu_signature, cider_d, corpus_bleu, corpus_bleus
from benchmark.texts.normaliser import answer_words, normalise, reference_words
from benchmark.texts.overlap import closed_hit, exact, f1, rouge_l, sentence_bleu

__all__ = [
    "answer_words",
    "bleu_signature",
    "cider_d",
    "closed_hit",
    "corpus_bleu",
    "corpus_bleus",
    "exact",
    "f1",
    "normalise",
    "reference_words",
    "rouge_l",
    "sentence_bleu",
]
