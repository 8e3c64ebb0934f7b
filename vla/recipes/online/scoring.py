"""Rewards of a model in place of the env's, and the model's way to disk and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vla.common.atomic import atomic_path
from vla.data import Episode
from vla.recipes.online.config import OnlineConfig
from vla.training.checkpoint import CheckpointError
from vla.training.reward_learning.online import RewardLearner

ENV_REWARD = "env_reward"
"""Column: what the env itself gave."""
ENV_SUCCESS = "env_success"
"""Column: whether the env itself found the task solved."""


class Scoring:
    """The reward model of a run. Its state is kept beside every checkpoint, by the round.

    Raises what `OnlineRewardConfig.build` raises.
    """

    def __init__(self, config: OnlineConfig, out: Path, device: torch.device) -> None:
        assert config.reward is not None
        self._keep = config.keep_last
        self._folder = out / "reward_states"
        self._out = out
        self.learner: RewardLearner = config.reward.build(
            config.env.spec(), seed=config.seed, device=device
        )

    def score(
        self, episodes: Sequence[Episode], number: int
    ) -> tuple[list[Episode], dict[str, float]]:
        """The episodes of round `number` with the model's rewards; the env's own are columns.

        Returns them, and what to log.
        """
        scored, metrics = self.learner.round(episodes, number)
        kept = []
        for own, theirs in zip(episodes, scored, strict=True):
            extras = {**theirs.extras, ENV_REWARD: own.rewards, ENV_SUCCESS: own.success}
            kept.append(replace(theirs, extras=extras))
        return kept, {f"reward/{name}": value for name, value in metrics.items()}

    def save(self, number: int) -> None:
        """Keeps the model as it is after round `number`; older states go with their checkpoints."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().clone() for name, t in self.learner.tensors().items()}
        with atomic_path(self._file(number)) as temporary:
            save_file(tensors, temporary)
        # one more than checkpoints: the newest checkpoint is written after this
        for path in sorted(self._folder.glob("round-*.safetensors"))[: -self._keep - 1]:
            path.unlink()

    def restore(self, number: int) -> None:
        """Goes back to what `save` kept. Raises CheckpointError if it is gone or damaged."""
        path = self._file(number)
        try:
            tensors = load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        self.learner.restore(tensors)

    def finish(self) -> None:
        """Writes the model into `out/reward`."""
        self.learner.save(self._out / "reward")

    def _file(self, number: int) -> Path:
        return self._folder / f"round-{number:06d}.safetensors"


__all__ = ["ENV_REWARD", "ENV_SUCCESS", "Scoring"]
