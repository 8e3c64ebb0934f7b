"""What a dataset's numbers are like: true statistics of all samples, not merged ones of episodes.

N: frames, D: dimensions, P: pixels.
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

Summary = dict[str, Any]
"""What `summarise` returns."""
Described = dict[str, float]
"""Name of a statistic -> its value."""


def summarise(dataset: EpisodeDataset, *, images: int = IMAGES) -> Summary:
    """Statistics as JSON types.

    Args:
        images: frames of each camera, evenly spread over the dataset, that mean and standard
            deviation are of; 0 for none.

    Returns:
        `actions` and `state` (name -> min, q01, q10, q50, q90, q99, max, mean, std, robot units),
        `rewards`, `returns` and `lengths` (the same, of frames and of episodes), `tasks` (one row
        each), `changing_episodes` (in which the instruction changes) and `cameras` (mean and std
        of red, green and blue in [0, 1], and the number of frames they are of). What the dataset does not record is None: `rewards` and `returns`,
        `success_rate`, `terminated_rate` and, of tasks, `mean_return`.

    Raises:
        DataError: numbers or pictures are damaged, or `images` is negative.
    """
    if images < 0:
        raise DataError(f"images is {images}; expected 0 or more frames for each camera")
    spec = dataset.spec
    rewarded = "rewards" in dataset.recorded
    columns, table = dataset.columns, dataset.episodes
    cameras = {}
    if images:
        cameras = {camera: _pixels(dataset, camera, images) for camera in spec.cameras}
    return {
        "root": dataset.root.name,
        "episodes": len(dataset),
        "frames": dataset.num_frames,
        "control_hz": spec.control_hz,
        "actions": _by_name(spec.action_names, columns.actions),
        "state": _by_name(spec.state_names, columns.state),
        "rewards": described(columns.rewards) if rewarded else None,
        "returns": described(table["return"].to_numpy()) if rewarded else None,
        "lengths": described(table["length"].to_numpy()),
        "success_rate": dataset.mean_of("success", table),
        "terminated_rate": dataset.mean_of("terminated", table),
        "tasks": _tasks(dataset, table),
        "changing_episodes": dataset.num_changing,
        "cameras": cameras,
    }


def described(values_N: np.ndarray) -> Described:
    """Extremes, quantiles, mean and standard deviation of all samples."""
    # sums of many float32 lose digits
    values_N = values_N.astype(np.float64)
    found = {"min": values_N.min()}
    quantiles = np.quantile(values_N, list(QUANTILES.values()))
    found.update(zip(QUANTILES, quantiles, strict=True))
    found["max"] = values_N.max()
    found["mean"] = values_N.mean()
    found["std"] = values_N.std()
    return {name: float(value) for name, value in found.items()}


def _by_name(names: tuple[str, ...], values_ND: np.ndarray) -> dict[str, Described]:
    found = {}
    for dim, name in enumerate(names):
        found[name] = described(values_ND[:, dim])
    return found


def _tasks(dataset: EpisodeDataset, table: pd.DataFrame) -> list[dict[str, Any]]:
    """An episode counts for each instruction that it holds, a frame for its own alone."""
    rows = []
    # tasks without episodes, which datasets may list, have no row
    for task_index, held in dataset.held_tasks.groupby("task_index", sort=True):
        own = table.iloc[held["episode_index"].to_numpy()]
        rows.append(
            {
                "instruction": dataset.instructions[int(str(task_index))],
                "episodes": len(own),
                "frames": int(held["frames"].sum()),
                "success_rate": dataset.mean_of("success", own),
                "mean_return": dataset.mean_of("return", own),
                "mean_length": float(held["frames"].mean()),
            }
        )
    return rows


def _pixels(dataset: EpisodeDataset, camera: str, images: int) -> dict[str, Any]:
    """Mean and standard deviation of each colour over all pixels of the chosen frames."""
    count = min(images, dataset.num_frames)
    places = np.linspace(0, dataset.num_frames - 1, count)
    chosen = np.unique(places.round().astype(int))
    # running sums: the pixels of all frames would not fit into memory
    total, squares = np.zeros(3), np.zeros(3)
    pixels = 0
    for frame in chosen.tolist():
        for _, picture in dataset.images(camera, frame, frame + 1):
            try:
                image = as_frame(picture)
            except DataError as error:
                place = f"{dataset.root}: frame {frame}: camera {camera!r}"
                raise DataError(f"{place}: {error}") from error
            # H W 3 -> P 3
            values_P3 = image.reshape(-1, 3).astype(np.float64) / 255.0
            total = total + values_P3.sum(0)
            squares = squares + (values_P3**2).sum(0)
            pixels += len(values_P3)
    mean = total / pixels
    # rounding may leave a variance just below zero
    variance = np.maximum(squares / pixels - mean**2, 0.0)
    std = np.sqrt(variance)
    return {"mean": mean.tolist(), "std": std.tolist(), "frames": len(chosen)}
