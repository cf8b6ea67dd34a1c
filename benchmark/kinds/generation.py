"""Image and instruction -> text: closed and open questions, classes in words, reports.

Metrics of a cell (``benchmark.texts`` says how each is computed; all are shares, ``cider_d`` a tenth of CIDEr-D):

exact            the answer is the reference after normalisation
f1               F1 of the words, clipped
f1_official      F1 of the words, as the MSLoRA-CR release counts them
closed_lenient   of closed questions: the reference stands in the answer, as released
likelihood       of closed questions: the likeliest legal answer is the reference
bleu1 ... bleu4  corpus BLEU of orders 1 to n, smoothed
rouge_l, cider_d
fact_f1, fact_right, fact_contradicted, fact_left_out      of made reports, whose facts are known
format_kept      closed: the answer is a legal one; open: of 1 to 3 times as many words as the longest one learned
truncated        the limit of new tokens was reached
distinct         different answers over samples
verbatim         of answers of 8 words or more: the share equal to one learned
"""

from __future__ import annotations

from benchmark.kinds.kind import Column, Kind

FACTS = ("fact_f1", "fact_right", "fact_contradicted", "fact_left_out")
HABITS = ("format_kept", "truncated", "distinct", "verbatim")  # what is not knowledge
ASIDE = ("fact_f1", "likelihood", "format_kept", "truncated")  # what tables have of a task beside its own metric
BLEU = ("bleu1", "bleu2", "bleu3", "bleu4")

KIND = Kind(
    name="generation",
    smoke="smoke_generation",
    inputs=("image", "prompt"),
    labelled=False,
    metrics=(
        "exact", "f1", "f1_official", "closed_lenient", "likelihood", *BLEU, "rouge_l", "cider_d", *FACTS, *HABITS,
    ),
    primaries=("exact", "f1"),
    speaks=True,
    last_row={"exact": "exact", "f1": "f1", "format_kept": "format_kept", "truncated": "truncated"},
    beside=("exact", "f1", "likelihood", "rouge_l", "fact_f1", "format_kept"),
    board=("exact", "f1", "format_kept", "truncated"),
    kept=dict.fromkeys(("given", "hidden"), ("answer", "tokens", "stopped", "likeliest")),
    table=(
        Column("forgetting, given / hidden", "forgetting", both=True),
        Column("exact match", "exact"),
        Column("format kept", "format_kept"),
        Column("trained parameters", "trainable_params", "count"),
    ),
)  # fmt: skip
