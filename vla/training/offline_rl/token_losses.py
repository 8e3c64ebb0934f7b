"""Formulas of values of action tokens (Q-Transformer, ILQL): pure functions, in float32.

The tokens of one chunk are decisions within one macro action: between them passes no time, so there is neither reward nor
discount. Time passes after the last one; `vla.training.losses.n_step_returns` gives what K steps bring.

Shape letters: B batch, T time steps, L places of a chunk, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla.training.losses import discrete_conservative_gap


@dataclass(frozen=True)
class TokenTargets:
    """What the values of a chunk's tokens should be.

    Attributes:
        values: (B, T, L).
        known: (B, T, L), False at tokens that do not count, and where the episode was cut before its outcome was seen.
        raised: (B, T, L), where the Monte-Carlo return is the target, being above what the values say.
    """

    values: Float[Tensor, "B T L"]
    known: Bool[Tensor, "B T L"]
    raised: Bool[Tensor, "B T L"]


def token_targets(
    best: Float[Tensor, "B T L"],
    outcome: Float[Tensor, "B T"],
    outcome_known: Bool[Tensor, "B T"],
    counted: Bool[Tensor, "B T L"],
    *,
    floor: Float[Tensor, "B T"] | None = None,
    steps: int = 1,
) -> TokenTargets:
    """The backup over action dimensions (Chebotar et al., 2023, eq. 2, and section 4.3 for `floor` and `steps`).

    Args:
        best: value of standing before each place when the ones before it are as in the data: the greatest Q there, or V.
        outcome: of the whole chunk: discounted rewards and, unless the task ended, the discounted value of the later state.
        outcome_known: False where the outcome was not seen: the episode was truncated within the chunk.
        counted: which tokens count; in every chunk the first ones. The last of them has `outcome` as its target.
        floor: Monte-Carlo return from each step on, of that very trajectory: no target is below it. None for no floor.
        steps: how many places ahead a token looks; 1 is the best id at the next place, more are as in the data between.

    Returns:
        Targets without gradient.
    """
    L = best.shape[-1]
    ahead_L = torch.arange(L, device=best.device) + steps
    inside_BTL = ahead_L < counted.sum(-1, keepdim=True)
    later_BTL = best[..., ahead_L.clamp(max=L - 1)]
    values_BTL = torch.where(inside_BTL, later_BTL, outcome.unsqueeze(-1)).detach()
    known_BTL = counted & (inside_BTL | outcome_known.unsqueeze(-1))
    if floor is None:
        return TokenTargets(values_BTL, known_BTL, torch.zeros_like(known_BTL))
    floor_BTL = floor.unsqueeze(-1).expand_as(values_BTL)
    return TokenTargets(
        torch.maximum(values_BTL, floor_BTL), known_BTL, known_BTL & (floor_BTL > values_BTL)
    )


def of_ids(
    values: Float[Tensor, "*shape V"], ids: Int64[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The value of one id at each place."""
    return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def kinship(
    ids: Int64[Tensor, "*shape"],
    count: int,
    *,
    width: float,
    ordered: Bool[Tensor, "*places"] | None = None,
) -> Float[Tensor, "*shape V"]:
    """How much each of `count` ids is meant where one is told: 1 for itself, falling off as a Gaussian.

    Args:
        width: standard deviation in ids; 0 means the told id alone.
        ordered: where neighbouring ids are neighbours in value (the last axes of `ids`); elsewhere the told id alone is
            meant. Everywhere by default.
    """
    distance = torch.arange(count, device=ids.device) - ids.unsqueeze(-1)
    told = (distance == 0).float()
    if width == 0:
        return told
    kin = (-0.5 * (distance / width).square()).exp()
    return kin if ordered is None else kin.where(ordered.to(kin.device).unsqueeze(-1), told)


def error_of_kin(
    values: Float[Tensor, "*shape V"],
    targets: Float[Tensor, "*shape"],
    kin: Float[Tensor, "*shape V"],
) -> Float[Tensor, "*shape"]:
    """Half the squared distance to the target, a mean over the ids weighted by their kinship to the told one.

    Args:
        values: minus infinity where an id may not stand: such ids count for nothing.
    """
    possible = torch.isfinite(values)
    weight = kin * possible
    error = 0.5 * (values.where(possible, 0.0) - targets.unsqueeze(-1)).square()
    return (weight * error).sum(-1) / weight.sum(-1)


def others_towards_zero(
    values: Float[Tensor, "*shape V"], kin: Float[Tensor, "*shape V"]
) -> Float[Tensor, "*shape"]:
    """Half the mean of Q^2 over the other ids (Chebotar et al., 2023, eq. 3), each as much as it is no kin; 0 where there is
    no other.

    A mean, so that it is the same for any number of ids; without neighbours and in the limit of many data, an id that was
    chosen with probability p and led to y has Q = p y / (p + weight (1 - p) / (V - 1)).

    Args:
        values: minus infinity where an id may not stand: such ids count for nothing.
        kin: of `kinship`.
    """
    weight = (1 - kin) * torch.isfinite(values)
    pulled = (weight * values.where(torch.isfinite(values), 0.0).square()).sum(-1)
    return 0.5 * pulled / weight.sum(-1).clamp(min=1e-6)


def others_below(
    values: Float[Tensor, "*shape V"], ids: Int64[Tensor, "*shape"], *, temperature: float
) -> Float[Tensor, "*shape"]:
    """CQL(H) of each token (Kumar et al., 2020): a soft maximum over all ids minus Q of what was chosen. Divided by the
    temperature it is the cross-entropy of softmax(Q / temperature).

    Args:
        values: minus infinity where an id may not stand.
        temperature: of the soft maximum; values in [0, 1] need one well below 1, or all ids weigh nearly alike.
    """
    return temperature * discrete_conservative_gap(values / temperature, ids)


def mean_over_tokens(
    values: Float[Tensor, "B T L"], counted: Bool[Tensor, "B T L"]
) -> Float[Tensor, "B T"]:
    """Mean over the tokens that count; 0 where there are none."""
    return values.where(counted, 0.0).sum(-1) / counted.sum(-1).clamp(min=1)
