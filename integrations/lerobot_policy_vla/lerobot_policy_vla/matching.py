"""LeRobot's images, state and actions <-> the policy's.

B robots, S state dimensions, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor


def image_batch(images_BCHW: Tensor) -> np.ndarray:
    """Uint8 (B, H, W, 3) of floats (B, 3, H, W) in [0, 1].

    Exact for LeRobot's images, which are bytes divided by 255.
    """
    levels = (images_BCHW.detach().float() * 255).round().clamp(0, 255)
    return levels.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def fitted(
    images_BHWC: np.ndarray, size: tuple[int, int], resize: str | None, key: str
) -> np.ndarray:
    """The images in the policy's size; raises ValueError if they differ and `resize` is None."""
    h, w = images_BHWC.shape[1:3]
    if (h, w) == tuple(size):
        return images_BHWC
    if resize is None:
        raise ValueError(
            f"{key} is {h}x{w}, the policy's camera {size[0]}x{size[1]}: set --policy.resize=stretch "
            "or --policy.resize=pad"
        )
    if resize == "pad":
        from vla_client.images import resize_with_pad

        return resize_with_pad(images_BHWC, *size)
    from vla.data.resizing import resized_image

    return np.stack([resized_image(image, size) for image in images_BHWC])


def order(ours: Sequence[str], theirs: Sequence[str] | None, match: str, what: str) -> list[int]:
    """Place in `theirs` of each of `ours`.

    Args:
        ours: the policy's dimensions.
        theirs: the robot's; None if LeRobot does not say them.
        match: `name` or `place`.
        what: for messages.

    Raises ValueError, which says what differs, if they are not the same dimensions.
    """
    if theirs is None:
        return list(range(len(ours)))
    if match == "place":
        if len(ours) != len(theirs):
            raise ValueError(f"the policy's {what} has {len(ours)} dimensions, not {len(theirs)}")
        return list(range(len(ours)))
    lacks = [name for name in ours if name not in theirs]
    unknown = [name for name in theirs if name not in ours]
    if lacks or unknown:
        raise ValueError(
            f"{what}: the robot lacks {', '.join(lacks) or 'nothing'}, and the policy does not know "
            f"{', '.join(unknown) or 'nothing'}: train on this robot, or set --policy.match=place if "
            "the dimensions are the same in the same order"
        )
    return [list(theirs).index(name) for name in ours]


def feature_names(features: Mapping[str, Mapping] | None, key: str) -> list[str] | None:
    """Names of a feature's dimensions as a dataset of LeRobot has them; None if it has none."""
    names = (features or {}).get(key, {}).get("names")
    if isinstance(names, Mapping):  # of older datasets: {"motors": [...]}
        names = next(iter(names.values()), None)
    return None if names is None else [str(name) for name in names]
