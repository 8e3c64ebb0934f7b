"""A risk network: how likely does this action lead to a failure within the next seconds?

N steps of the data, B windows or robots, T steps, C candidates, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F_
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.models.rewards.base import Examples, Metrics, RewardError, RewardModel
from vla.models.rewards.examples import as_examples
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.trunk import (
    TrunkReward,
    TrunkRewardConfig,
    last_example,
    weighted_mean,
)
from vla.types import Batch, Spec

COST = "cost"
"""The extra column that safe reinforcement learning records: above 0 where a step has failed."""


@register("rewards", "risk")
class RiskConfig(TrunkRewardConfig):
    """The probability that the action of a step leads to a failure within `horizon` seconds, while
    whoever recorded the data goes on.

    Formula: p = sigmoid(f(features_t, a_t)); L = cross-entropy to whether a step from t on within
    the horizon has failed, with the share of positive examples corrected for. Reward:
    -penalty p, added to the recorded rewards.

    Sources: Thananjeyan et al., 2021, "Recovery RL" (risk of state and action, from data with
    failures); King and Zeng, 2001, "Logistic regression in rare events data" (prior correction).
    """

    type: Literal["risk"] = "risk"
    horizon: float = Field(default=1.0, gt=0, le=3600)
    """Seconds ahead, from the step's own action on."""
    column: str | None = None
    """Extra column that is above 0 where a step has failed (`cost`, `fell`); null: `cost` if the
    data have it, else the last step of every episode that truly ended and was not solved."""
    positive_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the examples from which a failure follows. Failures are rare; what this changes in
    the probabilities is taken back."""
    penalty: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """What is taken from a step's reward for a risk of 1 (`vla data score`, `vla online`)."""

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        return RiskModel(self, spec, policy)


class RiskModel(TrunkReward):
    """See `RiskConfig`.

    It reads the first action of a chunk. Behind an episode's end a chunk has no actions, so a
    network that saw where they stop would know of the end from that, and at control, where chunks
    are always whole, it would call the last moment safe. Whoever executes several actions of a
    chunk asks again at each step (the gate `risk` does).

    Attributes:
        threshold: risk from which on an action is refused unless the user says otherwise; chosen by
            held-out episodes.
    """

    config: RiskConfig
    adds_to_rewards: ClassVar[bool] = True
    score_column: ClassVar[str] = "risk"
    offset: Tensor

    def __init__(self, config: RiskConfig, spec: Spec, policy: Policy | None) -> None:
        super().__init__(config, spec, policy)
        if self.policy.return_conditioned:
            raise RewardError(
                "policy: is conditioned on what the episode comes to, which nobody knows while it "
                "runs; set policy.condition=none"
            )
        # log odds of drawing a positive example above those in the data; it goes with the weights
        self.register_buffer("offset", torch.tensor(0.0))

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The probability of a failure within the horizon, 0 to 1."""
        return torch.sigmoid(self.outputs(batch)[..., 0])

    @torch.no_grad()
    def of_candidates(self, batch: Batch, actions: Float[Tensor, "B C A"]) -> Float[Tensor, "B C"]:
        """The risk of each of several actions at the last step of the windows; what was seen is
        computed once.

        Args:
            batch: windows whose own last actions are not read.
            actions: robot units.
        """
        policy = self.policy
        # features of a step are those before its action (`PolicyOutput.features`)
        features_BF = policy.features(batch)[:, -1].float()
        span_A = policy.action_high - policy.action_low
        unit_BCA = 2 * (actions.to(features_BF.device) - policy.action_low) / span_A - 1
        features_BCF = features_BF[:, None].expand(-1, actions.shape[1], -1)
        inputs = torch.cat([features_BCF, unit_BCA.float()], -1)
        return torch.sigmoid(self.head(inputs)[..., 0])

    def episode_rewards(self, scores: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
        return -self.config.penalty * scores

    def labels(self, steps: LabelledSteps) -> RiskLabels:
        """What the steps' risks ought to be. Raises RewardError if the data do not say."""
        return risk_labels(
            steps, horizon=horizon_steps(self.config, self.spec), column=self.config.column
        )

    def fit(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> dict[str, float]:
        labels = self.labels(steps)
        known = labels.known
        rate = float(labels.ahead[known].mean()) if known.any() else 0.0
        if not 0 < rate < 1:
            what = "never" if rate == 0 else "always"
            raise RewardError(
                f"{steps.name}: a failure ({labels.source}) {what} follows within "
                f"{self.config.horizon:g} s, so there is nothing to tell apart; add episodes of "
                "the other kind, name the column with model.column, or change model.horizon"
            )
        share = self.config.positive_share
        self.offset.fill_(float(np.log(share / (1 - share)) - np.log(rate / (1 - rate))))
        return {"positive_rate": rate}

    def examples(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> Examples:
        return RiskExamples(steps, self.labels(steps), self.config)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Binary cross-entropy; `accuracy` of each side, among examples as they are drawn."""
        # the examples hold more failures than the data: the offset stands for that, so what is
        # left is the log odds in the data
        logit_B = self.outputs(batch)[:, -1, 0] + self.offset
        target_B, weight_B = last_example(batch)
        loss_B = F_.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
        right_B = ((logit_B > 0) == (target_B > 0.5)).float()
        metrics = {
            "accuracy/failing": weighted_mean(right_B, weight_B * target_B).detach(),
            "accuracy/safe": weighted_mean(right_B, weight_B * (1 - target_B)).detach(),
        }
        return weighted_mean(loss_B, weight_B), metrics


@dataclass(frozen=True)
class RiskLabels:
    """What is known of each step.

    Attributes:
        ahead: bool (N,), whether a failure follows within the horizon.
        known: bool (N,), False where the recording stops before that can be known.
        failed: bool (N,), the steps that have failed themselves.
        source: where failures come from, for people.
        horizon: steps.
    """

    ahead: Bool[np.ndarray, " N"]
    known: Bool[np.ndarray, " N"]
    failed: Bool[np.ndarray, " N"]
    source: str
    horizon: int


def horizon_steps(config: RiskConfig, spec: Spec) -> int:
    """Control steps of the horizon, at least 1."""
    return max(1, round(config.horizon * spec.control_hz))


def risk_labels(steps: LabelledSteps, *, horizon: int, column: str | None) -> RiskLabels:
    """Whether a failure follows each step within `horizon` steps, its own action's included.

    Where a time limit stops the recording, the last `horizon` - 1 steps without a failure are
    unknown, not safe: censored, as survival analysis calls it. After a true end nothing follows.

    Raises RewardError if the data lack the column, or say nothing of ends.
    """
    failed_N, source = _failures(steps, column)
    ahead_N = np.zeros(len(steps), bool)
    known_N = np.ones(len(steps), bool)
    for start, length in zip(steps.starts.tolist(), steps.lengths.tolist(), strict=True):
        rows = slice(start, start + length)
        places = np.arange(length)
        # the nearest failure at or behind each step; far away where there is none
        failures = np.append(np.flatnonzero(failed_N[rows]), length + horizon)
        distance = failures[np.searchsorted(failures, places)] - places
        ahead_N[rows] = distance < horizon
        if not steps.terminated[start + length - 1]:
            seen_far_enough = length - places >= horizon
            known_N[rows] = ahead_N[rows] | seen_far_enough
    return RiskLabels(ahead_N, known_N, failed_N, source, horizon)


def _failures(steps: LabelledSteps, column: str | None) -> tuple[np.ndarray, str]:
    """Which steps have failed, and where that is from."""
    if column is None and COST in steps.extras:
        column = COST
    if column is not None:
        if column not in steps.extras:
            has = ", ".join(steps.extras) or "none"
            raise RewardError(
                f"{steps.name}: has no extra column {column!r}; it has: {has}; correct "
                "model.column, or leave it out to learn from how episodes ended"
            )
        values = np.asarray(steps.extras[column])
        if values.ndim != 1:
            raise RewardError(
                f"{steps.name}: the column {column!r} holds {values.shape[1]} numbers a step, and "
                "a failure is one; name another with model.column"
            )
        return values > 0, f"column {column}"
    if "terminated" not in steps.recorded:
        raise RewardError(
            f"{steps.name}: true ends are not recorded, so a failure looks like a time limit; "
            "record a column of failures and name it with model.column"
        )
    solved_N = steps.episode_solved[steps.episode_of]
    return steps.terminated & ~solved_N, "episodes that ended unsolved"


class RiskExamples(Examples):
    """Steps before failures and other steps, by `positive_share`; what is unknown is left out."""

    def __init__(self, steps: LabelledSteps, labels: RiskLabels, config: RiskConfig) -> None:
        self.steps = steps
        self.failing = np.flatnonzero(labels.ahead & labels.known)
        self.safe = np.flatnonzero(~labels.ahead & labels.known)
        self.share = config.positive_share
        unknown = int((~labels.known).sum())
        failing_episodes = np.unique(steps.episode_of[labels.failed])
        self.lines = (
            f"failures ({labels.source}): {len(failing_episodes)} of {len(steps.lengths)} episodes",
            f"steps: {len(self.failing)} before a failure, {len(self.safe)} safe, "
            f"{unknown} unknown",
        )

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        # Row by row, not instruction by instruction as a classifier's are: the odds of the data
        # are what the probabilities have to keep.
        positives = min(size - 1, max(1, round(self.share * size)))
        failing = rng.choice(self.failing, positives)
        safe = rng.choice(self.safe, size - positives)
        targets = np.arange(size) < positives
        return as_examples(self.steps, np.concatenate([failing, safe]), targets)


__all__ = ["RiskConfig", "RiskExamples", "RiskLabels", "RiskModel", "horizon_steps", "risk_labels"]
