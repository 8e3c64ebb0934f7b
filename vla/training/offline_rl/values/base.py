"""The contract of value learners: what an action is worth, learned from data alone.

B windows, T steps, F features, K actions per chunk, A action dimensions, S sampled actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from vla.config import Config
from vla.models.critics import ActionCritic, CriticConfig, StateCritic
from vla.models.heads.gaussian import DiagonalGaussian
from vla.training.offline_rl.target_network import TargetCopy
from vla.types import ActionDistribution, Batch, Spec


@dataclass(frozen=True)
class Moment:
    """What is known of B windows of T steps.

    Attributes:
        batch: the data.
        features: (B, T, F) float32, without gradient unless critics are trained jointly with the trunk.
        actions: the policy's distribution at these steps.
        later: what follows, where the values look ahead.
    """

    batch: Batch
    features: Tensor
    actions: ActionDistribution
    later: Lookahead | None = None


@dataclass(frozen=True)
class Lookahead:
    """What follows a moment n steps later.

    Attributes:
        moment: the windows n steps later; without gradient.
        returns, bootstrap, known: of `n_step_returns`: the target is `returns + bootstrap * value later`, where known.
    """

    moment: Moment
    returns: Float[Tensor, "B T"]
    bootstrap: Float[Tensor, "B T"]
    known: Bool[Tensor, "B T"]


class ValueConfig(Config, ABC):
    """Base of the configs registered under "values"; a subclass adds `type: Literal["name"] = "name"`."""

    critic: CriticConfig = CriticConfig()
    """Networks."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far the target copies of the critics move towards them at every step (Polyak averaging)."""
    monte_carlo_floor: bool = False
    """No target of Q below what the very episode brought from there on: values then spread from the end of an episode to its
    start at once. For sparse rewards in worlds that are nearly deterministic (Chebotar et al., 2023). Rewards of 0 or more, or
    episodes that all terminate: what a cut episode brought is else no lower bound."""

    @abstractmethod
    def build(self, feature_dim: int, spec: Spec, chunk: int) -> ValueLearner:
        """A learner for a policy with features of this size and chunks of so many actions."""


class ValueLearner(nn.Module, ABC):
    """Learns values. All numbers are float32; `q` takes whole chunks.

    Attributes:
        config: what it was built from.
        looks_ahead: whether `loss` needs the step after the chunk.
        needs_policy_later: whether `loss` asks what the policy would do there.
        target_policy: whether a slowly moving copy of the policy is asked instead, which moves as target critics do.
        target_every: at every how many steps `after_step` is called.
        action_critic, state_critic: the networks, None where the learner has none; the first is what guided decoding
            asks.
    """

    config: ValueConfig
    looks_ahead: bool = False
    needs_policy_later: bool = False
    target_policy: bool = False
    target_every: int = 1
    action_critic: ActionCritic | None
    state_critic: StateCritic | None

    def __init__(self, config: ValueConfig) -> None:
        super().__init__()
        self.config = config
        self.action_critic = self.state_critic = None

    @property
    def joint(self) -> bool:
        """Whether critics train the policy's trunk too."""
        return self.config.critic.joint

    @property
    def held_up_by(self) -> list[str]:
        """The options by which values are held up by returns, which must then be lower bounds of what steps are worth."""
        return ["monte_carlo_floor"] if self.config.monte_carlo_floor else []

    @abstractmethod
    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the scalar to minimise (mean over the valid steps), and further scalars without gradient."""

    @abstractmethod
    def advantage(self, now: Moment) -> Float[Tensor, "B T"]:
        """How much better the data's actions are than what is usual at these steps; without gradient."""

    def q(
        self,
        features: Tensor,
        actions: Float[Tensor, "... B T K A"],
        *,
        of: Literal["least", "first"] = "least",
    ) -> Float[Tensor, "... B T"]:
        """Least Q of the ensemble, or that of its first member; differentiable in the actions alone: the critics are
        constants here."""
        assert self.action_critic is not None
        members = 1 if of == "first" else self.config.critic.ensemble
        values = torch.func.functional_call(
            self.action_critic, self.action_critic.constants(members), (features.detach(), actions)
        )
        return cast(Tensor, values.min(0).values)

    def after_step(self) -> None:
        """Called after the optimiser's steps: moves target copies."""


class Critics(ValueLearner):
    """Q networks with target copies, and perhaps V: what most learners share."""

    action_critic: ActionCritic

    def __init__(
        self, config: ValueConfig, feature_dim: int, spec: Spec, chunk: int, *, state_value: bool
    ) -> None:
        super().__init__(config)
        self.action_critic = ActionCritic(config.critic, feature_dim, spec, chunk)
        self.target_critic = TargetCopy(self.action_critic)
        self.state_critic = StateCritic(config.critic, feature_dim) if state_value else None

    def after_step(self) -> None:
        self.target_critic.follow(self.action_critic, rate=self.config.target_rate)

    def target(self, now: Moment, later: Lookahead, value_BT: Tensor) -> Tensor:
        """The n-step target of Q, given the value of what comes later."""
        target_BT = later.returns + later.bootstrap * value_BT
        return (
            target_BT.maximum(now.batch.returns_to_go)
            if self.config.monte_carlo_floor
            else target_BT
        )

    def target_q(
        self, features: Tensor, actions: Float[Tensor, "... B T K A"]
    ) -> Float[Tensor, "... B T"]:
        """Least Q of the target copies."""
        return self.target_critic(features, actions).min(0).values


def draw(
    actions: ActionDistribution, count: int, *, temperature: float = 1.0
) -> Float[Tensor, "S B T K A"]:
    """`count` chunks of each step, without gradient."""
    with torch.no_grad():
        if isinstance(actions, DiagonalGaussian) and temperature == 1:
            return actions.rsample(count=count)
        return torch.stack([actions.sample(temperature=temperature) for _ in range(count)])


def log_density(
    actions: ActionDistribution, chunks: Float[Tensor, "S B T K A"]
) -> Float[Tensor, "S B T"]:
    """`log_prob` of several chunks for each step, of a distribution that has one."""
    density: Any = actions
    if isinstance(actions, DiagonalGaussian):
        return actions.log_prob(chunks)
    return torch.stack([density.log_prob(chunk) for chunk in chunks])


__all__ = ["Critics", "Lookahead", "Moment", "ValueConfig", "ValueLearner", "draw", "log_density"]
