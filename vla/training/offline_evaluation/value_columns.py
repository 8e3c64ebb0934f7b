"""A run's values and advantages as columns of a dataset, to be looked at and learned from.

N: steps of the dataset.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from vla.common.progress import ProgressCallback
from vla.config import ConfigError
from vla.data import EpisodeDataset
from vla.data.episode import Episode
from vla.data.format import KeyMap
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.plan import Plan, key_options, notes_of
from vla.models.policy import load_policy
from vla.models.transfer.cameras import cameras_of
from vla.training.offline_evaluation.run_values import (
    Batches,
    restored_objective,
    run_checkpoint,
    values_of,
)
from vla.training.run_data.windows import at_size_seen, read_windows, sizes_seen
from vla.training.run_directory import read_run

VALUE, ADVANTAGE = "value", "advantage"


def value_columns(
    run: str | Path, dataset: EpisodeDataset, *, step: int | None = None
) -> dict[str, np.ndarray]:
    """What a run's critics say of every step of a dataset.

    Args:
        run: folder of a training run whose objective learns values.
        dataset: of the policy's robot; rewards are shaped as the run's config says.
        step: of the checkpoint; the newest by default.

    Returns:
        `value`, float32 (N,): V of the state, or Q of the data's action where no V is learned. And
        `advantage`, float32 (N,), where the objective has one: what the extraction weighs steps by.

    Raises:
        ConfigError: the run learned no values, from several robots, or of another robot.
        CheckpointError: the checkpoint cannot be read.
    """
    run = Path(run)
    config = read_run(run, data=dataset.root)
    if config.data.multi_robot:
        raise ConfigError([f"{run}: learned from several robots, which has no critics"])
    checkpoint = run_checkpoint(run, step)
    # float32, whatever the run's precision was: critics compute in it, as their features should
    accelerator = Accelerator(mixed_precision="no")
    policy = load_policy(checkpoint.folder, device=accelerator.device)
    lines = policy.spec.differences(dataset.spec)
    if lines:
        raise ConfigError([f"{dataset.root}: in the dataset {line}" for line in lines])
    objective = restored_objective(config.objective, policy, checkpoint).to(accelerator.device)
    windows = read_windows(
        config.data,
        at_size_seen(dataset, sizes_seen([policy])),
        policy,
        objective,
        cameras=list(cameras_of(policy)),
        episodes=list(range(len(dataset))),
    )
    batches = Batches(config.batch_size, config.seed)
    every = np.arange(len(windows))
    found = values_of(batches, policy, objective, windows, every, accelerator.device)
    value = found.get("v", found.get("q_data"))
    if value is None:
        name = config.objective.model_dump()["type"]
        raise ConfigError(
            [f"{run}: its objective {name} learns no values; name a run of iql, awr, cql or recap"]
        )
    columns = {VALUE: _numbers(value)}
    if ADVANTAGE in found:
        columns[ADVANTAGE] = _numbers(found[ADVANTAGE])
    return columns


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.numpy().astype(np.float32)


def write_values(
    run: str | Path,
    src: str | Path,
    dst: str | Path,
    *,
    step: int | None = None,
    format: str | None = None,
    keys: KeyMap | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the dataset with the columns `value` and `advantage`; resumable as `convert` is.

    Args:
        run, step: see `value_columns`.
        src, format, keys: the dataset, as of EpisodeDataset.

    Raises what `value_columns` and `convert` raise.
    """
    dataset = EpisodeDataset(src, format=format, keys=keys)
    columns = value_columns(run, dataset, step=step)
    first_E = dataset.episodes["first_frame"].to_numpy(np.int64)

    def change(episode: Episode, source: int, index: int) -> Episode:
        frames = slice(int(first_E[index]), int(first_E[index]) + len(episode))
        extras = {name: values[frames] for name, values in columns.items()}
        return replace(episode, extras={**episode.extras, **extras})

    digest = hashlib.sha256()
    for values in columns.values():
        digest.update(values.tobytes())
    # by content: the same folder may hold another training tomorrow
    options: dict[str, Any] = {"run": Path(run).name, "values": digest.hexdigest()}
    options |= key_options(format, keys)
    places = [(0, index) for index in range(len(dataset))]
    plan = Plan(
        "score",
        [dataset],
        places,
        dataset.spec,
        options,
        change=change,
        notes=notes_of([dataset]),
    )
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


__all__ = ["ADVANTAGE", "VALUE", "value_columns", "write_values"]
