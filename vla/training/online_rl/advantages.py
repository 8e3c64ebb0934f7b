"""How much better a decision was than usual: from values (GAE), returns, or groups of equal starts.

A decision is the choice of a chunk, of which n actions were executed. N: steps of all episodes side
by side, E: episodes, D: decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64


@dataclass(frozen=True)
class Decisions:
    """The decisions of a round, in the order of time within each episode.

    Attributes:
        step: (D,), where each was taken, among the N steps.
        episode: (D,), of which episode.
        reward: (D,), discounted sum of the rewards up to the next decision or the end.
        discount: (D,), of what follows then: discount ** steps.
        last: (D,), whether none follows in its episode.
        terminated: (E,), whether the episode truly ended.
    """

    step: Int64[np.ndarray, " D"]
    episode: Int64[np.ndarray, " D"]
    reward: Float[np.ndarray, " D"]
    discount: Float[np.ndarray, " D"]
    last: Bool[np.ndarray, " D"]
    terminated: Bool[np.ndarray, " E"]

    @classmethod
    def of(
        cls,
        executed: np.ndarray,
        rewards: np.ndarray,
        terminals: np.ndarray,
        lengths: np.ndarray,
        *,
        discount: float,
    ) -> Decisions:
        """Finds them.

        Args:
            executed: (N,), actions executed of the chunk that was chosen at a step, 0 where none
                was chosen.
            rewards, terminals: (N,).
            lengths: (E,), steps of the episodes.
            discount: per step.
        """
        ends_E = np.cumsum(lengths)
        step_D = np.flatnonzero(executed > 0)
        episode_D = np.searchsorted(ends_E, step_D, side="right")
        # a decision is the last one where the next is of another episode, or there is none
        last_D = np.ones(len(step_D), dtype=bool)
        last_D[:-1] = episode_D[1:] != episode_D[:-1]
        until_D = ends_E[episode_D]
        until_D[:-1] = np.where(last_D[:-1], until_D[:-1], step_D[1:])
        # within its episode each reward counts from the last decision before it on
        of_step = np.searchsorted(step_D, np.arange(len(executed)), side="right") - 1
        counted = np.flatnonzero(of_step >= 0)
        counted = counted[counted < until_D[of_step[counted]]]
        # steps ahead of an episode's first decision were not the policy's doing
        decision = of_step[counted]
        weighted = rewards[counted] * float(discount) ** (counted - step_D[decision])
        reward_D = np.bincount(decision, weighted, minlength=len(step_D))
        terminated_E = np.asarray(terminals, dtype=bool)[ends_E - 1]
        return cls(
            step_D,
            episode_D,
            reward_D,
            float(discount) ** (until_D - step_D),
            last_D,
            terminated_E,
        )


def generalised_advantages(
    decisions: Decisions,
    values: Float[np.ndarray, " D"],
    *,
    decay: float,
    bootstrap_time_limits: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """GAE(lambda) of each decision, and the targets of V, (D,) each.

    Formula, with n_j executed steps, R_j their discounted rewards:

        delta_j = R_j + g^n_j V_{j+1} - V_j,    A_j = delta_j + g^n_j lambda A_{j+1}

    Source: Schulman et al., 2016, "High-dimensional continuous control using generalized advantage
    estimation", eq. 11 to 16.

    Args:
        values: V at each decision.
        decay: lambda, 0 for one decision ahead, 1 for the returns.
        bootstrap_time_limits: whether an episode that was cut off goes on with the value of its
            last decision; else it counts as ended.
    """
    D = len(values)
    advantages = np.zeros(D)
    ends = decisions.terminated[decisions.episode]
    # backwards: each advantage is made of the one after it
    for j in reversed(range(D)):
        if decisions.last[j]:
            goes_on = bootstrap_time_limits and not ends[j]
            following = values[j] if goes_on else 0.0
            later = 0.0
        else:
            following = values[j + 1]
            later = advantages[j + 1]
        factor = decisions.discount[j]
        delta = decisions.reward[j] + factor * following - values[j]
        advantages[j] = delta + factor * decay * later
    return advantages, advantages + values


def returns_of(decisions: Decisions) -> Float[np.ndarray, " D"]:
    """Discounted rewards from each decision to its episode's end, (D,)."""
    zero = np.zeros(len(decisions.step))
    return generalised_advantages(decisions, zero, decay=1.0, bootstrap_time_limits=False)[0]


@dataclass(frozen=True)
class GroupAdvantages:
    """What groups of episodes with one start say.

    Attributes:
        advantage: (E,), 0 in groups that are left out.
        kept: share of the groups that teach something.
    """

    advantage: Float[np.ndarray, " E"]
    kept: float


def group_advantages(
    scores: Float[np.ndarray, " E"],
    groups: Int64[np.ndarray, " E"],
    *,
    leave_one_out: bool = False,
    least_share: float = 0.0,
    greatest_share: float = 1.0,
) -> GroupAdvantages:
    """Each episode against the others of its start.

    (R - mean) / std over the group (GRPO; Shao et al., 2024, "DeepSeekMath", sec. 4.1.2), or R
    minus the mean of the others (RLOO; Ahmadian et al., 2024, "Back to basics", eq. 7). Groups
    whose episodes all came to the same are left out: nothing in them was better.

    Args:
        scores: return of each episode.
        groups: equal for episodes of one start.
        least_share, greatest_share: groups are left out too whose mean, within the range of all
            scores, lies outside of these.
    """
    advantage_E = np.zeros(len(scores))
    low, high = float(scores.min()), float(scores.max())
    names = np.unique(groups)
    kept = 0
    for name in names:
        members = np.flatnonzero(groups == name)
        own = scores[members]
        share = (own.mean() - low) / max(high - low, 1e-12)
        # all alike: a spread of 0 would divide, and nothing in the group was better
        if np.ptp(own) == 0 or not least_share <= share <= greatest_share:
            continue
        kept += 1
        if leave_one_out:
            others = (own.sum() - own) / (len(own) - 1)
            advantage_E[members] = own - others
        else:
            advantage_E[members] = (own - own.mean()) / own.std()
    return GroupAdvantages(advantage_E, kept / len(names))


__all__ = [
    "Decisions",
    "GroupAdvantages",
    "generalised_advantages",
    "group_advantages",
    "returns_of",
]
