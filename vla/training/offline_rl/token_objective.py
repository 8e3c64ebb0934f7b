"""What the objectives share that learn values of single action tokens (Q-Transformer, ILQL).

A policy's head gives the values. A chunk is one macro action of K environment steps, so that the
state after it is K steps later, and its tokens are decisions inside it. Targets come from a copy of
the head that follows slowly and reads the features of the present trunk, or from a copy of the
whole policy.

B windows, T steps, R hidden states read per step, W their width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from vla.data import Windows
from vla.data.errors import DataError
from vla.data.rewards import check_rewards
from vla.models.heads.base import Head
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean, n_step_returns
from vla.training.objective import (
    AuxiliaryConfig,
    Objective,
    ObjectiveError,
    auxiliary_losses,
    check_auxiliary,
)
from vla.training.offline_rl.data_checks import check_replayed_rewards, check_targets
from vla.training.offline_rl.divergence import check_size, q_bound, watch_size
from vla.training.offline_rl.priorities import IMPORTANCE
from vla.training.offline_rl.target_network import TargetCopy
from vla.types import Batch, PolicyOutput


class TokenValueConfig(AuxiliaryConfig):
    """What the objectives over values of action tokens have in common."""

    discount: float = Field(default=0.98, gt=0, le=1)
    """Discount per environment step; the tokens of one chunk are not discounted against each
    other."""
    target: Literal["head", "policy"] = "head"
    """Whose slow copy gives the targets: of the head, over the present trunk's features, or of the
    whole policy, which costs its memory and one more pass."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far the target copy moves at every step (Polyak averaging)."""


@dataclass(frozen=True)
class NStepReturn:
    """Returns of whole chunks (see `vla.training.losses.n_step_returns`).

    Attributes:
        returns: discounted rewards of the chunk's steps.
        bootstrap: weight of the value of the state after the chunk; 0 if the task ended.
        known: False if the episode was truncated before, and at padding.
        chosen_by: the learning head's distribution at the state after the chunk, by which the next
            action is chosen; None if the target copy chooses it.
    """

    returns: Float[Tensor, "B T"]
    bootstrap: Float[Tensor, "B T"]
    known: Bool[Tensor, "B T"]
    chosen_by: Any = None

    def target(self, next_values: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The target, given the values of the states after the chunks."""
        # padded steps may have any value, also NaN, which a product with zero would let through
        bootstrapped = torch.where(self.bootstrap > 0, self.bootstrap * next_values, 0.0)
        return self.returns + bootstrapped


@dataclass(frozen=True)
class TokenLosses:
    """What one pass over a batch gives.

    Attributes:
        output: of the policy, at the steps of `now`.
        now: the windows without the steps that only targets look at.
        loss: of every step.
        metrics: further numbers of every step, (B, T) each.
    """

    output: PolicyOutput
    now: Batch
    loss: Float[Tensor, "B T"]
    metrics: Metrics


class TokenValueObjective(Objective):
    """A temporal-difference objective over a head that gives values of tokens.

    Subclasses define `learn`.

    Args:
        config: with its registered `type`.
        policy: to be trained; its head must be a `head_class`.
        head_class: what gives the values.
        head_name: its registered name.
    """

    steps: Tensor
    q_size: Tensor

    double_q: bool = False
    """Whether the learning head chooses the next action, which its copy values."""
    rewards_needed: Literal["varied", "unit"] = "varied"
    """What `fit` asks of the rewards. `unit` is for bounded values, which cannot diverge."""

    def __init__(
        self,
        config: TokenValueConfig,
        policy: Policy,
        head_class: type[Head],
        head_name: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.name = config.model_dump()["type"]
        self.discount = config.discount
        self.next_step = policy.chunk
        head = _head(policy)
        if not isinstance(head, head_class):
            raise ObjectiveError(
                f"objective {self.name}: learns values of action tokens, and policy.head "
                f"{_head_name(policy)!r} gives none; set policy.head: {{type: {head_name}}} and "
                "train from there (a trained policy with another head has no values)"
            )
        # what a checkpoint leaves out (a frozen base, adapters) cannot be copied as one whole
        whole = policy.weights().keys() == policy.state_dict().keys()
        if config.target == "policy" and not whole:
            raise ObjectiveError(
                f"objective {self.name}: target: policy would copy a "
                f"{policy.config.model_dump()['type']} with its frozen base; set "
                "objective.target: head"
            )
        # shared, not copied: the tokenizer is fitted after the objective is built
        shared = [policy.tokenizer, head.tokenizer, policy.language]
        self.target = TargetCopy(head if config.target == "head" else policy, shared=shared)
        self._q_bound: float | None = None
        if self._watches_size:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            self.register_buffer("q_size", torch.zeros(()))
            self.register_load_state_dict_pre_hook(_accept_state_without_size)

    @abstractmethod
    def learn(
        self,
        actions: Any,
        target: Any,
        next_target: Any,
        n_step: NStepReturn,
        now: Batch,
    ) -> tuple[Float[Tensor, "B T"], Metrics]:
        """The loss of every step, and further numbers (B, T) to be logged.

        Args:
            actions: the head's distribution; the gradient flows through it.
            target: the target copy's distribution at the same steps.
            next_target: the target copy's distribution a chunk later.
            n_step: returns of the chunks in the data.
            now: the data.
        """

    def fit(self, windows: Windows) -> None:
        """Raises ObjectiveError if rewards cannot teach, or exceed what the head's values can
        be."""
        # as an error of the objective: whether rewards do depends on which one asks
        try:
            check_rewards(windows, needs=self.rewards_needed)
        except DataError as error:
            raise ObjectiveError(f"objective {self.name}: {error}") from error
        check_auxiliary(self.config.auxiliary, windows)
        self._check_values(windows)

    def check_replayed(self, windows: Windows) -> None:
        """Raises DataError or ObjectiveError as `fit` does, of a further dataset."""
        check_replayed_rewards(windows, needs=self.rewards_needed)
        self._check_values(windows)

    def _check_values(self, windows: Windows) -> None:
        """Checks that steps have targets, and raises the bound on Q to what these data allow."""
        check_targets(windows, self.next_step)
        if self._watches_size:
            # of several datasets the widest bound counts: each may bring what it rewards
            bound = q_bound(windows, self.discount)
            self._q_bound = max(self._q_bound or 0.0, bound)

    @property
    def _watches_size(self) -> bool:
        return self.rewards_needed == "varied"

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """Mean over the valid steps, and in training the losses that the policy adds."""
        losses = self.compute_losses(policy, batch)
        mask_BT = losses.now.mask
        if IMPORTANCE in batch.extras:
            # of the window's newest step, for which it was drawn
            weight_B1 = losses.now.extras[IMPORTANCE][:, -1:]
            losses = replace(losses, loss=losses.loss * weight_B1)
        metrics = {
            name: masked_mean(values_BT.detach(), mask_BT)
            for name, values_BT in losses.metrics.items()
        }
        if self._watches_size and self.training:
            watch_size(self.q_size, metrics["q_data"], int(self.steps))
        added = auxiliary_losses(losses.output, losses.now, rule=self.config.auxiliary)
        metrics |= {name: value.detach() for name, value in added.items()}
        return masked_mean(losses.loss, mask_BT) + sum(added.values()), metrics

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """The same on held-out windows.

        A temporal-difference loss says how consistent values are, not how good a policy is.
        """
        losses = self.compute_losses(policy, batch)
        columns = {"loss": losses.loss, **losses.metrics}
        return {name: masked_mean(v_BT, losses.now.mask) for name, v_BT in columns.items()}

    def weight(self, batch: Batch) -> Tensor:
        # the last chunk's steps are there for targets only
        return batch.mask[:, : -self.next_step].sum()

    def after_step(self, policy: Policy) -> None:
        """Moves the target copy. Raises ObjectiveError if Q exceeds what any episode could
        return."""
        self.target.follow(self._followed(policy), rate=self.config.target_rate)
        if not self._watches_size:
            return
        self.steps += 1
        check_size(
            self.q_size,
            self._q_bound,
            steps=int(self.steps),
            discount=self.discount,
            remedy="lower optim.lr or objective.target_rate",
        )

    def compute_losses(self, policy: Policy, batch: Batch) -> TokenLosses:
        """Loss and metrics of every step of a batch that carries a chunk's steps more."""
        # views of the two sides of a K-step target: the same steps, K apart
        now = batch.steps(0, -self.next_step)
        later = batch.steps(self.next_step, None)
        self.target.start(self._followed(policy))
        output = policy(now)
        own_next = None
        with torch.no_grad():
            if self.config.target == "head" or self.double_q:
                own_next = policy(later).actions
            if self.config.target == "head":
                # The present trunk, in the policy's own mode (dropout included): features that the
                # target head reads are then like those of the head that it was copied from.
                target = self.target(output.actions.hidden)
                next_target = self.target(own_next.hidden)  # type: ignore[union-attr]
            else:
                next_target = self.target(later).actions
                target = self.target(now).actions
            returns, bootstrap, known = n_step_returns(
                batch.rewards,
                batch.terminals,
                batch.mask,
                n=self.next_step,
                discount=self.discount,
            )
        n_step = NStepReturn(returns, bootstrap, known, own_next if self.double_q else None)
        loss_BT, metrics = self.learn(output.actions, target, next_target, n_step, now)
        ended_BT = (bootstrap == 0).float()
        metrics = {**metrics, "terminals": ended_BT, "outcome_known": known.float()}
        return TokenLosses(output, now, loss_BT, metrics)

    def _followed(self, policy: Policy) -> nn.Module:
        return cast(nn.Module, policy.head) if self.config.target == "head" else policy


def _head(policy: Policy) -> nn.Module | None:
    """The policy's action head; None if it has no part of this name."""
    # not `policy.head`: a policy need not have one, and a missing name of a module raises
    return dict(policy.named_children()).get("head")


def _head_name(policy: Policy) -> str:
    """What the policy's config calls its head; the name of its class if the config names none."""
    configured = policy.config.model_dump().get("head")
    if configured is not None:
        return str(configured["type"])
    head = _head(policy)
    return "none" if head is None else type(head).__name__


def _accept_state_without_size(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    *_: Any,
) -> None:
    """Checkpoints from before values were watched go on as if the watch began there."""
    for name in ("steps", "q_size"):
        state.setdefault(prefix + name, module.get_buffer(name))


__all__ = ["NStepReturn", "TokenLosses", "TokenValueConfig", "TokenValueObjective"]
