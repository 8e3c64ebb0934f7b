"""A running episode as the windows that a reward model reads: what its file would hold so far.

B robots, T steps of a window, K actions of a chunk, S state dimensions, A action dimensions.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from vla.models.rewards.base import RewardModel
from vla.types import Batch


@dataclass(frozen=True)
class _Step:
    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray


class RunningEpisode:
    """The last steps of one robot's episode.

    Args:
        model: that will read it; T and the cameras are its own.
    """

    def __init__(self, model: RewardModel) -> None:
        self._cameras = model.cameras
        self._steps: deque[_Step] = deque(maxlen=model.history)
        self._null_A = np.zeros(model.spec.action_dim, np.float32)
        self._start: _Step | None = None
        self._count = 0
        self._instruction = ""

    def copy(self) -> RunningEpisode:
        """The same up to now; what either of them sees later is its own."""
        other = copy.copy(self)
        other._steps = self._steps.copy()
        return other

    def see(
        self,
        images: Mapping[str, UInt8[np.ndarray, "H W 3"]],
        state: Float[np.ndarray, " S"],
        instruction: str,
    ) -> None:
        """The next step begins; what is done in it is not known yet."""
        if instruction != self._instruction:
            # a window has one instruction, as in datasets
            self._steps.clear()
            self._instruction = instruction
        # copied: envs and workers write the next picture into the same memory
        seen = {camera: np.array(images[camera]) for camera in self._cameras}
        self._steps.append(_Step(seen, np.array(state, np.float32), self._null_A))
        self._count += 1

    def did(self, action: Float[np.ndarray, " A"]) -> None:
        """What was executed in the step that `see` began."""
        last = self._steps[-1]
        self._steps[-1] = _Step(last.images, last.state, np.array(action, np.float32))
        if self._count == 1:
            self._start = self._steps[-1]

    @property
    def steps(self) -> list[_Step]:
        """At most T, the present one last."""
        return list(self._steps)

    @property
    def start(self) -> _Step:
        """The episode's first step."""
        return self._start or self._steps[0]

    @property
    def instruction(self) -> str:
        return self._instruction

    @property
    def count(self) -> int:
        """Steps that have begun, the present one included."""
        return self._count


def batch_of(model: RewardModel, episodes: Sequence[RunningEpisode]) -> Batch:
    """A window of T steps for each robot, padded on the left, on the model's device.

    The actions of the last steps mean nothing, for they are still to be chosen.
    """
    T, K = model.history, model.chunk
    rows, masks, times = [], [], []
    for episode in episodes:
        steps = episode.steps
        missing = T - len(steps)
        first = episode.count - len(steps)
        row = [steps[0]] * missing + steps
        mask = [False] * missing + [True] * len(steps)
        time = [first] * missing + list(range(first, episode.count))
        if model.sees_start:
            row, mask, time = [episode.start, *row], [True, *mask], [0, *time]
        rows.append(row)
        masks.append(mask)
        times.append(time)
    mask_BT = torch.tensor(masks)
    state_BTS = _stacked([[step.state for step in row] for row in rows])
    actions_BTA = _stacked([[step.action for step in row] for row in rows])
    images = {
        camera: _stacked([[step.images[camera] for step in row] for row in rows])
        for camera in model.cameras
    }
    nothing_BT = torch.zeros(mask_BT.shape)
    never_BT = torch.zeros(mask_BT.shape, dtype=torch.bool)
    actions_BTKA = actions_BTA[:, :, None].expand(-1, -1, K, -1)
    batch = Batch(
        images=images,
        state=state_BTS,
        keyframe=state_BTS,
        instruction=[episode.instruction for episode in episodes],
        actions=actions_BTKA,
        action_mask=mask_BT[..., None].expand(-1, -1, K),
        # nothing of these is known while the episode runs, and no model may read them for its score
        rewards=nothing_BT,
        terminals=never_BT,
        returns_to_go=nothing_BT,
        success=never_BT,
        timesteps=torch.tensor(times),
        mask=mask_BT,
        task_index=torch.zeros(len(episodes), dtype=torch.int64),
    )
    return batch.to(model.device)


def _stacked(rows: Sequence[Sequence[np.ndarray]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.stack(row) for row in rows]))


__all__ = ["RunningEpisode", "batch_of"]
