"""Rewards of a loop: a round is scored, and the reward model may learn from it first.

Round by round: `RewardLearner.round` takes the episodes that were played and gives them back with
learned rewards. No env waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from vla.common.atomic import replace_folder
from vla.config import Choice, Config, ConfigError, PathText
from vla.config.numbers import BatchSize
from vla.data import Episode
from vla.data.dataset_config import DatasetConfig
from vla.models.policy import Policy
from vla.models.rewards.base import RewardError, RewardModel
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.scoring import (
    check_same_robot,
    labelled_episodes,
    score_episodes,
    steps_of,
    windows_of,
)
from vla.models.rewards.storage import load_reward, save_reward
from vla.training.optimizer import load_optimizer_tensors, optimizer_tensors
from vla.training.reward_learning.measures import precision_and_recall
from vla.training.seeding import seed_generators, seed_of
from vla.types import Spec


class OnlineRewardConfig(Config):
    """Which reward model scores the episodes of a round, and whether it learns from them."""

    path: PathText | None = None
    """Folder of a reward model, or of its run (`vla reward`); null begins with a new `model`."""
    model: Annotated[Any, Choice("rewards")] | None = None
    """A new reward model, which learns in the rounds alone."""
    policy: Annotated[Any, Choice("policies")] | None = None
    """With `model`: the network whose trunk it reads. It is no part of the policy that acts."""
    demonstrations: DatasetConfig | None = None
    """An expert's episodes: what the policy's own are compared with."""
    updates: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Gradient steps in each round, before it is scored; 0 leaves the model as it is."""
    batch_size: BatchSize = 128
    """Windows of a step, half of them the expert's."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""

    @model_validator(mode="after")
    def _consistent(self) -> OnlineRewardConfig:
        if (self.path is None) == (self.model is None):
            raise ValueError("path: name a reward model, or describe a new one with model")
        if self.path is not None and self.policy is not None:
            raise ValueError("policy: belongs to a new model; leave it out beside path")
        if self.model is not None and not self.model.learns_online:
            raise ValueError(
                f"model: {self.model.type} does not learn from rounds; train it with `vla reward` "
                "and name its folder in path"
            )
        if self.model is not None and self.policy is None:
            raise ValueError(f"policy: is required: model {self.model.type} reads a trunk")
        if self.model is not None and not self.updates:
            raise ValueError("updates: a new model has to learn; set for example updates=50")
        if self.updates and self.demonstrations is None:
            raise ValueError(
                "demonstrations: is required: the expert's episodes, which the model learns to "
                "tell from the policy's; write demonstrations.path=FOLDER, or updates=0"
            )
        return self

    def build(self, spec: Spec, *, seed: int, device: torch.device | str) -> RewardLearner:
        """The scorer for this robot.

        Raises:
            ConfigError: the model of `path` is of another robot, or does not learn from rounds.
            RewardError: the demonstrations are of another robot, or teach nothing.
        """
        return RewardLearner(self, spec, seed=seed, device=device)


class RewardLearner:
    """A reward model in a loop.

    Attributes:
        model: as it is now, on the device.
        theirs: the expert's steps; None if there are none.
    """

    def __init__(
        self, config: OnlineRewardConfig, spec: Spec, *, seed: int, device: torch.device | str
    ) -> None:
        self.config = config
        self.seed = seed
        demonstrations = None
        if config.demonstrations is not None:
            demonstrations = config.demonstrations.open("reward.demonstrations")
        if config.path is not None:
            self.model: RewardModel = load_reward(config.path, device=device)
            self._check_loaded(spec)
        else:
            assert config.model is not None  # the config sees to it
            assert config.policy is not None
            torch.manual_seed(seed_of(seed))
            policy: Policy = config.policy.build(spec)
            self.model = config.model.build(policy.spec, policy).to(device)
        self.theirs: LabelledSteps | None = None
        if demonstrations is not None:
            check_same_robot(self.model, demonstrations.spec, str(demonstrations.root))
            self.theirs = steps_of(self.model, windows_of(self.model, demonstrations))
        if config.path is None:
            assert self.theirs is not None
            assert self.model.policy is not None
            self.model.policy.fit(
                self.theirs.actions,
                self.theirs.states,
                self.theirs.instructions,
                lengths=self.theirs.lengths.tolist(),
            )
        self.model.eval()
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learned, lr=config.lr) if config.updates else None

    def _check_loaded(self, spec: Spec) -> None:
        problems = [f"reward.path: {line}" for line in self.model.spec.differences(spec)]
        if self.config.updates and not self.model.config.learns_online:
            kind = self.model.config.model_dump()["type"]
            problems.append(
                f"reward.updates: a {kind} does not learn from rounds; set reward.updates=0"
            )
        if problems:
            raise ConfigError(problems)

    def round(
        self, episodes: Sequence[Episode], number: int
    ) -> tuple[list[Episode], dict[str, float]]:
        """The episodes with the model's rewards, and what to log.

        `precision` and `recall` are of the model's judgement beside the success that the episodes
        came with, if it judges success: a policy that learns to fool it shows here first.

        Args:
            episodes: of the round, with the env's own rewards and successes.
            number: of the round, which with the seed decides what is drawn.

        Raises RewardError if an episode does not fit, or the loss became NaN or infinite.
        """
        metrics: dict[str, float] = {}
        if self.config.updates:
            assert self.theirs is not None  # the config sees to it
            mine = labelled_episodes(self.model, episodes)
            metrics |= self.update(mine, self.theirs, number)
        scored = score_episodes(self.model, episodes)
        if self.model.judges_success:
            called = np.array([bool(np.any(episode.success)) for episode in scored])
            solved = np.array([bool(np.any(episode.success)) for episode in episodes])
            found = precision_and_recall(called, solved)
            metrics |= {name: value for name, value in found.items() if np.isfinite(value)}
        if scored:
            rewards = np.concatenate([episode.rewards for episode in scored])
            metrics["reward"] = float(rewards.mean())
        return scored, metrics

    def update(self, mine: LabelledSteps, theirs: LabelledSteps, number: int) -> dict[str, float]:
        """`config.updates` gradient steps that tell the policy's steps from the expert's.

        Returns the means of the loss and of the model's own metrics.

        Raises RewardError if the loss became NaN or infinite.
        """
        assert self.optimizer is not None
        examples = self.model.examples(mine, theirs)
        sums: dict[str, float] = {}
        self.model.train()
        for update in range(self.config.updates):
            rng = np.random.default_rng([self.seed, number, update])
            # as the loop of training does: a resumed run draws the same noise
            seed_generators(seed_of(self.seed, number, update), self.model.device)
            batch = examples.batch(rng, self.config.batch_size).to(self.model.device)
            loss, metrics = self.model.loss(batch)
            if not bool(torch.isfinite(loss)):
                raise RewardError(
                    f"round {number}: the loss of the reward model is {float(loss)}; set a smaller "
                    "reward.lr"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        self.model.eval()
        return {name: total / self.config.updates for name, total in sums.items()}

    # --- storage ----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes the model as a folder that `load_reward` reads."""
        replace_folder(Path(folder), lambda temporary: save_reward(self.model, temporary))

    def tensors(self) -> dict[str, Tensor]:
        """All that rounds change, by name: what a checkpoint of the loop holds."""
        found = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.optimizer is not None:
            moments = optimizer_tensors(self.optimizer, self.model)
            found |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`. Raises RewardError if they are of another model."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        try:
            self.model.load_state_dict(parts["model"])
            if self.optimizer is not None:
                load_optimizer_tensors(self.optimizer, self.model, parts["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise RewardError(
                f"the checkpoint is of another reward model ({error}); restore the reward section "
                "of the config, or name another out"
            ) from error


__all__ = ["OnlineRewardConfig", "RewardLearner"]
