"""How likely a policy finds each token, or number, of a chunk that was drawn at a temperature.

B windows, T steps, K actions per chunk, A action dimensions, N tokens per chunk (K * A for
Gaussians), V ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla.models.heads.gaussian import DiagonalGaussian
from vla.training.objective import ObjectiveError
from vla.types import ActionDistribution, TokenDistribution


class Likelihood(ABC):
    """Of given chunks under one policy.

    Attributes:
        log_prob: (B, T, N), of each token given those before it (of each number: log density in
            units of half the range); 0 where the mask is False.
        mask: (B, T, N), which tokens count.
    """

    log_prob: Float[Tensor, "B T N"]
    mask: Bool[Tensor, "B T N"]

    @abstractmethod
    def entropy(self) -> Float[Tensor, "B T N"]:
        """Of each place (nats), given the chunk's own tokens before it; 0 where the mask is False.

        Of a squashed Gaussian, that before squashing.
        """

    @abstractmethod
    def kl(self, other: Likelihood) -> Float[Tensor, "B T N"]:
        """KL(this || other) of each place (nats), exact; `other` is of the same chunks."""


@dataclass(frozen=True)
class TokenLikelihood(Likelihood):
    """Of ids.

    Attributes:
        log_probs: (B, T, N, V), normalised; -inf for ids that may not stand there.
    """

    log_prob: Tensor
    mask: Tensor
    log_probs: Float[Tensor, "B T N V"]

    def entropy(self) -> Float[Tensor, "B T N"]:
        each = torch.special.entr(self.log_probs.exp()).sum(-1)
        return each.where(self.mask, 0.0)

    def kl(self, other: Likelihood) -> Float[Tensor, "B T N"]:
        assert isinstance(other, TokenLikelihood)
        difference = self.log_probs - other.log_probs
        # forbidden ids: the difference of two infinities
        difference = difference.where(torch.isfinite(self.log_probs), 0.0)
        return (self.log_probs.exp() * difference).sum(-1).where(self.mask, 0.0)


@dataclass(frozen=True)
class GaussianLikelihood(Likelihood):
    """Of numbers; N = K * A.

    Attributes:
        mean, log_std: (B, T, N), units.
    """

    log_prob: Tensor
    mask: Tensor
    mean: Float[Tensor, "B T N"]
    log_std: Float[Tensor, "B T N"]

    def entropy(self) -> Float[Tensor, "B T N"]:
        half_log_2pi_e = 1.4189385332046727
        return (self.log_std + half_log_2pi_e).where(self.mask, 0.0)

    def kl(self, other: Likelihood) -> Float[Tensor, "B T N"]:
        assert isinstance(other, GaussianLikelihood)
        ratio = (2 * (self.log_std - other.log_std)).exp()
        distance = (self.mean - other.mean).square() * (-2 * other.log_std).exp()
        each = 0.5 * (ratio + distance - 1) - (self.log_std - other.log_std)
        return each.where(self.mask, 0.0)


def likelihood(
    distribution: ActionDistribution,
    actions: Float[Tensor, "B T K A"],
    action_mask: Bool[Tensor, "B T K"],
    *,
    temperature: float = 1.0,
) -> Likelihood:
    """How likely `distribution` finds `actions`, in robot units, at this temperature (above 0).

    Raises ObjectiveError if it cannot say.
    """
    if isinstance(distribution, TokenDistribution):
        logits_BTNV = distribution.token_logits(actions) / temperature
        log_probs_BTNV = logits_BTNV.log_softmax(-1)
        mask_BTN = distribution.token_mask(actions, action_mask)
        ids_BTN = distribution.tokens(actions)
        log_prob_BTN = log_probs_BTNV.gather(-1, ids_BTN[..., None]).squeeze(-1)
        return TokenLikelihood(log_prob_BTN.where(mask_BTN, 0.0), mask_BTN, log_probs_BTNV)
    if isinstance(distribution, DiagonalGaussian):
        tempered = distribution.at(temperature)
        mask_BTKA = action_mask[..., None].expand(actions.shape)
        log_prob_BTKA = tempered.number_log_probs(actions).where(mask_BTKA, 0.0)
        return GaussianLikelihood(
            log_prob_BTKA.flatten(-2),
            mask_BTKA.flatten(-2),
            tempered.mean.flatten(-2),
            tempered.number_log_stds().flatten(-2),
        )
    raise ObjectiveError(
        f"objective: needs the probability of each token or number, which "
        f"{type(distribution).__name__} does not give; use policy.head: {{type: categorical}}, "
        "{type: autoregressive} or {type: gaussian}"
    )


__all__ = ["GaussianLikelihood", "Likelihood", "TokenLikelihood", "likelihood"]
