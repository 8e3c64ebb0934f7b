"""The policy imitates the better ones, by Q, of what a slow copy of it draws (MPO).

B windows, T steps, K actions per chunk, A action dimensions, S sampled chunks.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.gaussian import DiagonalGaussian
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    require,
    require_q,
)
from vla.training.offline_rl.values.base import Transition, ValueLearner, draw, log_density

_BISECTIONS = 40
_WIDEST = 1e4  # of the range of Q: weights are then equal to the last digit


@register("extractions", "mpo")
class MPOExtractionConfig(ExtractionConfig):
    """Weighted likelihood of drawn chunks, by a softmax of their Q, under a bound on the step.

    Formula, with S chunks a_i of the slow copy pi' of the policy:

        w_i = softmax over S of Q(s, a_i) / eta
        L = -mean over B, T of sum over S of w_i log pi(a_i | s)
            + kappa (KL(pi' || pi) - epsilon_kl)

    eta is the minimum of its dual on each batch, eta epsilon + eta mean log mean exp(Q / eta), at
    which the weights are `epsilon` nats from equal ones on average; kappa is learned by ascent of
    its term. KL is exact for Gaussians, and for other heads the mean of log pi'(a_i | s) -
    log pi(a_i | s), whose gradient is unbiased.

    Shapes: Q, w_i and log pi(a_i | s) are (S, B, T), chunks are (S, B, T, K, A).

    Source: Abdolmaleki et al., 2018, "Maximum a posteriori policy optimisation", eq. 7, 8 and 11,
    there with gradient steps on eta in place of its minimum.
    """

    type: Literal["mpo"] = "mpo"
    samples: int = Field(default=20, ge=2)
    """Chunks drawn for each step."""
    epsilon: float = Field(default=0.1, gt=0)
    """How far (nats) the weights may go from equal ones, on average over states; below log
    `samples`."""
    epsilon_kl: float = Field(default=0.01, gt=0)
    """How far (nats of a chunk) the policy may go from its slow copy, on average over states."""

    def build(self, policy: Policy, value: ValueLearner) -> MPO:
        require_q(value, "mpo")
        return MPO(self)


class MPO(Extraction):
    """See the config."""

    needs_slow_policy = True

    def __init__(self, config: MPOExtractionConfig) -> None:
        super().__init__()
        self.config = config
        self.log_price = nn.Parameter(torch.zeros(()))  # kappa of the formula

    def loss(self, now: Transition, value: ValueLearner) -> tuple[Tensor, Metrics]:
        remedy = "use policy.head: {type: categorical}, autoregressive or gaussian"
        require(now.actions, "log_prob", "mpo", remedy)
        assert now.slow_actions is not None  # `needs_slow_policy` sees to it
        mask_BT = now.batch.mask
        with torch.no_grad():
            slow = now.slow_actions()
            actions_SBTKA = draw(slow, self.config.samples)
            q_SBT = value.q(now.features, actions_SBTKA)
            eta = dual_temperature(q_SBT, mask_BT, self.config.epsilon)
            weights_SBT = (q_SBT / eta).softmax(0)
        log_prob_SBT = log_density(now.actions, actions_SBTKA)
        gain = masked_mean((weights_SBT * log_prob_SBT).sum(0), mask_BT)
        divergence_BT = _divergence(slow, now.actions, actions_SBTKA, log_prob_SBT)
        divergence = masked_mean(divergence_BT, mask_BT)
        price = self.log_price.exp()
        # two losses in one: the first teaches the policy alone, the second the price alone
        held = price.detach() * divergence
        raised = price * (self.config.epsilon_kl - divergence.detach())
        return held + raised - gain, {
            "q_policy": masked_mean(q_SBT.mean(0), mask_BT),
            "temperature": eta,
            "kl": divergence.detach(),
            "kl_price": price.detach(),
        }


def dual_temperature(
    q: Float[Tensor, "S B T"], mask: Bool[Tensor, "B T"], epsilon: float
) -> Float[Tensor, ""]:
    """eta > 0 at which softmax(q / eta) is `epsilon` nats from equal weights, on average.

    It minimises the convex dual eta epsilon + eta mean log mean exp(q / eta) (MPO, eq. 8), whose
    derivative is epsilon less this distance. Found by bisection of log eta; the least that is tried
    is taken if even that is not far enough, as where all of q is equal.

    Args:
        q: of S samples of each step.
        mask: which steps count.
        epsilon: nats.
    """
    centred_SBT = q - q.amax(0)
    spread = centred_SBT.abs().where(mask, 0.0).amax().clamp(min=1e-8)
    low, high = spread / _WIDEST, spread * _WIDEST
    log_S = math.log(len(q))
    for _ in range(_BISECTIONS):
        middle = (low * high).sqrt()
        log_weights_SBT = (centred_SBT / middle).log_softmax(0)
        distance_BT = (log_weights_SBT.exp() * log_weights_SBT).sum(0) + log_S
        # the hotter, the nearer to equal weights
        too_far = masked_mean(distance_BT, mask) > epsilon
        low, high = torch.where(too_far, middle, low), torch.where(too_far, high, middle)
    return (low * high).sqrt()


def _divergence(
    slow: Any,
    actions: Any,
    chunks_SBTKA: Float[Tensor, "S B T K A"],
    log_prob_SBT: Float[Tensor, "S B T"],
) -> Float[Tensor, "B T"]:
    """KL(slow || actions), nats of a chunk."""
    if isinstance(slow, DiagonalGaussian) and isinstance(actions, DiagonalGaussian):
        # the same squashing maps both: what lies before it has the same divergence
        variance = (2 * slow.log_std).exp()
        distance = variance + (slow.mean - actions.mean).square()
        each = actions.log_std - slow.log_std - 0.5 + 0.5 * distance * (-2 * actions.log_std).exp()
        return each.expand(actions.mean.shape).sum((-1, -2))
    with torch.no_grad():
        slow_log_prob_SBT = log_density(slow, chunks_SBTKA)
    return (slow_log_prob_SBT - log_prob_SBT).mean(0)


__all__ = ["MPO", "MPOExtractionConfig", "dual_temperature"]
