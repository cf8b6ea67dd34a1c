"""What a user's data set of (image, label) holds, as arrays: torch's and torchvision's, or any sequence of such pairs.

Images are taken as they come, PIL's, arrays or tensors: (H, W), (H, W, 1), (H, W, 3) or channels first, uint8 or floats
in [0, 1]; each may be of its own size. No torch is imported here: a tensor tells its numbers itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError, shown


def is_dataset(returned: object) -> bool:
    """Whether it is a sequence or a stream of items, and no mapping of arrays."""
    items = hasattr(returned, "__getitem__") or hasattr(returned, "__iter__")
    return items and not isinstance(returned, (Mapping, str, bytes, np.ndarray))


def arrays(returned: Any, where: str) -> dict[str, Any]:
    """``images`` uint8 (N, H, W) or (N, H, W, 3), or a list of such images of several sizes, and ``labels`` (N,).

    Raises:
        UserError: an item is no image and label; naming its place.
    """
    items: Iterable[Any] = (returned[i] for i in range(len(returned))) if hasattr(returned, "__len__") else returned
    images, labels = [], []
    for place, item in enumerate(items):
        at = f"{where}[{place}]"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UserError(f"{at}: expected an image and its label, got {shown(item)}")
        images.append(_pixels(item[0], f"{at}: image"))
        labels.append(_label(item[1], f"{at}: label"))
    if not images:
        raise UserError(f"{where}: the data set is empty")
    if {image.ndim for image in images} == {2, 3}:  # grey beside colour
        images = [image if image.ndim == 3 else image[..., None].repeat(3, axis=2) for image in images]
    together = len({image.shape for image in images}) == 1
    return {"images": np.stack(images) if together else images, "labels": np.array(labels)}


def _pixels(image: Any, where: str) -> NDArray[np.uint8]:
    if hasattr(image, "convert") and getattr(image, "mode", "RGB") not in ("L", "RGB"):
        image = image.convert("RGB")
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating) and array.size and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape or array.shape[2:] not in ((), (3,)):
        told = f"{array.dtype} {array.shape}"
        raise UserError(f"{where}: expected uint8, or floats in [0, 1] before they are normalised, of a grey or colour "
                        f"image, got {told}")  # fmt: skip
    return array


def _label(label: Any, where: str) -> int:
    array = np.asarray(label)
    if array.size != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{where}: expected a class's number, got {shown(label)}")
    return int(array.reshape(()))
