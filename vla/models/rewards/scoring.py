"""The scores of all steps of episodes, in memory or on disk.

N steps of the episodes side by side, L steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vla.common.progress import ProgressCallback
from vla.data import Episode, EpisodeDataset, Windows
from vla.data.loading.frame_cache import Storage
from vla.models.rewards.base import RewardError, RewardModel
from vla.models.rewards.labelled import LabelledSteps
from vla.types import Spec

BATCH = 64
"""Windows that are scored at once."""
FRAMES_AT_ONCE = 2048
"""Frames of a dataset that are decoded together, at least one episode of them."""


@dataclass(frozen=True)
class Scores:
    """What a model says of steps.

    Attributes:
        rewards: float32 (N,).
        scores: float32 (N,), as `RewardModel.score` gives them.
        success: float32 (N,), 0 to 1; None if the model does not judge success.
    """

    rewards: np.ndarray
    scores: np.ndarray
    success: np.ndarray | None


@torch.no_grad()
def score_steps(
    model: RewardModel, steps: LabelledSteps, *, texts: Sequence[str] | None = None
) -> Scores:
    """The scores of all steps, each given its episode up to it.

    Args:
        texts: instruction of each step, N texts, in place of their own.
    """
    # scores must not depend on dropout, nor move the statistics of batch norm
    was_training = model.training
    model.eval()
    scores, success = [], []
    try:
        for start in range(0, len(steps), BATCH):
            rows = np.arange(start, min(start + BATCH, len(steps)))
            batch = steps.gather(rows)
            if texts is not None:
                batch = replace(batch, instruction=[texts[row] for row in rows.tolist()])
            batch = batch.to(model.device)
            score_B, success_B = model.judge_last(batch)
            scores.append(score_B.float().cpu().numpy())
            if success_B is not None:
                success.append(success_B.float().cpu().numpy())
    finally:
        model.train(was_training)
    score_N = np.concatenate(scores)
    rewards = []
    for first, length in zip(steps.starts, steps.lengths, strict=True):
        rewards.append(model.episode_rewards(score_N[first : first + length]))
    return Scores(
        rewards=np.concatenate(rewards).astype(np.float32),
        scores=score_N,
        success=np.concatenate(success) if success else None,
    )


def score_episodes(model: RewardModel, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with the model's rewards in place of theirs, or added to them
    (`adds_to_rewards`); with the column of its scores, if it has one (`score_column`).

    Where it judges success, its judgement replaces theirs too: a step is solved from the model's
    `threshold` on. Everything else stays.

    Raises RewardError if an episode lacks a camera, or has another state or action size.
    """
    if not episodes:
        return []
    # all at once: one pass over the model for many short episodes
    steps = labelled_episodes(model, episodes)
    found = score_steps(model, steps)
    made = []
    for episode, start in zip(episodes, steps.starts, strict=True):
        rows = slice(int(start), int(start) + len(episode))
        rewards = found.rewards[rows]
        if model.adds_to_rewards:
            rewards = np.asarray(episode.rewards, np.float32) + rewards
        changed = replace(episode, rewards=rewards)
        if model.score_column:
            extras = {**episode.extras, model.score_column: found.scores[rows]}
            changed = replace(changed, extras=extras)
        if found.success is not None:
            solved = found.success[rows] >= float(model.threshold)
            changed = replace(changed, success=solved)
        made.append(changed)
    return made


def labelled_episodes(model: RewardModel, episodes: Sequence[Episode]) -> LabelledSteps:
    """The episodes' steps as windows of the model's history. Raises as `score_episodes` does."""
    for number, episode in enumerate(episodes):
        _check_fits(model, episode, number)
    sizes = {} if model.policy is None else model.policy.image_sizes
    steps = LabelledSteps.of_episodes(
        episodes,
        history=model.history,
        chunk=model.chunk,
        cameras=model.cameras,
        sizes=sizes,
    )
    return steps.with_starts() if model.sees_start else steps


def _check_fits(model: RewardModel, episode: Episode, number: int) -> None:
    missing = [camera for camera in model.cameras if camera not in episode.images]
    if missing:
        raise RewardError(
            f"episode {number}: lacks camera {missing[0]!r}, which the reward model looks through; "
            "record it, or train a reward model without it"
        )
    for name, found, expected in (
        ("state", np.shape(episode.state)[1], model.spec.state_dim),
        ("actions", np.shape(episode.actions)[1], model.spec.action_dim),
    ):
        if found != expected:
            raise RewardError(
                f"episode {number}: {name}: has {found} dimensions, the reward model is for "
                f"{expected}; take a reward model of this robot"
            )


def check_same_robot(model: RewardModel, spec: Spec, name: str) -> None:
    """Raises RewardError if a dataset is of another robot than the model's."""
    lines = model.spec.differences(spec)
    if lines:
        raise RewardError(f"{name}: in the dataset {lines[0]}; take a reward model of this robot")


def groups_of_episodes(dataset: EpisodeDataset, episodes: Sequence[int]) -> Iterator[list[int]]:
    """The episodes in groups whose frames fit into memory together."""
    lengths = dataset.episodes["length"].to_numpy()
    group: list[int] = []
    frames = 0
    for index in episodes:
        if group and frames + int(lengths[index]) > FRAMES_AT_ONCE:
            yield group
            group, frames = [], 0
        group.append(index)
        frames += int(lengths[index])
    if group:
        yield group


def score_dataset(
    model: RewardModel,
    dataset: EpisodeDataset,
    *,
    progress: ProgressCallback | None = None,
) -> Scores:
    """The scores of all steps of a dataset, a group of episodes at a time.

    Raises RewardError if it is of another robot, DataError if it is damaged.
    """
    check_same_robot(model, dataset.spec, str(dataset.root))
    total = dataset.num_frames
    parts: list[Scores] = []
    done = 0
    for group in groups_of_episodes(dataset, range(len(dataset))):
        windows = windows_of(model, dataset, group)
        parts.append(score_steps(model, steps_of(model, windows)))
        done += len(windows)
        if progress is not None:
            progress(done, total)
    success = [part.success for part in parts if part.success is not None]
    return Scores(
        rewards=np.concatenate([part.rewards for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        success=np.concatenate(success) if success else None,
    )


def steps_of(model: RewardModel, windows: Windows) -> LabelledSteps:
    """The steps of `windows_of` as the model reads them."""
    steps = LabelledSteps.of_windows(windows)
    return steps.with_starts() if model.sees_start else steps


def windows_of(
    model: RewardModel,
    dataset: EpisodeDataset,
    episodes: Sequence[int] | None = None,
    *,
    cache: Storage = "ram",
    progress: Callable[[int, int], None] | None = None,
) -> Windows:
    """A dataset's windows as the model reads them, with images of the size that it sees.

    Arguments as of `Windows`.
    """
    sizes = {}
    if model.policy is not None:
        for camera, size in model.policy.image_sizes.items():
            if camera in dataset.spec.cameras and size.shrinks(dataset.spec.cameras[camera]):
                sizes[camera] = size
    return Windows(
        dataset.resized(sizes),
        history=model.history,
        chunk=model.chunk,
        episodes=episodes,
        cache=cache,
        cameras=list(model.cameras),
        progress=progress,
    )


__all__ = [
    "Scores",
    "check_same_robot",
    "labelled_episodes",
    "score_dataset",
    "score_episodes",
    "score_steps",
    "steps_of",
    "windows_of",
]
