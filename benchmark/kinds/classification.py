"""Image -> class."""

from __future__ import annotations

from benchmark.kinds.kind import Column, Kind

BALANCED = Column("balanced, given / hidden", "balanced_acc", both=True, unlike="last_acc")
CHANGES = (
    Column("learned, given / hidden", "learning_acc", both=True),
    Column("forgetting, given / hidden", "forgetting", both=True),
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
        BALANCED,
        *CHANGES,
        Column("forward transfer", "fwt"),
        Column("trained parameters", "trainable_params", "count"),
        Column("kept MiB", "stored_bytes", "mib"),
    ),
)
