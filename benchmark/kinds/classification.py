"""Image -> class."""

from __future__ import annotations

from benchmark.kinds.kind import Column, Kind

FORGETTING = (
    Column("forgetting, given", "forgetting"),
    Column("forgetting, hidden", "forgetting", hidden=True),
)

KIND = Kind(
    name="classification",
    smoke="smoke",
    inputs=("image",),
    labelled=True,
    metrics=("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "ece"),
    last_row={
        "balanced_acc": "balanced_accuracy",
        "macro_auroc": "macro_auroc",
        "macro_f1": "macro_f1",
        "ece": "ece",
    },
    kept={"given": ("logits",), "hidden": ("answer",)},
    table=(
        *FORGETTING,
        Column("forward transfer", "fwt"),
        Column("trained parameters", "trainable_params", "count"),
        Column("kept MiB", "stored_bytes", "mib"),
    ),
)
