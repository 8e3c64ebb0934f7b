"""How likely a policy finds each token, or number, of a chunk that was drawn at a temperature.

B windows, T steps, K actions per chunk, A action dimensions, N tokens per chunk (K * A for
Gaussians), V ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla.models.heads.gaussian import DiagonalGaussian, SquashedGaussianActions
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
    def detached(self) -> Self:
        """The same without gradients."""

    @abstractmethod
    def kl(self, other: Likelihood) -> Float[Tensor, "B T N"]:
        """KL(this || other) of each place (nats), exact; `other` is of the same chunks.

        Of Gaussians that are cut off or squashed, that before it.

        Raises ObjectiveError if the two are distributions over different things.
        """


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
        # forbidden ids add nothing; p * log p of them would be NaN, and `entr` has no gradient at 0
        finite = self.log_probs.where(torch.isfinite(self.log_probs), 0.0)
        return -(self.log_probs.exp() * finite).sum(-1).where(self.mask, 0.0)

    def detached(self) -> Self:
        return type(self)(self.log_prob.detach(), self.mask, self.log_probs.detach())

    def kl(self, other: Likelihood) -> Float[Tensor, "B T N"]:
        if not isinstance(other, TokenLikelihood) or self.log_probs.shape != other.log_probs.shape:
            raise _unlike(self, other)
        difference = self.log_probs - other.log_probs
        # forbidden ids: the difference of two infinities
        difference = difference.where(torch.isfinite(self.log_probs), 0.0)
        return (self.log_probs.exp() * difference).sum(-1).where(self.mask, 0.0)


@dataclass(frozen=True)
class GaussianLikelihood(Likelihood):
    """Of numbers; N = K * A.

    Attributes:
        mean, log_std: (B, T, N), units.
        squashed: whether tanh follows.
    """

    log_prob: Tensor
    mask: Tensor
    mean: Float[Tensor, "B T N"]
    log_std: Float[Tensor, "B T N"]
    squashed: bool

    def entropy(self) -> Float[Tensor, "B T N"]:
        half_log_2pi_e = 1.4189385332046727
        return (self.log_std + half_log_2pi_e).where(self.mask, 0.0)

    def detached(self) -> Self:
        return type(self)(
            self.log_prob.detach(),
            self.mask,
            self.mean.detach(),
            self.log_std.detach(),
            self.squashed,
        )

    def kl(self, other: Likelihood) -> Float[Tensor, "B T N"]:
        if not isinstance(other, GaussianLikelihood) or self.squashed != other.squashed:
            raise _unlike(self, other)
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
        if not distribution.has_exact_tokens:
            raise ObjectiveError(
                "objective: which tokens were drawn cannot be read off the actions that were "
                "executed where tokens describe whole chunks; use policy.tokenizer: {type: bins}"
            )
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
            isinstance(tempered, SquashedGaussianActions),
        )
    raise ObjectiveError(
        f"objective: needs the probability of each token or number, which "
        f"{type(distribution).__name__} does not give; use policy.head: {{type: categorical}}, "
        "{type: autoregressive} or {type: gaussian}"
    )


def _unlike(one: Likelihood, other: Likelihood) -> ObjectiveError:
    return ObjectiveError(
        f"objective.prior: its actions are another distribution ({_words(other)}) than the "
        f"policy's ({_words(one)}); name a prior with the same head and tokenizer"
    )


def _words(found: Likelihood) -> str:
    if isinstance(found, TokenLikelihood):
        places, ids = found.log_probs.shape[-2:]
        return f"{places} tokens of {ids} ids"
    squashed = isinstance(found, GaussianLikelihood) and found.squashed
    return f"{found.log_prob.shape[-1]} {'squashed ' if squashed else ''}Gaussian numbers"


__all__ = ["GaussianLikelihood", "Likelihood", "TokenLikelihood", "likelihood"]
