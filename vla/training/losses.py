"""Formulas of objectives: pure functions, in float32.

Shape letters: B batch, T time steps, n lookahead steps, K actions per chunk, A action dimensions,
E critics, S sampled actions, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Metrics = dict[str, Tensor]
"""Name -> a number to be logged: a scalar, or (B, T) before the mean over steps is taken."""


def masked_mean(
    values: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
) -> Float[Tensor, ""]:
    """Mean of `values` where `mask` is True; 0 if it is nowhere True.

    Values under the mask may be NaN: they are selected away, not multiplied by zero.
    """
    total = values.where(mask, 0.0).sum()
    # at least 1: a micro-batch without valid steps counts for nothing, and NaN would spread to all
    return total / mask.sum().clamp(min=1)


@torch.no_grad()
def masked_means(
    values: Mapping[str, Tensor],
    mask: Bool[Tensor, "*shape"],
) -> Metrics:
    """`masked_mean` of each, without gradient, in a handful of operations for all of them."""
    # one row per name: with small networks, launching an operation costs more than its arithmetic
    columns = [value.float() for value in values.values()]
    rows = torch.stack(columns).where(mask, 0.0).flatten(1)
    means = rows.sum(1) / mask.sum().clamp(min=1)
    return dict(zip(values, means.unbind(), strict=True))


def robot_means(
    values: Mapping[str, float],
    names: Sequence[str],
) -> dict[str, float]:
    """`values` with each robot's own mean loss in place of its contribution.

    The loss of a robot that had no step is left out.
    """
    means = dict(values)
    for name in names:
        if f"loss/{name}" not in means:
            continue
        share = means.get(f"share/{name}")
        if share:
            means[f"loss/{name}"] /= share
        else:
            del means[f"loss/{name}"]
    return means


def action_l1(
    predicted_BTKA: Float[Tensor, "B T K A"],
    actions_BTKA: Float[Tensor, "B T K A"],
    action_mask_BTK: Bool[Tensor, "B T K"],
) -> Float[Tensor, "B T A"]:
    """Absolute error of each action dimension in robot units, mean over the chunk's valid actions.

    Steps without any valid action give 0.
    """
    absolute_BTKA = (predicted_BTKA - actions_BTKA).abs()
    error_BTKA = absolute_BTKA.where(action_mask_BTK[..., None], 0.0)
    count_BT1 = action_mask_BTK.sum(2).clamp(min=1)[..., None]
    return error_BTKA.sum(2) / count_BT1


# --- targets of values ----------------------------------------------------------------------------


def n_step_returns(
    rewards: Float[Tensor, "B Tn"],
    terminals: Bool[Tensor, "B Tn"],
    mask: Bool[Tensor, "B Tn"],
    *,
    n: int,
    discount: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Discounted rewards of n steps, and the weight of the value behind them.

    Sutton and Barto, eq. 7.1. The target of step t is `returns + bootstrap * V(t + n)`. A true end
    within the n steps stops the sum and the bootstrap. A truncated episode would have gone on: if
    it is cut within the n steps, nothing is known of its target.

    Args:
        rewards, terminals, mask: T + n steps.
        n: at least 1.
        discount: per step.

    Returns:
        returns: sum of the discounted rewards up to the end.
        bootstrap: discount ** n, or 0 if the task ended.
        known: False if neither an end nor the step t + n was seen, and at padded steps.
    """
    T = rewards.shape[1] - n
    total_BT = torch.zeros_like(rewards[:, :T])
    alive_BT = torch.ones_like(total_BT)
    for k in range(n):
        ahead = slice(k, k + T)
        total_BT = total_BT + discount**k * alive_BT * rewards[:, ahead]
        # after the sum: the reward of the terminal step itself still counts
        alive_BT = alive_BT * (~terminals[:, ahead]).float()
    # an end is as good as a step t + n that was seen: nothing is bootstrapped from behind it
    known_BT = mask[:, :T] & ((alive_BT == 0) | mask[:, n:])
    return total_BT, discount**n * alive_BT, known_BT


def expectile_loss(
    error: Float[Tensor, "*shape"],
    expectile: float,
) -> Float[Tensor, "*shape"]:
    """|expectile - 1(error < 0)| * error ** 2 (Kostrikov et al., 2022, eq. 4).

    Args:
        error: target - value. With the other sign the loss is that of the expectile 1 - tau.
        expectile: tau, in (0, 1).
    """
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return weight * error.square()


# --- policy extraction ----------------------------------------------------------------------------


def advantage_weights(
    advantage: Float[Tensor, "*shape"], *, beta: float, max_weight: float
) -> Float[Tensor, "*shape"]:
    """min(exp(beta * advantage), max_weight), without overflow and gradient (Peng et al., 2019)."""
    max_exponent = torch.log(torch.tensor(max_weight, dtype=torch.float32))
    # float: in bfloat16 exp would be off by a per cent
    # the exponent is clamped, not the weight: exp(1e6) is infinite
    exponent = (beta * advantage.detach().float()).clamp(max=float(max_exponent))
    return exponent.exp()


def effective_sample_size(
    weights: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """(sum w)^2 / (n sum w^2) over the mask (Kish, 1965), as a share of the n steps.

    1 if all weights are equal, 1/n if all weight lies on one step, 0 if the mask is empty.
    """
    chosen = weights.where(mask, 0.0)
    chosen = chosen / chosen.amax().clamp(min=1e-37)  # else squares of small weights vanish
    squares = mask.sum() * chosen.square().sum()
    return chosen.sum().square() / squares.clamp(min=1e-12)


# --- conservatism ---------------------------------------------------------------------------------


def conservative_gap(
    q_sampled: Float[Tensor, "S B T"],
    q_data: Float[Tensor, "B T"],
    *,
    log_density: Float[Tensor, "S B T"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "B T"]:
    """CQL(H) with sampled actions: log-mean-exp of Q minus Q of the data's action.

    Kumar et al., 2020. Without densities the data's action is one of those that the soft maximum
    runs over: the gap then is at least -temperature * log(S + 1), and its gradient ends where Q of
    the data's action stands above the rest.

    Args:
        q_sampled: Q of S actions of each step.
        q_data: Q of the action in the data.
        log_density: of the sampled actions under the distribution that they were drawn from, for
            importance weights; None gives all the same weight.
        temperature: of the soft maximum.
    """
    logits_SBT = q_sampled / temperature
    if log_density is None:
        # else raising Q of the data's action would pay for ever, and lowering the others too
        logits_SBT = torch.cat([logits_SBT, q_data[None] / temperature])
    else:
        logits_SBT = logits_SBT - log_density
    # a mean, not a sum: without density a constant Q has no gap, however many actions are drawn
    log_count = torch.log(torch.tensor(float(len(logits_SBT))))
    return temperature * (logits_SBT.logsumexp(0) - log_count) - q_data


def discrete_conservative_gap(
    q: Float[Tensor, "*shape V"],
    ids: Tensor,
    allowed: Bool[Tensor, "... V"] | None = None,
) -> Float[Tensor, "*shape"]:
    """CQL(H) over all V ids: logsumexp Q minus Q of the data's id, which is their cross-entropy.

    Args:
        q: of every id.
        ids: of the data, (*shape).
        allowed: which ids may stand there, of a shape that broadcasts to that of `q`; None for all.
    """
    if allowed is not None:
        q = q.masked_fill(~allowed, -torch.inf)
    q_data = q.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return q.logsumexp(-1) - q_data


def calibrated(
    q_policy: Float[Tensor, "S B T"], returns: Float[Tensor, "B T"]
) -> tuple[Float[Tensor, "S B T"], Float[Tensor, "S B T"]]:
    """Q of the policy's actions, raised to the data's Monte-Carlo return.

    Cal-QL (Nakamoto et al., 2023).

    Returns:
        the raised values, and 1.0 where the bound is active, else 0.0.
    """
    bound_SBT = returns.expand_as(q_policy)
    active_SBT = (q_policy < bound_SBT).float()
    return torch.maximum(q_policy, bound_SBT), active_SBT
