"""Windows of further datasets beside those of the run's own.

For example of what a policy was pretrained on.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from fractions import Fraction

from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError, DataWarning
from vla.data.loading.protocols import IndexOrder, WindowSource
from vla.data.loading.replay_mixture import AdaptedWindows, ReplayMixture
from vla.models.policy import Policy
from vla.models.transfer.cameras import cameras_of
from vla.training.config import DataConfig, ReplayConfig
from vla.training.objective import Objective, ObjectiveError
from vla.training.run_data.drawing import (
    BatchPlan,
    build_order,
    check_task_weights,
    interleaved_order,
)
from vla.training.run_data.windows import at_size_seen, read_windows
from vla.types import Spec

_SALT = 0x4E91A7


def with_replay(
    data: DataConfig,
    plan: BatchPlan,
    policy: Policy,
    objective: Objective,
    windows: Windows,
    replayed: Sequence[EpisodeDataset],
) -> tuple[WindowSource, IndexOrder]:
    """What is drawn from: `windows` and what `data.replay` names, and which of it comes at a step.

    Args:
        replayed: the datasets of `data.replay`, in its order.

    Raises:
        ConfigError: a dataset does not fit the policy's robot, its share is less than the batch can
            hold, the batch does not divide, or a pattern of the task weights fits no instruction.
        DataError: a dataset cannot be read.
        ObjectiveError: the objective cannot learn from a dataset.
    """
    if not data.replay:
        order = build_order(data, plan, windows, objective)
        check_task_weights(data, windows.instructions)
        return windows, order
    plan.check()
    # through text: a weight of 0.1 is a tenth, not the binary number next to it
    shares = [Fraction(str(entry.weight)) for entry in data.replay]
    if plan.rows_together(data) * (1 - sum(shares)) < len(shares):
        raise ConfigError(
            [
                f"data.replay: the weights leave {data.path} no window in some batches of "
                f"{plan.batch_size}"
            ]
        )
    further = _open_replayed(data, policy, objective, windows, replayed)
    mixture = ReplayMixture(windows, further, shares)
    check_task_weights(data, mixture.instructions)
    datasets = [windows, *(part.windows for part in further)]
    order = interleaved_order(data, plan, list(enumerate(datasets)), shares, objective, salt=_SALT)
    return mixture, order


def _open_replayed(
    data: DataConfig,
    policy: Policy,
    objective: Objective,
    windows: Windows,
    datasets: Sequence[EpisodeDataset],
) -> list[AdaptedWindows]:
    """The windows of the replayed datasets as the policy's robot would have seen them."""
    seen = cameras_of(policy)
    # all at once, before any image is read
    problems = []
    for number, (entry, dataset) in enumerate(zip(data.replay, datasets, strict=True)):
        for line in _misfits(entry, dataset.spec, policy.spec, seen):
            problems.append(f"data.replay.{number}: {line}")
    if problems:
        raise ConfigError(problems)
    for number, dataset in enumerate(datasets):
        doubt = policy.spec.doubt(dataset.spec)
        if doubt is not None:
            text = f"data.replay.{number} and the policy: {doubt}; it is replayed as if they were"
            warnings.warn(DataWarning(text), stacklevel=2)
    further: list[AdaptedWindows] = []
    first_task = len(windows.instructions)
    fill = windows.states.mean(0)  # (S,)
    # images as the run's own data have them: the two come in one batch
    sizes = {camera: windows.spec.cameras[camera] for camera in seen}
    spec = dataclasses.replace(policy.spec, cameras=policy.spec.cameras | sizes)
    for number, (entry, dataset) in enumerate(zip(data.replay, datasets, strict=True)):
        cameras = {camera: entry.cameras.get(camera, camera) for camera in seen}
        # two cameras of the policy may see one of the dataset, which is loaded once
        loaded = list(dict.fromkeys(cameras.values()))
        wanted = [(cameras[camera], policy.image_sizes.get(camera)) for camera in seen]
        sized = at_size_seen(dataset, wanted)
        replayed = read_windows(data, sized, policy, objective, cameras=loaded)
        try:
            objective.check_replayed(replayed)
        except (DataError, ObjectiveError) as error:
            raise ObjectiveError(f"data.replay.{number}: {error}") from error
        further.append(
            AdaptedWindows(replayed, spec, cameras=cameras, fill=fill, first_task=first_task)
        )
        first_task += len(replayed.instructions)
    return further


def _misfits(entry: ReplayConfig, there: Spec, here: Spec, seen: Sequence[str]) -> list[str]:
    """One line for each way in which a dataset does not fit the policy's robot.

    Args:
        there: of the dataset.
        here: of the policy.
        seen: cameras that the policy looks through.
    """
    lines = []
    # the policy's tokenizer and head are for its own actions: other ones cannot be learned from
    if there.action_names != here.action_names:
        lines.append(
            f"{entry.path} has the actions {list(there.action_names)}, the policy says "
            f"{list(here.action_names)}; replay data of the same actions"
        )
    elif (there.action_low, there.action_high) != (here.action_low, here.action_high):
        lines.append(
            f"{entry.path} has actions between {there.action_low} and {there.action_high}, the "
            f"policy's are between {here.action_low} and {here.action_high}; record both in the "
            "same units"
        )
    if here.state_dim and not set(here.state_names) & set(there.state_names):
        lines.append(
            f"{entry.path} has the state {list(there.state_names)}, nothing of the policy's "
            f"{list(here.state_names)}; name the dimensions alike"
        )
    for camera in entry.cameras:
        if camera not in seen:
            lines.append(
                f"cameras: the policy looks through no camera {camera!r}; it has: "
                f"{', '.join(seen) or 'none'}"
            )
    for camera in seen:
        wanted = entry.cameras.get(camera, camera)
        if wanted not in there.cameras:
            lines.append(
                f"cameras: {entry.path} has no camera {wanted!r} for the policy's {camera!r}; name "
                f"one of: {', '.join(there.cameras) or 'none'}"
            )
    return lines


__all__ = ["with_replay"]
