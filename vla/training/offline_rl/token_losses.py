"""Formulas of values of action tokens (Q-Transformer, ILQL): pure functions, in float32.

The tokens of one chunk are decisions within one macro action: between them passes no time, so there
is neither reward nor discount. Time passes after the last one; `vla.training.losses.n_step_returns`
gives the return of the chunk's K steps.

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
    """Targets of the values of a chunk's tokens.

    Attributes:
        values: (B, T, L).
        known: (B, T, L), False at tokens that do not count, and where the episode was truncated
            before the chunk's return was seen.
        raised: (B, T, L), where the Monte-Carlo return is the target, being above the backed-up
            value.
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
    """The backup over action dimensions.

    Chebotar et al., 2023, eq. 2, and section 4.3 for `floor` and `steps`.

    Args:
        best: value of standing before each place when the ones before it are as in the data: the
            greatest Q there, or V.
        outcome: of the whole chunk: discounted rewards and, unless the task ended, the discounted
            value of the later state.
        outcome_known: False if the outcome was not seen: the episode was truncated within the
            chunk.
        counted: which tokens count; in every chunk the first ones. The last of them has `outcome`
            as its target.
        floor: Monte-Carlo return from each step on, of that very trajectory: no target is below it.
            None for no floor.
        steps: how many places ahead a token looks; 1 is the best id at the next place, with more
            the places between are as in the data.

    Returns:
        Targets without gradient.
    """
    L = best.shape[-1]
    ahead_L = torch.arange(L, device=best.device) + steps
    inside_BTL = ahead_L < counted.sum(-1, keepdim=True)
    # clamped only to index: places beyond the last one take the outcome
    ahead_BTL = best[..., ahead_L.clamp(max=L - 1)]
    values_BTL = torch.where(inside_BTL, ahead_BTL, outcome.unsqueeze(-1)).detach()
    # of a truncated chunk only the tokens that look at the outcome have no target
    known_BTL = counted & (inside_BTL | outcome_known.unsqueeze(-1))
    if floor is None:
        return TokenTargets(values_BTL, known_BTL, torch.zeros_like(known_BTL))
    floor_BTL = floor.unsqueeze(-1).expand_as(values_BTL)
    raised_BTL = known_BTL & (floor_BTL > values_BTL)
    return TokenTargets(torch.maximum(values_BTL, floor_BTL), known_BTL, raised_BTL)


def values_of_ids(
    values: Float[Tensor, "*shape V"], ids: Int64[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The value of one id at each place."""
    return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def smoothed_labels(
    ids: Int64[Tensor, "*shape"],
    count: int,
    *,
    width: float,
    ordered: Bool[Tensor, "*places"] | None = None,
) -> Float[Tensor, "*shape V"]:
    """Weight of each of `count` ids where the data holds one: 1 for itself, falling off as a
    Gaussian.

    Args:
        width: standard deviation in ids; 0 gives all weight to the data's id.
        ordered: where neighbouring ids are neighbours in value (the last axes of `ids`); elsewhere
            the data's id alone has weight. Everywhere by default.
    """
    distance = torch.arange(count, device=ids.device) - ids.unsqueeze(-1)
    one_hot = (distance == 0).float()
    if width == 0:
        return one_hot
    gaussian = (-0.5 * (distance / width).square()).exp()
    if ordered is None:
        return gaussian
    return gaussian.where(ordered.to(gaussian.device).unsqueeze(-1), one_hot)


def smoothed_error(
    values: Float[Tensor, "*shape V"],
    targets: Float[Tensor, "*shape"],
    labels: Float[Tensor, "*shape V"],
) -> Float[Tensor, "*shape"]:
    """Half the squared distance to the target, a mean over the ids weighted by `labels`.

    Args:
        values: minus infinity where an id may not stand: such ids have no weight.
        labels: of `smoothed_labels`.
    """
    possible = torch.isfinite(values)
    weight = labels * possible
    # selected before the square: infinity times a weight of 0 is NaN, in the gradient too
    distance = values.where(possible, 0.0) - targets.unsqueeze(-1)
    error = 0.5 * distance.square()
    return (weight * error).sum(-1) / weight.sum(-1)


def zero_regulariser(
    values: Float[Tensor, "*shape V"], labels: Float[Tensor, "*shape V"]
) -> Float[Tensor, "*shape"]:
    """Half the mean of Q^2 over the other ids (Chebotar et al., 2023, eq. 3); 0 if there is no
    other.

    Each id counts as much as it is no label. A mean, so that it is the same for any number of ids;
    without neighbours and in the limit of many data, an id that was chosen with probability p and
    led to y has Q = p y / (p + weight (1 - p) / (V - 1)).

    Args:
        values: minus infinity where an id may not stand: such ids have no weight.
        labels: of `smoothed_labels`.
    """
    possible = torch.isfinite(values)
    weight = (1 - labels) * possible
    # to 0, the least return there is: an id that nobody tried then looks worse than any that paid
    squares = values.where(possible, 0.0).square()
    pulled = (weight * squares).sum(-1)
    return 0.5 * pulled / weight.sum(-1).clamp(min=1e-6)


def cross_entropy_regulariser(
    values: Float[Tensor, "*shape V"],
    ids: Int64[Tensor, "*shape"],
    *,
    temperature: float,
) -> Float[Tensor, "*shape"]:
    """CQL(H) of each token (Kumar et al., 2020, eq. 4): a soft maximum over all ids minus Q of the
    data's.

    Divided by the temperature it is the cross-entropy of softmax(Q / temperature).

    Args:
        values: minus infinity where an id may not stand.
        ids: of the data.
        temperature: of the soft maximum; values in [0, 1] need one well below 1, or all ids have
            nearly the same weight.
    """
    return temperature * discrete_conservative_gap(values / temperature, ids)


def mean_over_tokens(
    values: Float[Tensor, "B T L"], counted: Bool[Tensor, "B T L"]
) -> Float[Tensor, "B T"]:
    """Mean over the tokens that count; 0 if there are none."""
    total_BT = values.where(counted, 0.0).sum(-1)
    return total_BT / counted.sum(-1).clamp(min=1)
