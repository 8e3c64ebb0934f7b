"""Statistics, tokenizers and heads of a policy are fitted to the data that it will learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vla.data.loading.protocols import Trajectories
from vla.models.heads.base import Head
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.training.config import TransferConfig
from vla.training.finetuning.transfer_record import Transfer


def fit_transferred(
    policy: Policy,
    data: Mapping[str, Trajectories],
    transfer: Transfer,
    settings: TransferConfig,
) -> None:
    """Fits to data what was re-initialised: tokenizer, heads' and state's statistics.

    How instructions are scaled belongs to the trunk that learned to read them, and stays as it is
    if it was kept: a single new instruction would be scaled to nothing.

    Args:
        data: as of `fit_policy`.
    """
    if not settings.keep_statistics:
        # `fit_policy` would overwrite them
        kept = {}
        for name, buffer in policy.named_buffers():
            if name.startswith("language_") and name in transfer.tensors.kept:
                kept[name] = buffer.clone()
        fit_policy(policy, data)
        for name, values in kept.items():
            policy.get_buffer(name).copy_(values)
        return
    (own,) = data.values()  # a transfer is to one robot: the config sees to it
    lengths = own.lengths.tolist()
    for name, module in policy.named_modules():
        # a new head has statistics of nothing, whatever is said of the others
        if isinstance(module, Head) and _is_new(name, transfer):
            module.fit(torch.as_tensor(own.actions).float(), lengths=lengths)


def fit_policy(policy: Policy, data: Mapping[str, Trajectories]) -> None:
    """Fits the policy to all actions and instructions, and to states of each dataset by its share.

    Args:
        data: name of the robot ("" if there is one) -> its data. Of several robots each is fitted
            to its own.
    """
    if isinstance(policy, MultiRobotPolicy):
        policy.fit_robots(data)
        return
    (own,) = data.values()
    policy.fit(own.actions, own.states, own.instructions, lengths=own.lengths.tolist())


def _is_new(head: str, transfer: Transfer) -> bool:
    return any(name.startswith(f"{head}.") for name in transfer.tensors.reinitialised)


__all__ = ["fit_policy", "fit_transferred"]
