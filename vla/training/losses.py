"""Formulas of objectives: pure functions, in float32.

Shape letters: B batch, T time steps, n lookahead steps, K actions per chunk, A action dimensions, E critics, S sampled
actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `values` where `mask` is True; 0 where it is nowhere True.

    Values under the mask may be NaN: they are selected away, not multiplied by zero.
    """
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


@torch.no_grad()
def masked_means(values: Mapping[str, Tensor], mask: Bool[Tensor, "*shape"]) -> dict[str, Tensor]:
    """`masked_mean` of each, without gradient, in a handful of operations for all of them."""
    rows = torch.stack([value.float() for value in values.values()]).where(mask, 0.0).flatten(1)
    means = rows.sum(1) / mask.sum().clamp(min=1)
    return dict(zip(values, means.unbind(), strict=True))


def robot_means(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """`values` with the mean loss of each robot's own steps in place of its contribution; without those that had none."""
    found = dict(values)
    for name in names:
        if f"loss/{name}" in found and not found.get(f"share/{name}"):
            del found[f"loss/{name}"]
        elif f"loss/{name}" in found:
            found[f"loss/{name}"] /= found[f"share/{name}"]
    return found


def action_l1(
    predicted_BTKA: Float[Tensor, "B T K A"],
    actions_BTKA: Float[Tensor, "B T K A"],
    action_mask_BTK: Bool[Tensor, "B T K"],
) -> Float[Tensor, "B T A"]:
    """Absolute error of each action dimension in robot units, mean over the valid actions of the chunk.

    Steps without any valid action give 0.
    """
    error_BTKA = (predicted_BTKA - actions_BTKA).abs().where(action_mask_BTK[..., None], 0.0)
    return error_BTKA.sum(2) / action_mask_BTK.sum(2).clamp(min=1)[..., None]


# --- targets of values --------------------------------------------------------------------------------


def n_step_returns(
    rewards: Float[Tensor, "B Tn"],
    terminals: Bool[Tensor, "B Tn"],
    mask: Bool[Tensor, "B Tn"],
    *,
    n: int,
    discount: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """What n steps bring, and what the value after them counts (Sutton and Barto, eq. 7.1).

    The target of step t is `returns + bootstrap * V(t + n)`. A true end within the n steps stops the sum and the
    bootstrap. A truncated episode goes on unseen: where it is cut within the n steps nothing can be said.

    Args:
        rewards, terminals, mask: T + n steps.
        n: at least 1.
        discount: per step.

    Returns:
        returns: sum of the discounted rewards up to the end.
        bootstrap: discount ** n, or 0 where the task ended.
        known: False where neither an end nor the step t + n was seen, and at padded steps.
    """
    T = rewards.shape[1] - n
    total = torch.zeros_like(rewards[:, :T])
    alive = torch.ones_like(total)
    for k in range(n):
        total = total + discount**k * alive * rewards[:, k : k + T]
        alive = alive * (~terminals[:, k : k + T]).float()
    known = mask[:, :T] & ((alive == 0) | mask[:, n:])
    return total, discount**n * alive, known


def lambda_returns(
    rewards: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    terminals: Bool[Tensor, "B T"],
    *,
    discount: float,
    decay: float,
) -> Float[Tensor, "B T"]:
    """TD(lambda) targets (Sutton and Barto, eq. 12.10): `decay` 0 gives one-step targets, 1 the rewards up to the
    window's end with the value of what follows it.

    Args:
        next_values: V(t + 1) of every step.
        decay: lambda, in [0, 1].
    """
    targets = torch.empty_like(next_values)
    following = next_values[:, -1]
    for t in reversed(range(rewards.shape[1])):
        mixed = (1 - decay) * next_values[:, t] + decay * following
        following = rewards[:, t] + discount * (~terminals[:, t]).float() * mixed
        targets[:, t] = following
    return targets


def expectile_loss(error: Float[Tensor, "*shape"], expectile: float) -> Float[Tensor, "*shape"]:
    """|expectile - 1(error < 0)| * error ** 2, with error = target - value (Kostrikov et al., 2022, eq. 4)."""
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return weight * error.square()


# --- policy extraction --------------------------------------------------------------------------------


def advantage_weights(
    advantage: Float[Tensor, "*shape"], *, beta: float, max_weight: float
) -> Float[Tensor, "*shape"]:
    """min(exp(beta * advantage), max_weight), without overflow and without gradient (Peng et al., 2019)."""
    greatest = torch.log(torch.tensor(max_weight, dtype=torch.float32))
    return (beta * advantage.detach().float()).clamp(max=float(greatest)).exp()


def effective_sample_size(
    weights: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """(sum w)^2 / (n sum w^2) over the mask: 1 where all weigh alike, 1/n where one weighs all; 0 under no mask."""
    chosen = weights.where(mask, 0.0)
    chosen = chosen / chosen.amax().clamp(min=1e-37)  # else squares of small weights vanish
    return chosen.sum().square() / (mask.sum() * chosen.square().sum()).clamp(min=1e-12)


# --- conservatism -------------------------------------------------------------------------------------


def conservative_gap(
    q_sampled: Float[Tensor, "S B T"],
    q_data: Float[Tensor, "B T"],
    *,
    log_density: Float[Tensor, "S B T"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "B T"]:
    """CQL(H) with sampled actions: log-mean-exp of their Q minus Q of the data (Kumar et al., 2020, appendix F).

    Args:
        q_sampled: Q of S actions of each step.
        q_data: Q of the action in the data.
        log_density: of the sampled actions under what drew them, for importance weights; None weighs all alike.
        temperature: of the soft maximum.
    """
    logits = q_sampled / temperature
    if log_density is not None:
        logits = logits - log_density
    count = torch.log(torch.tensor(float(len(q_sampled))))
    return temperature * (logits.logsumexp(0) - count) - q_data


def discrete_conservative_gap(
    q: Float[Tensor, "*shape V"], ids: Tensor, allowed: Bool[Tensor, "*shape V"] | None = None
) -> Float[Tensor, "*shape"]:
    """CQL(H) over all V ids: logsumexp Q minus Q of the data's id, which is their cross-entropy."""
    if allowed is not None:
        q = q.masked_fill(~allowed, -torch.inf)
    return q.logsumexp(-1) - q.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def calibrated(
    q_policy: Float[Tensor, "S B T"], returns: Float[Tensor, "B T"]
) -> tuple[Float[Tensor, "S B T"], Float[Tensor, "S B T"]]:
    """Cal-QL (Nakamoto et al., 2023, eq. 4.1): Q of the policy's actions raised to the data's Monte-Carlo return.

    Returns:
        the raised values, and 1.0 where the bound holds them, else 0.0.
    """
    bound = returns.expand_as(q_policy)
    return torch.maximum(q_policy, bound), (q_policy < bound).float()
