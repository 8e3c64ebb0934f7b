"""Windows of trajectories, as training reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
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
        extras: name -> (B, T) or (B, T, D), further columns that were asked for; padded steps
            repeat the nearest real one.
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
    extras: dict[str, Tensor] = field(default_factory=dict)

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
        for column in dataclasses.fields(self):
            value = getattr(self, column.name)
            if isinstance(value, dict):
                values[column.name] = {name: part[:, start:stop] for name, part in value.items()}
            # these two have no axis of steps
            elif column.name not in ("instruction", "task_index"):
                values[column.name] = value[:, start:stop]
        return dataclasses.replace(self, **values)

    def select(self, rows: np.ndarray) -> Self:
        """The windows `rows`, int (B',), in that order; itself if that changes nothing."""
        if np.array_equal(rows, np.arange(self.batch_size)):
            return self  # indexing would copy all images
        index = torch.from_numpy(rows)
        chosen = map_tensors(self, lambda tensor: tensor[index])
        texts = [self.instruction[row] for row in rows]
        return dataclasses.replace(chosen, instruction=texts)

    def followed_by(self, later: Self) -> Self:
        """Longer windows: of each window its steps here, then those of `later`, whose instruction
        holds; of cameras and extra columns those that both have."""
        values: dict[str, Any] = {}
        for column in dataclasses.fields(self):
            mine, theirs = getattr(self, column.name), getattr(later, column.name)
            if isinstance(mine, dict):
                values[column.name] = {
                    name: torch.cat([part, theirs[name]], dim=1)
                    for name, part in mine.items()
                    if name in theirs
                }
            elif column.name in ("instruction", "task_index"):
                values[column.name] = theirs
            else:
                values[column.name] = torch.cat([mine, theirs], dim=1)
        return type(self)(**values)

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """The windows of all batches, one batch after the other; of cameras and extra columns those
        that all have."""
        if len(batches) == 1:
            return batches[0]
        values: dict[str, Any] = {}
        for column in dataclasses.fields(cls):
            parts = [getattr(batch, column.name) for batch in batches]
            if isinstance(parts[0], Tensor):
                values[column.name] = torch.cat(parts)
        values["instruction"] = [text for batch in batches for text in batch.instruction]
        for name in ("images", "extras"):
            parts = [getattr(batch, name) for batch in batches]
            shared = [key for key in parts[0] if all(key in part for part in parts)]
            values[name] = {key: torch.cat([part[key] for part in parts]) for key in shared}
        return cls(**values)

    def observation(self, t: int = -1) -> Observation:
        """What the robots saw at step `t` of the window."""
        B = self.batch_size
        privileged = self.extras.get("privileged")
        return Observation(
            images={camera: image[:, t] for camera, image in self.images.items()},
            state=self.state[:, t],
            instruction=self.instruction,
            # a column of one number per step has no axis of its own
            privileged=None if privileged is None else privileged[:, t].float().view(B, -1),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The batch on `device`; images stay uint8."""
        return to_device(self, device, non_blocking)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which a GPU copies while the program goes on."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())
