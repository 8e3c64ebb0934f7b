"""The values that a run's objective gives to the steps of recorded episodes.

B windows, T steps, n lookahead steps, S sampled chunks, N steps that were looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla.config import ConfigError
from vla.data import Windows
from vla.models.critics import ActionCritic
from vla.models.policy import Policy
from vla.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_folder,
    newest_checkpoint,
)
from vla.training.objective import Objective, ObjectiveConfig
from vla.training.objectives.actor_critic import ActorCritic
from vla.training.offline_rl.token_objective import TokenValueObjective
from vla.training.offline_rl.values.base import Transition, draw
from vla.training.offline_rl.values.none import NoValues
from vla.training.run_data.batches import to_device
from vla.training.seeding import seed_of
from vla.types import Batch

_SAMPLES = 8  # chunks of the policy, and uniform ones, that Q is averaged over


@dataclass(frozen=True)
class Batches:
    """How a run drew: windows of a batch, and its seed."""

    size: int
    seed: int


def restored_objective(
    config: ObjectiveConfig,
    policy: Policy,
    checkpoint: Checkpoint,
) -> Objective:
    """The objective with the critics of a checkpoint, in evaluation mode.

    Raises CheckpointError if they do not fit.
    """
    # of the policy inside a guided one: the objective was built for what learns
    objective = config.build(policy.unwrapped)
    stored = checkpoint.tensors()
    tensors = {}
    # The policy of a checkpoint is the running mean, so its critics are too. What has no mean, such
    # as target copies, is taken as it is.
    for prefix in ("objective/", "objective_mean/"):
        for name, tensor in stored.items():
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = tensor
    try:
        objective.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit the run's objective: {error}"
        ) from error
    return objective.eval()


def run_checkpoint(run: Path, step: int | None) -> Checkpoint:
    """The checkpoint of a step, by default the newest. Raises ConfigError if there is none."""
    root = run / "checkpoints"
    if step is None:
        newest = newest_checkpoint(root)
        if newest is not None:
            return newest
    elif checkpoint_folder(root, step).is_dir():
        # the state is the optimiser's and the log's, which nobody asks for here
        return Checkpoint(checkpoint_folder(root, step), step, {})
    wanted = "" if step is None else f" of step {step}"
    saved = ", ".join(str(s) for s in saved_steps(run)) or "none"
    raise ConfigError([f"{root}: no whole checkpoint{wanted}; steps saved: {saved}"])


def saved_steps(run: Path) -> list[int]:
    folders = (run / "checkpoints").glob("step-*")
    names = [path.name.removeprefix("step-") for path in folders if path.is_dir()]
    # not the copies that people set aside, such as step-10-mine
    return sorted(int(name) for name in names if name.isdecimal())


def values_of(
    batches: Batches,
    policy: Policy,
    objective: Objective,
    windows: Windows,
    indices: np.ndarray,
    device: torch.device,
) -> dict[str, Tensor]:
    """The values (N,) of `step_values` for these windows, on the CPU."""
    found: dict[str, list[Tensor]] = {}
    parts = -(-len(indices) // batches.size)  # rounded up
    # seeded by the run, and without a trace in the generator of whoever asks
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(batches.seed))
        for rows in np.array_split(indices, parts):
            batch = to_device(windows.batch(rows), device)
            for name, values in step_values(objective, policy, batch).items():
                found.setdefault(name, []).append(values.float().cpu())
    return {name: torch.cat(values) for name, values in found.items()}


def step_values(
    objective: Objective,
    policy: Policy,
    batch: Batch,
) -> dict[str, Float[Tensor, " N"]]:
    """Values of the last present step of each window, if the objective learns any."""
    own = policy.unwrapped
    if isinstance(objective, TokenValueObjective):
        losses = objective.compute_losses(own, batch)
        found = {"q_data": losses.metrics["q_data"], "return": losses.now.returns_to_go}
        return {name: values_BT[:, -1] for name, values_BT in found.items()}
    if not isinstance(objective, ActorCritic):
        return {}
    now = batch.steps(0, -objective.next_step) if objective.next_step else batch
    value, output = objective.value, own(now)
    lookahead = objective.lookahead(own, batch)
    transition = objective.transition(own, now, output, output.features, lookahead)
    found = {"return": now.returns_to_go}
    if value.state_critic is not None:
        found["v"] = value.state_critic(transition.features)
    if value.action_critic is not None:
        found |= _action_values(value.action_critic, transition)
    if not isinstance(value, NoValues):
        found["advantage"] = value.advantage(transition)
    if len(found) == 1:  # returns alone: the objective learns no values
        return {}
    # the last step has seen most: earlier ones of a window would be judged with less history
    return {name: values_BT[:, -1] for name, values_BT in found.items()}


def _action_values(critic: ActionCritic, transition: Transition) -> dict[str, Float[Tensor, "B T"]]:
    """Mean Q over the ensemble of the data's chunks and of others."""
    data_BTKA = transition.batch.actions
    own_SBTKA = draw(transition.actions, _SAMPLES)
    shape = (_SAMPLES, *data_BTKA.shape)
    unit_SBTKA = 2 * torch.rand(shape, device=data_BTKA.device) - 1
    uniform_SBTKA = critic.action_middle + unit_SBTKA * critic.action_half
    features = transition.features
    found = {
        "q_data": critic(features, data_BTKA).mean(0),
        "q_mode": critic(features, transition.actions.mode()).mean(0),
        # over members and samples
        "q_policy": critic(features, own_SBTKA).mean((0, 1)),
        "q_uniform": critic(features, uniform_SBTKA).mean((0, 1)),
    }
    found["q_policy_above_data"] = found["q_policy"] - found["q_data"]
    return found


__all__ = [
    "Batches",
    "restored_objective",
    "run_checkpoint",
    "saved_steps",
    "step_values",
    "values_of",
]
