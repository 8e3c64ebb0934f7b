"""A goal classifier, or success detector: is the task solved after this action?

B windows, T steps.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F_
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import Config, register
from vla.models.policy import Policy
from vla.models.rewards.base import Examples, Metrics, RewardError, RewardModel
from vla.models.rewards.examples import Pool, as_examples, counts_of, shares_of
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.trunk import (
    TrunkReward,
    TrunkRewardConfig,
    last_example,
    weighted_mean,
)
from vla.types import Batch, Spec

Share = Annotated[float, Field(ge=0, le=1000)]


class NegativesConfig(Config):
    """Of what negative examples consist, by relative shares; what the data lack counts for
    nothing."""

    unsolved: Share = 0.4
    """Steps at which the instruction was not fulfilled, of failures and before successes."""
    wrong_instruction: Share = 0.3
    """Successes of other instructions. 0 where one goal has several wordings, which would then be
    called wrong."""
    mistaken: Share = 0.3
    """Steps that fulfilled something else than what was asked for (`achieved` of an episode): an
    expert that mistook the object, a policy that took the nearest one."""


@register("rewards", "classifier")
class ClassifierConfig(TrunkRewardConfig):
    """A success detector: the probability that the task is solved after each action.

    Formula: p = sigmoid(f(features_t, a_t)); L = cross-entropy, half of the examples positive.
    Reward: p.

    Source: Fu et al., 2018, "Variational inverse control with events" (VICE): the policy's own
    states are the negatives.
    """

    learns_online: ClassVar[bool] = True
    type: Literal["classifier"] = "classifier"
    negatives: NegativesConfig = NegativesConfig()
    """Of what the negative half consists."""
    hindsight: bool = True
    """Take what failures have achieved in place of what was asked as positives for that."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Targets are this far from 0 and 1."""

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        return Classifier(self, spec, policy)


class Classifier(TrunkReward):
    """See `ClassifierConfig`."""

    config: ClassifierConfig
    judges_success: ClassVar[bool] = True

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The probability of success."""
        return self.success(batch)

    def success(self, batch: Batch) -> Float[Tensor, "B T"]:
        return torch.sigmoid(self.outputs(batch)[..., 0])

    def judge_last(self, batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        success_B = self.success(batch)[:, -1]
        return success_B, success_B  # they are the same number

    def examples(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> Examples:
        if demonstrations is not None:
            return GoalExamples(steps, demonstrations)
        return ClassifierExamples(steps, self.config)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Binary cross-entropy; `accuracy` of each half."""
        logit_B = self.outputs(batch)[:, -1, 0]
        target_B, weight_B = last_example(batch)
        smoothed_B = target_B.clamp(self.config.label_smoothing, 1 - self.config.label_smoothing)
        loss_B = F_.binary_cross_entropy_with_logits(logit_B, smoothed_B, reduction="none")
        right_B = ((logit_B > 0) == (target_B > 0.5)).float()
        metrics = {
            "accuracy/positive": weighted_mean(right_B, weight_B * target_B).detach(),
            "accuracy/negative": weighted_mean(right_B, weight_B * (1 - target_B)).detach(),
        }
        return weighted_mean(loss_B, weight_B), metrics


class GoalExamples(Examples):
    """Half solved steps of demonstrations, half the policy's own steps, whatever came of them.

    So no success of the policy's own has to be known (VICE). Where it succeeds, its steps are on
    both sides, and the probability settles at a half.

    Raises RewardError if no step of the demonstrations is solved.
    """

    def __init__(self, mine: LabelledSteps, theirs: LabelledSteps) -> None:
        goals = np.flatnonzero(theirs.solved)
        if not len(goals):
            raise RewardError(
                f"{theirs.name}: no step is solved, so the demonstrations show no goal; add solved "
                "episodes"
            )
        self.mine, self.theirs = mine, theirs
        names = np.array(theirs.instructions, object)
        self.goals = Pool(goals, names[theirs.task_index[goals]].tolist())
        names = np.array(mine.instructions, object)
        self.own = Pool(np.arange(len(mine)), names[mine.task_index].tolist())
        self.lines = (f"goals of demonstrations {len(goals)}, own steps {len(mine)}",)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        half = size // 2
        goals, _ = self.goals.draw(rng, size - half)
        own, _ = self.own.draw(rng, half)
        sides = ((self.theirs, goals, 1.0), (self.mine, own, 0.0))
        return Batch.concat(
            [as_examples(steps, rows, np.full(len(rows), target)) for steps, rows, target in sides]
        )


class ClassifierExamples(Examples):
    """Half solved steps, half others under the same instructions.

    Raises RewardError if nothing is solved, or nothing is not.
    """

    def __init__(self, steps: LabelledSteps, config: ClassifierConfig) -> None:
        self.steps = steps
        if "success" not in steps.recorded:
            raise RewardError(
                f"{steps.name}: success is not recorded; name its key (data.keys.success=KEY), or "
                "give it in a file (`vla data label`)"
            )
        texts = np.array(steps.instructions, object)[steps.task_index]
        solved_N = steps.solved
        achieved = steps.achieved()
        positive_rows = np.flatnonzero(solved_N).tolist()
        positive_texts = texts[positive_rows].tolist()
        if config.hindsight:
            positive_rows += [row for row, _ in achieved]
            positive_texts += [text for _, text in achieved]
        self.positives = Pool(positive_rows, positive_texts)
        unsolved = np.flatnonzero(~solved_N)
        # at these steps something was done, and not what was asked for: the hardest of all
        mistaken = np.array([row for row, _ in achieved if not solved_N[row]], np.int64)
        self.negatives = {
            "unsolved": Pool(unsolved, texts[unsolved].tolist()),
            "mistaken": Pool(mistaken, texts[mistaken].tolist()),
        }
        several = len(self.positives.instructions) > 1
        sizes = {name: len(pool) for name, pool in self.negatives.items()}
        sizes["wrong_instruction"] = len(self.positives) if several else 0
        self.shares = shares_of(sizes, config.negatives.model_dump())
        if not len(self.positives):
            raise RewardError(
                f"{steps.name}: no step is solved, so there are no positive examples; add solved "
                "episodes"
            )
        if not self.shares:
            raise RewardError(
                f"{steps.name}: every step is solved, and negatives are drawn from nothing else; "
                "add failures, or set model.negatives.wrong_instruction above 0"
            )
        self.lines = (
            f"positives: {len(self.positives)} steps of "
            f"{len(self.positives.instructions)} instructions",
            "negatives: " + ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items()),
        )

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        half = size // 2
        rows, texts = self.positives.draw(rng, size - half)
        all_rows = [rows]
        for name, count in counts_of(half, self.shares).items():
            if name == "wrong_instruction":
                rows, own = self.positives.draw(rng, count)
                texts += [self._other(rng, text) for text in own]
            else:
                rows, own = self.negatives[name].draw(rng, count)
                texts += own
            all_rows.append(rows)
        targets = np.arange(size) < size - half
        return as_examples(self.steps, np.concatenate(all_rows), targets, texts=texts)

    def _other(self, rng: np.random.Generator, text: str) -> str:
        """An instruction that has successes too, other than `text`."""
        names = self.positives.instructions
        # drawn among the others: the place behind is moved over the one that is left out
        place = int(rng.integers(len(names) - 1))
        return names[place + (place >= names.index(text))]


__all__ = [
    "Classifier",
    "ClassifierConfig",
    "ClassifierExamples",
    "GoalExamples",
    "NegativesConfig",
]
