"""Image and text -> class; the final model answers without the one or the other as well."""

from __future__ import annotations

from dataclasses import replace

from benchmark.kinds import classification
from benchmark.kinds.kind import Column

DROPS = ("image_drop", "text_drop", "dominance")  # what the final model loses without the image, the text, their ratio

KIND = replace(
    classification.KIND,
    name="fusion",
    smoke="smoke_fusion",
    inputs=("image", "text"),
    withheld=("image", "text"),
    board=DROPS,
    of_numbers={"dominance": ("dominance", DROPS[:2])},
    table=(
        classification.BALANCED,
        *classification.CHANGES,
        Column("lost without image", "image_drop"),
        Column("lost without text", "text_drop"),
        Column("dominance", "dominance", "ratio"),
    ),
)
