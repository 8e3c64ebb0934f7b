"""Statistics of features: the per-episode ones that the format stores, and true quantiles for
training.

N: samples, D: dimensions of a feature, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.data.episode import decode_image
from vla.data.errors import DataError

FeatureStats = dict[str, np.ndarray]
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# Image statistics are for normalising by mean and std: a few coarse frames tell these well enough,
# and decoding all of an episode would cost more than writing it.
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
        row, dim = np.argwhere(~np.isfinite(values_ND))[0].tolist()
        raise DataError(
            f"statistics: sample {row}, dimension {dim} is {values_ND[row, dim]}; drop its episode"
        )
    values = values_ND.astype(np.float64)  # float32 sums over millions of rows lose digits
    low, high = np.quantile(values, quantiles, axis=0)
    return Statistics(values.mean(0), values.std(0), values.min(0), values.max(0), low, high)


def _stats(samples_ND: np.ndarray, count: int) -> FeatureStats:
    samples = samples_ND.astype(np.float64)
    result = {
        "min": samples.min(0),
        "max": samples.max(0),
        "mean": samples.mean(0),
        "std": samples.std(0),
        "count": np.array([count], dtype=np.int64),
    }
    quantiles = np.quantile(samples, list(QUANTILES.values()), axis=0)  # (5, D)
    return result | dict(zip(QUANTILES, quantiles, strict=True))


def numeric_stats(values: np.ndarray) -> FeatureStats:
    """Stored statistics of one episode's (L,) or (L, D) feature; vectors of length D (1 for a
    scalar)."""
    return _stats(values.reshape(len(values), -1), len(values))


def image_stats(images: Sequence[bytes] | np.ndarray) -> FeatureStats:
    """Stored statistics of one episode's images, from a few frames: (3, 1, 1), values in [0, 1].

    Args:
        images: L image files, or uint8 (L, H, W, 3).
    """
    number = min(len(images), SAMPLED_IMAGES)
    chosen = np.unique(np.linspace(0, len(images) - 1, number).round().astype(int))
    pixels = []
    for t in chosen:
        stored = images[t]
        image = decode_image(stored) if isinstance(stored, bytes) else stored
        stride = max(1, -(-max(image.shape[:2]) // _SAMPLED_SIDE))  # rounded up
        pixels.append(image[::stride, ::stride].reshape(-1, 3))
    # counted in images, not in pixels: `merge_stats` weighs episodes by it
    stats = _stats(np.concatenate(pixels) / 255.0, len(chosen))
    for name, value in stats.items():
        if name != "count":
            stats[name] = value.reshape(3, 1, 1)
    return stats


def joined_stats(
    total: dict[str, FeatureStats], episode: dict[str, FeatureStats]
) -> dict[str, FeatureStats]:
    """The statistics of all features with an episode more; of the episode if `total` is empty.

    The last digits depend on the order and the grouping: whoever counts again what a writer has
    counted calls this with the same episodes in the same order.
    """
    if not total:
        return episode
    return {name: merge_stats([total[name], stats]) for name, stats in episode.items()}


def merge_stats(parts: Sequence[FeatureStats]) -> FeatureStats:
    """Stored statistics of several parts together: exact but for the quantiles, which are weighted
    means."""
    counts = np.stack([part["count"] for part in parts]).astype(np.float64)  # (P, 1)
    total = counts.sum()
    ones = [1] * parts[0]["mean"].ndim
    weights = (counts / total).reshape(len(parts), *ones)

    def weighted(name: str) -> np.ndarray:
        values = np.stack([part[name] for part in parts])
        return np.asarray((weights * values).sum(0))

    mean = weighted("mean")
    # law of total variance: within the parts, and between their means
    spread = [part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts]
    result = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt((weights * np.stack(spread)).sum(0)),
        "count": np.array([int(total)]),
    }
    return result | {name: weighted(name) for name in QUANTILES}
