"""Windows of trajectories, as training reads them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from vla.types.observation import Observation
from vla.types.tensors import map_tensors, to_device


@dataclass(frozen=True)
class Batch:
    """B windows of T consecutive steps of trajectories.

    Images stay uint8 until they are on the device. Steps where `mask` is False are padding (at the
    start of an episode, on the left). `terminals` marks true ends of the task, never time limits.

    Attributes:
        images: camera name -> uint8 (B, T, H, W, 3), RGB.
        state: float32 (B, T, S), robot units.
        keyframe: float32 (B, T, S), the state at the next keyframe (see `vla.data.loading.keyframes`), robot units.
        instruction: B strings.
        actions: float32 (B, T, K, A), robot units: at step t the actions of steps t .. t+K-1.
        action_mask: bool (B, T, K), False where the chunk runs past the end of the episode.
        rewards: float32 (B, T), the reward that follows the action of step t.
        terminals: bool (B, T).
        returns_to_go: float32 (B, T), (discounted) sum of rewards from step t on.
        success: bool (B, T), whether the episode is solved at step t or later.
        timesteps: int64 (B, T), index of the step in its episode.
        mask: bool (B, T).
        task_index: int64 (B,).
        robot: int64 (B,), the number of the robot that each window is of; None where all are of one. Windows of several
            robots have state and actions of the largest, zeros beyond a robot's own dimensions, and images under
            "NUMBER/CAMERA", which hold the rows of that robot alone, in their order (see `vla.data.loading.multi_robot`).
    """

    images: dict[str, Tensor]
    state: Tensor
    keyframe: Tensor
    instruction: list[str]
    actions: Tensor
    action_mask: Tensor
    rewards: Tensor
    terminals: Tensor
    returns_to_go: Tensor
    success: Tensor
    timesteps: Tensor
    mask: Tensor
    task_index: Tensor
    robot: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of windows, B."""
        return len(self.instruction)

    def steps(self, start: int | None, stop: int | None) -> Self:
        """Views of the steps [start, stop): with T+1 steps loaded, `steps(0, -1)` and `steps(1, None)`
        are the current and the next steps that temporal-difference learning needs."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name)[:, start:stop]
            for f in dataclasses.fields(self)
            if f.name not in ("images", "instruction", "task_index", "robot")
        }
        values["images"] = {camera: image[:, start:stop] for camera, image in self.images.items()}
        return dataclasses.replace(self, **values)

    def observation(self, t: int = -1) -> Observation:
        """What the robots saw at step `t` of the window."""
        return Observation(
            images={camera: image[:, t] for camera, image in self.images.items()},
            state=self.state[:, t],
            instruction=self.instruction,
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The batch with its tensors on `device`."""
        return to_device(self, device, non_blocking)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which a copy to a GPU does not wait."""
        return map_tensors(self, lambda t: t.pin_memory())
