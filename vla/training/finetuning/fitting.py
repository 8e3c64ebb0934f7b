"""Statistics, tokenizers and heads of a policy are fitted to the data that it will learn from."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from vla.data import Windows
from vla.data.loading.multi_robot import MixedRobots
from vla.data.loading.replay_mixture import Mixture
from vla.models.heads.base import Head
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.training.config import TransferConfig
from vla.training.finetuning.transfer_record import Transfer


def fit_transferred(
    policy: Policy,
    windows: Windows | Mixture | MixedRobots,
    transfer: Transfer,
    settings: TransferConfig,
) -> None:
    """Fits to data what was re-initialised: tokenizer, heads' and state's statistics.

    How instructions are scaled belongs to the trunk that learned to read them, and stays as it is
    if it was kept: a single new instruction would be scaled to nothing.
    """
    if not settings.keep_statistics:
        # `fit_policy` would overwrite them
        kept = {}
        for name, buffer in policy.named_buffers():
            if name.startswith("language_") and name in transfer.tensors.kept:
                kept[name] = buffer.clone()
        fit_policy(policy, windows)
        for name, values in kept.items():
            policy.get_buffer(name).copy_(values)
        return
    assert not isinstance(windows, MixedRobots)  # TrainConfig sees to it
    actions, lengths = _actions(windows)
    for name, module in policy.named_modules():
        # a new head has statistics of nothing, whatever is said of the others
        if isinstance(module, Head) and _is_new(name, transfer):
            module.fit(torch.as_tensor(actions).float(), lengths=lengths)


def fit_policy(policy: Policy, windows: Windows | Mixture | MixedRobots) -> None:
    """Fits the policy to all actions and instructions, and to states of each dataset by its share.

    Of several robots each is fitted to its own data.
    """
    if isinstance(windows, MixedRobots):
        robots = cast(MultiRobotPolicy, policy)
        # by number: the sources stand in another order, the one of the largest share first
        sources = {}
        for number, name in enumerate(robots.robot_names):
            sources[name] = windows.sources[number]
        robots.fit_robots(sources)
        return
    actions, lengths = _actions(windows)
    policy.fit(actions, windows.states, windows.instructions, lengths=lengths)


def _is_new(head: str, transfer: Transfer) -> bool:
    return any(name.startswith(f"{head}.") for name in transfer.tensors.reinitialised)


def _actions(windows: Windows | Mixture) -> tuple[np.ndarray, list[int]]:
    return windows.actions, windows.lengths.tolist()


__all__ = ["fit_policy", "fit_transferred"]
