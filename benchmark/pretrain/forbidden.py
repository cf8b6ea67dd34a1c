"""What no image of pretraining may be: the classes of the shipped streams that compare methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmark.data import catalog, phantom

MARGIN = 0.1  # of factor space between what is trained on and the classes of the streams
KINDS = ("classification",)


def regions(kinds: Sequence[str] = KINDS) -> dict[str, list[phantom.Region]]:
    """Generator -> every class region of the ranked, shipped streams of these kinds that have classes of their own.

    Each is wider by a margin towards the middle. Fusion, retrieval and domain streams are not among them: what is new
    there are the notes, the wordings and the shifts, while their images may resemble those of pretraining. Nor is a
    region of a single factor: without it one would never see small nuclei or large ones.
    """
    found: dict[str, list[phantom.Region]] = {name: [] for name in phantom.GENERATORS}
    for name, region in _classes(kinds):
        if len(region) > 1:
            found[name].append(_widened(region))
    return found


def _classes(kinds: Sequence[str]) -> Iterator[tuple[str, phantom.Region]]:
    for name in catalog.names("streams"):
        recipe = catalog.load(name, None)
        if not recipe.ranked or not set(recipe.stream.kinds) <= {*kinds} or recipe.stream.label_space != "own":
            continue
        for source in recipe.sources:
            if source.kind == "phantom":
                yield from ((source.options["generator"], region) for region in source.options.get("regions", ()))


def _widened(region: Mapping[str, tuple[float, float]]) -> phantom.Region:
    return {
        factor: (low, high + MARGIN) if high <= 0.5 else (low - MARGIN, high) for factor, (low, high) in region.items()
    }
