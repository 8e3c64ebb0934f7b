"""Datasets of several robots in one training: their policy, their windows in one batch, and what is told of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.common.atomic import replace_folder
from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.data.loading.multi_robot import MixedRobots, mixture_shares
from vla.data.loading.replay_mixture import MixtureSampler
from vla.models.policies.multi_robot import MultiRobotConfig, MultiRobotPolicy, RobotConfig
from vla.models.policy import CheckpointError, Policy, PolicyConfig
from vla.training.config import MixtureConfig, TrainConfig
from vla.training.objective import Objective
from vla.training.run_data.batches import (
    check_division,
    check_task_weights,
    read_windows,
    rows_together,
    seed_of,
    single_windows_of,
    split_episodes,
    streamed_share,
    window_weights,
)

_SALT = 0x0B07


def open_datasets(config: TrainConfig) -> dict[str, EpisodeDataset]:
    """The datasets of the mixture, by the name of their robot. Raises DataError where one cannot be read."""
    return {
        name: EpisodeDataset(entry.path, format=entry.format, keys=entry.keys)
        for name, entry in config.data.mixture.items()
    }


def robots_policy(
    config: TrainConfig, datasets: Mapping[str, EpisodeDataset]
) -> MultiRobotConfig | None:
    """What the mixture's policy is built from; None where the config leaves it to `init_from`.

    Raises:
        ConfigError: the objective cannot learn from several robots, or a camera does not exist.
    """
    if not config.objective.several_robots:
        raise ConfigError(
            [
                f"objective: {config.objective.model_dump()['type']} judges actions of one robot and cannot learn from a "
                "mixture; use {type: bc} or {type: filtered_bc}, or name one dataset in data.path"
            ]
        )
    if config.policy is None:
        return None
    robots = {
        name: _robot(name, config.data.mixture[name], data, config.policy)
        for name, data in datasets.items()
    }
    try:
        return MultiRobotConfig.model_validate({"policy": config.policy, "robots": robots})
    except ValueError as error:
        raise ConfigError([f"data.mixture: {error}"]) from None


def _robot(
    name: str, entry: MixtureConfig, dataset: EpisodeDataset, policy: PolicyConfig
) -> RobotConfig:
    has = dataset.spec.cameras
    slots = {camera: camera for camera in has} if entry.cameras is None else entry.cameras
    if wrong := [slot for slot, camera in slots.items() if camera not in has]:
        raise ConfigError(
            [
                f"data.mixture.{name}.cameras.{wrong[0]}: {entry.path} has no camera {slots[wrong[0]]!r}; it has: "
                f"{', '.join(has) or 'none'}"
            ]
        )
    seen = getattr(policy, "cameras", None)
    if seen and slots and not set(seen) & set(slots):
        raise ConfigError(
            [
                f"data.mixture.{name}.cameras: none of the slots {', '.join(slots)} is in policy.cameras ({', '.join(seen)}); "
                f"say which camera stands there: {{{seen[0]}: {next(iter(has))}}}"
            ]
        )
    slots = {slot: camera for slot, camera in slots.items() if seen is None or slot in seen}
    spec = dataclasses.replace(
        dataset.spec, cameras={camera: has[camera] for camera in dict.fromkeys(slots.values())}
    )
    return RobotConfig(spec=spec.to_dict(), cameras=slots, tokenizer=entry.tokenizer)


@dataclasses.dataclass(frozen=True)
class OpenMixture:
    """Windows of all robots, and how they are drawn.

    Attributes:
        windows: to train on; their sources by number of the robot, the one of the largest share first.
        sampler: over the windows.
        held_out: robot -> held-out windows; empty where nothing is held out.
        shares: robot -> its share of the batches.
    """

    windows: MixedRobots
    sampler: MixtureSampler
    held_out: dict[str, Windows]
    shares: dict[str, float]

    def epochs(self, step: int) -> dict[str, float]:
        """How often each dataset's windows were gone through in the first `step` steps, `epochs/NAME`."""
        names = list(self.shares)
        drawn = zip(self.windows.sources.items(), self.sampler.drawn(step), strict=True)
        found = {names[number]: count / len(windows) for (number, windows), count in drawn}
        return {f"epochs/{name}": found[name] for name in names}


def open_mixture(
    config: TrainConfig,
    datasets: Mapping[str, EpisodeDataset],
    policy: Policy,
    objective: Objective,
    *,
    rank: int,
    world_size: int,
) -> OpenMixture:
    """Opens the windows of every robot as its part of the policy wants them.

    Raises:
        ConfigError: the policy is for other robots, the batch does not divide or is too small for the shares, or a pattern of
            the task weights fits no instruction.
    """
    check_division(config, world_size)
    if not isinstance(policy, MultiRobotPolicy) or list(policy.robots) != list(datasets):
        found = ", ".join(policy.robot_names) or "one robot"
        raise ConfigError(
            [f"init_from: its policy is for {found}; the mixture has {', '.join(datasets)}"]
        )
    training, held_out = _read(config, datasets, policy, objective)
    check_task_weights(
        config, [text for windows in training.values() for text in windows.instructions]
    )
    entries = config.data.mixture
    given = [entry.weight for entry in entries.values() if entry.weight is not None]
    sizes = [len(windows) for windows in training.values()]
    shares = mixture_shares(
        sizes, weights=given or None, temperature=config.data.mixture_temperature or 1.0
    )
    # the first dataset of a mixture has what the others leave: the largest
    order = sorted(range(len(sizes)), key=lambda number: (-shares[number], number))
    least = (len(sizes) - 1) / shares[order[0]]
    if rows_together(config, world_size) < least:
        raise ConfigError(
            [
                f"batch_size: {config.batch_size} is too small for {len(sizes)} datasets of these shares; use at least "
                f"{-(-least // 1) * config.batch_size // rows_together(config, world_size)}"
            ]
        )
    parts = list(training.values())
    samplers = [
        single_windows_of(
            parts[number],
            seed=seed_of(config.seed, _SALT, number),
            rank=rank,
            world_size=world_size,
            weights=window_weights(config, parts[number], objective),
        )
        for number in order
    ]
    sampler = MixtureSampler(
        samplers,
        [shares[number] for number in order[1:]],
        batch_size=config.batch_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
    )
    told = {name: float(share) for name, share in zip(datasets, shares, strict=True)}
    return OpenMixture(
        MixedRobots({number: parts[number] for number in order}), sampler, held_out, told
    )


def _read(
    config: TrainConfig,
    datasets: Mapping[str, EpisodeDataset],
    policy: MultiRobotPolicy,
    objective: Objective,
) -> tuple[dict[str, Windows], dict[str, Windows]]:
    """-> each robot's windows to train on, and those held out."""
    training: dict[str, Windows] = {}
    held_out: dict[str, Windows] = {}
    for name, dataset in datasets.items():
        own = policy.part(name)
        try:
            kept, left = split_episodes(
                dataset.episodes["task_index"].tolist(),
                config.data.validation_fraction,
                config.seed,
            )
        except ConfigError as error:
            raise ConfigError(
                [f"data.mixture.{name}: {problem}" for problem in error.problems]
            ) from None
        for found, episodes, held in ((training, kept, False), (held_out, left, True)):
            if episodes:
                found[name] = read_windows(
                    config,
                    dataset,
                    own,
                    objective,
                    cameras=list(own.spec.cameras),
                    episodes=episodes,
                    stream_memory_gb=streamed_share(config, held_out=held),
                )
        objective.fit(training[name])
    return training, held_out


def lines(policy: MultiRobotPolicy, mixture: OpenMixture) -> list[str]:
    """What a user wants to know, before training begins."""
    told = []
    for number, (name, share) in enumerate(mixture.shares.items()):
        windows, config = mixture.windows.sources[number], policy.config
        cameras = ", ".join(
            camera if camera == slot else f"{camera} as {slot}"
            for camera, slot in config.cameras_of(name).items()
        )
        told.append(
            f"mixture: {name}: {share:.1%} of every batch, {len(windows)} windows of {len(windows.lengths)} episodes, "
            f"{windows.spec.action_dim} actions, {windows.spec.state_dim} state, {windows.spec.control_hz:g} Hz, "
            f"cameras {cameras or 'none'}"
        )
    shared = sum(p.numel() for p in policy.trunk.parameters())
    own = [
        f"{name} {sum(p.numel() for p in policy.own_parameters(name)) / 1e6:.3g}"
        for name in policy.robots
    ]
    return [
        *told,
        f"mixture: {shared / 1e6:.3g} million parameters are shared; each robot's own: {', '.join(own)} million",
    ]


def card(mixture: OpenMixture, datasets: Mapping[str, EpisodeDataset]) -> dict[str, Any]:
    """What the model card tells of the data."""
    parts = mixture.windows.sources
    return {
        "episodes": sum(len(windows.lengths) for windows in parts.values()),
        "frames": len(mixture.windows),
        "datasets": {
            name: f"{dataset.root.name}: {len(parts[number])} frames, {mixture.shares[name]:.1%} of the batches"
            for number, (name, dataset) in enumerate(datasets.items())
        },
    }


def save_robots(policy: Policy, root: Path) -> None:
    """Writes the policy of each robot of a policy for several into `root`/NAME. Raises CheckpointError."""
    assert isinstance(policy, MultiRobotPolicy)
    for name in policy.robot_names:
        robot = policy.robot(name)

        def write(folder: Path, robot: Policy = robot) -> None:
            robot.save_pretrained(folder)

        try:
            replace_folder(root / name, write)
        except OSError as error:
            raise CheckpointError(
                f"{root / name} was not written: {error}; make room on the disk, and take the robot out of the policy with "
                "`vla policy extract`"
            ) from error


__all__ = [
    "OpenMixture",
    "card",
    "lines",
    "open_datasets",
    "open_mixture",
    "robots_policy",
    "save_robots",
]
