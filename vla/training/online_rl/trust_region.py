"""One natural-gradient step a round, as long as the policy stays near the one that acted.

B windows, T steps, N tokens per chunk, P parameters of the policy.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vla.data import Windows
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.training.objective import ObjectiveError
from vla.training.online_rl.conjugate_gradient import backtracking, conjugate_gradient
from vla.training.online_rl.likelihood import Likelihood
from vla.training.online_rl.policy_gradient import (
    DECISION,
    PolicyGradient,
    ValuedConfig,
    parts_of,
)
from vla.types import Batch


class TrustRegionConfig(ValuedConfig, ABC):
    """What limits the step of `TrustRegion`."""

    max_kl: float = Field(default=0.01, gt=0, le=10)
    """How far a round may take the policy from the one that acted: mean KL(old || new) of the
    executed tokens, nats for each."""
    cg_iterations: int = Field(default=15, ge=1, le=1000)
    """Iterations of conjugate gradient; each goes forward once and backward twice over
    `fisher_share` of the round."""
    damping: float = Field(default=0.1, ge=0)
    """Added to the Fisher matrix's diagonal, so that directions of which the round says nothing are
    not walked along without end."""
    fisher_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the round's decisions, evenly spread, that the Fisher matrix is of."""

    @model_validator(mode="after")
    def _values_leave_the_trunk_alone(self) -> TrustRegionConfig:
        if self.critic.joint:
            raise ValueError(
                "critic.joint: the policy moves by its natural gradient alone; set it to false"
            )
        return self


class TrustRegion(PolicyGradient):
    """The policy's step is its own, in `begin_round`; the optimiser trains the values alone.

    Args:
        policy: that learns.
        config: of the preset.
    """

    def __init__(self, policy: Policy, config: TrustRegionConfig) -> None:
        super().__init__(policy, config)
        self.region = config

    @property
    def freezes_policy(self) -> bool:
        # what the optimiser may move; weight decay and moments are no part of the step
        return True

    def begin_round(self, policy: Policy, windows: Windows) -> dict[str, np.ndarray]:
        """The columns of the round. Moves the policy, once the values are warm."""
        columns = super().begin_round(policy, windows)
        self._notes |= dict.fromkeys(("kl", "gain", "step_share"), 0.0)
        if self._teaches and int(self.rounds) > self.region.value_warmup:
            # the step looks at batches already, before the loop has put the columns there
            windows.columns = columns
            rows = np.flatnonzero(windows.extras[DECISION] > 0)
            self._notes |= self._moved(policy, windows, rows)
        return columns

    def _moved(self, policy: Policy, windows: Windows, rows: np.ndarray) -> dict[str, float]:
        """Moves the policy to where it is better and near, or not at all; what is logged of it."""
        parameters = [p for p in policy.parameters() if p.requires_grad]
        # the fused kernels of attention have no second derivative
        with sdpa_kernel(SDPBackend.MATH):
            acted = self._acted(policy, windows, rows)
            gradient, before = self._ascent(policy, parameters, windows, rows)
            # nothing that happened depends on a parameter that learns
            if not gradient.any():
                return {}
            count = max(1, round(self.region.fisher_share * len(rows)))
            # evenly over the round, so that every episode is in it
            some = rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]

            def fisher(vector: Tensor) -> Tensor:
                return self._fisher_product(policy, parameters, windows, some, vector)

            direction = conjugate_gradient(fisher, gradient, iterations=self.region.cg_iterations)
            # the step of which the quadratic model says max_kl (appendix C)
            curvature = direction @ fisher(direction)
            full = (2 * self.region.max_kl / curvature).sqrt() * direction
            if not torch.isfinite(full).all():
                raise ObjectiveError(
                    "objective: the step of this round is NaN or infinite, and was not taken; set "
                    f"objective.damping above {self.region.damping:g}"
                )
            # the line search tries places in the policy itself: a copy would double the memory
            start = [p.detach().clone() for p in parameters]
            found: dict[str, float] = {}

            def accepts(share: float) -> bool:
                _place(parameters, start, share * full)
                value, divergence = self._outcome(policy, windows, rows, acted)
                found.update(kl=divergence, gain=value - before, step_share=share)
                # NaN is neither better nor near
                return value > before and divergence <= self.region.max_kl

            if backtracking(accepts):
                return found
            _place(parameters, start, torch.zeros_like(full))
            return {}

    @torch.no_grad()
    def _acted(self, policy: Policy, windows: Windows, rows: np.ndarray) -> list[Likelihood]:
        """What the policy that acted says of each part of the round."""
        found = []
        for batch, _ in _parts_with_shares(policy, windows, rows):
            found.append(self._likelihood(policy(batch).actions, batch))
        return found

    def _ascent(
        self,
        policy: Policy,
        parameters: Sequence[nn.Parameter],
        windows: Windows,
        rows: np.ndarray,
    ) -> tuple[Float[Tensor, " P"], float]:
        """The gradient of what is to grow, and its value, over the whole round."""
        total: Tensor | float = 0.0
        value = 0.0
        for batch, share in _parts_with_shares(policy, windows, rows):
            loss, _ = self._policy_loss(policy(batch), batch)
            gradients = torch.autograd.grad(-loss, parameters, materialize_grads=True)
            total = total + share * _flat(gradients)
            value -= share * float(loss.detach())
        assert isinstance(total, Tensor)
        return total, value

    def _fisher_product(
        self,
        policy: Policy,
        parameters: Sequence[nn.Parameter],
        windows: Windows,
        rows: np.ndarray,
        vector: Float[Tensor, " P"],
    ) -> Float[Tensor, " P"]:
        """The damped Fisher matrix times a vector: grad (grad KL(now || new) . v) at new = now."""
        total = self.region.damping * vector
        for batch, share in _parts_with_shares(policy, windows, rows):
            new = self._likelihood(policy(batch).actions, batch)
            # its first derivative is 0 here, and its second the Fisher matrix
            divergence = masked_mean(new.detached().kl(new), new.mask)
            first = torch.autograd.grad(
                divergence, parameters, create_graph=True, materialize_grads=True
            )
            along = _flat(first) @ vector
            second = torch.autograd.grad(along, parameters, materialize_grads=True)
            total = total + share * _flat(second)
        return total

    @torch.no_grad()
    def _outcome(
        self,
        policy: Policy,
        windows: Windows,
        rows: np.ndarray,
        acted: Sequence[Likelihood],
    ) -> tuple[float, float]:
        """What is to grow, and the mean KL from the policy that acted, where the policy is now."""
        value = divergence = 0.0
        parts = _parts_with_shares(policy, windows, rows)
        for (batch, share), old in zip(parts, acted, strict=True):
            output = policy(batch)
            loss, _ = self._policy_loss(output, batch)
            new = self._likelihood(output.actions, batch)
            value -= share * float(loss)
            divergence += share * float(masked_mean(old.kl(new), new.mask))
        return value, divergence

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        self._require_columns(batch)
        # the policy has moved already: ratios to the one that acted are not 1 any more
        with torch.no_grad():
            output = policy(batch)
        loss = self._value_loss(output, batch)
        metrics: Metrics = {"value_loss": loss.detach()}
        for name, number in self._notes.items():
            metrics[name] = torch.tensor(number, device=loss.device)
        return loss, metrics


def _parts_with_shares(
    policy: Policy, windows: Windows, rows: np.ndarray
) -> Iterator[tuple[Batch, float]]:
    """The windows in parts, each with its share of the executed actions."""
    executed = float(windows.extras[DECISION][rows].sum())
    device = next(policy.parameters()).device
    for part in parts_of(rows):
        batch = windows.batch(part).to(device)
        yield batch, float(batch.extras[DECISION][:, -1].sum()) / executed


def _flat(gradients: Sequence[Tensor]) -> Float[Tensor, " P"]:
    return torch.cat([gradient.reshape(-1).float() for gradient in gradients])


@torch.no_grad()
def _place(
    parameters: Sequence[nn.Parameter], start: Sequence[Tensor], step: Float[Tensor, " P"]
) -> None:
    """Puts the parameters where they were, and the step on top."""
    steps = step.split([p.numel() for p in parameters])
    for parameter, before, own in zip(parameters, start, steps, strict=True):
        parameter.copy_(before + own.view_as(before))


__all__ = ["TrustRegion", "TrustRegionConfig"]
