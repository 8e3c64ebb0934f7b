"""A reward learned from which of two parts of episodes is preferred.

B windows, T steps, N steps of the data, P pairs, G steps of a segment.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F_
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import PathText, register
from vla.data.tools.preference_labels import draw_segment_pairs, read_preferences
from vla.models.policy import Policy
from vla.models.rewards.base import Examples, Metrics, RewardError, RewardModel
from vla.models.rewards.examples import as_examples
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.trunk import TrunkReward, TrunkRewardConfig, last_example
from vla.types import Batch, Spec

Rows = tuple[int, int]
"""First row of a segment, and the row behind its last."""


@register("rewards", "preference")
class PreferenceConfig(TrunkRewardConfig):
    """A reward by which the preferred of two segments returns more.

    Formula: P(a preferred to b) = sigmoid(sum of r over a - sum of r over b), Bradley-Terry; L =
    cross-entropy to the labels. At the end r is scaled to mean 0 and deviation 1 over the data.

    Source: Christiano et al., 2017, "Deep reinforcement learning from human preferences", eq. 1.
    """

    type: Literal["preference"] = "preference"
    labels: PathText = "returns"
    """`returns`: the segment of greater recorded reward is preferred (a synthetic teacher); else a
    file of JSON lines, as `vla data prefer` makes it."""
    pairs: int = Field(default=1000, ge=1, le=10_000_000)
    """With labels: returns, how many pairs are drawn and labelled once."""
    segment: int = Field(default=25, ge=1, le=10_000)
    """Steps of a segment, with labels: returns."""
    reads_action: bool = True
    """Let the reward depend on the action, not on what is seen alone."""

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        return PreferenceReward(self, spec, policy)


class PreferenceReward(TrunkReward):
    """See `PreferenceConfig`."""

    config: PreferenceConfig
    reward_mean: Tensor
    reward_std: Tensor

    def __init__(self, config: PreferenceConfig, spec: Spec, policy: Policy | None) -> None:
        super().__init__(config, spec, policy, reads_action=config.reads_action)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The reward, in deviations over the data that it learned from."""
        return (self.outputs(batch)[..., 0] - self.reward_mean) / self.reward_std

    def examples(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> Examples:
        return PreferenceExamples(steps, self.config)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the pairs; `accuracy` of those whose label is no tie."""
        reward_B = self.outputs(batch)[:, -1, 0]
        target_B, weight_B = last_example(batch)
        # rows come as pair, side, step
        segment = int(batch.extras["segment"][0, -1])
        reward_P2G = (reward_B * weight_B).view(-1, 2, segment)
        returns_P2 = reward_P2G.sum(-1)
        logit_P = returns_P2[:, 0] - returns_P2[:, 1]
        label_P = target_B.view(-1, 2 * segment)[:, 0]
        loss = F_.binary_cross_entropy_with_logits(logit_P, label_P)
        decided_P = label_P != 0.5
        right_P = ((logit_P > 0) == (label_P > 0.5)) & decided_P
        accuracy = right_P.float().sum() / decided_P.float().sum().clamp(min=1)
        return loss, {"accuracy": accuracy.detach()}

    def finish(self, scores: Float[np.ndarray, " N"]) -> None:
        # comparisons say nothing of a constant, nor does a policy care for the unit
        mean, std = float(self.reward_mean), float(self.reward_std)
        raw_N = scores.astype(np.float64) * std + mean
        self.reward_mean.fill_(float(raw_N.mean()))
        self.reward_std.fill_(max(float(raw_N.std()), 1e-6))


class PreferenceExamples(Examples):
    """Labelled pairs of segments.

    Attributes:
        pairs: (rows of a, rows of b, probability that a is better).

    Raises RewardError if there are no pairs, or all are ties.
    """

    def __init__(self, steps: LabelledSteps, config: PreferenceConfig, *, seed: int = 0) -> None:
        self.steps = steps
        if config.labels == "returns":
            self.pairs = _pairs_by_returns(steps, config, seed)
        else:
            self.pairs = _pairs_of_file(steps, config.labels)
        ties = sum(label == 0.5 for *_, label in self.pairs)
        if ties == len(self.pairs):
            raise RewardError(
                f"{steps.name}: all {ties} pairs are ties, which prefer nothing; label by another "
                "file, or record rewards that vary"
            )
        self.segment = max(stop - start for a, b, _ in self.pairs for start, stop in (a, b))
        self.lines = (f"{len(self.pairs)} pairs of segments, {ties} of them ties",)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        # a pair is as many windows as its two segments have steps
        count = max(1, size // (2 * self.segment))
        return self.batch_of(rng.integers(len(self.pairs), size=count).tolist())

    def batch_of(self, numbers: list[int]) -> Batch:
        """The windows of these pairs: pair by pair, side by side, step by step."""
        rows, weights, targets = [], [], []
        for number in numbers:
            a, b, label = self.pairs[number]
            for start, stop in (a, b):
                # a shorter segment repeats its last step, which does not count
                wanted = start + np.arange(self.segment)
                rows.append(np.minimum(wanted, stop - 1))
                weights.append(wanted < stop)
            targets.append(np.full(2 * self.segment, label))
        batch = as_examples(
            self.steps,
            np.concatenate(rows),
            np.concatenate(targets),
            weights=np.concatenate(weights),
        )
        segment = torch.full(batch.mask.shape, self.segment)
        return dataclasses.replace(batch, extras={**batch.extras, "segment": segment})


def _pairs_by_returns(
    steps: LabelledSteps, config: PreferenceConfig, seed: int
) -> list[tuple[Rows, Rows, float]]:
    if "rewards" not in steps.recorded:
        raise RewardError(
            f"{steps.name}: rewards are not recorded, so they prefer nothing; name a file of "
            "preferences (model.labels=FILE; `vla data prefer` makes one)"
        )
    drawn = draw_segment_pairs(
        steps.task_index[steps.starts],
        steps.lengths,
        pairs=config.pairs,
        steps=config.segment,
        rng=np.random.default_rng(seed),
    )
    if not drawn:
        raise RewardError(f"{steps.name}: no instruction has two episodes to compare; add some")
    total = np.concatenate([[0.0], np.cumsum(steps.rewards.astype(np.float64))])
    pairs = []
    for sides in drawn:
        rows, returns = [], []
        for episode, start, stop in sides:
            first = int(steps.starts[episode])
            rows.append((first + start, first + stop))
            returns.append(total[first + stop] - total[first + start])
        # sums of float64 differ in their last bits
        label = 0.5 if np.isclose(*returns) else float(returns[0] > returns[1])
        pairs.append((rows[0], rows[1], label))
    return pairs


def _pairs_of_file(steps: LabelledSteps, path: str) -> list[tuple[Rows, Rows, float]]:
    """Those of which both segments are among the steps; others are held out."""
    if steps.dataset is None:
        raise RewardError(f"{path}: labels episodes of a dataset, not {steps.name}")
    first = dict(zip(steps.numbers.tolist(), steps.starts.tolist(), strict=True))
    pairs = []
    for preference in read_preferences(path, steps.dataset):
        sides = (preference.a, preference.b)
        if all(side.episode in first for side in sides):
            rows = [(first[s.episode] + s.start, first[s.episode] + s.stop) for s in sides]
            pairs.append((rows[0], rows[1], preference.a_is_better))
    if not pairs:
        raise RewardError(
            f"{path}: no pair is of episodes that are learned from; label more pairs, or hold out "
            "less (data.validation_fraction)"
        )
    return pairs


__all__ = ["PreferenceConfig", "PreferenceExamples", "PreferenceReward"]
