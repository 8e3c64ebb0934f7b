"""The data of a run: one robot's dataset and what is replayed, or several robots' datasets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vla.data import EpisodeDataset, Windows
from vla.data.format import RECORDED
from vla.data.loading.multi_robot import RobotWindows, joint_spec
from vla.data.loading.protocols import IndexOrder
from vla.data.tools.plan import warnings_of
from vla.data.validation.outliers import dataset_outliers
from vla.models.policy import Policy, PolicyConfig
from vla.training.config import DataConfig
from vla.training.losses import robot_means
from vla.training.objective import Objective, ObjectiveConfig
from vla.training.run_data.drawing import BatchPlan
from vla.training.run_data.ineffective import ineffective_for
from vla.training.run_data.multi_robot import (
    MultiRobotData,
    card,
    checked_policy,
    lines,
    open_datasets,
    open_robots,
    robots_policy,
)
from vla.training.run_data.replay import with_replay
from vla.training.run_data.windows import open_windows
from vla.types import Spec


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, opened, and the policy that they need.

    Attributes:
        datasets: by the name of their robot; of a run on one robot its dataset, under "".
        spec: of the policy.
        policy: what it is built from; None if that is left to `init_from`.
        replayed: datasets of `data.replay`, in its order.
    """

    datasets: dict[str, EpisodeDataset]
    spec: Spec
    policy: PolicyConfig | None
    replayed: list[EpisodeDataset] = field(default_factory=list)

    def named(self) -> dict[str, EpisodeDataset]:
        """Every dataset of the run, by the place of its config: `data`, `data.replay.0`,
        `data.multi_robot.NAME`."""
        found = {}
        for robot, dataset in self.datasets.items():
            found[f"data.multi_robot.{robot}" if robot else "data"] = dataset
        for number, dataset in enumerate(self.replayed):
            found[f"data.replay.{number}"] = dataset
        return found

    def warnings(self) -> dict[str, list[str]]:
        """Place of a dataset, as in `named` -> what is odd in it, without the folder it lies in."""
        return {place: warnings_of(dataset) for place, dataset in self.named().items()}

    def warnings_by_name(self) -> list[str]:
        """The same as sentences for the model card, each with the name of its dataset."""
        lines = []
        for dataset in self.named().values():
            lines += [f"{dataset.name}: {text}" for text in warnings_of(dataset)]
        return list(dict.fromkeys(lines))

    def issue_warnings(self) -> None:
        """Issues what the datasets came to warn of since the last call, as DataWarning."""
        for dataset in self.named().values():
            dataset.issue_warnings()


def open_sources(
    data: DataConfig,
    policy: PolicyConfig | None,
    objective: ObjectiveConfig,
) -> Sources:
    """Opens the datasets that a config names; their images are not read yet.

    Raises:
        ConfigError: the robots' datasets contradict each other or the objective.
        DataError: a dataset cannot be read.
    """
    if not data.multi_robot:
        dataset = data.open("data")
        replayed = [entry.open(f"data.replay.{number}") for number, entry in enumerate(data.replay)]
        _warn_of_outliers([dataset, *replayed])
        return Sources({"": dataset}, dataset.spec, policy, replayed)
    datasets = open_datasets(data)
    _warn_of_outliers(datasets.values())
    for_all = robots_policy(data, policy, objective, datasets)
    if for_all is None:
        specs = {name: dataset.spec for name, dataset in datasets.items()}
    else:
        specs = for_all.specs  # with the cameras that the policy looks through
    return Sources(datasets, joint_spec(specs), for_all)


def _warn_of_outliers(datasets: Iterable[EpisodeDataset]) -> None:
    # with one number of 1e30 a training runs, and learns nothing
    for dataset in datasets:
        for found in dataset_outliers(dataset):
            dataset.add_warning(found.sentence)


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    Attributes:
        windows: to train on.
        order: which of them each step draws.
        held_out: windows to validate on, by the name of their robot ("" in a run on one robot);
            empty if nothing is held out.
        episodes, frames: that are trained on.
        card: what the model card says of the data.
        lines: for the user, before training begins.
        robots: shares and epochs of the robots, if there are several.
    """

    windows: RobotWindows
    order: IndexOrder
    held_out: dict[str, Windows]
    episodes: int
    frames: int
    card: dict[str, Any]
    lines: list[str]
    robots: MultiRobotData | None = None

    def log_line(self, means: dict[str, float], step: int) -> dict[str, float]:
        """A line of the log from the means of its steps; of several robots with their own."""
        if self.robots is None:
            return means
        return robot_means(means, list(self.robots.shares)) | self.robots.epochs(step)


def open_data(
    data: DataConfig,
    plan: BatchPlan,
    sources: Sources,
    policy: Policy,
    objective: Objective,
) -> RunData:
    """Reads the windows as policy and objective need them, and fits the objective to them.

    Raises:
        ConfigError: data, policy and batch do not go together.
        DataError: a dataset cannot be read, or cannot teach what the objective learns.
        ObjectiveError: the same.
    """
    if data.multi_robot:
        return _open_several(data, plan, sources, policy, objective)
    dataset = sources.datasets[""]
    windows, held_out = open_windows(data, dataset, policy, objective, seed=plan.seed)
    # before windows are weighted: weights may follow from what was fitted
    objective.fit(windows)
    drawn, order = with_replay(data, plan, policy, objective, windows, sources.replayed)
    # what is replayed is not counted: the card names the data that the run is about
    episodes = len(windows.episodes)
    frames = len(windows)
    return RunData(
        windows=RobotWindows({"": drawn}),
        order=order,
        held_out={} if held_out is None else {"": held_out},
        episodes=episodes,
        frames=frames,
        card={"dataset": dataset.root.name, "episodes": episodes, "frames": frames}
        | not_recorded(dataset),
        lines=ineffective_for(data, windows),
    )


def _ineffective(data: DataConfig, robots: MultiRobotData) -> list[str]:
    found: list[str] = []
    for windows in robots.windows.sources.values():
        if isinstance(windows, Windows):
            found += ineffective_for(data, windows)
    return found


def not_recorded(dataset: EpisodeDataset) -> dict[str, str]:
    """What the card says of what a dataset does not say of its steps; empty if it says all."""
    unknown = sorted(RECORDED - dataset.recorded)
    return {"not recorded": ", ".join(unknown)} if unknown else {}


def _open_several(
    data: DataConfig,
    plan: BatchPlan,
    sources: Sources,
    policy: Policy,
    objective: Objective,
) -> RunData:
    # the policy may come from `init_from`, and be for other robots
    several = checked_policy(policy, sources.datasets)
    robots = open_robots(data, plan, sources.datasets, several, objective)
    described = card(robots, sources.datasets)
    return RunData(
        windows=robots.windows,
        order=robots.order,
        held_out=robots.held_out,
        episodes=described["episodes"],
        frames=described["frames"],
        card=described,
        lines=[*lines(several, robots), *_ineffective(data, robots)],
        robots=robots,
    )


__all__ = ["RunData", "Sources", "open_data", "open_sources"]
