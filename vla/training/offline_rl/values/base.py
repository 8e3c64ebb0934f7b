"""The contract of value learners: what an action is worth, learned from data alone.

B windows, T steps, F features, K actions per chunk, A action dimensions, S sampled actions,
E critics.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from vla.common.renamed import accept_former_members, former_attributes
from vla.config import Config
from vla.data import Windows
from vla.models.critics import ActionCritic, CriticConfig, StateCritic
from vla.models.heads.gaussian import DiagonalGaussian
from vla.models.policy import Policy
from vla.training.losses import Metrics
from vla.training.offline_rl.target_network import TargetCopy
from vla.types import ActionDistribution, Batch, Spec


@dataclass(frozen=True)
class ValueEstimates:
    """Numbers that a value loss has computed on its way, without gradient.

    `ValueLearner.advantage` uses them in place of asking the critics a second time.

    Attributes:
        advantage: (B, T), how much better the data's actions are than usual.
        q_data: (B, T), least Q of the data's actions.
    """

    advantage: Float[Tensor, "B T"] | None = None
    q_data: Float[Tensor, "B T"] | None = None


@dataclass(frozen=True)
class Transition:
    """What is known of B windows of T steps.

    Attributes:
        batch: the data.
        features: (B, T, F) float32, without gradient unless critics are trained jointly with the
            trunk.
        actions: the policy's distribution at these steps.
        next: what follows, if the values look ahead.
        estimates: what the value loss has found of these very steps; nothing outside of training
            and validation.
        slow_features: gives the features (B, T, F) of a slow copy of the policy, if target critics
            read that.
        slow_actions: gives the distribution of a slow copy of the policy at these steps, if the
            extraction asks for it (`Extraction.needs_slow_policy`).
    """

    batch: Batch
    features: Float[Tensor, "B T F"]
    actions: ActionDistribution
    next: Lookahead | None = None
    estimates: ValueEstimates = ValueEstimates()
    slow_features: Callable[[], Tensor] | None = None
    slow_actions: Callable[[], ActionDistribution] | None = None

    @functools.cached_property
    def target_features(self) -> Float[Tensor, "B T F"]:
        """What target critics read: the present trunk's features, or those of its slow copy."""
        # only now: the pass of the copy is one more, and not every value part asks for it here
        return self.features if self.slow_features is None else self.slow_features()

    @property
    def later(self) -> Lookahead | None:
        """Former name of `next`."""
        return self.next


@dataclass(frozen=True)
class Lookahead:
    """What follows a transition n steps later.

    Attributes:
        transition: the windows n steps later; without gradient.
        returns, bootstrap, known: of `n_step_returns`. The target is
            `returns + bootstrap * value of the later state`, where known.
        temperature: what the extraction pays for a nat of the policy's entropy, in units of reward.
    """

    transition: Transition
    returns: Float[Tensor, "B T"]
    bootstrap: Float[Tensor, "B T"]
    known: Bool[Tensor, "B T"]
    temperature: Tensor | float = 0.0

    @property
    def moment(self) -> Transition:
        """Former name of `transition`."""
        return self.transition


@dataclass(frozen=True)
class ValueLoss:
    """What `ValueLearner.loss` returns.

    Attributes:
        loss: the scalar to minimise, a mean over the valid steps.
        metrics: further scalars, without gradient.
        estimates: what extractions need not compute again.
    """

    loss: Tensor
    metrics: Metrics
    estimates: ValueEstimates = ValueEstimates()

    def __iter__(self) -> Iterator[Any]:
        # value parts outside of this repository unpack `super().loss(...)` as a pair
        return iter((self.loss, self.metrics))

    @classmethod
    def of(cls, returned: ValueLoss | tuple[Tensor, Metrics]) -> ValueLoss:
        """What a value part returned; one that returns the pair (loss, metrics) gives no
        estimates."""
        return returned if isinstance(returned, cls) else cls(*returned)


class ValueConfig(Config, ABC):
    """Base of the configs registered under "values".

    A subclass adds `type: Literal["name"] = "name"`.
    """

    critic: CriticConfig = CriticConfig()
    """Networks."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far the target copies of the critics move towards them at every step (Polyak
    averaging)."""
    monte_carlo_floor: bool = False
    """No target of Q is below the return of the very episode from there on: values then spread from
    the end of an episode to its start at once. For sparse rewards in worlds that are nearly
    deterministic (Chebotar et al., 2023). Rewards of 0 or more, or episodes that all terminate: the
    return of a truncated episode is no lower bound otherwise."""

    def check_policy(self, policy: Policy) -> None:
        """Raises ObjectiveError if values cannot be learned beside this policy; called before
        `build`."""

    @abstractmethod
    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> ValueLearner:
        """A learner for a policy with features of this size and chunks of so many actions."""


class ValueLearner(nn.Module, ABC):
    """Learns values. All numbers are float32; `q` takes whole chunks.

    Attributes:
        config: what it was built from.
        looks_ahead: whether `loss` needs a later step.
        lookahead_steps: how many steps later that is; None for the step after the chunk.
        needs_policy_later: whether `loss` asks what the policy would do there.
        target_policy: whether a slowly moving copy of the policy is asked instead, which moves when
            target critics do.
        target_every: at every how many steps `after_step` is called.
        soft: whether targets count the policy's entropy, at the extraction's temperature.
        discount: of the objective, per environment step.
        action_critic, state_critic: the networks, None if the learner has none; the first is what
            guided decoding asks.
    """

    config: ValueConfig
    looks_ahead: bool = False
    lookahead_steps: int | None = None
    needs_policy_later: bool = False
    target_policy: bool = False
    target_every: int = 1
    soft: bool = False
    discount: float = 1.0
    action_critic: ActionCritic | None
    state_critic: StateCritic | None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_former_members(cls, {"held_up_by": "return_bounds"})

    def __init__(self, config: ValueConfig) -> None:
        super().__init__()
        self.config = config
        self.action_critic = None
        self.state_critic = None

    @property
    def joint(self) -> bool:
        """Whether critics train the policy's trunk too."""
        return self.config.critic.joint

    @property
    def return_bounds(self) -> list[str]:
        """The options by which Monte-Carlo returns bound values from below.

        Returns of the data must then be lower bounds of what steps are worth (`check_lower_bound`).
        """
        return ["monte_carlo_floor"] if self.config.monte_carlo_floor else []

    held_up_by = return_bounds  # former name

    def check(self, windows: Windows) -> None:
        """Called before the first step with each dataset that is learned from.

        Raises ObjectiveError if it cannot teach these values.
        """

    @abstractmethod
    def loss(
        self, now: Transition, lookahead: Lookahead | None
    ) -> ValueLoss | tuple[Tensor, Metrics]:
        """The loss of the critics.

        Args:
            now: features with a gradient if critics are trained jointly with the trunk.
            lookahead: what follows; None unless `looks_ahead`.

        Returns:
            a `ValueLoss`, or the pair (scalar to minimise, further scalars without gradient).
        """

    @abstractmethod
    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        """How much better the data's actions are than what is usual at these steps; no gradient.

        `now.estimates` holds what the loss of the same steps has found already, if it was asked.
        """

    def q(
        self,
        features: Float[Tensor, "B T F"],
        actions: Float[Tensor, "... B T K A"],
        *,
        of: Literal["least", "first", "mean"] = "least",
    ) -> Float[Tensor, "... B T"]:
        """Least Q of the ensemble, that of its first member, or the mean; differentiable in the
        actions alone."""
        assert self.action_critic is not None
        members = 1 if of == "first" else self.config.critic.ensemble
        # the critics as constants: a policy that follows Q must not bend Q towards its own actions
        constants = self.action_critic.constants(members)
        inputs = (features.detach(), actions)
        values_EBT = torch.func.functional_call(self.action_critic, constants, inputs)
        if of == "mean":
            return cast(Tensor, values_EBT.mean(0))
        return cast(Tensor, values_EBT.min(0).values)

    def after_step(self) -> None:
        """Called after the optimiser's steps: moves target copies."""


class Critics(ValueLearner):
    """Q networks with target copies, and perhaps V: what most learners share."""

    action_critic: ActionCritic

    def __init__(
        self,
        config: ValueConfig,
        feature_dim: int,
        spec: Spec,
        chunk: int,
        *,
        state_value: bool,
    ) -> None:
        super().__init__(config)
        self.action_critic = ActionCritic(config.critic, feature_dim, spec, chunk)
        # Of the critics alone, over the present trunk's features, unless a target trunk is asked
        # for (`Transition.target_features`): its pass is one more at every step.
        self.target_critic = TargetCopy(self.action_critic)
        self.state_critic = StateCritic(config.critic, feature_dim) if state_value else None

    def after_step(self) -> None:
        self.target_critic.follow(self.action_critic, rate=self.config.target_rate)

    def target(
        self, now: Transition, lookahead: Lookahead, value_BT: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """The n-step target of Q, given the value of the later state."""
        target_BT = lookahead.returns + lookahead.bootstrap * value_BT
        if self.config.monte_carlo_floor:
            # the episode itself went on from this very action, so its return can be had
            return target_BT.maximum(now.batch.returns_to_go)
        return target_BT

    def target_q(
        self, features: Float[Tensor, "B T F"], actions: Float[Tensor, "... B T K A"]
    ) -> Float[Tensor, "... B T"]:
        """Least Q of the target copies (clipped double Q-learning; Fujimoto et al., 2018)."""
        return self.target_critic(features, actions).min(0).values


def draw(
    actions: ActionDistribution, count: int, *, temperature: float = 1.0
) -> Float[Tensor, "S B T K A"]:
    """`count` chunks of each step, without gradient."""
    with torch.no_grad():
        # one call for all: a loop of small draws costs more than the critics that read them
        if isinstance(actions, DiagonalGaussian) and temperature == 1:
            return actions.rsample(count=count)
        return torch.stack([actions.sample(temperature=temperature) for _ in range(count)])


def own_actions(actions: ActionDistribution, count: int) -> Float[Tensor, "S B T K A"]:
    """Chunks of each step as the policy would act there, without gradient.

    `count` samples. If samples hold the spread of the training targets as well
    (`samples_are_smoothed`, see `vla.models.heads.categorical`), the most likely chunk alone, S =
    1.
    """
    # spread over neighbouring bins was asked of the head for learning's sake: a policy that acts by
    # its mode never takes such actions, and values should not be of them
    if getattr(actions, "samples_are_smoothed", False):
        with torch.no_grad():
            return actions.mode()[None]
    return draw(actions, count)


def log_density(
    actions: ActionDistribution, chunks: Float[Tensor, "S B T K A"]
) -> Float[Tensor, "S B T"]:
    """`log_prob` of several chunks for each step, of a distribution that has one."""
    # only Gaussians take several chunks of each step at once
    if isinstance(actions, DiagonalGaussian):
        return actions.log_prob(chunks)
    density: Any = actions
    return torch.stack([density.log_prob(chunk) for chunk in chunks])


if not TYPE_CHECKING:  # a type checker would take every misspelled import for an attribute
    __getattr__ = former_attributes(__name__, {"Moment": "Transition"})

__all__ = [
    "Critics",
    "Lookahead",
    "Transition",
    "ValueConfig",
    "ValueEstimates",
    "ValueLearner",
    "ValueLoss",
    "draw",
    "log_density",
    "own_actions",
]
