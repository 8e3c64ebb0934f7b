"""A policy that really looks at the pictures of `point_env`, and the episodes it is asked to play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from point_env import PointConfig

from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.types import Observation, Spec


@dataclass(frozen=True)
class Memory:
    """For each robot: its instruction, how often it acted, where it was."""

    instruction: tuple[str, ...]
    steps: tuple[int, ...]
    state: torch.Tensor

    @property
    def batch_size(self) -> int:
        return len(self.steps)

    def select(self, rows: Sequence[int]) -> Memory:
        return Memory(
            tuple(self.instruction[i] for i in rows),
            tuple(self.steps[i] for i in rows),
            self.state[list(rows)],
        )

    @classmethod
    def stack(cls, memories: Sequence[Memory]) -> Memory:
        return cls(
            sum((m.instruction for m in memories), ()),
            sum((m.steps for m in memories), ()),
            torch.cat([m.state for m in memories]),
        )


class Seeker:
    """Goes from the black dot to the square whose colour the instruction names; checks that memories are its own."""

    def __init__(self, spec: Spec, history: int = 1, chunk: int = 1) -> None:
        self.spec, self.history, self.chunk = spec, history, chunk
        self.batches: list[int] = []

    def act(
        self, observation: Observation, memory: Memory | None = None
    ) -> tuple[torch.Tensor, Memory]:
        observation.check(self.spec)
        B = observation.batch_size
        self.batches.append(B)
        steps = (0,) * B
        if memory is not None:
            assert memory.instruction == tuple(observation.instruction), (
                "a memory went to another robot"
            )
            assert (memory.state - observation.state).abs().max() < 0.15 * self.chunk, (
                "a memory went to another robot"
            )
            steps = tuple(step + 1 for step in memory.steps)
        velocity = torch.stack([self._look(observation, b) for b in range(B)])
        memory = Memory(tuple(observation.instruction), steps, observation.state)
        return velocity[:, None].repeat(1, self.chunk, 1), memory

    def _look(self, observation: Observation, b: int) -> torch.Tensor:
        image = observation.images["top"][b].float()
        channel, other = (0, 2) if "red" in observation.instruction[b] else (2, 0)
        target = (image[..., channel] > 100) & (image[..., other] < 90)
        if not target.any():
            return torch.zeros(2)
        row, column = target.nonzero().float().mean(0)
        extent = 2.6 * np.tan(np.radians(25))
        size = image.shape[0]
        x, y = ((column + 0.5) / size * 2 - 1) * extent, -((row + 0.5) / size * 2 - 1) * extent
        return (4 * (torch.stack([x, y]) - observation.state[b])).clamp(-1, 1)


def jobs(config: PointConfig, episodes: int = 3, **options) -> list[Job]:
    return [
        Job(
            task.name, task.group, e, episode_seed("eval", 0, task.name, e), task.horizon, **options
        )
        for task in config.suite().tasks
        for e in range(episodes)
    ]
