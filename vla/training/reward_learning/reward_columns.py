"""A dataset with the rewards of a reward model, in place of its own or beside them.

N steps of the dataset.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.common.atomic import check_replaceable
from vla.common.folder_lock import refuse_if_in_use
from vla.common.progress import ProgressCallback
from vla.data import EpisodeDataset
from vla.data.episode import Episode
from vla.data.format import KeyMap
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.plan import Plan, key_options, notes_of
from vla.models.rewards.scoring import score_dataset
from vla.models.rewards.storage import load_reward

REWARD, SUCCESS = "learned_reward", "learned_success"
"""Extra columns: the reward, and the probability of success if the model judges it."""


def write_rewards(
    reward: str | Path,
    src: str | Path,
    dst: str | Path,
    *,
    columns: bool = False,
    format: str | None = None,
    keys: KeyMap | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the dataset with learned rewards; resumable as `convert` is.

    Args:
        reward: folder of the reward model, or of its run.
        columns: keep `next.reward` and `next.success`, and write the columns `learned_reward` and,
            of a model that judges success, `learned_success`. By default `next.reward` is the
            model's, and `next.success` where it judges success; all else stays. Of a risk network
            the penalty is added to `next.reward` in place of that. Its own scores are always
            written, as the column `risk`.
        src, format, keys: the dataset, as of EpisodeDataset.
        progress: of scoring, then of writing.

    Raises CheckpointError if there is no such model, RewardError if the dataset is of another
    robot, and what `convert` raises; where nothing can be written, before anything is scored.
    """
    # before all is scored, which may take hours
    refuse_if_in_use(Path(dst))
    check_replaceable(Path(dst))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_reward(reward, device=device)
    dataset = EpisodeDataset(src, format=format, keys=keys)
    found = score_dataset(model, dataset, progress=progress)
    threshold = float(model.threshold)
    lengths_E = dataset.episodes["length"].to_numpy(np.int64)
    starts_E = np.cumsum(lengths_E) - lengths_E

    def change(episode: Episode, source: int, index: int) -> Episode:
        rows = slice(int(starts_E[index]), int(starts_E[index]) + len(episode))
        rewards = found.rewards[rows]
        success = None if found.success is None else found.success[rows]
        extras = dict(episode.extras)
        if model.score_column:
            extras[model.score_column] = found.scores[rows]
        if columns:
            extras[REWARD] = rewards
            if success is not None:
                extras[SUCCESS] = success
            return replace(episode, extras=extras)
        if model.adds_to_rewards:
            rewards = np.asarray(episode.rewards, np.float32) + rewards
        changed = replace(episode, rewards=rewards, extras=extras)
        if success is None:
            return changed
        return replace(changed, success=success >= threshold)

    digest = hashlib.sha256(found.rewards.tobytes())
    if found.success is not None:
        digest.update(found.success.tobytes())
    # by content: the same folder may hold another model tomorrow
    options: dict[str, Any] = {"reward": Path(reward).name, "scores": digest.hexdigest()}
    options |= {"columns": columns, "threshold": threshold} | key_options(format, keys)
    labels = set() if columns else {"rewards"}
    if found.success is not None and not columns:
        labels.add("success")
    plan = Plan(
        "score",
        [dataset],
        [(0, index) for index in range(len(dataset))],
        dataset.spec,
        options,
        change=change,
        notes=notes_of([dataset]),
        labels=frozenset(labels),
    )
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


__all__ = ["REWARD", "SUCCESS", "write_rewards"]
