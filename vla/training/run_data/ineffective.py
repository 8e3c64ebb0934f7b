"""Settings that change nothing in a run, each named in a sentence: nothing else would tell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vla.data import Windows
from vla.training.config import CriticOptimConfig, DataConfig, OptimConfig, TrainConfig

LEAST_RATE = 1e-12
"""Learning rate below which float32 rounds a step of AdamW away: weights are about 0.01 to 1."""
_HIDDEN = 1e-3
"""Gradients that are smaller than this share of `eps` do not count in AdamW beside it."""


def ineffective_settings(config: TrainConfig) -> list[str]:
    """Sentences about settings that change nothing, whatever the data."""
    found = _of_optimiser("optim", config.optim, config.optim.eps)
    if config.optim.critic is not None:
        found += _of_optimiser("optim.critic", config.optim.critic, config.optim.eps)
    for pattern, rate in config.optim.rates.items():
        if rate * config.optim.lr < LEAST_RATE <= config.optim.lr:
            found.append(
                f"optim.rates.{pattern}: {rate:g} times optim.lr is a rate that moves no weight in "
                f"float32; raise it, or freeze these parameters (transfer.freeze=[{pattern}])"
            )
    if abs(config.data.rewards.scale) < LEAST_RATE:
        found.append(
            f"data.rewards.scale: {config.data.rewards.scale:g} makes all rewards alike; use a "
            "number near 1"
        )
    if getattr(config.objective, "priorities", None) is not None:
        found.append(
            "objective.priorities: are found at the border of rounds (`vla online`), and count for "
            "nothing here; set objective.priorities=null"
        )
    return found + _never_drawn(config)


def _of_optimiser(key: str, optim: OptimConfig | CriticOptimConfig, eps: float) -> list[str]:
    found = []
    if optim.lr < LEAST_RATE:
        found.append(
            f"{key}.lr: {optim.lr:g} moves no weight in float32; use a larger one, such as "
            f"{key}.lr=3e-4"
        )
    if optim.clip_norm is not None and optim.clip_norm < _HIDDEN * min(eps, 1.0):
        found.append(
            f"{key}.clip_norm: {optim.clip_norm:g} clips gradients to less than optim.eps "
            f"({eps:g}), so that nothing is learned; use a larger one, or {key}.clip_norm=null"
        )
    if isinstance(optim, OptimConfig) and optim.eps > 1 / _HIDDEN:
        found.append(
            f"{key}.eps: {optim.eps:g} is far larger than any gradient, so that nothing is "
            f"learned; use a smaller one, such as {key}.eps=1e-8"
        )
    if optim.schedule == "constant" and optim.min_lr_fraction > 0:
        found.append(
            f"{key}.min_lr_fraction: {optim.min_lr_fraction:g} counts for nothing under "
            f"{key}.schedule=constant; leave it out, or set {key}.schedule=cosine"
        )
    return found


def _never_drawn(config: TrainConfig) -> list[str]:
    """Datasets whose share of all windows of the run is less than one window."""
    drawn = config.batch_size * config.steps
    shares = {f"data.replay.{i}": entry.weight for i, entry in enumerate(config.data.replay)}
    weights = {name: entry.weight for name, entry in config.data.multi_robot.items()}
    shares |= _shares({name: weight for name, weight in weights.items() if weight is not None})
    found = []
    for place, share in shares.items():
        if share * drawn < 1:
            found.append(
                f"{place}.weight: of the {drawn} windows of this run none is drawn from it; raise "
                "the weight, or leave the dataset out"
            )
    return found


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {f"data.multi_robot.{name}": weight / total for name, weight in weights.items()}


def ineffective_for(data: DataConfig, windows: Windows) -> list[str]:
    """Sentences about settings that change nothing for these windows."""
    if data.solved_share is None:
        return []
    starts_E = np.cumsum(windows.lengths) - windows.lengths
    # `success` of a first step is that of the whole episode
    solved_E = np.asarray(windows.success[starts_E], bool)
    task_E = windows.task_index[starts_E]
    if set(task_E[solved_E].tolist()) & set(task_E[~solved_E].tolist()):
        return []
    return [
        f"data.solved_share: {data.solved_share:g} changes nothing for {windows.dataset.name}: no "
        "task has episodes that were solved and others that were not; leave it out, or add the "
        "episodes that lack"
    ]


__all__ = ["ineffective_for", "ineffective_settings"]
