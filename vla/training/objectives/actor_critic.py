"""Value part and extraction part, joined: the offline RL objectives are choices of the two.

B windows, T steps, n lookahead steps, K actions per chunk, F features.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import Choice, register
from vla.data import Windows
from vla.data.rewards import check_rewards
from vla.models.critics import CriticConfig
from vla.models.heads.base import Head
from vla.models.policy import Policy
from vla.training.losses import Metrics, n_step_returns
from vla.training.objective import (
    AuxiliaryConfig,
    AuxiliaryRule,
    Objective,
    ObjectiveError,
    auxiliary_losses,
    check_auxiliary,
)
from vla.training.objectives.bc import BC
from vla.training.offline_rl.data_checks import (
    check_lower_bound,
    check_replayed_rewards,
    check_targets,
)
from vla.training.offline_rl.divergence import check_size, q_bound, watch_size
from vla.training.offline_rl.extractions.base import Extraction, ExtractionLoss
from vla.training.offline_rl.target_network import TargetCopy
from vla.training.offline_rl.values.base import Lookahead, Transition, ValueLearner, ValueLoss
from vla.training.offline_rl.values.none import NoValues
from vla.types import ActionDistribution, Batch, PolicyOutput

Discount = Annotated[float, Field(gt=0, le=1)]
Target = Literal["heads", "policy"]
"""Whose slow copy gives the targets of Q."""

_DIVERGENCE_REMEDY = (
    "lower optim.lr or value.target_rate, set value.critic.layer_norm: true, or use value: {type: "
    "expectile}, which asks for no action outside of the data"
)


@register("objectives", "actor_critic")
class ActorCriticConfig(AuxiliaryConfig):
    """Offline RL as a choice of how values are learned and how the policy is made from them.

    Formula: L = L_value(critics) + L_extraction(policy), of one pass over the same windows; the
    value part gives advantages (B, T) and Q of chunks (B, T, K, A) to the extraction. See the
    registered "values" and "extractions" for both losses, their sources and shapes.

    Source: chunks as actions; Li, Zhou and Levine, 2025, "Reinforcement learning with action
    chunking".
    """

    type: Literal["actor_critic"] = "actor_critic"
    value: Annotated[Any, Choice("values")] = Field(default={"type": "expectile"})
    """How values are learned."""
    extraction: Annotated[Any, Choice("extractions")] = Field(default={"type": "weighted_bc"})
    """How the policy is made from them."""
    discount: Discount = 0.99
    """Per environment step."""
    target: Target = "heads"
    """Whose slow copy gives the targets of Q: of the critics, over the present trunk's features, or
    of the whole policy too, whose features the target critics then read (its memory, and one more
    pass)."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn: nothing of the policy moves, whether critics are
    joint, losses auxiliary, or statistics of batch norm."""

    def build(self, policy: Policy) -> ActorCritic:
        return build_actor_critic(
            policy,
            self.value,
            self.extraction,
            discount=self.discount,
            warmup=self.warmup_steps,
            auxiliary=self.auxiliary,
            target=self.target,
        )


class CriticObjectiveConfig(AuxiliaryConfig, ABC):
    """What the presets of `actor_critic` share."""

    discount: Discount = 0.99
    """Per environment step."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far target copies move at every step. Short runs: 0.02."""
    monte_carlo_floor: bool = False
    """No target of Q below the return of the very episode: for sparse rewards, where values else
    spread slowly."""
    critic: CriticConfig = CriticConfig()
    """Networks."""
    target: Target = "heads"
    """Whose slow copy gives the targets of Q: of the critics alone, over the present trunk's
    features, or of the whole policy too."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn; nothing of the policy moves."""

    @property
    def critics(self) -> dict[str, Any]:
        """The fields of a value part that a preset has itself."""
        return {
            "critic": self.critic,
            "target_rate": self.target_rate,
            "monte_carlo_floor": self.monte_carlo_floor,
        }

    def join(
        self,
        policy: Policy,
        value: Any,
        extraction: Any,
    ) -> ActorCritic:
        """The objective of these parts."""
        return build_actor_critic(
            policy,
            value,
            extraction,
            discount=self.discount,
            warmup=self.warmup_steps,
            auxiliary=self.auxiliary,
            target=self.target,
        )


def build_actor_critic(
    policy: Policy,
    value: Any,
    extraction: Any,
    *,
    discount: float,
    warmup: int = 0,
    auxiliary: AuxiliaryRule = "weighted",
    target: Target = "heads",
) -> ActorCritic:
    """The objective for a policy.

    Args:
        policy: to be trained.
        value, extraction: configs of the two parts.
        discount: per environment step.
        warmup: first steps in which only the values learn.
        auxiliary: how the losses that the policy adds count the steps.
        target: whose slow copy gives the targets of Q.

    Raises ObjectiveError if the parts do not go together.
    """
    value.check_policy(policy)
    learner: ValueLearner = value.build(policy.feature_dim, policy.spec, policy.chunk)
    learner.discount = discount
    if target == "policy" and not hasattr(learner, "target_critic"):
        raise ObjectiveError(
            f"objective: target: policy would do nothing: {type(learner).__name__} has no target "
            "critics; drop it"
        )
    extracting: Extraction = extraction.build(policy, learner)
    if learner.soft:
        _ = extracting.entropy_temperature  # raises if there is none
    copied = target == "policy" or learner.target_policy or extracting.needs_slow_policy
    return ActorCritic(
        learner,
        extracting,
        executed=_executed(learner, policy),
        discount=discount,
        warmup=warmup,
        auxiliary=auxiliary,
        target=target,
        target_policy=_slow_copy(policy) if copied else None,
    )


def _executed(learner: ValueLearner, policy: Policy) -> int:
    """How many steps values look ahead. Raises ObjectiveError if nothing values actions."""
    executed = learner.config.critic.executed
    if executed is not None and learner.action_critic is None:
        raise ObjectiveError(
            f"objective: critic.executed: {executed} would do nothing: "
            f"{type(learner).__name__} values no actions; drop it"
        )
    return executed or policy.chunk


def _slow_copy(policy: Policy) -> TargetCopy:
    """A copy of the whole policy. Raises ObjectiveError if a checkpoint does not hold all of it."""
    # what a checkpoint leaves out is a frozen base, or adapters that it merges: no whole to follow
    if policy.weights().keys() != policy.state_dict().keys():
        raise ObjectiveError(
            f"objective: a target policy would copy a {policy.config.model_dump()['type']} with "
            "its frozen base or adapters; set target_policy: false, and target: heads"
        )
    heads = [module.tokenizer for module in policy.modules() if isinstance(module, Head)]
    # tokenizers and text encoder are shared: they are fitted later, and must be the same then
    return TargetCopy(policy, shared=[policy.tokenizer, *heads, policy.language])


class ActorCritic(Objective):
    """A value learner and an extraction, trained side by side.

    Critics value what control executes of a chunk: with n executed actions the target of Q looks n
    steps ahead, since that is what the policy commits itself to (Li et al., 2025). Steps within n
    of a truncation have no target. The policy's own loss is of the whole chunk.
    """

    steps: Tensor
    q_size: Tensor

    def __init__(
        self,
        value: ValueLearner,
        extraction: Extraction,
        *,
        executed: int,
        discount: float,
        warmup: int = 0,
        auxiliary: AuxiliaryRule = "weighted",
        target: Target = "heads",
        target_policy: TargetCopy | None = None,
    ) -> None:
        super().__init__()
        self.target: Target = target
        self.target_policy = target_policy
        self.value = value
        self.extraction = extraction
        self.discount = discount
        self.warmup = warmup
        self.auxiliary: AuxiliaryRule = auxiliary
        self.next_step = (value.lookahead_steps or executed) if value.looks_ahead else 0
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("q_size", torch.zeros(()))
        self._q_bound: float | None = None
        self._statistics: list[Tensor] = []  # the policy's, before a step that freezes it

    # --- before and after -------------------------------------------------------------------------

    def fit(self, windows: Windows) -> None:
        """Raises DataError or ObjectiveError if the rewards cannot teach what is good."""
        check_auxiliary(self.auxiliary, windows)
        if isinstance(self.value, NoValues):
            return
        check_rewards(windows, needs="varied")
        self._check_values(windows)

    def check_replayed(self, windows: Windows) -> None:
        """Raises DataError or ObjectiveError as `fit` does, of a further dataset."""
        if isinstance(self.value, NoValues):
            return
        check_replayed_rewards(windows)
        self._check_values(windows)

    def _check_values(self, windows: Windows) -> None:
        """Checks that values can be learned, and raises the bound on Q to what these data allow."""
        # Monte-Carlo values have a target at every step: they look ahead for advantages alone
        if self.value.looks_ahead and self.value.lookahead_steps is None:
            check_targets(windows, self.next_step)
        check_lower_bound(windows, self.value.return_bounds)
        self.value.check(windows)
        self._q_bound = max(self._q_bound or 0.0, q_bound(windows, self.discount))

    @property
    def skips_policy_update(self) -> bool:
        return self.freezes_policy or self.extraction.skips_policy_update

    @property
    def freezes_policy(self) -> bool:
        """Whether the values are still warming up."""
        # `warmup` first: reading `steps` makes a GPU wait
        return bool(self.warmup) and int(self.steps) < self.warmup

    def after_step(self, policy: Policy) -> None:
        """Moves target copies. Raises ObjectiveError if Q exceeds what any episode could return."""
        self.steps += 1
        if self._statistics:
            for buffer, kept in zip(policy.buffers(), self._statistics, strict=True):
                buffer.copy_(kept)
            self._statistics = []
        if self.value.target_every == 1 or int(self.steps) % self.value.target_every == 0:
            self.value.after_step()
            if self.target_policy is not None:
                self.target_policy.follow(policy, rate=self.value.config.target_rate)
        self.extraction.after_step()
        check_size(
            self.q_size,
            self._q_bound,
            steps=int(self.steps),
            discount=self.discount,
            remedy=_DIVERGENCE_REMEDY,
        )

    def deploy(self, policy: Policy) -> Policy:
        # what acts need not be what was trained: a critic may choose among the policy's proposals
        return self.extraction.deploy(policy, self.value)

    # --- learning ---------------------------------------------------------------------------------

    def weight(self, batch: Batch) -> Tensor:
        # the last n steps are there for targets only: they are no steps that are learned from
        return (batch.mask[:, : -self.next_step] if self.next_step else batch.mask).sum()

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """Value loss, policy loss, and the losses that the policy adds."""
        frozen = self.freezes_policy
        if self.training and frozen and not self._statistics:
            # a forward pass alone moves the statistics of batch norm: `after_step` puts them back
            self._statistics = [buffer.clone() for buffer in policy.buffers()]
        now = self._now(batch)
        output = policy(now)
        lookahead = self.lookahead(policy, batch)
        # Critics read features as they are, without teaching the trunk, unless they are joint.
        teaches = self.value.joint and not frozen
        features = output.features if teaches else output.features.detach()
        transition = self.transition(policy, now, output, features, lookahead)
        value, extracted = self._losses(policy, transition)
        added = auxiliary_losses(output, now, rule=self.auxiliary, weights=extracted.weights)
        if self.training:
            size = value.metrics.get("q_data", value.metrics.get("v"))
            if size is not None:
                watch_size(self.q_size, size, int(self.steps))
        # times 0, not left out: under distributed training every parameter must have a gradient
        learns = 0.0 if frozen else 1.0
        # auxiliary losses move the policy as well: at steps that skip it they have to rest too
        adds = 0.0 if self.skips_policy_update else 1.0
        metrics = value.metrics | extracted.metrics
        metrics |= {name: loss.detach() for name, loss in added.items()}
        metrics["policy_loss"] = extracted.loss.detach()
        return value.loss + learns * extracted.loss + adds * sum(added.values()), metrics

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """The metrics of imitation, the values' errors, and `loss`, the sum of both parts."""
        now = self._now(batch)
        # of the policy that learns: a guided one acts by the very critics that are judged here
        own = policy.unwrapped
        output = own(now)
        lookahead = self.lookahead(own, batch)
        transition = self.transition(own, now, output, output.features, lookahead)
        value, extracted = self._losses(own, transition)
        metrics = BC().validate(policy, now) | value.metrics | extracted.metrics
        return metrics | {"loss": value.loss + extracted.loss}

    def transition(
        self,
        policy: Policy,
        now: Batch,
        output: PolicyOutput,
        features: Float[Tensor, "B T F"],
        lookahead: Lookahead | None,
    ) -> Transition:
        """What values and extraction see of the present steps.

        Args:
            policy: that learns.
            now: the windows without the steps that only targets look at.
            output: of the policy, for these.
            features: as the critics read them.
            lookahead: what follows, if the values look ahead.
        """
        return Transition(
            now,
            features,
            output.actions,
            lookahead,
            slow_features=self._slow_features(policy, now),
            slow_actions=self._slow_actions(policy, now),
        )

    def _slow_actions(
        self, policy: Policy, batch: Batch
    ) -> Callable[[], ActionDistribution] | None:
        """What the slow copy does at these steps, for extractions that ask for it."""
        copied = self.target_policy
        if copied is None or not self.extraction.needs_slow_policy:
            return None
        copied.start(policy)
        return lambda: cast(ActionDistribution, copied(batch).actions)

    def _slow_features(self, policy: Policy, batch: Batch) -> Callable[[], Tensor] | None:
        """The features of the slow copy, to be computed once and if asked for."""
        copied = self.target_policy
        if self.target == "heads" or copied is None:
            return None
        copied.start(policy)
        network = cast(Policy, copied.network)

        @functools.cache
        def compute() -> Tensor:
            with torch.no_grad():
                return network.features(batch)

        return compute

    def _losses(self, policy: Policy, transition: Transition) -> tuple[ValueLoss, ExtractionLoss]:
        """Loss of the values and loss of the policy."""
        value = ValueLoss.of(self.value.loss(transition, transition.next))
        # What the value loss has found goes on to the extraction. The policy's loss moves no
        # critic, so its features have no gradient, whatever the critics' have.
        transition = dataclasses.replace(
            transition,
            features=transition.features.detach(),
            estimates=value.estimates,
        )
        returned = self.extraction.policy_loss(policy, transition, self.value)
        return value, ExtractionLoss.of(returned)

    def _now(self, batch: Batch) -> Batch:
        """The windows without the steps that only targets look at."""
        return batch.steps(0, -self.next_step) if self.next_step else batch

    def lookahead(self, policy: Policy, batch: Batch) -> Lookahead | None:
        """What follows the windows, if the values look ahead."""
        if not self.value.looks_ahead:
            return None
        returns, bootstrap, known = n_step_returns(
            batch.rewards,
            batch.terminals,
            batch.mask,
            n=self.next_step,
            discount=self.discount,
        )
        later = batch.steps(self.next_step, None)
        with torch.no_grad():
            if not self.value.needs_policy_later:
                # features alone: nobody asks for the actions there, and a head may be expensive
                slow = self._slow_features(policy, later)
                features = policy.features(later)
                transition = Transition(later, features, cast(Any, None), slow_features=slow)
                return Lookahead(transition, returns, bootstrap, known)
            if self.value.target_policy and self.target_policy is not None:
                self.target_policy.start(policy)
                # its own features are the slow ones already
                output = self.target_policy(later)
                slow = None
            else:
                output = policy(later)
                slow = self._slow_features(policy, later)
        acting = self.extraction.acting(output)
        transition = Transition(later, output.features, acting, slow_features=slow)
        temperature = self.extraction.entropy_temperature if self.value.soft else 0.0
        return Lookahead(transition, returns, bootstrap, known, temperature)


__all__ = [
    "ActorCritic",
    "ActorCriticConfig",
    "CriticObjectiveConfig",
    "Discount",
    "build_actor_critic",
]
