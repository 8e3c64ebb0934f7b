"""Policies of other laboratories as behaviour: snapshots of a training, from the first to
the last, drawn per episode.

Files are HDF5 as Ho and Ermon (2016, "Generative adversarial imitation learning") published
their experts: below `snapshots/iterNNNNNNN/GaussianPolicy` lie a standardisation of the
observation, affine layers with tanh between them, and a standard deviation for each action
dimension that does not depend on the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, Strict

from vla.config import Config, ConfigError, ConfigPath
from vla.sim_eval.mujoco.gymnasium_env import MissingPackageError

EPSILON = 1e-6  # added to standard deviations of the observation, as in training
# Strict: YAML's 1 counts snapshots and 1.0 is the end of the training; pydantic
# would turn one into the other.
Selector = Annotated[int, Strict()] | Annotated[float, Field(ge=0.0, le=1.0)]


class BehaviourConfig(Config):
    """Who acts as the expert: snapshots of a trained policy."""

    path: ConfigPath
    """An HDF5 file of snapshots, or a folder that holds one for each task, such as hopper.h5."""
    snapshots: Literal["all"] | tuple[Selector, ...] = Field((-1,), min_length=1)
    """Which snapshots act; every episode draws one of them, by its seed. A whole number counts them
    (0 is the first, -1 the last), a number with a point is a fraction of the training (1.0 is the
    last). One that is named twice is drawn twice as often."""
    stochastic: bool = False
    """Draw actions from the policy's distribution, as in its training; false: take the mean."""


@dataclass(frozen=True)
class GaussianMlp:
    """A policy N(mean(observation), std), in numpy.

    Attributes:
        mean, scale: (S,), of the standardisation of observations.
        layers: weights (in, out) and biases (out,); tanh after all but the last.
        std: (A,), standard deviation of the actions.
    """

    mean: np.ndarray
    scale: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    std: np.ndarray

    @property
    def sizes(self) -> tuple[int, int]:
        """(S, A)."""
        return len(self.mean), len(self.std)

    def __call__(
        self, observation: np.ndarray, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """(S,) -> the mean action (A,), or one drawn by `rng`.

        It may lie outside of the actions' bounds.
        """
        # in numpy and float64: the workers that play need no torch, and the same
        # numbers come out on every machine
        x = (observation - self.mean) / self.scale
        for i, (weights, bias) in enumerate(self.layers):
            x = x @ weights + bias
            if i < len(self.layers) - 1:
                x = np.tanh(x)
        return x if rng is None else x + self.std * rng.normal(size=x.shape)


@dataclass(frozen=True)
class Snapshot:
    """A policy as it was after `iteration` iterations of its training; `index` counts
    the snapshots of the file."""

    index: int
    iteration: int
    policy: GaussianMlp


def load_snapshots(path: str | Path) -> list[Snapshot]:
    """All snapshots of a file, in the order of the training.

    Raises ConfigError if the file is missing or another,
    MissingPackageError if h5py is not installed.
    """
    try:
        import h5py  # only snapshots need it
    except ModuleNotFoundError as error:
        raise MissingPackageError("h5py") from error

    path = Path(path)
    if not path.is_file():
        raise _config_error(
            f"{path}: no such file; give an HDF5 file of snapshots, or a folder of them"
        )
    try:
        with h5py.File(path, "r") as file:
            groups = file["snapshots"]
            # by number: HDF5 lists names by letter
            iterations = sorted((int(name.removeprefix("iter")), name) for name in groups)
            if not iterations:
                raise ValueError("its group snapshots is empty")
            return [
                Snapshot(index, iteration, _read(groups[name]["GaussianPolicy"]))
                for index, (iteration, name) in enumerate(iterations)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise _config_error(
            f"{path}: holds no snapshots ({error}); "
            "expected HDF5 with snapshots/iterNNNNNNN/GaussianPolicy"
        ) from error


def _config_error(problem: str, key: str = "path") -> ConfigError:
    return ConfigError([f"env.behaviour.{key}: {problem}"])


def _read(group: Any) -> GaussianMlp:
    def array(name: str) -> np.ndarray:
        return np.asarray(group[name][()], dtype=np.float64)

    network = "hidden/FeedforwardNet"
    hidden = group[network]
    # layers without an affine part are the non-linearities between them
    affine = [f"{network}/{name}" for name in sorted(hidden) if "AffineLayer" in hidden[name]]
    layers = []
    for layer in [*affine, "out"]:
        weights, bias = array(f"{layer}/AffineLayer/W"), array(f"{layer}/AffineLayer/b")[0]
        layers.append((weights, bias))
    standard = "obsnorm/Standardizer/"
    mean = array(f"{standard}mean_1_D")[0]
    # a constant dimension's variance may come out as -1e-20
    variance = np.maximum(array(f"{standard}meansq_1_D")[0] - mean**2, 0.0)
    return GaussianMlp(
        mean=mean,
        scale=np.sqrt(variance) + EPSILON,
        layers=tuple(layers),
        std=np.exp(array("logstdevs_1_Da")[0]),
    )


class Behaviour:
    """The policy of one episode after the other, drawn among snapshots.

    Args:
        config: which snapshots, and how they act.
        task: names the file, if `config.path` is a folder.
        sizes: (S, A) of the env.

    Raises ConfigError if there is no such file or snapshot, or it is of another robot.
    """

    def __init__(
        self,
        config: BehaviourConfig,
        task: str,
        sizes: tuple[int, int],
    ) -> None:
        self.config = config
        path = _file_of(config.path, task)
        snapshots = load_snapshots(path)
        found = snapshots[0].policy.sizes
        if found != sizes:
            raise _config_error(
                f"{path}: is a policy of {found[0]} observations and {found[1]} actions, "
                f"but {task} has {sizes[0]} and {sizes[1]}; give the file of this robot"
            )
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        """Of the file, for records of what was played: its name says nothing about its content."""
        if config.snapshots != "all":
            snapshots = _selected(snapshots, config.snapshots, path)
        self.snapshots = snapshots
        self.current = self.snapshots[0]

    def begin(self, seed: int) -> None:
        """Draws who acts in the episode of this seed."""
        # a stream of its own: the env draws from (seed), noise from (seed, 1)
        rng = np.random.default_rng((seed, 2))
        self.current = self.snapshots[rng.integers(len(self.snapshots))]
        self._rng = rng if self.config.stochastic else None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """(S,) -> action (A,), not yet clipped."""
        return self.current.policy(observation, self._rng)


def _file_of(path: Path, task: str) -> Path:
    if not path.is_dir():
        return path
    file = path / f"{task}.h5"
    if not file.is_file():
        has = ", ".join(sorted(other.stem for other in path.glob("*.h5"))) or "none"
        raise _config_error(f"{path} holds no {file.name}; there are snapshots of: {has}")
    return file


def _selected(
    snapshots: Sequence[Snapshot], selectors: Sequence[int | float], path: Path
) -> list[Snapshot]:
    """The snapshots that a config names: whole numbers count, fractions are of
    the way from first to last."""
    count, chosen = len(snapshots), []
    for selector in selectors:
        index = round(selector * (count - 1)) if isinstance(selector, float) else selector
        if not -count <= index < count:
            raise _config_error(
                f"no number {index} in {path}: it holds {count}, from 0 to {count - 1}", "snapshots"
            )
        chosen.append(snapshots[index])
    return chosen
