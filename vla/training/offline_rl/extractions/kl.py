"""Policy improvement under a constraint to stay near the data.

B windows, T steps, K actions per chunk, A action dimensions, S sampled chunks.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    imitation,
    require,
    require_q,
)
from vla.training.offline_rl.values.base import Transition, ValueLearner, draw


@register("extractions", "kl")
class KLConfig(ExtractionConfig):
    """Makes the policy's better samples likelier, and pays `alpha` per nat of distance from the
    data.

    The distance is the cross-entropy of the data under the policy, which is KL(data || policy) but
    for a constant. The gradient of Q comes by the score function, so that no head need be
    differentiable in its actions. Formula, with S chunks a_i of the policy, each compared with the
    mean of the others:

        A_i = (Q(s, a_i) - mean over S of Q(s, a_j)) * S / (S - 1)
        L = alpha * mean over B, T of -log pi(a | s)
            - mean over B, T and S of A_i log pi(a_i | s) / (K A)

    With `standardise` A_i is divided by its root mean square in the batch. A_i has no gradient.

    Shapes: Q, A_i and log pi(a_i | s) are (S, B, T), chunks a_i are (S, B, T, K, A).

    Source: Wu, Tucker and Nachum, 2019, "Behavior regularized offline reinforcement learning" (BRAC
    with policy regularisation); the baseline is that of Kool, van Hoof and Welling, 2019, "Buy 4
    REINFORCE samples, get a baseline for free!".
    """

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

    def loss(self, now: Transition, value: ValueLearner) -> tuple[Tensor, Metrics]:
        remedy = "use policy.head: {type: categorical}, autoregressive, mixture or gaussian"
        require(now.actions, "log_prob", "kl", remedy)
        mask_BT = now.batch.mask
        S = self.config.samples
        actions_SBTKA = draw(now.actions, S)
        with torch.no_grad():
            q_SBT = value.q(now.features, actions_SBTKA)
            # against the mean of the others: a baseline that holds the sample itself is biased
            advantage_SBT = (q_SBT - q_SBT.mean(0)) * S / (S - 1)
            if self.config.standardise:
                square = masked_mean(advantage_SBT.square().mean(0), mask_BT)
                advantage_SBT = advantage_SBT / square.sqrt().clamp(min=1e-6)
        # one by one: only Gaussians take several chunks of each step at once
        log_prob = now.actions.log_prob  # type: ignore[attr-defined]
        log_prob_SBT = torch.stack([log_prob(chunk) for chunk in actions_SBTKA])
        # per number of the chunk, as the loss of imitation: alpha means the same for any chunk
        K, A = actions_SBTKA.shape[-2:]
        gain = masked_mean((advantage_SBT * log_prob_SBT).mean(0), mask_BT) / (K * A)
        imitated = masked_mean(imitation(now), mask_BT)
        return self.config.alpha * imitated - gain, {
            "bc_loss": imitated.detach(),
            "q_policy": masked_mean(q_SBT.mean(0), mask_BT),
            "q_policy_deviation": masked_mean(q_SBT.std(0), mask_BT),
        }


__all__ = ["KL", "KLConfig"]
