"""Statistics of features: the per-episode ones that the format stores, and true quantiles for
training.

N: samples, D: dimensions of a feature, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.data.episode import decode_png
from vla.data.errors import DataError

FeatureStats = dict[str, np.ndarray]
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED_IMAGES = 8
_SAMPLED_SIDE = 64


@dataclass(frozen=True)
class Statistics:
    """Exact statistics of N samples of D dimensions; every field is float64 (D,).

    `low` and `high` are the quantiles asked for, of all samples together.
    """

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    low: np.ndarray
    high: np.ndarray


def true_statistics(
    values_ND: np.ndarray, *, quantiles: tuple[float, float] = (0.01, 0.99)
) -> Statistics:
    """Statistics computed from all samples at once.

    The stored `stats.json` cannot give these: quantiles of episodes do not add up to quantiles of
    the whole.

    Raises:
        DataError: there are no samples, or one is NaN or infinite.
    """
    if values_ND.ndim != 2 or not len(values_ND):
        raise DataError(
            f"statistics need samples (N, D) with N > 0, got shape {values_ND.shape}; load some "
            "episodes"
        )
    if not np.isfinite(values_ND).all():
        row, dim = (int(v) for v in np.argwhere(~np.isfinite(values_ND))[0])
        raise DataError(
            f"statistics: sample {row}, dimension {dim} is {values_ND[row, dim]}; drop its episode"
        )
    values = values_ND.astype(np.float64)
    low, high = np.quantile(values, quantiles, axis=0)
    return Statistics(values.mean(0), values.std(0), values.min(0), values.max(0), low, high)


def _stats(samples_ND: np.ndarray, count: int) -> FeatureStats:
    samples = samples_ND.astype(np.float64)
    result = {
        "min": samples.min(0),
        "max": samples.max(0),
        "mean": samples.mean(0),
        "std": samples.std(0),
    }
    result["count"] = np.array([count], dtype=np.int64)
    return result | dict(
        zip(QUANTILES, np.quantile(samples, list(QUANTILES.values()), axis=0), strict=True)
    )


def numeric_stats(values: np.ndarray) -> FeatureStats:
    """Stored statistics of one episode's (L,) or (L, D) feature; vectors of length D (1 for a
    scalar)."""
    return _stats(values.reshape(len(values), -1), len(values))


def image_stats(images: Sequence[bytes] | np.ndarray) -> FeatureStats:
    """Stored statistics of one episode's images, from a few frames: (3, 1, 1), values in [0, 1].

    Args:
        images: L image files, or uint8 (L, H, W, 3).
    """
    chosen = np.unique(
        np.linspace(0, len(images) - 1, min(len(images), SAMPLED_IMAGES)).round().astype(int)
    )
    pixels = []
    for t in chosen:
        picture = images[t]
        image = decode_png(picture) if isinstance(picture, bytes) else picture
        stride = max(1, -(-max(image.shape[:2]) // _SAMPLED_SIDE))
        pixels.append(image[::stride, ::stride].reshape(-1, 3))
    stats = _stats(np.concatenate(pixels) / 255.0, len(chosen))
    return {
        name: value if name == "count" else value.reshape(3, 1, 1) for name, value in stats.items()
    }


def merge_stats(parts: Sequence[FeatureStats]) -> FeatureStats:
    """Stored statistics of several parts together: exact but for the quantiles, which are weighted
    means."""
    counts = np.stack([part["count"] for part in parts]).astype(np.float64)
    total = counts.sum()
    weights = (counts / total).reshape(len(parts), *[1] * parts[0]["mean"].ndim)
    mean = (weights * np.stack([part["mean"] for part in parts])).sum(0)
    spread = [part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts]
    result = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt((weights * np.stack(spread)).sum(0)),
        "count": np.array([int(total)]),
    }
    return result | {q: (weights * np.stack([part[q] for part in parts])).sum(0) for q in QUANTILES}
