"""The third part of a round: which windows are learned from, and in which order.

N: windows, B: windows of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from vla.config import ConfigError, UserError
from vla.data import Episode, EpisodeDataset, Windows, episode_balanced_weights
from vla.data.episode import read_info
from vla.data.errors import UniformRewardsError
from vla.data.extras import ACTION_CHUNK, VALID_ACTIONS
from vla.data.loading.multi_robot import RobotBatch
from vla.data.replay.growing_windows import GrowingWindows
from vla.models.policy import Policy
from vla.models.transfer.cameras import cameras_of
from vla.recipes.online.config import OnlineConfig
from vla.recipes.online.labels import labelled, unlabelled
from vla.training.objective import NothingToImitateError, Objective
from vla.training.run_data.windows import at_size_seen, sizes_seen
from vla.training.seeding import seed_of


class Replay:
    """Episodes that are learned from, as windows of the policy and the objective.

    Args:
        config: of the run.
        policy: whose cameras, image sizes, history and chunk windows have.
        objective: whose next steps, discount and columns they have.
        label_chunk: actions that the expert labels at each step.

    Attributes:
        prior_seeds: of the prior data's episodes, as far as they say.

    Raises DataError or ConfigError if prior data cannot be read or are another robot's.
    """

    def __init__(
        self, config: OnlineConfig, policy: Policy, objective: Objective, label_chunk: int = 1
    ) -> None:
        self.config = config
        self._label_chunk = label_chunk
        self.objective = objective
        self._policy = policy
        self._extras = list(dict.fromkeys((*objective.extras, *policy.extras)))
        self.windows = self._empty()
        self._weights_N = np.empty(0)
        self.prior: Windows | None = None
        self.prior_seeds: set[int] = set()
        self._added = 0  # steps of the newest round
        if config.prior_data is not None:
            self._open_prior(config.prior_data.path, config.prior_data.share)

    def _empty(self) -> GrowingWindows:
        config, policy, objective = self.config, self._policy, self.objective
        seen = cameras_of(policy)
        sizes = {}
        for camera in seen:
            size = policy.image_sizes.get(camera)
            # larger ones would take more memory, and are made as well where they are seen
            if size is not None and size.shrinks(policy.spec.cameras[camera]):
                sizes[camera] = size
        return GrowingWindows(
            policy.spec,
            history=policy.history,
            chunk=policy.chunk,
            next_step=objective.next_step,
            discount=objective.discount,
            rewards=config.rewards,
            extras=self._extras,
            cameras=seen,
            image_sizes=sizes,
            max_frames=config.keep if isinstance(config.keep, int) else None,
        )

    def _open_prior(self, path: Path, share: float | None) -> None:
        dataset = EpisodeDataset(path)
        infos = [read_info(text) for text in dataset.episodes["info"]]
        seeds = (info.get("seed") for info in infos)
        self.prior_seeds = {seed for seed in seeds if isinstance(seed, int)}
        lines = self._policy.spec.differences(dataset.spec)
        if lines:
            raise ConfigError([f"prior_data.path: {path}: {line}" for line in lines])
        if share is None:
            episodes = map(dataset.episode, range(len(dataset)))
            self.add([unlabelled(episode, self._label_chunk) for episode in episodes])
            return
        self.prior = Windows(
            at_size_seen(dataset, sizes_seen([self._policy])),
            history=self._policy.history,
            chunk=self._policy.chunk,
            next_step=self.objective.next_step,
            discount=self.objective.discount,
            rewards=self.config.rewards,
            extras=self._extras,
            cameras=self.windows.cameras,
        )

    def add(self, episodes: Sequence[Episode]) -> None:
        """Adds the episodes of a round, labelled if that is asked for; with `keep: round` the
        others go."""
        if self.config.keep == "round":
            self.windows = self._empty()
        # columns that nobody reads would only cost memory
        wanted = [*self._extras]
        if self.config.label is not None:
            wanted += [VALID_ACTIONS, ACTION_CHUNK]
        found = []
        for episode in episodes:
            if self.config.label is not None and VALID_ACTIONS not in episode.extras:
                episode = labelled(episode, self.config.label.learn)
            extras = {name: episode.extras[name] for name in wanted if name in episode.extras}
            # a policy may look through fewer cameras than the env has
            images = {camera: episode.images[camera] for camera in self.windows.spec.cameras}
            found.append(replace(episode, images=images, extras=extras))
        self.windows.append(found)
        self._added = sum(len(episode) for episode in found)

    def begin_round(self, policy: Policy) -> None:
        """Lets the objective look at what there is.

        Raises ObjectiveError or DataError; `further_rounds_mend` tells which may be waited out.
        """
        if self.prior is None:
            self.objective.fit(self.windows)
        else:
            self.objective.fit(self.prior)
            # what was played may all have failed so far: the recordings say what is better
            with suppress(UniformRewardsError):
                self.objective.check_replayed(self.windows)
        self.windows.columns = self.objective.begin_round(policy, self.windows)
        self._weights_N = self._weights()

    def updates(self) -> int:
        """Optimiser steps of the present round."""
        if self.config.updates is not None:
            return self.config.updates
        if self.config.updates_per_step is not None:
            return max(1, round(self.config.updates_per_step * self._added))
        assert self.config.epochs is not None
        wanted = int(np.count_nonzero(self._weights_N > 0))
        return max(1, round(self.config.epochs * wanted / self.config.batch_size))

    def batches(self, number: int, steps: int) -> Iterator[list[RobotBatch]]:
        """The micro-batches of each of so many steps of round `number`."""
        share = 0.0 if self.config.prior_data is None else (self.config.prior_data.share or 0.0)
        of_prior = round(share * self.config.batch_size)
        own = _orders(
            self._weights_N,
            self.config.batch_size - of_prior,
            seed_of(self.config.seed, number, 1),
        )
        theirs = None
        if self.prior is not None:
            weights = self.objective.window_weights(self.prior)
            weights = np.ones(len(self.prior)) if weights is None else weights
            theirs = _orders(weights, of_prior, seed_of(self.config.seed, number, 2))
        for _ in range(steps):
            found = [RobotBatch("", self.windows.batch(next(own)))]
            if self.prior is not None and theirs is not None:
                found.append(RobotBatch("", self.prior.batch(next(theirs))))
            yield found

    def _weights(self) -> np.ndarray:
        """How often each window is drawn, (N,). Raises NothingToImitateError if none is."""
        weights = np.ones(len(self.windows))
        if self.config.episode_balance:
            weights = episode_balanced_weights(self.windows)
        own = self.objective.window_weights(self.windows)
        if own is not None:
            weights = weights * own
        valid = self.windows.valid_actions
        if valid is not None:
            weights = weights * (valid > 0)
        if not weights.any():
            raise NothingToImitateError(
                "objective: there is nothing to learn from in what was played: no step is drawn by "
                "the objective and the labels; play more episodes, or lower the gate's threshold"
            )
        return weights


def further_rounds_mend(error: UserError) -> bool:
    """Whether an error says that what was played so far teaches nothing, as before a first success
    or where no gate has opened: the next rounds may bring it."""
    kinds = (UniformRewardsError, NothingToImitateError)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def _orders(weights: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of `size` window indices: whole passes where all that are drawn are drawn
    alike, with replacement where they are not."""
    rng = np.random.default_rng(seed)
    drawn = np.flatnonzero(weights)
    if np.ptp(weights[drawn]) > 0:
        shares = weights[drawn] / weights[drawn].sum()
        while True:
            yield rng.choice(drawn, size, p=shares)
    # a batch may reach into the next pass, as those of `WindowSampler` do
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(drawn)])
        yield waiting[:size]
        waiting = waiting[size:]


__all__ = ["Replay", "further_rounds_mend"]
