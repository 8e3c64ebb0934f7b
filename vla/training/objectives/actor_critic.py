"""Value part and extraction part, joined: the offline RL objectives are choices of the two.

B windows, T steps, n lookahead steps, K actions per chunk, F features.
"""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from vla.config import Choice, register
from vla.data import Windows
from vla.data.rewards import check_rewards
from vla.models.critics import CriticConfig
from vla.models.heads.base import Head
from vla.models.policy import Policy
from vla.training.losses import n_step_returns
from vla.training.objective import Objective, ObjectiveConfig, ObjectiveError, asked_besides
from vla.training.objectives.bc import BC
from vla.training.offline_rl.data_checks import (
    check_lower_bound,
    check_replayed_rewards,
    check_targets,
)
from vla.training.offline_rl.divergence import check_size, q_bound, watch_size
from vla.training.offline_rl.extractions.base import Extraction
from vla.training.offline_rl.target_network import TargetCopy
from vla.training.offline_rl.values.base import Lookahead, Moment, ValueLearner
from vla.training.offline_rl.values.none import NoValues
from vla.types import Batch

Discount = Annotated[float, Field(gt=0, le=1)]


@register("objectives", "actor_critic")
class ActorCriticConfig(ObjectiveConfig):
    """Offline RL as a choice of how values are learned and how the policy is made from them."""

    type: Literal["actor_critic"] = "actor_critic"
    value: Annotated[Any, Choice("values")] = Field(default={"type": "expectile"})
    """How values are learned."""
    extraction: Annotated[Any, Choice("extractions")] = Field(default={"type": "weighted_bc"})
    """How the policy is made from them."""
    discount: Discount = 0.99
    """Per environment step."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn; the policy's own loss counts for nothing."""

    def build(self, policy: Policy) -> ActorCritic:
        return build_actor_critic(
            policy, self.value, self.extraction, discount=self.discount, warmup=self.warmup_steps
        )


class CriticObjectiveConfig(ObjectiveConfig, ABC):
    """What the presets of `actor_critic` share."""

    discount: Discount = 0.99
    """Per environment step."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far target copies move at every step. Short runs: 0.02."""
    monte_carlo_floor: bool = False
    """No target of Q below what the very episode brought: for sparse rewards, where values else spread slowly."""
    critic: CriticConfig = CriticConfig()
    """Networks."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn."""

    @property
    def critics(self) -> dict[str, Any]:
        """The fields of a value part that are told here."""
        return {
            name: getattr(self, name) for name in ("critic", "target_rate", "monte_carlo_floor")
        }

    def join(self, policy: Policy, value: Any, extraction: Any) -> ActorCritic:
        """The objective of these parts."""
        return build_actor_critic(
            policy, value, extraction, discount=self.discount, warmup=self.warmup_steps
        )


def build_actor_critic(
    policy: Policy, value: Any, extraction: Any, *, discount: float, warmup: int = 0
) -> ActorCritic:
    """The objective for a policy. Raises ObjectiveError where the parts do not go together."""
    learner: ValueLearner = value.build(policy.feature_dim, policy.spec, policy.chunk)
    return ActorCritic(
        learner,
        extraction.build(policy, learner),
        chunk=policy.chunk,
        discount=discount,
        warmup=warmup,
        target_policy=_slow_copy(policy) if learner.target_policy else None,
    )


def _slow_copy(policy: Policy) -> TargetCopy:
    if policy.weights().keys() != policy.state_dict().keys():
        raise ObjectiveError(
            f"objective: target_policy would copy a {policy.config.model_dump()['type']} with its frozen base or adapters; set "
            "target_policy: false"
        )
    heads = [module.tokenizer for module in policy.modules() if isinstance(module, Head)]
    return TargetCopy(policy, shared=[policy.tokenizer, *heads, policy.language])


class ActorCritic(Objective):
    """A value learner and an extraction, trained side by side.

    Critics value whole chunks: with K actions per chunk the target of Q looks K steps ahead, since that is what the policy
    commits itself to (Li et al., 2025, "Reinforcement learning with action chunking").
    """

    steps: Tensor
    q_size: Tensor

    def __init__(
        self,
        value: ValueLearner,
        extraction: Extraction,
        *,
        chunk: int,
        discount: float,
        warmup: int = 0,
        target_policy: TargetCopy | None = None,
    ) -> None:
        super().__init__()
        self.target_policy = target_policy
        self.value, self.extraction, self.discount, self.warmup = (
            value,
            extraction,
            discount,
            warmup,
        )
        self.next_step = chunk if value.looks_ahead else 0
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("q_size", torch.zeros(()))
        self._q_bound: float | None = None
        self._labelled = False  # whether the data tells which episodes are solved

    # --- before and after ------------------------------------------------------------------------------

    def fit(self, windows: Windows) -> None:
        """Raises DataError or ObjectiveError where the rewards cannot teach what is good."""
        self._labelled = bool(windows.success.any())
        if isinstance(self.value, NoValues):
            return
        check_rewards(windows, needs="varied")
        self._allow(windows)

    def check_replayed(self, windows: Windows) -> None:
        """Raises DataError or ObjectiveError where the rewards of a further dataset cannot teach what is good."""
        if isinstance(self.value, NoValues):
            return
        check_replayed_rewards(windows)
        self._allow(windows)

    def _allow(self, windows: Windows) -> None:
        """Checks that values can be learned from these data, and allows them what these data may bring."""
        if self.value.looks_ahead:
            check_targets(windows, self.next_step)
        check_lower_bound(windows, self.value.held_up_by)
        self._q_bound = max(self._q_bound or 0.0, q_bound(windows, self.discount))

    @property
    def policy_rests(self) -> bool:
        return self._warms_up or self.extraction.rests

    @property
    def _warms_up(self) -> bool:
        return bool(self.warmup) and int(self.steps) < self.warmup

    def after_step(self, policy: Policy) -> None:
        """Moves target copies. Raises ObjectiveError where Q has left what any episode could bring."""
        self.steps += 1
        if self.value.target_every == 1 or int(self.steps) % self.value.target_every == 0:
            self.value.after_step()
            if self.target_policy is not None:
                self.target_policy.follow(policy, rate=self.value.config.target_rate)
        self.extraction.after_step()
        remedy = (
            "lower optim.lr or value.target_rate, set value.critic.layer_norm: true, or use value: {type: expectile}, which asks "
            "for no action outside of the data"
        )
        check_size(
            self.q_size, self._q_bound, steps=int(self.steps), discount=self.discount, remedy=remedy
        )

    def deploy(self, policy: Policy) -> Policy:
        return self.extraction.deploy(policy, self.value)

    # --- learning --------------------------------------------------------------------------------------

    def weight(self, batch: Batch) -> Tensor:
        return (batch.mask[:, : -self.next_step] if self.next_step else batch.mask).sum()

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        now = self._now(batch)
        output = policy(now)
        features = output.features if self.value.joint else output.features.detach()
        later = self.lookahead(policy, batch)
        value_loss, metrics = self.value.loss(Moment(now, features, output.actions), later)
        moment = Moment(now, features.detach(), output.actions, later)
        policy_loss, more = self.extraction.loss(moment, self.value)
        added = asked_besides(output, now, solved_only=self._labelled)
        if self.training:
            size = metrics.get("q_data", metrics.get("v"))
            if size is not None:
                watch_size(self.q_size, size, int(self.steps))
        learns = 0.0 if self._warms_up else 1.0
        metrics |= more | {name: loss.detach() for name, loss in added.items()}
        return value_loss + learns * policy_loss + sum(added.values()), metrics | {
            "policy_loss": policy_loss.detach()
        }

    def validate(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """What imitation would tell of held-out windows, the values' errors, and `loss`, the sum of both parts."""
        now = self._now(batch)
        own = policy.unwrapped
        output = own(now)
        later = self.lookahead(own, batch)
        moment = Moment(now, output.features, output.actions, later)
        value_loss, metrics = self.value.loss(moment, later)
        policy_loss, more = self.extraction.loss(moment, self.value)
        return BC().validate(policy, now) | metrics | more | {"loss": value_loss + policy_loss}

    def _now(self, batch: Batch) -> Batch:
        return batch.steps(0, -self.next_step) if self.next_step else batch

    def lookahead(self, policy: Policy, batch: Batch) -> Lookahead | None:
        """What follows the windows, where the values look ahead."""
        if not self.value.looks_ahead:
            return None
        returns, bootstrap, known = n_step_returns(
            batch.rewards, batch.terminals, batch.mask, n=self.next_step, discount=self.discount
        )
        later = batch.steps(self.next_step, None)
        with torch.no_grad():
            if not self.value.needs_policy_later:  # then nobody looks at its actions
                return Lookahead(
                    Moment(later, policy.features(later), cast(Any, None)),
                    returns,
                    bootstrap,
                    known,
                )
            if self.target_policy is not None:
                self.target_policy.start(policy)
            output = (self.target_policy or policy)(later)
        return Lookahead(Moment(later, output.features, output.actions), returns, bootstrap, known)


__all__ = [
    "ActorCritic",
    "ActorCriticConfig",
    "CriticObjectiveConfig",
    "Discount",
    "build_actor_critic",
]
