"""What a dataset format is: one reader class per file of `vla/data/formats`, registered under "formats".

N: frames of the dataset, S: state dimensions, A: action dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.types import Spec


@dataclass(frozen=True)
class Columns:
    """All numbers of a dataset, frames of an episode side by side.

    Attributes:
        state: float32 (N, S).
        actions: float32 (N, A).
        rewards: float32 (N,); zeros where the dataset has none.
        success: bool (N,); False where the dataset does not say.
        terminated: bool (N,), True at true ends; False where the dataset does not say.
    """

    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray
    terminated: np.ndarray


class DatasetReader(ABC):
    """Reads one dataset folder. Opening it reads no image.

    Attributes:
        spec: what the robot sees and does.
        instructions: row i is task_index i.
        metadata: what the maker wrote about it.
        episodes: one row per episode, sorted, with at least `episode_index`, `length`, `first_frame`, `task_index`.
    """

    root: Path
    spec: Spec
    instructions: list[str]
    metadata: dict[str, Any]
    episodes: pd.DataFrame

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """Whether `root` looks like a dataset of this format, damaged or not."""

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Raises DataError where the dataset is damaged or contradicts itself."""

    @abstractmethod
    def columns(self) -> Columns:
        """All numbers. Raises DataError where an action or state is NaN."""

    @abstractmethod
    def images(self, camera: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """(frame, image file) for the frames [start, stop), in order, without holding them all in memory."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the images may have changed."""
