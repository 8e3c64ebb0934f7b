"""What a dataset format is: one reader class per file of `vla/data/formats`, registered under
"formats".

N: frames of the dataset, S: state dimensions, A: action dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, PositiveFloat, field_validator

from vla.common.renamed import former_attributes
from vla.config import Config
from vla.data.errors import DataError
from vla.types import Spec, SpecError

Orientation = Literal["rotate_90", "rotate_180", "rotate_270", "flip_up_down", "flip_left_right"]
"""How an image is turned: counter-clockwise, or mirrored."""


class KeyMap(Config):
    """What of a dataset is read as what. Everything left out is found by the format's own
    conventions."""

    cameras: dict[str, str] | None = None
    """Camera -> key of its images in the dataset."""
    orientation: dict[str, Orientation] = Field(default_factory=dict)
    """Camera -> how its images are turned when they are read, for cameras that are stored upside
    down."""
    colours: dict[str, Literal["rgb", "bgr"]] = Field(default_factory=dict)
    """Camera -> order of its colours, for images that were stored as OpenCV holds them."""
    state: list[str] | None = None
    """Keys whose numbers are put side by side as the state, whole or in part: `qpos`, `qpos[:6]`,
    `qpos[0,3:5]`, or one dimension by its name; an empty list reads none."""
    action: list[str] | None = None
    """Keys whose numbers are put side by side as the action, whole or in part, as in `state`."""
    reward: str | None = None
    """Key of the reward that followed each action."""
    success: str | None = None
    """Key of whether the task was solved after each action: where its number is above 0. `rewards`
    takes the reward for it."""
    instruction: str | None = None
    """Key of the instruction."""
    task: str | None = None
    """The instruction itself, for all episodes: for datasets that hold none."""
    control_hz: PositiveFloat | None = None
    """Actions per second, for datasets that do not say."""
    binary_actions: list[str] | None = None
    """Action dimensions that only take the two ends of their range, by name, such as a gripper that
    opens or closes (`Spec.binary_actions`); by default those that the dataset itself says."""
    extras: list[str] | None = None
    """Columns of numbers that are kept with each step beside all that (`Episode.extras`), for
    datasets of LeRobot's format; by default those that a dataset of this package has, and
    `intervention`. An empty list reads none."""
    split: str | None = None
    """Which part to read if the dataset has named parts, for example `train`; all by default."""

    @field_validator("state", "action", "binary_actions", "extras", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        # `state=qpos[:6]`: within a list YAML would want it quoted, since it has brackets itself
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Columns:
    """All numbers of a dataset, frames of an episode side by side.

    Attributes:
        state: float32 (N, S).
        actions: float32 (N, A).
        rewards: float32 (N,); zeros if the dataset has none.
        success: bool (N,); False if the dataset does not say.
        terminated: bool (N,), True at true ends; False if the dataset does not say.
        extras: name -> float32, int64 or bool (N,) or (N, D), further columns.
    """

    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray
    terminated: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)


Image = bytes | np.ndarray
"""One image: a PNG or JPEG file, or uint8 (H, W, 3) RGB if it was decoded from a video."""
if not TYPE_CHECKING:
    __getattr__ = former_attributes(__name__, {"Picture": "Image"})


RECORDED = frozenset({"rewards", "success", "terminated"})
"""What a dataset may say of its steps beyond what was seen and done."""


class DatasetReader(ABC):
    """Reads one dataset: a folder, or a file if the format is one file. Opening it reads no image.

    Attributes:
        spec: what the robot sees and does.
        instructions: row i is task_index i.
        metadata: what the maker wrote about it.
        keys: what is read as what; None if the format has no choice.
        episodes: one row per episode, sorted, with at least `episode_index`, `length`,
            `first_frame`, `task_index`.
        warnings: what the dataset contradicts itself in without harm, and what was left out; may
            grow while it is read.
        recorded: which of `rewards`, `success` and `terminated` the dataset says itself; what it
            does not say is 0 or False in `columns` and shown as unknown.
        frame_tasks: int64 (N,), the index of each frame's instruction, of datasets whose
            instruction changes within an episode; None if an episode has one.
        episode_numbers: int64 (episodes,), what the dataset itself calls its episodes, ascending;
            None if these are their places.
        missing_episodes: numbers of further episodes, whose files are not here.
    """

    root: Path
    spec: Spec
    instructions: list[str]
    metadata: dict[str, Any]
    keys: KeyMap | None = None
    episodes: pd.DataFrame
    warnings: Sequence[str] = ()
    recorded: frozenset[str] = RECORDED
    frame_tasks: np.ndarray | None = None
    is_general: ClassVar[bool] = False
    """Whether it takes whatever no other format takes, so that it is asked last."""
    episode_numbers: np.ndarray | None = None
    missing_episodes: tuple[int, ...] = ()

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """Whether `root` looks like a dataset of this format, damaged or not."""

    @abstractmethod
    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        """Raises DataError if the dataset is damaged or contradicts itself, or lacks one of
        `keys`."""

    def with_spec_keys(self, keys: KeyMap | None) -> Self:
        """The reader, whose spec says what `keys` say of every format alike.

        Raises DataError if they name an action dimension that the dataset lacks.
        """
        if keys is not None and keys.binary_actions is not None:
            try:
                self.spec = replace(self.spec, binary_actions=tuple(keys.binary_actions))
            except SpecError as error:
                raise DataError(f"{self.root}: {error}; correct the key binary_actions") from error
        return self

    @abstractmethod
    def columns(self) -> Columns:
        """All numbers as they are, what is not finite among them (see
        `EpisodeDataset.check_numbers`)."""

    def episode_name(self, index: int) -> str:
        """What messages call an episode."""
        return f"episode {index}"

    @abstractmethod
    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        """(frame, image) for the frames [start, stop), in order, without holding them all in
        memory. Several threads may read at once."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the images may have changed."""
