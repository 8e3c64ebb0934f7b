"""How far the task has come: steps to success as a number from 0 to 1.

B windows, T steps, N steps of the data, L steps of an episode, O bins.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.models.rewards.base import Examples, Metrics, RewardError, RewardModel
from vla.models.rewards.examples import Pool, as_examples, counts_of
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.trunk import (
    TrunkReward,
    TrunkRewardConfig,
    last_example,
    weighted_mean,
)
from vla.types import Batch, Spec


@register("rewards", "progress")
class ProgressConfig(TrunkRewardConfig):
    """How far the task has come: 1 when it is solved, 0 a whole horizon before, and in failures.

    Formula: y_t = 1 - (steps from t to success) / horizon, at least 0; 0 in failures. A categorical
    over bins of [0, 1] with the targets of HL-Gauss; its mean is the score. Reward: the
    difference to the step before.

    Sources: the value of RECAP ("pi*0.6", 2025) over 201 bins; Farebrother et al., 2024, "Stop
    regressing" (HL-Gauss, sigma of 0.75 bins); Ng et al., 1999 (differences of a potential).
    """

    type: Literal["progress"] = "progress"
    bins: int = Field(default=201, ge=2, le=10001)
    """Of the categorical."""
    sigma: float = Field(default=0.75, gt=0, le=100)
    """Deviation of HL-Gauss targets, in bin widths."""
    horizon: int | None = Field(default=None, ge=1)
    """Steps before success at which progress begins; null: the longest way to a success in the
    data."""
    reward: Literal["difference", "progress"] = "difference"
    """What an episode's rewards are: the progress of each step, or the progress that has been made
    by then, whose sum also pays for staying."""
    solved_share: float = Field(default=0.7, gt=0, le=1)
    """Share of the examples that come from solved episodes."""

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        return ProgressReward(self, spec, policy)


class ProgressReward(TrunkReward):
    """See `ProgressConfig`."""

    config: ProgressConfig
    centres: Tensor
    horizon: Tensor

    def __init__(self, config: ProgressConfig, spec: Spec, policy: Policy | None) -> None:
        super().__init__(config, spec, policy, outputs=config.bins)
        centres = torch.linspace(0, 1, config.bins)
        self.register_buffer("centres", centres, persistent=False)
        # fitted to the data: it goes with the weights
        self.register_buffer("horizon", torch.tensor(float(config.horizon or 1)))

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Progress, 0 to 1, after each action."""
        return self.outputs(batch).softmax(-1) @ self.centres

    def episode_rewards(self, scores: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
        if self.config.reward == "progress":
            return scores
        # the first has nothing before it: rewards sum to the progress since then
        return np.diff(scores, prepend=scores[:1]).astype(np.float32)

    def fit(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> dict[str, float]:
        if self.config.horizon is None:
            to_success_N = steps_to_success(steps)
            finite = to_success_N[np.isfinite(to_success_N)]
            self.horizon.fill_(max(1.0, float(finite.max())) if len(finite) else 1.0)
        return {"horizon": float(self.horizon)}

    def examples(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> Examples:
        return ProgressExamples(steps, self.config, float(self.horizon))

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy to the target's bins; `error`, the mean absolute error of progress."""
        logits_BO = self.outputs(batch)[:, -1]
        target_B, weight_B = last_example(batch)
        target_BO = hl_gauss(target_B, self.config.bins, self.config.sigma)
        loss_B = -(target_BO * logits_BO.log_softmax(-1)).sum(-1)
        error_B = (logits_BO.detach().softmax(-1) @ self.centres - target_B).abs()
        return weighted_mean(loss_B, weight_B), {"error": weighted_mean(error_B, weight_B)}


def steps_to_success(steps: LabelledSteps) -> Float[np.ndarray, " N"]:
    """How many steps behind each step's action its episode is solved, 0 at and behind the first
    solved step; infinite in failures."""
    found = np.full(len(steps), np.inf)
    for start, length in zip(steps.starts, steps.lengths, strict=True):
        solved = np.flatnonzero(steps.solved[start : start + length])
        if len(solved):
            left = solved[0] - np.arange(length)
            # what was solved counts as solved from then on
            found[start : start + length] = np.maximum(left, 0)
    return found


def progress_targets(steps: LabelledSteps, horizon: float) -> Float[np.ndarray, " N"]:
    """Progress of each step, 0 to 1 (see `ProgressConfig`)."""
    return np.clip(1 - steps_to_success(steps) / horizon, 0, 1).astype(np.float32)


def hl_gauss(values: Float[Tensor, " B"], bins: int, sigma: float) -> Float[Tensor, "B O"]:
    """Probabilities of bins centred on 0 .. 1 for numbers there.

    The mass of a normal distribution around each number, sigma bin widths wide, between the edges
    of each bin (Farebrother et al., 2024, eq. 5).
    """
    width = 1 / (bins - 1)
    edges = torch.linspace(-width / 2, 1 + width / 2, bins + 1, device=values.device)
    scaled = (edges - values[:, None]) / (sigma * width * math.sqrt(2))
    cumulative = torch.erf(scaled)
    mass = cumulative[:, 1:] - cumulative[:, :-1]
    # what lies beyond 0 and 1 is shared out: the rest sums to one
    return mass / (cumulative[:, -1:] - cumulative[:, :1])


class ProgressExamples(Examples):
    """Steps of solved episodes, and of failures, by their shares.

    Raises RewardError if no episode is solved.
    """

    def __init__(self, steps: LabelledSteps, config: ProgressConfig, horizon: float) -> None:
        self.steps = steps
        self.targets = progress_targets(steps, horizon)
        texts = np.array(steps.instructions, object)[steps.task_index]
        solved_N = steps.episode_solved[steps.episode_of]
        rows = {True: np.flatnonzero(solved_N), False: np.flatnonzero(~solved_N)}
        if not len(rows[True]):
            raise RewardError(
                f"{steps.name}: no episode is solved, so nothing says what progress is; add "
                "solved episodes"
            )
        self.pools = {key: Pool(found, texts[found].tolist()) for key, found in rows.items()}
        share = config.solved_share if len(rows[False]) else 1.0
        self.shares = {"solved": share, "failed": 1 - share}
        self.lines = (
            f"steps of solved episodes {len(rows[True])}, of failures {len(rows[False])}; progress "
            f"begins {horizon:g} steps before success",
        )

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        parts = []
        for name, count in counts_of(size, self.shares).items():
            if count:
                parts.append(self.pools[name == "solved"].draw(rng, count)[0])
        rows = np.concatenate(parts)
        return as_examples(self.steps, rows, self.targets[rows])


__all__ = ["ProgressConfig", "ProgressReward", "hl_gauss", "progress_targets", "steps_to_success"]
