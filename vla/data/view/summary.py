"""What a dataset's numbers are like: true statistics of all samples, not merged ones of episodes.

N: frames, D: dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset
from vla.data.statistics import QUANTILES
from vla.data.storage.image_codec import as_frame

IMAGES = 256


def summarise(dataset: EpisodeDataset, *, images: int = IMAGES) -> dict[str, Any]:
    """Statistics as JSON types.

    Args:
        images: frames of each camera, evenly spread over the dataset, that mean and standard deviation are of; 0 for none.

    Returns:
        `actions` and `state` (name -> min, q01, q10, q50, q90, q99, max, mean, std, robot units), `rewards`, `returns` and
        `lengths` (the same, of frames and of episodes), `tasks` (one row each) and `cameras` (mean and std of red, green
        and blue in [0, 1], and the number of frames they are of).

    Raises:
        DataError: numbers or pictures are damaged, or `images` is negative.
    """
    if images < 0:
        raise DataError(f"images is {images}; expected 0 or more frames for each camera")
    spec, columns, table = dataset.spec, dataset.columns, dataset.episodes
    return {
        "root": dataset.root.name,
        "episodes": len(dataset),
        "frames": dataset.num_frames,
        "control_hz": spec.control_hz,
        "actions": _by_name(spec.action_names, columns.actions),
        "state": _by_name(spec.state_names, columns.state),
        "rewards": described(columns.rewards),
        "returns": described(table["return"].to_numpy()),
        "lengths": described(table["length"].to_numpy()),
        "success_rate": float(table["success"].mean()),
        "terminated_rate": float(table["terminated"].mean()),
        "tasks": _tasks(dataset, table),
        "cameras": {camera: _pixels(dataset, camera, images) for camera in spec.cameras}
        if images
        else {},
    }


def described(values_N: np.ndarray) -> dict[str, float]:
    """Extremes, quantiles, mean and standard deviation of all samples."""
    values = values_N.astype(np.float64)
    quantiles = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True))
    found = {
        "min": values.min(),
        **quantiles,
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
    }
    return {name: float(value) for name, value in found.items()}


def _by_name(names: tuple[str, ...], values_ND: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: described(values_ND[:, dim]) for dim, name in enumerate(names)}


def _tasks(dataset: EpisodeDataset, table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for task_index, own in table.groupby("task_index", sort=True):
        rows.append(
            {
                "instruction": dataset.instructions[int(str(task_index))],
                "episodes": len(own),
                "frames": int(own["length"].sum()),
                "success_rate": float(own["success"].mean()),
                "mean_return": float(own["return"].mean()),
                "mean_length": float(own["length"].mean()),
            }
        )
    return rows


def _pixels(dataset: EpisodeDataset, camera: str, images: int) -> dict[str, Any]:
    """Mean and standard deviation of each colour over all pixels of the chosen frames."""
    chosen = np.unique(
        np.linspace(0, dataset.num_frames - 1, min(images, dataset.num_frames)).round().astype(int)
    )
    total, squares, pixels = np.zeros(3), np.zeros(3), 0
    for frame in chosen.tolist():
        for _, picture in dataset.images(camera, frame, frame + 1):
            try:
                values = as_frame(picture).reshape(-1, 3).astype(np.float64) / 255.0
            except DataError as error:
                raise DataError(
                    f"{dataset.root}: frame {frame}: camera {camera!r}: {error}"
                ) from error
            total, squares, pixels = (
                total + values.sum(0),
                squares + (values**2).sum(0),
                pixels + len(values),
            )
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0.0))
    return {"mean": mean.tolist(), "std": std.tolist(), "frames": len(chosen)}
