"""Learned rewards in place of the env's, between acting and learning.

L: steps of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vla.common.atomic import atomic_path
from vla.common.foreign.plain_files import check_plain_file
from vla.data import Episode
from vla.models.checkpoint_files import CheckpointError
from vla.training.reward_learning.online import OnlineRewardConfig, RewardLearner
from vla.types import Spec

ENV_REWARD, ENV_SUCCESS = "env_reward", "env_success"
"""Extra columns of the episodes that are kept: what the env itself said."""
_STATE = "reward_state"
"""Folder of what the reward model was after each round that a checkpoint was written of."""


class LearnedRewards:
    """A reward model that scores each round, and what of it a resumed run needs.

    Args:
        out: the run directory.
        device: where it computes.

    Raises what `OnlineRewardConfig.build` raises.
    """

    def __init__(
        self,
        config: OnlineRewardConfig,
        spec: Spec,
        *,
        out: Path,
        seed: int,
        device: torch.device,
    ) -> None:
        self._learner: RewardLearner = config.build(spec, seed=seed, device=device)
        self._out = out

    def round(
        self, episodes: Sequence[Episode], number: int
    ) -> tuple[list[Episode], dict[str, float]]:
        """The episodes with learned rewards, the env's own as columns; and `reward/...` to log."""
        scored, metrics = self._learner.round(episodes, number)
        found = []
        for episode, own in zip(scored, episodes, strict=True):
            extras = {
                **episode.extras,
                ENV_REWARD: np.asarray(own.rewards, np.float32),
                ENV_SUCCESS: np.asarray(own.success, bool),
            }
            found.append(replace(episode, extras=extras))
        return found, {f"reward/{name}": value for name, value in metrics.items()}

    def save_round(self, number: int, keep: int) -> None:
        """Writes what rounds have changed, before the checkpoint of round `number`; the newest
        `keep` stay."""
        folder = self._out / _STATE
        tensors = {
            # clones: safetensors refuses tensors that share memory
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in self._learner.tensors().items()
        }
        with atomic_path(_file(folder, number)) as temporary:
            save_file(tensors, temporary)
        for old in sorted(folder.glob("round-*.safetensors"))[: -keep - 1]:
            old.unlink()

    def restore(self, number: int) -> None:
        """Goes back to the end of round `number`. Raises CheckpointError if it was not kept."""
        path = _file(self._out / _STATE, number)
        try:
            check_plain_file(path)
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}), and the run does not go on without the reward "
                "model of its checkpoint; name another out"
            ) from error
        self._learner.restore(tensors)

    def save(self) -> None:
        """Writes the model as a folder that `vla data score --reward` reads."""
        self._learner.save(self._out / "reward")


def _file(folder: Path, number: int) -> Path:
    return folder / f"round-{number:06d}.safetensors"


__all__ = ["ENV_REWARD", "ENV_SUCCESS", "LearnedRewards"]
