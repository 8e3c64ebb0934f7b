"""What a snapshot is worth: its returns on starts that no training has met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.sim_eval.env import EnvConfig, Task
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.types import Actor


@dataclass(frozen=True)
class Measured:
    """Episodes of a policy, without exploration.

    Attributes:
        returns: sum of rewards of each.
        solved: how many succeeded at some step.
    """

    returns: tuple[float, ...]
    solved: int

    @property
    def episodes(self) -> int:
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Of the returns."""
        return float(np.mean(self.returns))

    @property
    def deviation(self) -> float:
        """Standard deviation between episodes."""
        return float(np.std(self.returns))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "return": round(self.mean, 2),
            "return_deviation": round(self.deviation, 2),
            "solved": self.solved,
            "episodes": self.episodes,
        }


def measure(
    policy: Actor,
    env: EnvConfig,
    task: Task,
    *,
    episodes: int,
    seed: int,
    threads: int,
) -> Measured:
    """Plays `episodes` of the task in this process, on the starts of `vla eval`.

    Raises what `rollout` raises.
    """
    jobs = [
        Job(
            task=task.name,
            group=task.group,
            episode=number,
            seed=env.evaluation_seed(episode_seed("eval", seed, task.name, number), number),
            horizon=task.horizon,
        )
        for number in range(episodes)
    ]
    # in this process: starting workers for a few episodes takes longer than playing them
    records = rollout(env, jobs, policy, RolloutSettings(threads=threads))
    returns = tuple(record.return_ for record in records)
    return Measured(returns, sum(record.success_ever for record in records))


__all__ = ["Measured", "measure"]
