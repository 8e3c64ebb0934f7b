"""Datasets of several robots in one training: their policy, their windows, what is logged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from vla.common.atomic import replace_folder
from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.data.loading.interleaved_sampler import InterleavedSampler
from vla.data.loading.multi_robot import RobotWindows, dataset_shares
from vla.models.policies.multi_robot import MultiRobotConfig, MultiRobotPolicy, RobotConfig
from vla.models.policy import CheckpointError, Policy, PolicyConfig
from vla.models.transfer.cameras import cameras_of
from vla.training.config import DataConfig, RobotDatasetConfig
from vla.training.objective import Objective, ObjectiveConfig
from vla.training.run_data.drawing import BatchPlan, check_task_weights, interleaved_order
from vla.training.run_data.windows import (
    at_size_seen,
    read_windows,
    sizes_seen,
    split_episodes,
    streamed_share,
)

_SALT = 0x0B07  # the robots' orders have nothing to do with what else is drawn by the run's seed


def open_datasets(data: DataConfig) -> dict[str, EpisodeDataset]:
    """The datasets of the robots, by the robot's name. Raises DataError if one cannot be read."""
    return {
        name: entry.open(f"data.multi_robot.{name}") for name, entry in data.multi_robot.items()
    }


def robots_policy(
    data: DataConfig,
    policy: PolicyConfig | None,
    objective: ObjectiveConfig,
    datasets: Mapping[str, EpisodeDataset],
) -> MultiRobotConfig | None:
    """What the policy for all robots is built from; None if the config leaves it to `init_from`.

    Args:
        policy: what each robot's policy is built from.

    Raises:
        ConfigError: the objective cannot learn from several robots, or a camera does not exist.
    """
    if not objective.several_robots:
        kind = objective.model_dump()["type"]
        raise ConfigError(
            [
                f"objective: {kind} judges actions of one robot and cannot learn from several; use "
                "{type: bc} or {type: filtered_bc}, or name one dataset in data.path"
            ]
        )
    if policy is None:
        return None
    robots = {
        name: _robot(name, data.multi_robot[name], dataset, policy)
        for name, dataset in datasets.items()
    }
    # whatever of the policy config does not fit these robots is a mistake in the data's section
    try:
        return MultiRobotConfig.model_validate({"policy": policy, "robots": robots})
    except ValueError as error:
        raise ConfigError([f"data.multi_robot: {error}"]) from None


def _robot(
    name: str,
    entry: RobotDatasetConfig,
    dataset: EpisodeDataset,
    policy: PolicyConfig,
) -> RobotConfig:
    """A robot as its dataset shows it, with the cameras that the policy looks through."""
    has = dataset.spec.cameras
    slots = {camera: camera for camera in has} if entry.cameras is None else entry.cameras
    wrong = [slot for slot, camera in slots.items() if camera not in has]
    if wrong:
        raise ConfigError(
            [
                f"data.multi_robot.{name}.cameras.{wrong[0]}: {entry.path} has no camera "
                f"{slots[wrong[0]]!r}; it has: {', '.join(has) or 'none'}"
            ]
        )
    seen = policy.option("cameras")
    if seen and slots and not set(seen) & set(slots):
        raise ConfigError(
            [
                f"data.multi_robot.{name}.cameras: none of the slots {', '.join(slots)} is in "
                f"policy.cameras ({', '.join(seen)}); say which camera stands there: "
                f"{{{seen[0]}: {next(iter(has))}}}"
            ]
        )
    # other cameras are not loaded: decoded images are most of a run's memory
    if seen is not None:
        slots = {slot: camera for slot, camera in slots.items() if slot in seen}
    # two slots may show one camera; its images are loaded once
    cameras = {camera: has[camera] for camera in dict.fromkeys(slots.values())}
    spec = dataclasses.replace(dataset.spec, cameras=cameras)
    return RobotConfig(spec=spec.to_dict(), cameras=slots, tokenizer=entry.tokenizer)


@dataclasses.dataclass(frozen=True)
class MultiRobotData:
    """Windows of all robots, and how they are drawn.

    Attributes:
        windows: to train on; the robot of the largest share comes first in their numbers.
        order: which of them come at a step; its datasets are in the order of `windows.sources`.
        held_out: robot -> held-out windows; empty if nothing is held out.
        shares: robot -> its share of the batches, in the order of the config.
    """

    windows: RobotWindows
    order: InterleavedSampler
    held_out: dict[str, Windows]
    shares: dict[str, float]

    def epochs(self, step: int) -> dict[str, float]:
        """How often each robot's windows were gone through in `step` steps, `epochs/NAME`."""
        found = {}
        sources = self.windows.sources.items()
        for (name, windows), count in zip(sources, self.order.drawn(step), strict=True):
            found[name] = count / len(windows)
        return {f"epochs/{name}": found[name] for name in self.shares}


def open_robots(
    data: DataConfig,
    plan: BatchPlan,
    datasets: Mapping[str, EpisodeDataset],
    policy: MultiRobotPolicy,
    objective: Objective,
) -> MultiRobotData:
    """Opens the windows of every robot as its part of the policy needs them.

    Raises:
        ConfigError: the batch does not divide or is too small for the shares, or a pattern of the
            task weights fits no instruction.
    """
    plan.check()
    training, held_out = _read(data, plan.seed, datasets, policy, objective)
    texts = [text for windows in training.values() for text in windows.instructions]
    check_task_weights(data, texts)
    entries = data.multi_robot.values()
    weights = [entry.weight for entry in entries if entry.weight is not None]
    # exact fractions: over any number of steps a dataset errs from its share by less than a window
    shares = dataset_shares(
        [len(windows) for windows in training.values()],
        weights=weights or None,
        temperature=data.multi_robot_temperature or 1.0,
    )
    names = list(training)
    # the first dataset has what the others leave: the largest
    numbers = sorted(range(len(names)), key=lambda number: (-shares[number], number))
    _check_batch_size(data, plan, shares)
    order = interleaved_order(
        data,
        plan,
        [(number, training[names[number]]) for number in numbers],
        [shares[number] for number in numbers[1:]],
        objective,
        salt=_SALT,
    )
    # numbers of windows follow the shares, micro-batches the config: see `RobotWindows`
    by_share = {names[number]: training[names[number]] for number in numbers}
    windows = RobotWindows(by_share, robots=names)
    return MultiRobotData(
        windows, order, held_out, dict(zip(names, map(float, shares), strict=True))
    )


def checked_policy(policy: Policy, robots: Mapping[str, EpisodeDataset]) -> MultiRobotPolicy:
    """The policy for the robots of these datasets. Raises ConfigError if it is for others, or for
    one alone."""
    # in the same order, too: it is that of dropout and augmentation within a step
    if not isinstance(policy, MultiRobotPolicy) or list(policy.robots) != list(robots):
        found = ", ".join(policy.robot_names) or "one robot"
        raise ConfigError(
            [f"init_from: its policy is for {found}; data.multi_robot has {', '.join(robots)}"]
        )
    # all of them together are compared by the numbers of their dimensions alone
    problems = []
    for name, dataset in robots.items():
        for line in policy.part(name).spec.differences(dataset.spec):
            problems.append(f"data.multi_robot.{name}.path: {line} (as the policy has it)")
    if problems:
        raise ConfigError(problems)
    return policy


def _check_batch_size(data: DataConfig, plan: BatchPlan, shares: Sequence[Fraction]) -> None:
    """Raises ConfigError if some batches would leave nothing to the largest dataset."""
    # each further dataset may be a whole window ahead of its share
    least = (len(shares) - 1) / max(shares)
    together = plan.rows_together(data)
    if together < least:
        enough = math.ceil(least) * plan.batch_size // together
        raise ConfigError(
            [
                f"batch_size: {plan.batch_size} is too small for {len(shares)} datasets of these "
                f"shares; use at least {enough}"
            ]
        )


def _read(
    data: DataConfig,
    seed: int,
    datasets: Mapping[str, EpisodeDataset],
    policy: MultiRobotPolicy,
    objective: Objective,
) -> tuple[dict[str, Windows], dict[str, Windows]]:
    """Each robot's windows to train on, to which the objective is fitted; and those held out."""
    training: dict[str, Windows] = {}
    held_out: dict[str, Windows] = {}
    for name, dataset in datasets.items():
        own = policy.part(name)
        cameras = list(cameras_of(own))
        dataset = at_size_seen(dataset, sizes_seen([own]))
        tasks = dataset.episodes["task_index"].tolist()
        # each dataset is split by itself, by the run's seed, as if it were trained on alone
        try:
            kept, unseen = split_episodes(tasks, data.validation_fraction, seed)
        except ConfigError as error:
            problems = [f"data.multi_robot.{name}: {problem}" for problem in error.problems]
            raise ConfigError(problems) from None
        training[name] = read_windows(data, dataset, own, objective, cameras=cameras, episodes=kept)
        if unseen:
            held_out[name] = read_windows(
                data,
                dataset,
                own,
                objective,
                cameras=cameras,
                episodes=unseen,
                stream_memory_gb=streamed_share(data, held_out=True),
            )
        # robot by robot: an objective that learns from several keeps nothing of the data
        objective.fit(training[name])
    return training, held_out


def lines(policy: MultiRobotPolicy, robots: MultiRobotData) -> list[str]:
    """Lines for the user, before training begins."""
    found = []
    for name, share in robots.shares.items():
        windows = robots.windows.sources[name]
        seen = policy.config.cameras_of(name).items()
        cameras = [camera if camera == slot else f"{camera} as {slot}" for camera, slot in seen]
        spec = windows.spec
        found.append(
            f"robot {name}: {share:.1%} of every batch, {len(windows)} windows of "
            f"{len(windows.lengths)} episodes, {spec.action_dim} actions, {spec.state_dim} state, "
            f"{spec.control_hz:g} Hz, cameras {', '.join(cameras) or 'none'}"
        )
    shared = sum(p.numel() for p in policy.trunk.parameters()) / 1e6
    own = []
    for name in policy.robots:
        millions = sum(p.numel() for p in policy.own_parameters(name)) / 1e6
        own.append(f"{name} {millions:.3g}")
    found.append(
        f"robots: {shared:.3g} million parameters are shared; each robot's own: {', '.join(own)} "
        "million"
    )
    return found


def card(robots: MultiRobotData, datasets: Mapping[str, EpisodeDataset]) -> dict[str, Any]:
    """What the model card says of the data."""
    sources = robots.windows.sources
    described = {
        name: f"{dataset.root.name}: {len(sources[name])} frames, "
        f"{robots.shares[name]:.1%} of the batches"
        for name, dataset in datasets.items()
    }
    return {
        "episodes": sum(len(windows.lengths) for windows in sources.values()),
        "frames": len(robots.windows),
        "datasets": described,
    }


def save_robots(policy: Policy, root: Path) -> None:
    """Writes the policy of each robot into `root`/NAME. Raises CheckpointError."""
    assert isinstance(policy, MultiRobotPolicy)
    for name in policy.robot_names:
        _save_robot(policy.robot(name), root / name)


def _save_robot(robot: Policy, folder: Path) -> None:
    def write(temporary: Path) -> None:
        robot.save_pretrained(temporary)

    try:
        replace_folder(folder, write)
    except OSError as error:
        raise CheckpointError(
            f"{folder} was not written: {error}; make room on the disk, and take the robot out of "
            "the policy with `vla policy extract`"
        ) from error


__all__ = [
    "MultiRobotData",
    "card",
    "checked_policy",
    "lines",
    "open_datasets",
    "open_robots",
    "robots_policy",
    "save_robots",
]
