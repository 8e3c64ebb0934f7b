"""Episodes to be played, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vla.common.renamed import announce_renamed
from vla.sim_eval.gates.stuck import StuckConfig
from vla.sim_eval.rollouts.takeover import TakeoverConfig

Driver = Literal["policy", "expert", "random"]


@dataclass(frozen=True)
class Job:
    """One episode to be played.

    Attributes:
        group: what its task is averaged with.
        episode: its number within the task.
        seed: of the env's reset.
        horizon: greatest number of steps.
        driver: what acts: the policy, in the process that asked for the episode; the scripted
            expert; or chance.
        after_success_steps: steps to play after the first success.
        video: file for a film of every step; None films nothing.
        draw: tells apart episodes of one seed: the policy draws other samples.
        record: keep the episode's steps (`RolloutStats.episodes`). Every step is then drawn.
        label: record what the expert would have done at each step.
        label_chunk: how many actions of the expert are recorded at each step with `label`: where
            more than one, it plays ahead, in envs that can be put back.
        takeover: when the expert acts in the policy's place; None for never.
        stop_if_stuck: end the episode, as a time limit does, where nothing has moved for so long;
            None for never.
        failure_video: file for a film of what the policy saw, should it fail; None films nothing.
            It is not written if the worker has filmed `failure_videos` earlier episodes that failed
            alike.
    """

    task: str
    group: str
    episode: int
    seed: int
    horizon: int
    driver: Driver = "policy"
    after_success_steps: int = 0
    video: Path | None = None
    failure_video: Path | None = None
    failure_videos: int = 1
    draw: int = 0
    record: bool = False
    label: bool = False
    label_chunk: int = 1
    takeover: TakeoverConfig | None = None
    stop_if_stuck: StuckConfig | None = None

    @property
    def asks_expert(self) -> bool:
        """Whether the expert is asked at the policy's steps."""
        return self.label or self.takeover is not None

    def __post_init__(self) -> None:
        if str(self.driver) == "parent":
            announce_renamed('Job(driver="parent")', 'Job(driver="policy")')
            object.__setattr__(self, "driver", "policy")  # the one way into a frozen dataclass


@dataclass(frozen=True)
class Decision:
    """What the policy has chosen at a step.

    Attributes:
        actions: float32 (n, A), to be executed one after the other.
        uncertainty: of the policy in them, if a gate asks for it.
    """

    actions: np.ndarray
    uncertainty: float | None = None


@dataclass(frozen=True)
class EpisodeRecord:
    """What came of one episode.

    Attributes:
        success_ever: solved at some step.
        success_at_end: solved at the last step that was played.
        steps: control steps played.
        return_: sum of rewards.
        failure: empty after a success, else how far the episode came, in the simulator's words.
        video: file of the episode, relative to the folder of the results; empty if none was made.
        failure_step: the step at which it went wrong, as far as the simulator knows, else the last
            one; -1 after a success.
        max_reward: greatest reward of a step; None if it is not known.
    """

    task: str
    group: str
    episode: int
    seed: int
    instruction: str
    success_ever: bool
    success_at_end: bool
    steps: int
    return_: float
    failure: str
    video: str = ""
    failure_step: int = -1
    max_reward: float | None = None
