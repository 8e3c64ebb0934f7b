"""Windows of trajectories, as training reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vla.types.observation import Observation
from vla.types.tensors import map_tensors, to_device


@dataclass(frozen=True)
class Batch:
    """B windows of T consecutive steps of one robot's trajectories.

    Images stay uint8 until they are on the device. Steps where `mask` is False are padding (at the
    start of an episode, on the left). `terminals` marks true ends of the task, never time limits.

    Attributes:
        images: camera name -> uint8 (B, T, H, W, 3), RGB.
        state: float32 (B, T, S), robot units.
        keyframe: float32 (B, T, S), the state at the next keyframe (see
            `vla.data.loading.keyframes`), robot units.
        instruction: B strings, each of the window's current step.
        actions: float32 (B, T, K, A), robot units: at step t the actions of steps t .. t+K-1.
        action_mask: bool (B, T, K), False where the chunk runs past the end of the episode.
        rewards: float32 (B, T), the reward that follows the action of step t.
        terminals: bool (B, T).
        returns_to_go: float32 (B, T), (discounted) sum of rewards from step t on.
        success: bool (B, T), whether the episode is solved at step t or later.
        timesteps: int64 (B, T), index of the step in its episode.
        mask: bool (B, T).
        task_index: int64 (B,).
    """

    # images of a batch are most of its bytes: as uint8 they take a quarter of the copy to a GPU
    images: dict[str, Tensor]
    state: Tensor
    keyframe: Tensor
    instruction: list[str]
    actions: Tensor
    action_mask: Tensor
    rewards: Tensor
    # a time limit is no terminal: the value of what would have followed still counts (bootstrap)
    terminals: Tensor
    returns_to_go: Tensor
    success: Tensor
    timesteps: Tensor
    mask: Tensor
    task_index: Tensor

    @property
    def batch_size(self) -> int:
        """Number of windows, B."""
        return len(self.instruction)

    def steps(self, start: int | None, stop: int | None) -> Self:
        """Views of the steps [start, stop).

        With T+1 steps loaded, `steps(0, -1)` and `steps(1, None)` are the current and the next
        steps that temporal-difference learning needs.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            # these two have no axis of steps; images are cut one by one below
            if field.name not in ("images", "instruction", "task_index"):
                values[field.name] = getattr(self, field.name)[:, start:stop]
        values["images"] = {camera: image[:, start:stop] for camera, image in self.images.items()}
        return dataclasses.replace(self, **values)

    def select(self, rows: np.ndarray) -> Self:
        """The windows `rows`, int (B',), in that order; itself if that changes nothing."""
        if np.array_equal(rows, np.arange(self.batch_size)):
            return self  # indexing would copy all images
        index = torch.from_numpy(rows)
        chosen = map_tensors(self, lambda tensor: tensor[index])
        texts = [self.instruction[row] for row in rows]
        return dataclasses.replace(chosen, instruction=texts)

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """The windows of all batches, one batch after the other; of cameras those that all have."""
        if len(batches) == 1:
            return batches[0]
        first = batches[0]
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            parts = [getattr(batch, field.name) for batch in batches]
            if isinstance(parts[0], Tensor):
                values[field.name] = torch.cat(parts)
        values["instruction"] = [text for batch in batches for text in batch.instruction]
        values["images"] = {
            camera: torch.cat([batch.images[camera] for batch in batches])
            for camera in first.images
            if all(camera in batch.images for batch in batches)
        }
        return cls(**values)

    def observation(self, t: int = -1) -> Observation:
        """What the robots saw at step `t` of the window."""
        return Observation(
            images={camera: image[:, t] for camera, image in self.images.items()},
            state=self.state[:, t],
            instruction=self.instruction,
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The batch on `device`; images stay uint8."""
        return to_device(self, device, non_blocking)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which a GPU copies while the program goes on."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())
