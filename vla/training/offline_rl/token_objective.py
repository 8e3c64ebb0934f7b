"""What the objectives share that learn values of single action tokens (Q-Transformer, ILQL).

A policy's head gives the values. A chunk is one macro action of K environment steps, so that the state after it is K steps
later, and its tokens are decisions inside it. Targets come from a copy of the head that follows slowly and reads the
features of the present trunk, or from a copy of the whole policy.

B windows, T steps, R hidden states read per step, W their width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
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
from vla.training.losses import masked_mean, n_step_returns
from vla.training.objective import Objective, ObjectiveConfig, ObjectiveError, asked_besides
from vla.training.offline_rl.data_checks import check_replayed_rewards, check_targets
from vla.training.offline_rl.divergence import check_size, q_bound, watch_size
from vla.training.offline_rl.target_network import TargetCopy
from vla.types import Batch


class TokenValueConfig(ObjectiveConfig):
    """What the objectives over values of action tokens have in common."""

    discount: float = Field(default=0.98, gt=0, le=1)
    """Discount per environment step; the tokens of one chunk are not discounted against each other."""
    target: Literal["head", "policy"] = "head"
    """Whose slow copy gives the targets: of the head, over the present trunk's features, or of the whole policy, which costs
    its memory and one more pass."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far the target copy moves at every step (Polyak averaging)."""


@dataclass(frozen=True)
class Outcome:
    """What whole chunks led to.

    Attributes:
        returns: discounted rewards of the chunk's steps.
        bootstrap: what the value of the state after the chunk counts; 0 where the task ended.
        known: False where the episode was cut before, and at padding.
    """

    returns: Float[Tensor, "B T"]
    bootstrap: Float[Tensor, "B T"]
    known: Bool[Tensor, "B T"]

    def target(self, values_later: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Padded steps may say anything of their value, hence no product with zero."""
        return self.returns + torch.where(self.bootstrap > 0, self.bootstrap * values_later, 0.0)


class TokenValueObjective(Objective):
    """A temporal-difference objective over a head that gives values of tokens. Subclasses define `learn`.

    Args:
        config: with its registered `type`.
        policy: to be trained; its head must be a `head_class`.
        head_class: what gives the values.
        head_name: its registered name.
    """

    steps: Tensor
    q_size: Tensor

    def __init__(
        self, config: TokenValueConfig, policy: Policy, head_class: type[Head], head_name: str
    ) -> None:
        super().__init__()
        self.labelled = False
        self.config, self.name = config, config.model_dump()["type"]
        self.discount, self.next_step = config.discount, policy.chunk
        head = getattr(policy, "head", None)
        if not isinstance(head, head_class):
            found = getattr(
                getattr(head, "config", None),
                "type",
                type(head).__name__ if head is not None else "none",
            )
            raise ObjectiveError(
                f"objective {self.name}: learns values of action tokens, and policy.head {found!r} gives none; set "
                f"policy.head: {{type: {head_name}}} and train from there (a trained policy with another head has no values)"
            )
        if config.target == "policy" and policy.weights().keys() != policy.state_dict().keys():
            raise ObjectiveError(
                f"objective {self.name}: target: policy would copy a {policy.config.model_dump()['type']} with its frozen base; "
                "set objective.target: head"
            )
        shared = [policy.tokenizer, head.tokenizer, policy.language]
        self.target = TargetCopy(head if config.target == "head" else policy, shared=shared)
        self._q_bound: float | None = None
        if self._watches:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            self.register_buffer("q_size", torch.zeros(()))
            self.register_load_state_dict_pre_hook(_without_watch)

    rewards_needed: Literal["varied", "unit"] = "varied"
    """What `fit` asks of the rewards. `unit` is for bounded values, which cannot diverge."""

    @abstractmethod
    def learn(
        self, actions: Any, target: Any, later: Any, outcome: Outcome, now: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every step (B, T), and further numbers (B, T) to be logged.

        Args:
            actions: what the head says now; the gradient flows through it.
            target: what the target copy says now.
            later: what the target copy says a chunk later.
            outcome: of the chunks in the data.
            now: the data.
        """

    def fit(self, windows: Windows) -> None:
        """Raises ObjectiveError where rewards cannot teach, or are outside of what the head's values can be."""
        try:
            check_rewards(windows, needs=self.rewards_needed)
            self.labelled = bool(windows.success.any())
        except DataError as error:
            raise ObjectiveError(f"objective {self.name}: {error}") from error
        self._allow(windows)

    def check_replayed(self, windows: Windows) -> None:
        """Raises DataError or ObjectiveError as `fit` does, of a further dataset."""
        check_replayed_rewards(windows, needs=self.rewards_needed)
        self._allow(windows)

    def _allow(self, windows: Windows) -> None:
        """Checks that steps have targets, and allows values what these data may bring."""
        check_targets(windows, self.next_step)
        if self._watches:
            self._q_bound = max(self._q_bound or 0.0, q_bound(windows, self.discount))

    @property
    def _watches(self) -> bool:
        return self.rewards_needed == "varied"

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the valid steps, and in training the losses that the policy adds."""
        output, now, loss_BT, numbers = self.weigh(policy, batch)
        added = asked_besides(output, now, solved_only=self.labelled)
        metrics = {name: masked_mean(v.detach(), now.mask) for name, v in numbers.items()}
        if self._watches and self.training:
            watch_size(self.q_size, metrics["q_data"], int(self.steps))
        metrics |= {name: value.detach() for name, value in added.items()}
        return masked_mean(loss_BT, now.mask) + sum(added.values()), metrics

    def validate(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """The same on held-out windows; a temporal-difference loss tells how consistent values are, not how good a policy."""
        _, now, loss_BT, numbers = self.weigh(policy, batch)
        return {name: masked_mean(v, now.mask) for name, v in {"loss": loss_BT, **numbers}.items()}

    def weight(self, batch: Batch) -> Tensor:
        return batch.mask[:, : -self.next_step].sum()

    def after_step(self, policy: Policy) -> None:
        """Moves the target copy. Raises ObjectiveError where Q has left what any episode could bring."""
        self.target.follow(self._followed(policy), rate=self.config.target_rate)
        if self._watches:
            self.steps += 1
            remedy = "lower optim.lr or objective.target_rate"
            check_size(
                self.q_size,
                self._q_bound,
                steps=int(self.steps),
                discount=self.discount,
                remedy=remedy,
            )

    def weigh(self, policy: Policy, batch: Batch) -> tuple[Any, Batch, Tensor, dict[str, Tensor]]:
        """-> the policy's output, the windows of now, the loss of every step (B, T), and further numbers (B, T)."""
        now, later = batch.steps(0, -self.next_step), batch.steps(self.next_step, None)
        self.target.start(self._followed(policy))
        output = policy(now)
        with torch.no_grad():
            # in the policy's own mode: features that the target head reads are like those it was copied from
            source = policy if self.config.target == "head" else self.target
            actions_later = source(later).actions
            if self.config.target == "head":
                target, actions_later = (
                    self.target(output.actions.hidden),
                    self.target(actions_later.hidden),
                )
            else:
                target = self.target(now).actions
            returns, bootstrap, known = n_step_returns(
                batch.rewards, batch.terminals, batch.mask, n=self.next_step, discount=self.discount
            )
        outcome = Outcome(returns, bootstrap, known)
        loss_BT, numbers = self.learn(output.actions, target, actions_later, outcome, now)
        ended_BT = (bootstrap == 0).float()
        return (
            output,
            now,
            loss_BT,
            {**numbers, "terminals": ended_BT, "outcome_known": known.float()},
        )

    def _followed(self, policy: Policy) -> nn.Module:
        return cast(nn.Module, policy.head) if self.config.target == "head" else policy


def _without_watch(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Checkpoints from before values were watched go on as if the watch began there."""
    for name in ("steps", "q_size"):
        state.setdefault(prefix + name, getattr(module, name))


__all__ = ["Outcome", "TokenValueConfig", "TokenValueObjective"]
