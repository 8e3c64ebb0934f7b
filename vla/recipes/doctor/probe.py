"""A sample of windows put through a policy, as they are and with one thing changed.

N windows of the sample, E episodes, K actions per chunk, A action dimensions, S state dimensions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla.data import Windows
from vla.models.policy import Policy
from vla.training.offline_evaluation.calibration import bootstrap_interval
from vla.types import Batch

BATCH = 16
LEAST = 48
"""Fewer windows say too little, however slow the policy is."""
PASSES = 20
"""About so many times all checks together put the sample through the policy."""
Change = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Scores:
    """Of the present step of every window.

    Attributes:
        loss: (N,), in the head's own unit.
        mode: (N, K, A), the most likely actions, robot units.
        error: (N,), distance of the first of them from the data's, in units of the deviation of the
            data's actions, mean over the dimensions that move.
    """

    loss: np.ndarray
    mode: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Difference:
    """How much a change costs, mean over episodes, with its 95 % interval (bootstrap)."""

    mean: float
    low: float
    high: float


class Probe:
    """A sample of the windows of a dataset, seen by a policy.

    Args:
        policy: in evaluation mode.
        windows: of its history, chunk and cameras.
        limit: most windows.
        seconds: about so long all checks may take; fewer windows of slow policies.
        seed: of the noise of heads that draw, the same with every change.

    Attributes:
        rows: (N,), which windows they are.
        episode: (N,), position of their episode among those of `windows`.
        step: (N,), in its episode.
        actions: (N, A), the data's action of the present step.
        scale: (A,), deviation of the data's actions; 0 where they do not move.
        own: scores as the data are.
    """

    def __init__(
        self,
        policy: Policy,
        windows: Windows,
        *,
        limit: int = 256,
        seconds: float = 60.0,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.windows = windows
        self._seed = seed
        scale_A = windows.actions.std(0)
        # what moves by rounding alone would count as much as all else
        self.scale = np.where(scale_A > 1e-5 * np.abs(windows.actions).max(0), scale_A, 0.0)
        first = np.arange(min(BATCH, len(windows)))
        self._choose(first)
        self._scores(None)  # the first pass is slower than those that follow
        started = time.perf_counter()
        self._scores(None)
        per_window = (time.perf_counter() - started) / len(first)
        affordable = int(seconds / (PASSES * max(per_window, 1e-6)))
        count = min(len(windows), limit, max(LEAST, affordable))
        # evenly spread: the first so many would all be of a few episodes
        self._choose(np.unique(np.linspace(0, len(windows) - 1, count).round().astype(np.int64)))
        self.own = self._scores(None)

    def _choose(self, rows_N: np.ndarray) -> None:
        windows = self.windows
        ends_E = np.cumsum(windows.lengths)
        self.rows = rows_N
        self.episode = np.searchsorted(ends_E, rows_N, side="right")
        self.step = rows_N - (ends_E - windows.lengths)[self.episode]
        self.actions = windows.actions[rows_N]
        parts = -(-len(rows_N) // BATCH)
        self._batches = [windows.batch(rows) for rows in np.array_split(rows_N, parts)]

    def scores(self, change: Change) -> Scores:
        """With every batch changed."""
        return self._scores([change(batch) for batch in self._batches])

    def scores_with(self, take: Callable[[Batch, Batch], Batch], other_N: np.ndarray) -> Scores:
        """With something taken from other windows.

        Args:
            take: (a batch, the batch of the other windows) -> the changed batch.
            other_N: which window stands for each.
        """
        changed = []
        start = 0
        for batch in self._batches:
            others = self.windows.batch(other_N[start : start + batch.batch_size])
            changed.append(take(batch, others))
            start += batch.batch_size
        return self._scores(changed)

    @torch.no_grad()
    def _scores(self, batches: list[Batch] | None) -> Scores:
        losses: list[Tensor] = []
        modes: list[Tensor] = []
        # one seed for each change: heads that draw noise must draw the same
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            for batch in self._batches if batches is None else batches:
                seen = batch.to(self.policy.device)
                distribution = self.policy(seen).actions
                loss_BT = distribution.loss(seen.actions, seen.action_mask)
                losses.append(loss_BT[:, -1].float().cpu())
                modes.append(distribution.mode()[:, -1].float().cpu())
        mode_NKA = torch.cat(modes).numpy()
        return Scores(torch.cat(losses).numpy(), mode_NKA, self.error(mode_NKA[:, 0], self.actions))

    def error(self, predicted_NA: np.ndarray, actions_NA: np.ndarray) -> np.ndarray:
        """(N,), see `Scores`."""
        moves_A = self.scale > 0
        distance_NA = np.abs(predicted_NA - actions_NA)[:, moves_A] / self.scale[moves_A]
        return np.asarray(distance_NA.mean(1)) if moves_A.any() else np.zeros(len(distance_NA))

    @property
    def constant_error(self) -> float:
        """The error of the best single action, whatever is seen: of a policy that learned
        nothing."""
        middle = np.median(self.windows.actions, axis=0)
        return float(self.error(np.broadcast_to(middle, self.actions.shape), self.actions).mean())

    def difference(
        self, changed_N: np.ndarray, own_N: np.ndarray, rows: np.ndarray | None = None
    ) -> Difference:
        """`changed_N - own_N`, mean over episodes, whose windows resemble each other.

        Args:
            rows: positions in the sample that they are of; all by default.
        """
        episode = self.episode if rows is None else self.episode[rows]
        per_window = changed_N - own_N
        per_episode = [float(per_window[episode == e].mean()) for e in np.unique(episode)]
        low, high = bootstrap_interval(per_episode)
        return Difference(float(np.mean(per_episode)), low, high)

    def of_other_episodes(self, texts: Mapping[int, str] | None = None) -> np.ndarray:
        """(N,), for each window one of another episode at the same step, or at its last one.

        Args:
            texts: episode -> instruction; the other episode then has another one.
        """
        lengths = self.windows.lengths
        starts = np.cumsum(lengths) - lengths
        rng = np.random.default_rng(self._seed)
        found = np.empty(len(self.rows), np.int64)
        for n, (episode, step) in enumerate(zip(self.episode, self.step, strict=True)):
            others = np.delete(np.arange(len(lengths)), episode)
            if texts is not None:
                others = others[[texts[int(o)] != texts[int(episode)] for o in others]]
            other = int(rng.choice(others))
            found[n] = starts[other] + min(step, lengths[other] - 1)
        return found

    def instructions(self) -> dict[int, str]:
        """Episode (its position among those of the windows) -> instruction."""
        starts = np.cumsum(self.windows.lengths) - self.windows.lengths
        tasks = self.windows.task_index[starts].tolist()
        return {e: self.windows.instructions[task] for e, task in enumerate(tasks)}


def with_pictures(change: Callable[[str, Tensor], Tensor]) -> Change:
    """A change of the pictures alone: (camera, uint8 (B, T, H, W, 3)) -> another such."""

    def changed(batch: Batch) -> Batch:
        images = {camera: change(camera, image) for camera, image in batch.images.items()}
        return dataclasses.replace(batch, images=images)

    return changed


__all__ = ["Change", "Difference", "Probe", "Scores", "with_pictures"]
