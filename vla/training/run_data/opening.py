"""The data of a run: one robot's dataset with what is replayed beside it, or a mixture of several robots' datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vla.data import EpisodeDataset, Windows, WindowSampler
from vla.data.loading.multi_robot import MixedRobots, joint_spec
from vla.data.loading.replay_mixture import Mixture, MixtureSampler
from vla.data.loading.stream_order import StreamOrder
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy, PolicyConfig
from vla.training.config import TrainConfig
from vla.training.losses import robot_means
from vla.training.objective import Objective
from vla.training.run_data.batches import build_sampler, open_windows
from vla.training.run_data.multi_robot import (
    OpenMixture,
    card,
    lines,
    open_datasets,
    open_mixture,
    robots_policy,
)
from vla.training.run_data.replay import with_replay
from vla.types import Spec


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, opened, and what policy they want.

    Attributes:
        datasets: by the name of their robot; of a run without mixture the one dataset, under "".
        spec: of the policy.
        policy: what it is built from; None where that is left to `init_from`.
    """

    datasets: dict[str, EpisodeDataset]
    spec: Spec
    policy: PolicyConfig | None


def open_sources(config: TrainConfig) -> Sources:
    """Opens the datasets that a config names; their images are not read yet.

    Raises:
        ConfigError: a mixture contradicts itself or the objective.
        DataError: a dataset cannot be read.
    """
    if not config.data.mixture:
        dataset = EpisodeDataset(config.data.path)
        return Sources({"": dataset}, dataset.spec, config.policy)
    datasets = open_datasets(config)
    policy = robots_policy(config, datasets)
    specs = (
        {name: dataset.spec for name, dataset in datasets.items()}
        if policy is None
        else policy.specs
    )
    return Sources(datasets, joint_spec(specs), policy)


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    Attributes:
        windows: to train on.
        sampler: which of them each step draws.
        held_out: windows to validate on, by the name of their robot ("" without mixture); empty where nothing is held out.
        episodes: that are trained on.
        card: what the model card tells of the data.
        lines: what a user wants to know, before training begins.
        mixture: the robots' windows, where there are several.
    """

    windows: Windows | Mixture | MixedRobots
    sampler: WindowSampler | StreamOrder | MixtureSampler
    held_out: dict[str, Windows]
    episodes: int
    frames: int
    card: dict[str, Any]
    lines: list[str]
    mixture: OpenMixture | None = None

    def told(self, means: dict[str, float], step: int) -> dict[str, float]:
        """A line of the log from the means of its steps: of a mixture with each robot's own loss and epochs."""
        return (
            means
            if self.mixture is None
            else robot_means(means, list(self.mixture.shares)) | self.mixture.epochs(step)
        )


def open_data(
    config: TrainConfig,
    sources: Sources,
    policy: Policy,
    objective: Objective,
    *,
    rank: int,
    world_size: int,
) -> RunData:
    """Reads the windows as policy and objective want them, and tells the objective of them.

    Raises:
        ConfigError: data, policy and batch do not go together.
        DataError: a dataset cannot be read, or cannot teach what the objective learns.
        ObjectiveError: the same.
    """
    if config.data.mixture:
        mixture = open_mixture(
            config, sources.datasets, policy, objective, rank=rank, world_size=world_size
        )
        assert isinstance(policy, MultiRobotPolicy)  # open_mixture has seen to it
        told = card(mixture, sources.datasets)
        return RunData(
            mixture.windows,
            mixture.sampler,
            mixture.held_out,
            episodes=told["episodes"],
            frames=told["frames"],
            card=told,
            lines=lines(policy, mixture),
            mixture=mixture,
        )
    dataset = sources.datasets[""]
    windows, held_out = open_windows(config, dataset, policy, objective)
    objective.fit(windows)
    sampler = build_sampler(config, windows, objective, rank=rank, world_size=world_size)
    drawn, draws = with_replay(config, policy, objective, windows, sampler)
    episodes, frames = len(windows.episodes), len(windows)
    told = {"dataset": dataset.root.name, "episodes": episodes, "frames": frames}
    return RunData(
        drawn, draws, {} if held_out is None else {"": held_out}, episodes, frames, told, []
    )


__all__ = ["RunData", "Sources", "open_data", "open_sources"]
