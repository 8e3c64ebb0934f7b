"""Where actions come from: the policy in this process, or a server.

B robots, K actions per chunk, A action dimensions, n actions that are executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from lerobot_policy_vla.configuration_vla import VlaConfig


class Source(Protocol):
    """What `VlaPolicy` asks for actions.

    Attributes:
        spec: as `vla.Spec.to_dict` gives it.
        module: the network to be moved to a device; None if it is elsewhere.
        continues: whether `chunk` uses actions that are still queued.
    """

    spec: Mapping[str, Any]
    module: nn.Module | None
    continues: bool

    def reset(self) -> None:
        """The next observation is the first of an episode."""

    def actions(self, images: dict[str, np.ndarray], state: np.ndarray, tasks: list[str]) -> Any:
        """Float (n, B, A): the actions to execute until the next observation is sent."""

    def chunk(
        self,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        tasks: list[str],
        *,
        prefix: np.ndarray | None = None,
        delay: int | None = None,
    ) -> Any:
        """Float (B, K, A): the whole chunk."""


class LocalSource:
    """A checkpoint in this process.

    Args:
        folder: of the checkpoint.
        config: how its chunks are executed.
    """

    continues = False

    def __init__(self, folder: Path, config: VlaConfig) -> None:
        from vla.control import BatchedPolicy, ControlSettings
        from vla.control.actor_traits import traits_of
        from vla.models import load_policy

        self.module = load_policy(folder)
        self.spec = self.module.spec.to_dict()
        traits, ensemble = traits_of(self.module), config.temporal_ensemble_coeff
        every_step = self.module.history > 1 or traits.counts_steps or ensemble is not None
        usual = traits.executed_actions or (1 if every_step else self.module.chunk)
        every = usual if config.n_action_steps is None else config.n_action_steps
        settings = ControlSettings(replan_every=every, ensemble=ensemble)
        self._acting = BatchedPolicy(self.module, settings)
        self.reset()

    def reset(self) -> None:
        self._episodes: list[Any] = []
        self._memory: Any = None

    def actions(self, images: dict[str, np.ndarray], state: np.ndarray, tasks: list[str]) -> Any:
        from vla.control import EpisodeState

        if len(self._episodes) != len(tasks):
            self._episodes = [EpisodeState() for _ in tasks]
        for episode, row, task in zip(self._episodes, state, tasks, strict=True):
            episode.robot_state, episode.instruction = row, task
        return np.stack(self._acting.act(self._episodes, images), axis=1)

    def chunk(
        self,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        tasks: list[str],
        *,
        prefix: np.ndarray | None = None,
        delay: int | None = None,
    ) -> Any:
        from vla.types import Observation

        observation = Observation.from_numpy(images, state, tasks)
        chunk_BKA, self._memory = self.module.act(observation, self._memory)
        return chunk_BKA.float().cpu().numpy()


class RemoteSource:
    """A policy behind `vla serve`. This process needs neither weights nor `vla`.

    Args:
        config: with the server's address.
    """

    module = None

    def __init__(self, config: VlaConfig) -> None:
        from vla_client.client import Client

        assert config.remote is not None
        if config.temporal_ensemble_coeff is not None:
            raise ValueError(
                "temporal_ensemble_coeff: the server ensembles, not the robot; drop it"
            )
        self.client = Client(config.remote, api_key=os.environ.get(config.api_key_env, ""))
        said = self.client.metadata
        if not isinstance(said.get("spec"), dict):
            raise ValueError(f"{config.remote} does not say its spec, as `vla serve` does")
        self.spec = said["spec"]
        self.continues = "prefix" in self.client.features
        usual = 1 if said.get("every_step") else None
        self._executed = usual if config.n_action_steps is None else config.n_action_steps

    def reset(self) -> None:
        self.client.reset()

    def actions(self, images: dict[str, np.ndarray], state: np.ndarray, tasks: list[str]) -> Any:
        chunk_BKA = self.chunk(images, state, tasks)
        return np.swapaxes(chunk_BKA, 0, 1)[: self._executed]

    def chunk(
        self,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        tasks: list[str],
        *,
        prefix: np.ndarray | None = None,
        delay: int | None = None,
    ) -> Any:
        asked: dict[str, Any] = {"images": images, "state": state, "prompt": tasks}
        alone = len(tasks) == 1
        if alone:  # servers of others know no axis of robots
            asked = {
                "images": {name: image[0] for name, image in images.items()},
                "state": state[0],
                "prompt": tasks[0],
            }
        actions = np.asarray(self.client.infer(asked, prefix=prefix, delay=delay)["actions"])
        return actions[None] if alone else actions


def source_of(folder: Path | None, config: VlaConfig) -> Source:
    """The server of the config, or the checkpoint in the exported folder."""
    if config.remote is not None:
        return RemoteSource(config)
    if folder is None:
        raise ValueError("a policy of vla is loaded, not made: --policy.path=EXPORTED")
    return LocalSource(folder / config.checkpoint, config)
