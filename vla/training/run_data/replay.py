"""Windows of further datasets beside those of the run's own, such as what a policy was pretrained on."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows, WindowSampler
from vla.data.errors import DataError
from vla.data.loading.replay_mixture import AdaptedWindows, Mixture, MixtureSampler
from vla.data.loading.stream_order import StreamOrder
from vla.models.policy import Policy
from vla.models.transfer.cameras import cameras_of
from vla.training.config import ReplayConfig, TrainConfig
from vla.training.objective import Objective, ObjectiveError
from vla.training.run_data.batches import (
    check_task_weights,
    read_windows,
    rows_together,
    seed_of,
    single_windows_of,
    window_weights,
)
from vla.types import Spec

_SALT = 0x4E91A7


def with_replay(
    config: TrainConfig,
    policy: Policy,
    objective: Objective,
    windows: Windows,
    sampler: WindowSampler | StreamOrder,
) -> tuple[Windows | Mixture, WindowSampler | StreamOrder | MixtureSampler]:
    """`windows` and `sampler` with `config.data.replay` mixed in; themselves where there is none.

    Raises:
        ConfigError: a dataset does not fit the policy's robot, its share is less than the batch can hold, or a pattern of
            the task weights fits no instruction.
        DataError: a dataset cannot be read.
        ObjectiveError: the objective cannot learn from a dataset.
    """
    entries = config.data.replay
    if not entries:
        check_task_weights(config, windows.instructions)
        return windows, sampler
    shares = [Fraction(str(entry.weight)) for entry in entries]
    if rows_together(config, sampler.world_size) * (1 - sum(shares)) < len(shares):
        raise ConfigError(
            [
                f"data.replay: the weights leave {config.data.path} no window in some batches of {config.batch_size}"
            ]
        )
    datasets = [EpisodeDataset(entry.path) for entry in entries]
    spec, seen = policy.spec, cameras_of(policy)
    if problems := [
        f"data.replay.{number}: {line}"
        for number, (entry, dataset) in enumerate(zip(entries, datasets, strict=True))
        for line in _misfits(entry, dataset.spec, spec, seen)
    ]:
        raise ConfigError(problems)

    further, first_task, fill = [], len(windows.instructions), windows.states.mean(0)
    for number, (entry, dataset) in enumerate(zip(entries, datasets, strict=True)):
        cameras = {camera: entry.cameras.get(camera, camera) for camera in seen}
        read = read_windows(
            config, dataset, policy, objective, cameras=list(dict.fromkeys(cameras.values()))
        )
        try:
            objective.check_replayed(read)
        except (DataError, ObjectiveError) as error:
            raise ObjectiveError(f"data.replay.{number}: {error}") from error
        further.append(
            AdaptedWindows(read, spec, cameras=cameras, fill=fill, first_task=first_task)
        )
        first_task += len(read.instructions)
    mixture = Mixture(windows, further, shares)
    check_task_weights(config, mixture.instructions)
    samplers = [
        single_windows_of(
            source,
            seed=seed_of(config.seed, _SALT, number),
            rank=sampler.rank,
            world_size=sampler.world_size,
            weights=window_weights(config, source, objective),
        )
        for number, source in enumerate([windows, *(part.windows for part in further)])
    ]
    return mixture, MixtureSampler(
        samplers,
        shares,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=sampler.rank,
        world_size=sampler.world_size,
    )


def _misfits(entry: ReplayConfig, there: Spec, here: Spec, seen: Sequence[str]) -> list[str]:
    """One line for each way in which a dataset cannot be told as the policy's robot would have seen it."""
    lines = []
    if there.action_names != here.action_names:
        lines.append(
            f"{entry.path} has the actions {list(there.action_names)}, the policy says {list(here.action_names)}; replay "
            "data of the same actions"
        )
    elif (there.action_low, there.action_high) != (here.action_low, here.action_high):
        lines.append(
            f"{entry.path} has actions between {there.action_low} and {there.action_high}, the policy's are between "
            f"{here.action_low} and {here.action_high}; record both in the same units"
        )
    if here.state_dim and not set(here.state_names) & set(there.state_names):
        lines.append(
            f"{entry.path} has the state {list(there.state_names)}, nothing of the policy's {list(here.state_names)}; "
            "name the dimensions alike"
        )
    for camera in entry.cameras:
        if camera not in seen:
            lines.append(
                f"cameras: the policy looks through no camera {camera!r}; it has: {', '.join(seen) or 'none'}"
            )
    for camera in seen:
        wanted = entry.cameras.get(camera, camera)
        if wanted not in there.cameras:
            lines.append(
                f"cameras: {entry.path} has no camera {wanted!r} for the policy's {camera!r}; name one of: "
                f"{', '.join(there.cameras) or 'none'}"
            )
    return lines


__all__ = ["with_replay"]
