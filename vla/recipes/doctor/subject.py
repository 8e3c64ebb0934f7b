"""What is examined: a policy, the run that made it, the data and the env that it is to work on."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.config import ConfigError, load_config
from vla.data import DataError, EpisodeDataset, Windows
from vla.data.format import KeyMap
from vla.data.held_out import split_episodes
from vla.data.validation.outliers import Outliers, dataset_outliers
from vla.models import load_policy
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.recipes.doctor.probe import Probe
from vla.sim_eval.evaluation_config import EvalConfig
from vla.training.checkpoint import newest_checkpoint
from vla.training.config import TrainConfig
from vla.training.run_data.opening import open_sources
from vla.training.run_directory import read_run
from vla.types import SpecError

PICTURE_BYTES = 2**29
"""Most memory for decoded pictures of one sample."""
_ENOUGH = 12
"""Episodes that an interval needs."""


@dataclass
class Subject:
    """What checks look at.

    Attributes:
        path: what was asked about.
        policy: on the CPU, in evaluation mode; the one that learned, without what guides it.
        folder: of the policy.
        run, config: the folder of its training run and its config; None if there is none.
        training: the dataset that it learned from; None if it is not within reach.
        data: the dataset that it is to work on: the one that was given, else `training`.
        evaluation: the env that it is to work in, and how; None if none was given.
        limit, seconds: bounds of the samples (see `Probe`).
        skipped: what could not be looked at -> why.
        measured: the main numbers by name, JSON types; checks add theirs.
        memo: what several checks need and one has computed.
    """

    path: Path
    policy: Policy
    folder: Path
    run: Path | None = None
    config: TrainConfig | None = None
    training: EpisodeDataset | None = None
    data: EpisodeDataset | None = None
    evaluation: EvalConfig | None = None
    limit: int = 256
    seconds: float = 60.0
    skipped: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def own_data(self) -> bool:
        """Whether `data` is what the policy learned from."""
        return self.data is not None and self.data is self.training

    @functools.cached_property
    def split(self) -> tuple[list[int], list[int]]:
        """Episodes of `training` that were trained on, and that were held out."""
        assert self.training is not None
        assert self.config is not None
        tasks = self.training.episodes["task_index"].tolist()
        return split_episodes(tasks, self.config.data.validation_fraction, self.config.seed)

    @functools.cached_property
    def probe(self) -> Probe | None:
        """A sample of `data`; None if it does not fit the policy."""
        if self.data is None:
            return None
        return self.home_probe if self.own_data else self._sample(self.data, None)

    @functools.cached_property
    def home_probe(self) -> Probe | None:
        """A sample of what the policy learned from, of held-out episodes where there are enough.

        What the policy itself is like shows there: on other data it may just be lost. None as
        `probe`, or if its own data are not within reach.
        """
        if self.training is None or self.config is None:
            return None
        trained, unseen = self.split
        # of three episodes intervals would say nothing, so few are filled up
        lacking = max(0, _ENOUGH - len(unseen))
        return self._sample(self.training, [*unseen, *trained[:lacking]])

    @functools.cached_property
    def trained_probe(self) -> Probe | None:
        """A sample of the episodes that were trained on; None as `probe`."""
        if self.training is None or self.config is None:
            return None
        return self._sample(self.training, self.split[0])

    @functools.cached_property
    def unseen_probe(self) -> Probe | None:
        """A sample of the episodes that were held out; None as `probe`, or if there are none."""
        if self.training is None or self.config is None or not self.split[1]:
            return None
        return self._sample(self.training, self.split[1])

    def _sample(self, dataset: EpisodeDataset, episodes: list[int] | None) -> Probe | None:
        spec = self.policy.spec
        missing = [camera for camera in spec.cameras if camera not in dataset.spec.cameras]
        widths = (spec.state_dim, spec.action_dim)
        if missing or widths != (dataset.spec.state_dim, dataset.spec.action_dim):
            self.skipped["forward"] = f"{dataset.root} does not fit the policy (see `spec`)"
            return None
        try:
            windows = Windows(
                dataset,
                history=self.policy.history,
                chunk=self.policy.chunk,
                rewards=None if self.config is None else self.config.data.rewards,
                episodes=self._affordable(dataset, episodes),
                cameras=list(spec.cameras),
            )
            return Probe(self.policy, windows, limit=self.limit, seconds=self.seconds / 2)
        except (DataError, SpecError, RuntimeError) as error:
            # a picture of another size, or damage: the other checks run all the same
            self.skipped["forward"] = f"{dataset.root}: {str(error).splitlines()[0]}"
            return None

    def _affordable(self, dataset: EpisodeDataset, episodes: list[int] | None) -> list[int]:
        """Some of the episodes, drawn by a seed, whose pictures fit into memory; two at least."""
        chosen = list(range(len(dataset))) if episodes is None else episodes
        lengths = dataset.reader.episodes["length"].to_numpy()
        sizes = [h * w * 3 for h, w in (dataset.spec.cameras[c] for c in self.policy.spec.cameras)]
        found: list[int] = []
        room = PICTURE_BYTES
        for episode in np.random.default_rng(0).permutation(chosen).tolist():
            # decoded pictures of a long episode may be larger than the whole sample should be
            room -= int(lengths[episode]) * sum(sizes)
            if len(found) >= min(64, len(chosen)) or (room < 0 and len(found) >= 2):
                break
            found.append(episode)
        return sorted(found)

    @functools.cached_property
    def state_data(self) -> np.ndarray:
        """States (N, S) of `data`, of finite steps alone; of the run's own those trained on."""
        assert self.data is not None
        states = self.data.unchecked_columns.state
        if self.own_data and self.config is not None:
            # what was held out is not in the statistics that the policy scales by
            lengths = self.data.reader.episodes["length"].to_numpy()
            states = states[np.isin(np.repeat(np.arange(len(lengths)), lengths), self.split[0])]
        return np.asarray(states[np.isfinite(states).all(1)], np.float64)

    @functools.cached_property
    def action_data(self) -> np.ndarray:
        """Actions (N, A) of `data`, of finite steps alone."""
        assert self.data is not None
        actions = self.data.unchecked_columns.actions
        return np.asarray(actions[np.isfinite(actions).all(1)], np.float64)

    @functools.cached_property
    def outliers(self) -> list[Outliers]:
        """What lies absurdly far from all other numbers of `data`; none without data."""
        return [] if self.data is None else dataset_outliers(self.data)


def open_subject(
    path: str | Path,
    *,
    data: str | Path | None,
    format: str | None,
    keys: KeyMap | None,
    env: str | Path | dict[str, Any] | None,
) -> Subject:
    """Opens what was asked about.

    Raises:
        UserError: there is no policy, it is for several robots, or data or env cannot be opened.
    """
    path = Path(path)
    run = _run_of(path)
    folder = path if run is None else _policy_folder(path, run)
    policy = load_policy(folder)
    if isinstance(policy, MultiRobotPolicy):
        raise policy.one_of_several("be examined")
    found = Subject(path, policy.unwrapped, folder)
    if run is not None:
        found.run = run
        found.config = read_run(run)
        _open_training(found)
    if data is not None:
        # also what the run learned from, at another place than the run remembers
        given = EpisodeDataset(data, format=format, keys=keys)
        if _is_training(found, given):
            found.training = given
        found.data = given
    else:
        found.data = found.training
    if found.data is None:
        found.skipped.setdefault("data", "no dataset: name one with --data")
    if env is not None:
        found.evaluation = _evaluation(env)
    else:
        found.skipped["env"] = "no env: name one with --env, such as the config of an evaluation"
    return found


def _run_of(path: Path) -> Path | None:
    """The training run that a path is, or lies in: RUN, RUN/policy, RUN/checkpoints/step-N."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file() and (folder / "versions.json").is_file():
            return folder
    return None


def _policy_folder(path: Path, run: Path) -> Path:
    if path != run:
        return path
    if (run / "policy" / "config.json").is_file():
        return run / "policy"
    newest = newest_checkpoint(run / "checkpoints")
    if newest is None:
        raise UserError(f"{run}: the run has saved no policy yet; wait for its first checkpoint")
    return newest.folder


def _open_training(found: Subject) -> None:
    config = found.config
    assert config is not None
    if config.data.multi_robot:
        found.skipped["data"] = "the run is of several robots; name one robot's dataset with --data"
        return
    try:
        found.training = open_sources(config.data, config.policy, config.objective).datasets[""]
    except UserError as error:
        reason = str(error).splitlines()[0]
        found.skipped["data"] = f"{reason}; say where it lies now with --data"


def _is_training(found: Subject, given: EpisodeDataset) -> bool:
    """Whether the dataset that was given is the one that the run learned from, moved or not."""
    if found.training is not None:
        return found.training.root.resolve() == given.root.resolve()
    if found.config is None or found.config.data.multi_robot:
        return False
    known = found.policy.card.get("data", {})
    tasks = given.episodes["task_index"].tolist()
    try:
        trained, _ = split_episodes(tasks, found.config.data.validation_fraction, found.config.seed)
    except ConfigError:
        return False
    same_name = known.get("dataset") == given.root.name
    return bool(same_name and known.get("episodes") == len(trained))


def _evaluation(env: str | Path | dict[str, Any]) -> EvalConfig:
    """Of a config file with `env` or a section `eval`, of an env's own values, or of its type."""
    if isinstance(env, str) and not Path(env).exists() and not env.strip().startswith("{"):
        env = {"type": env}
    if isinstance(env, str) and env.strip().startswith("{"):
        import yaml

        env = yaml.safe_load(env)
    if isinstance(env, dict):
        values = env if "env" in env else {"env": env}
        return load_config(EvalConfig, values)
    return load_config(EvalConfig, env, section="eval")


__all__ = ["Subject", "open_subject"]
