"""What every reward model can do.

B windows, T steps, L steps of an episode, A action dimensions, S state dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla.config import Config, UserError
from vla.models.policy import Policy
from vla.models.rewards.labelled import LabelledSteps
from vla.types import Batch, Spec


class RewardError(UserError):
    """A reward model, its data and what is asked of it do not go together."""


Metrics = dict[str, Tensor]
"""Name -> a scalar without gradient, to be logged."""


class RewardModelConfig(Config, ABC):
    """Base of the configs registered under "rewards"; a subclass adds `type: Literal["name"] =
    "name"`."""

    needs_policy: ClassVar[bool] = False
    """Whether it reads the features of a policy's trunk."""
    needs_demonstrations: ClassVar[bool] = False
    """Whether it learns from an expert's episodes beside those of `data`."""
    learns_by_steps: ClassVar[bool] = True
    """Whether it learns by steps of gradient descent. If not, `RewardModel.fit` is all, if
    anything."""

    learns_online: ClassVar[bool] = False
    """Whether it can go on learning from what a policy just did, beside an expert's episodes."""

    @abstractmethod
    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        """The model for this robot.

        Args:
            policy: whose trunk it reads, if `needs_policy`.

        Raises RewardError if the two do not go together.
        """


class Examples(ABC):
    """What a reward model learns from, drawn out of recorded episodes.

    Attributes:
        lines: what there is to learn from, for people.
    """

    lines: tuple[str, ...] = ()

    @abstractmethod
    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """About `size` windows, drawn by `rng` alone; `extras` hold what the model's `loss`
        reads."""


class RewardModel(nn.Module, ABC):
    """Scores the steps of episodes. Built by its config, or read by `load_reward`.

    At step t it may read what was seen up to t, and action t: its score is of what that action led
    to, as a recorded reward is. The frame behind an episode's last action is in no file, so a
    model that waited for it would judge success one step late, and the last step never.

    Attributes:
        config: what it was built from.
        spec: of the robot whose episodes it scores.
        policy: whose trunk it reads; None if it reads none.
        history: steps of a window, T, which the last one's score depends on.
        cameras: that it looks through.
        card: what is known of its making, JSON types.
        threshold: probability of success from which on a step counts as solved.
    """

    judges_success: ClassVar[bool] = False
    """Whether `success` says anything."""
    adds_to_rewards: ClassVar[bool] = False
    """Whether its rewards are added to the recorded ones, and take not their place."""
    score_column: ClassVar[str] = ""
    """Extra column of the scores themselves, where they say more than the rewards; empty: none."""
    threshold: Tensor
    policy: Policy | None
    history: int = 1
    sees_start: bool = False
    """Whether each window has the episode's first step in front (`LabelledSteps.with_starts`)."""
    chunk: int = 1
    """Actions of a step, K, of the batches that it takes."""
    cameras: tuple[str, ...] = ()

    def __init__(self, config: RewardModelConfig, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        # here, not on the class: a class attribute would hide the module of that name
        self.policy = None
        self.card: dict[str, Any] = {}
        # chosen by held-out episodes: it goes with the weights
        self.register_buffer("threshold", torch.tensor(0.5))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.threshold.device

    def weights(self) -> dict[str, Tensor]:
        """The tensors of its file: all but those of the policy, which has a folder of its own."""
        own = self.state_dict()
        return {name: tensor for name, tensor in own.items() if not name.startswith("policy.")}

    @property
    def files(self) -> dict[str, Any]:
        """Further values of its config.json, JSON types, that `check_files` gets back."""
        return {}

    def check_files(self, values: Mapping[str, Any]) -> None:
        """Called with `files` when it is read. Raises RewardError if it is not what was saved."""

    @abstractmethod
    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The score of every step, given the steps of its window up to it."""

    def success(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The probability, 0 to 1, that the task is solved after the action of each step.

        Raises RewardError if it cannot tell.
        """
        raise RewardError(
            f"a {type(self).__name__} does not tell success; use a reward model of type classifier"
        )

    def judge_last(self, batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"] | None]:
        """`score` and `success` of each window's last step alone; None if it judges none."""
        success = self.success(batch)[:, -1] if self.judges_success else None
        return self.score(batch)[:, -1], success

    def episode_rewards(self, scores: Float[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
        """The rewards of an episode's steps from their scores, by default the same numbers."""
        return scores

    # --- learning ---------------------------------------------------------------------------------

    def fit(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> dict[str, float]:
        """Takes what has to be known of the data before the first step. Returns what to log.

        Args:
            demonstrations: an expert's steps, if `config.needs_demonstrations`.

        Raises RewardError if nothing can be learned from these data.
        """
        return {}

    def examples(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> Examples:
        """What it learns from; as of `fit`. Raises RewardError."""
        raise RewardError(f"a {type(self).__name__} does not learn by steps")

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The scalar to minimise on a batch of its `examples`, and further scalars."""
        raise RewardError(f"a {type(self).__name__} does not learn by steps")

    def finish(self, scores: Float[np.ndarray, " N"]) -> None:
        """Called when learning has ended.

        Args:
            scores: of the steps that it learned from, or an even sample of them.
        """


__all__ = ["Examples", "Metrics", "RewardError", "RewardModel", "RewardModelConfig"]
