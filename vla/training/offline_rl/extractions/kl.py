"""Policy improvement under a constraint to stay near the data, or near the policy that training started from.

Wu, Tucker and Nachum, 2019, "Behavior regularized offline reinforcement learning"; the critic's gradient comes by the score
function, so that no head need be differentiable in its actions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import masked_mean
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    imitation,
    require,
    require_q,
)
from vla.training.offline_rl.values.base import Moment, ValueLearner, draw


@register("extractions", "kl")
class KLConfig(ExtractionConfig):
    """Makes the policy's better samples likelier and its worse ones rarer, and pays `alpha` per nat of distance from the
    data: the cross-entropy of the data under the policy, which is KL(data || policy) but for a constant."""

    type: Literal["kl"] = "kl"
    alpha: float = Field(default=1.0, gt=0)
    """Price of a nat; the greater, the nearer to imitation."""
    samples: int = Field(default=4, ge=2)
    """Actions drawn for each step; each is compared with the others' mean."""
    standardise: bool = True
    """Divide the advantages of the samples by their standard deviation in the batch."""

    def build(self, policy: Policy, value: ValueLearner) -> KL:
        require_q(value, "kl")
        return KL(self)


class KL(Extraction):
    """See the config."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config

    def loss(self, now: Moment, value: ValueLearner) -> tuple[Tensor, dict[str, Tensor]]:
        require(
            now.actions,
            "log_prob",
            "kl",
            "use policy.head: {type: categorical}, autoregressive, mixture or gaussian",
        )
        mask, S = now.batch.mask, self.config.samples
        actions_SBTKA = draw(now.actions, S)
        with torch.no_grad():
            q_SBT = value.q(now.features, actions_SBTKA)
            advantage = (q_SBT - q_SBT.mean(0)) * S / (S - 1)  # each against the mean of the others
            if self.config.standardise:
                advantage = advantage / masked_mean(advantage.square().mean(0), mask).sqrt().clamp(
                    min=1e-6
                )
        log_prob = torch.stack([now.actions.log_prob(a) for a in actions_SBTKA])  # type: ignore[attr-defined]
        numbers = actions_SBTKA.shape[-1] * actions_SBTKA.shape[-2]
        gain = masked_mean((advantage * log_prob).mean(0), mask) / numbers
        imitated = masked_mean(imitation(now), mask)
        return self.config.alpha * imitated - gain, {
            "bc_loss": imitated.detach(),
            "q_policy": masked_mean(q_SBT.mean(0), mask),
            "q_policy_deviation": masked_mean(q_SBT.std(0), mask),
        }


__all__ = ["KL", "KLConfig"]
