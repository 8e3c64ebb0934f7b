"""`vla identify`: friction, payload, motors ... of the world in which an episode was recorded.

The episode's actions are played in simulated worlds, and CMA-ES looks for the one in which the same
happens. What is looked for is what `SimEnv.privileged` names, within what its config draws.

D: hidden numbers.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from vla.common.atomic import write_json
from vla.common.folder_lock import alone
from vla.common.progress import ProgressCallback
from vla.config import Choice, ConfigPath, RootConfig
from vla.config.numbers import Seed
from vla.data import Episode, EpisodeDataset
from vla.data.dataset_config import DatasetConfig
from vla.data.episode import read_info
from vla.data.extras import PRIVILEGED
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.identification.cma import minimise
from vla.sim_eval.identification.replay import IdentifyError, Replay

if TYPE_CHECKING:
    from vla.common.terminal.tables import Table

RESULT_FILE = "identified.json"
NUDGE = 0.05
"""By how much of its range each number is moved to see whether it matters."""
NO_MATTER = 1e-4
"""A distance that grows by less when a number is moved says nothing about it."""


class IdentifyConfig(RootConfig):
    """What `vla identify` does."""

    env: Annotated[Any, Choice("envs")]
    """The simulator, with the keys that the episode was recorded with; what it draws for every
    episode is what is looked for (`env.hidden` of locomotion, `env.randomisation` of the
    quadruped)."""
    data: DatasetConfig
    """Dataset of the episode, with executed actions (`vla collect ... actions=executed`)."""
    episode: int = Field(default=0, ge=0)
    """Which episode of the dataset."""
    out: ConfigPath
    """Folder that gets `identified.json`."""
    steps: int = Field(default=40, ge=2)
    """How many of its first steps are compared. Small differences grow: a robot that may fall says
    less the longer it is watched."""
    generations: int = Field(default=40, ge=1)
    """At most so many generations of the search; it ends earlier once it has settled."""
    population: int = Field(default=10, ge=4)
    """Worlds of each generation: the episode is played once in each."""
    seed: Seed = 0
    """Decides which worlds are tried."""


@dataclass(frozen=True)
class Identified:
    """What was found of one episode's world.

    Attributes:
        task, episode, env_seed, steps: what was replayed.
        found: name of a hidden number -> its estimate.
        recorded: the same of the column `privileged`; None if the dataset does not have it.
        distance: of the world that was found, see `Replay.distance`.
        middle: the same of the world in the middle of what is drawn.
        drawn: the same of the world that the episode's seed draws: 0 if this very simulator made
            the recording.
        sensitivity: name -> by how much the distance grows at least when this number is moved by a
            twentieth of its range. One of about 0 cannot be found by this episode.
        replays: how often the episode was played.
        seconds: it took.
    """

    task: str
    episode: int
    env_seed: int
    steps: int
    found: dict[str, float]
    recorded: dict[str, float] | None
    distance: float
    middle: float
    drawn: float
    sensitivity: dict[str, float]
    replays: int
    seconds: float

    def table(self) -> Table:
        """A row per hidden number."""
        from vla.common.terminal.tables import Table, whole

        shown = Table(*whole("hidden", "found", "recorded", "matters"))
        for name, value in self.found.items():
            recorded = "-" if self.recorded is None else f"{self.recorded[name]:.3g}"
            matters = self.sensitivity[name]
            says = f"{matters:.2g}" if matters >= NO_MATTER else "no: not found by this episode"
            shown.add_row(name, f"{value:.3g}", recorded, says)
        return shown


def identify(config: IdentifyConfig, *, progress: ProgressCallback | None = None) -> Identified:
    """Looks for the world of one episode, and writes `out/identified.json`.

    progress: called with generations.

    Raises:
        DataError: the dataset cannot be read, or has no such episode.
        IdentifyError: the episode was not recorded in this env, or not as it was executed; or the
            env hides nothing.
        FolderInUseError: another process writes to `out`.
    """
    out = Path(config.out)
    # held before the search, which takes minutes: what is found has to have a place
    with alone(out):
        result = _identified(config, progress)
        write_json(out / RESULT_FILE, asdict(result))
    return result


def _identified(config: IdentifyConfig, progress: ProgressCallback | None) -> Identified:
    started = time.monotonic()
    dataset = config.data.open("data")
    episode, info = _episode(dataset, config.episode)
    env_config: EnvConfig = config.env
    task = _task(env_config, info)
    env = env_config.make(task)
    try:
        names, low, high = _hidden(env)
        _check_fits(dataset, env)
        steps = min(config.steps, len(episode))
        replay = Replay(env, info["seed"], episode.state[:steps], episode.actions[:steps])
        search = _Search(replay, names, low, high)
        recorded = _recorded(episode, search)
        best = minimise(
            lambda point: replay.distance(search.world(point)),
            len(search.varies),
            np.random.default_rng(config.seed),
            generations=config.generations,
            population=config.population,
            after_generation=lambda number, _: (
                progress(number, config.generations) if progress else None
            ),
        )
        world = search.world(best.point)
        result = Identified(
            task=task,
            episode=config.episode,
            env_seed=info["seed"],
            steps=steps,
            found=search.named(world),
            recorded=recorded,
            distance=best.value,
            # the middle of the box, for comparison: what is found has to be nearer
            middle=replay.distance(search.world(np.full(len(search.varies), 0.5))),
            drawn=replay.distance(None),
            sensitivity=search.sensitivity(best.point, best.value),
            replays=replay.count,
            seconds=round(time.monotonic() - started, 2),
        )
    finally:
        env.close()
    return result


class _Search:
    """From points of the unit box to worlds.

    Args:
        names: of the hidden numbers (D).
        low, high: between what they are drawn (D,); those that are drawn as one value stay it.
    """

    def __init__(
        self, replay: Replay, names: tuple[str, ...], low: np.ndarray, high: np.ndarray
    ) -> None:
        self._replay, self.names, self._low, self._high = replay, names, low, high
        # a dimension that cannot move would make the covariance singular
        self.varies = np.flatnonzero(high > low)

    def world(self, point: np.ndarray) -> np.ndarray:
        """Hidden numbers (D,)."""
        world = self._low.copy()
        world[self.varies] += point * (self._high - self._low)[self.varies]
        return world

    def named(self, world: np.ndarray) -> dict[str, float]:
        """Those that vary, by name."""
        return {self.names[i]: float(world[i]) for i in self.varies}

    def sensitivity(self, point: np.ndarray, value: float) -> dict[str, float]:
        """See `Identified`."""
        found = {}
        for place, i in enumerate(self.varies):
            growth = []
            for nudge in (-NUDGE, NUDGE):
                moved = point.copy()
                moved[place] += nudge
                # the least growth: a number counts as found only if both ways matter;
                # at an end of its range it can be moved one way
                if 0.0 <= moved[place] <= 1.0:
                    growth.append(self._replay.distance(self.world(moved)) - value)
            found[self.names[i]] = float(min(growth))
        return found


def _episode(dataset: EpisodeDataset, number: int) -> tuple[Episode, dict[str, Any]]:
    """An episode and what is recorded of it; it must have been executed as it is recorded."""
    if number >= len(dataset):
        raise IdentifyError(
            f"episode: is {number}; {dataset.name} has {len(dataset)}: set episode=0 to "
            f"{len(dataset) - 1}"
        )
    info: dict[str, Any] = read_info(dataset.episodes.iloc[number]["info"])
    if "seed" not in info:
        raise IdentifyError(
            f"data: episode {number} of {dataset.name} has no seed, so its start is unknown; "
            "record it with `vla collect`"
        )
    if type(info["seed"]) is not int or not 0 <= info["seed"] < 2**32:
        raise IdentifyError(
            f"data: episode {number} of {dataset.name} has the seed {info['seed']!r}, expected a "
            "whole number below 2^32; restore the dataset, or choose another episode"
        )
    if info.get("behaviour") == "second half":
        raise IdentifyError(
            f"data: episode {number} of {dataset.name} begins in the middle (behaviours.halves); "
            "choose another with episode=N"
        )
    made = dataset.metadata.get("collect")
    made = made if isinstance(made, dict) else {}
    behaviours = made.get("behaviours")
    policies = behaviours.get("policies") if isinstance(behaviours, dict) else None
    if made.get("actions") == "expert" and (policies or info.get("noisy_steps")):
        raise IdentifyError(
            f"data: episode {number} of {dataset.name} holds the expert's actions, others were "
            "executed; record it with `vla collect CONFIG actions=executed`"
        )
    return dataset.episode(number, images=False), info


def _task(env: EnvConfig, info: dict[str, Any]) -> str:
    """Of the episode; of the env if it has one task."""
    names = [task.name for task in env.suite().tasks]
    task = str(info.get("task", names[0]))
    if task not in names:
        raise IdentifyError(
            f"env: has no task {task!r}, in which the episode was recorded; it has: "
            f"{', '.join(names)}"
        )
    return task


def _hidden(env: SimEnv) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names and ranges of what is looked for."""
    if not env.privileged_names:
        raise IdentifyError(
            f"env: {env.task.name} hides nothing to be found; let it draw something, such as "
            "env.hidden.mass=0.7 (locomotion) or env.randomisation.payload=5 (quadruped)"
        )
    if type(env).set_privileged is SimEnv.set_privileged:
        raise IdentifyError(
            f"env: {type(env).__name__} cannot be given another world; give the env without what "
            "is put around it"
        )
    low, high = env.privileged_range()
    return env.privileged_names, np.asarray(low, float), np.asarray(high, float)


def _check_fits(dataset: EpisodeDataset, env: SimEnv) -> None:
    spec, ours = dataset.spec, env.robot_spec
    for key in ("state_names", "action_names"):
        if getattr(spec, key) != getattr(ours, key):
            raise IdentifyError(
                f"data: {dataset.name} has {key} {list(getattr(spec, key))}, the env "
                f"{list(getattr(ours, key))}; give env the keys that the dataset was made with"
            )


def _recorded(episode: Episode, search: _Search) -> dict[str, float] | None:
    column = episode.extras.get(PRIVILEGED)
    if column is None:
        return None
    # of its first step; a single number has no axis of its own
    hidden_D = np.asarray(column, float).reshape(len(column), -1)[0]
    if len(hidden_D) != len(search.names):
        raise IdentifyError(
            f"data: its column {PRIVILEGED} holds {len(hidden_D)} hidden numbers, the env has "
            f"{len(search.names)}; give env the keys that the dataset was made with"
        )
    return search.named(hidden_D)


__all__ = ["RESULT_FILE", "Identified", "IdentifyConfig", "identify"]
