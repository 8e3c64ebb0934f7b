"""Which windows each step learns from, loaded one step ahead of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from vla.config import ConfigError
from vla.data import (
    EpisodeDataset,
    Windows,
    WindowSampler,
    episode_balanced_weights,
    prefetch,
    shorten_history,
    solved_share_weights,
    task_balanced_weights,
)
from vla.data.loading.multi_robot import MixedRobots
from vla.data.loading.replay_mixture import Mixture, MixtureSampler
from vla.data.loading.stream_order import StreamOrder
from vla.data.loading.streamed_windows import StreamedWindows
from vla.models.policy import Policy
from vla.training.config import TrainConfig
from vla.training.objective import Objective
from vla.training.patterns import values_by_name
from vla.types import Batch

_HELD_OUT_SHARE = 0.125
"""Of the memory for streamed frames, what held-out windows may keep."""


def split_episodes(tasks: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """-> episodes to train on, and episodes held out: a pure function of its arguments.

    Args:
        tasks: the task of each episode; held-out episodes are spread evenly over the tasks.
        fraction: share that is held out, at least one episode where it is above 0.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if fraction == 0:
        return list(range(len(tasks))), []
    count = max(1, round(fraction * len(tasks)))
    if count >= len(tasks):
        raise ConfigError(
            [
                f"data.validation_fraction: {fraction} holds out {count} of {len(tasks)} episodes and leaves none to train on; "
                "collect more, or set it to 0"
            ]
        )
    seen: dict[int, int] = {}
    turns = []  # (how many episodes of its task came before it, episode)
    for episode in np.random.default_rng(seed).permutation(len(tasks)).tolist():
        turns.append((seen.get(tasks[episode], 0), episode))
        seen[tasks[episode]] = turns[-1][0] + 1
    held_out = {episode for _, episode in sorted(turns, key=lambda turn: turn[0])[:count]}
    return [e for e in range(len(tasks)) if e not in held_out], sorted(held_out)


def open_windows(
    config: TrainConfig, dataset: EpisodeDataset, policy: Policy, objective: Objective
) -> tuple[Windows, Windows | None]:
    """-> windows to train on, and held-out windows (None where nothing is held out)."""
    tasks = dataset.episodes["task_index"].tolist()
    training, held_out = split_episodes(tasks, config.data.validation_fraction, config.seed)
    cameras = list(policy.spec.cameras)
    windows = read_windows(config, dataset, policy, objective, cameras=cameras, episodes=training)
    if not held_out:
        return windows, None
    kept = streamed_share(config, held_out=True)
    return windows, read_windows(
        config,
        dataset,
        policy,
        objective,
        cameras=cameras,
        episodes=held_out,
        stream_memory_gb=kept,
    )


def streamed_share(config: TrainConfig, *, held_out: bool) -> float:
    """GiB of decoded frames that one dataset's windows may keep where they are streamed: they are divided evenly."""
    if held_out:
        return config.data.stream_memory_gb * _HELD_OUT_SHARE / max(1, len(config.data.mixture))
    return (
        config.data.stream_memory_gb
        * (1 - _HELD_OUT_SHARE)
        / max(1 + len(config.data.replay), len(config.data.mixture))
    )


def read_windows(
    config: TrainConfig,
    dataset: EpisodeDataset,
    policy: Policy,
    objective: Objective,
    *,
    cameras: Sequence[str],
    episodes: Sequence[int] | None = None,
    stream_memory_gb: float | None = None,
) -> Windows:
    """Windows as policy and objective want them; of all episodes by default.

    Args:
        stream_memory_gb: for frames of these windows, where they are streamed; by default what the config gives, less the
            part of held-out windows, divided evenly among the datasets.
    """
    options: dict[str, Any] = {
        "history": policy.history,
        "chunk": policy.chunk,
        "next_step": objective.next_step,
        "discount": objective.discount,
        "rewards": config.data.rewards,
        "episodes": episodes,
        "cameras": cameras,
    }
    if config.data.cache == "stream":
        if stream_memory_gb is None:
            stream_memory_gb = streamed_share(config, held_out=False)
        return StreamedWindows(dataset, memory_gb=stream_memory_gb, **options)
    return Windows(dataset, cache=config.data.cache, **options)


def build_sampler(
    config: TrainConfig, windows: Windows, objective: Objective, *, rank: int, world_size: int
) -> WindowSampler | StreamOrder:
    """Raises ConfigError where the global batch does not divide among processes and micro-batches."""
    check_division(config, world_size)
    weights = window_weights(config, windows, objective)
    return order_of(
        windows,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        weights=weights,
    )


def check_division(config: TrainConfig, world_size: int) -> None:
    """Raises ConfigError where the global batch does not divide among processes and micro-batches."""
    parts = world_size * config.grad_accumulation
    if config.batch_size % parts:
        raise ConfigError(
            [
                f"batch_size: {config.batch_size} does not divide among {world_size} processes x {config.grad_accumulation} "
                f"micro-batches; use a multiple of {parts}"
            ]
        )


def order_of(
    windows: Windows,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    weights: np.ndarray | None = None,
) -> WindowSampler | StreamOrder:
    """Endless batches of indices of these windows: any of them at any time, or block after block where they are streamed."""
    if isinstance(windows, StreamedWindows):
        return windows.order(
            batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, weights=weights
        )
    return WindowSampler(
        len(windows),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        weights=weights,
    )


def single_windows_of(
    windows: Windows, *, seed: int, rank: int, world_size: int, weights: np.ndarray | None
) -> WindowSampler | StreamOrder:
    """An order for a mixture, one window per step: of all processes together, or of each one's own part where windows are
    streamed, so that no process reads what another one uses."""
    if isinstance(windows, StreamedWindows):
        return windows.order(
            batch_size=world_size, seed=seed, rank=rank, world_size=world_size, weights=weights
        )
    return WindowSampler(len(windows), batch_size=1, seed=seed, weights=weights)


def rows_together(config: TrainConfig, world_size: int) -> int:
    """Windows of a step that a mixture draws together: the whole batch, or one process's where windows are streamed."""
    return config.batch_size // (world_size if config.data.cache == "stream" else 1)


def window_weights(
    config: TrainConfig, windows: Windows, objective: Objective
) -> np.ndarray | None:
    """How often each window is drawn, relative to the others; None for all alike.

    Raises:
        ConfigError: nothing would be drawn.
    """
    balance = config.data.task_balance
    weights = None if balance is None else task_balanced_weights(windows, temperature=balance)
    if config.data.episode_balance:
        weights = episode_balanced_weights(windows, weights)
    if config.data.solved_share is not None:
        weights = solved_share_weights(windows, config.data.solved_share, weights)
    asked = [objective.window_weights(windows), _task_weights(config, windows)]
    for factor in asked:
        if factor is not None:
            weights = factor if weights is None else weights * factor
    if asked[1] is not None and weights is not None and not weights.any():
        raise ConfigError(
            [f"data.task_weights: leave nothing of {windows.dataset.root} to learn from; raise one"]
        )
    return weights


def check_task_weights(config: TrainConfig, instructions: Sequence[str]) -> None:
    """Raises ConfigError where a pattern of the task weights fits none of the instructions."""
    values_by_name(
        config.data.task_weights, list(dict.fromkeys(instructions)), key="data.task_weights"
    )


def _task_weights(config: TrainConfig, windows: Windows) -> np.ndarray | None:
    """The weight of each window's task, (len(windows),); None where the config names none of the data's tasks."""
    names = list(dict.fromkeys(windows.instructions))
    chosen = values_by_name(config.data.task_weights, names, key=None)
    if not chosen:
        return None
    return np.array([chosen.get(text, 1.0) for text in windows.instructions])[windows.task_index]


def step_batches(
    windows: Windows | Mixture | MixedRobots,
    sampler: WindowSampler | StreamOrder | MixtureSampler,
    steps: range,
    *,
    micro_batches: int,
    device: torch.device,
    variable_history: bool = False,
) -> Iterator[tuple[int, list[Batch]]]:
    """Yields (step, its micro-batches), assembled in a thread while the steps before are computed.

    Steps count from 1. Batches for CUDA are in pinned memory.
    """

    def load(step: int) -> list[Batch]:
        parts = [windows.batch(rows) for rows in np.split(sampler.indices(step - 1), micro_batches)]
        if variable_history:
            rng = np.random.default_rng([sampler.seed, step, sampler.rank])
            parts = [shorten_history(part, rng, next_step=windows.next_step) for part in parts]
        return [part.pin_memory() for part in parts] if device.type == "cuda" else parts

    return prefetch((step, load(step)) for step in steps)


def seed_of(*parts: int) -> int:
    """One 32-bit seed from several numbers, for example (seed, step, process)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the generators of Python, numpy and torch, those of `device` among them.

    On the CPU torch's own is seeded alone: `torch.manual_seed` notes for every GPU that may be used later what was asked,
    with the call stack, which a step of a small network would feel.
    """
    if device.type != "cpu":
        set_seed(seed)
        return
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for libraries that draw from it
    torch.default_generator.manual_seed(seed)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return batch if device.type == "cpu" else batch.to(device, non_blocking=device.type == "cuda")
