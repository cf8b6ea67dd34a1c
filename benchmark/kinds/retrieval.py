"""Image <-> text: an image asks for its texts among the test items, a text for its images."""

from __future__ import annotations

from benchmark.kinds.kind import Column, Kind

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
RECALLS = tuple(f"{way}_r{k}" for way in DIRECTIONS for k in (1, 5, 10))
RECIPROCAL = tuple(f"{way}_mrr" for way in DIRECTIONS)
CHANGES = {"forgetting": "forgetting", "bwt": "backward_transfer"}

KIND = Kind(
    name="retrieval",
    smoke="smoke_retrieval",
    inputs=("image", "text"),
    labelled=False,
    metrics=("mean_recall", *(f"{way}_{name}" for way in DIRECTIONS for name in ("r1", "r5", "r10", "mrr"))),
    last_row={name: name for name in (*RECALLS, *RECIPROCAL)},
    of_matrix={f"{way}_{short}": (function, f"{way}_r1") for way in DIRECTIONS for short, function in CHANGES.items()},
    beside=RECALLS,
    board=(*RECALLS, *RECIPROCAL, *(f"{way}_{short}" for short in CHANGES for way in DIRECTIONS)),
    ways=DIRECTIONS,
    per_way=(
        *(Column(f"R@{k}", f"r{k}") for k in (1, 5, 10)),
        Column("MRR", "mrr"),
        Column("forgetting\n(R@1)", "forgetting"),
        Column("BWT\n(R@1)", "bwt"),
    ),
    kept=dict.fromkeys(("given", "hidden"), tuple(f"{way}_rank" for way in DIRECTIONS)),
    whole_batch=True,
    table=(
        *(Column(f"R@{k}, {words}", f"{way}_r{k}", hidden=True) for k in (1, 10) for way, words in DIRECTIONS.items()),
        Column("forgetting of R@1, image to text", "i2t_forgetting", hidden=True),
        Column("text to image", "t2i_forgetting", hidden=True),
    ),
)
