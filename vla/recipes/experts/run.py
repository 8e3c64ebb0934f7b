"""Trains an expert and saves its snapshots as policies.

A folder `out` holds `expert.yaml` (the config), `metrics.jsonl` (returns while training),
`expert.json` (what each snapshot was measured to be worth) and `policies/NAME`.

stable-baselines3 stores replay and optimisers by pickle alone, which this package neither writes
nor reads: a run that was killed begins again. Snapshots that it had reached stay.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from vla.common.atomic import replace_folder, write_json, write_text
from vla.common.folder_lock import alone
from vla.common.progress import MovesProgress, progress_bar
from vla.common.terminal.consoles import output_console
from vla.common.versions import installed_versions
from vla.config import ConfigError, UserError, check_config, dump_config
from vla.models.policies.mlp import MLPPolicy
from vla.recipes.experts.actions import Actions, GridActions, RangeActions
from vla.recipes.experts.actors import diverged, has_diverged, policy_of
from vla.recipes.experts.algorithms import (
    ALGORITHMS,
    PACKAGES,
    architecture,
    build_model,
    check_algorithm,
)
from vla.recipes.experts.config import ExpertConfig
from vla.recipes.experts.equality import check_equal
from vla.recipes.experts.measuring import Measured, measure
from vla.recipes.experts.scaling import scaled_env
from vla.recipes.experts.state_env import SeenStates, StateEnv
from vla.sim_eval.env import Task

RESULT_FILE = "expert.json"
CONFIG_FILE = "expert.yaml"
METRICS_FILE = "metrics.jsonl"
POLICIES = "policies"
METRICS = 100
"""Lines of `metrics.jsonl` of a whole run."""


@dataclass(frozen=True)
class Snapshot:
    """A policy that was saved.

    Attributes:
        name: of its folder.
        step: env steps that it was trained for.
        difference: from the actor of stable-baselines3, see `check_equal`.
        measured: what it is worth on unseen starts.
        seconds: since the training began.
        cpu_seconds: of this process meanwhile, what counts on a machine with other work.
    """

    name: str
    step: int
    difference: float
    measured: Measured
    seconds: float
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name,
            "step": self.step,
            "difference": self.difference,
            **self.measured.to_dict(),
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
        }


@dataclass
class Expert:
    """What a run has made.

    Attributes:
        out: its folder.
        snapshots: in the order in which they were reached.
    """

    out: Path
    snapshots: list[Snapshot] = field(default_factory=list)

    def policy(self, name: str) -> Path:
        """Folder of a snapshot's policy."""
        return self.out / POLICIES / name


def train_expert(config: ExpertConfig, *, restart: bool = False, progress: bool = True) -> Expert:
    """Trains by `config.algorithm` and saves a policy at each snapshot.

    Args:
        config: the run.
        restart: delete what an earlier run has left in `config.out`, and begin again.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: the env has several tasks and none is named, or no state; or an option does not
            fit the algorithm.
        UserError: stable-baselines3 or sb3-contrib is not installed, or `config.out` is in use.
        ExpertError: the training diverged, or a policy would not act as its actor does.
    """
    check_config(config, ExpertConfig)
    # all that can be wrong before anything is written
    check_algorithm(config)
    task = _task(config)
    actions = _actions(config)
    out = Path(config.out)
    with alone(out), _threads(config.threads):
        _check_free(out, restart=restart)
        with contextlib.ExitStack() as stack:
            seen = SeenStates(config.env.spec().state_dim)
            env = _env(config, task, actions, seen)
            stack.callback(env.close)
            model = build_model(config, env)
            # only now: an earlier run must survive a wrong config
            _clear(out)
            write_text(out / CONFIG_FILE, dump_config(config))
            bar = stack.enter_context(_bar(config, task, show=progress))
            return _Run(config, task, actions, seen, model, bar).train()


class _Run:
    """One training, and what it has saved so far."""

    def __init__(
        self,
        config: ExpertConfig,
        task: Task,
        actions: Actions,
        seen: SeenStates,
        model: Any,
        bar: MovesProgress,
    ) -> None:
        self.config = config
        self.task = task
        self.actions = actions
        self.seen = seen
        self.model = model
        self.bar = bar
        self.expert = Expert(Path(config.out))
        self._began = time.monotonic()
        self._cpu_began = time.process_time()
        # the last first: `pop` takes the next one
        order = sorted(config.snapshots.items(), key=lambda item: item[1], reverse=True)
        self._waiting = [(round(share * config.steps), name) for name, share in order]
        self._next_metrics = 0

    def train(self) -> Expert:
        self._save_due(0)
        try:
            self.model.learn(self.config.steps, callback=lambda *_: self._on_step())
        except ValueError as error:
            # distributions of torch refuse NaN in words that tell a user nothing
            if not has_diverged(self.model.policy):
                raise
            raise diverged(self.config.algorithm, self.model.num_timesteps) from error
        self._save_due(max(self.config.steps, self.model.num_timesteps))
        self._write_result(finished=True)
        return self.expert

    def _on_step(self) -> bool:
        step = self.model.num_timesteps
        # the last one waits for the last update, which is still to come
        self._save_due(min(step, self.config.steps - 1))
        if step >= self._next_metrics:
            self._next_metrics = step + max(1, self.config.steps // METRICS)
            self._log(step)
        return True

    def _log(self, step: int) -> None:
        finished = list(self.model.ep_info_buffer or [])
        line: dict[str, Any] = {"step": step, "seconds": round(self._seconds(), 1)}
        note = ""
        # before the first episode ends there is no return
        if finished:
            line["return"] = float(np.mean([episode["r"] for episode in finished]))
            line["length"] = float(np.mean([episode["l"] for episode in finished]))
            note = f"return {line['return']:.1f}"
        # appended line by line: what a killed run has written stays readable
        with open(self.expert.out / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.bar(min(step, self.config.steps), self.config.steps, note=note)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _save_due(self, step: int) -> None:
        """Saves the snapshots whose step has come."""
        while self._waiting and self._waiting[-1][0] <= step:
            _, name = self._waiting.pop()
            with _same_numbers():
                self._save(name)
            # after each: a run that is killed later has measured these
            self._write_result(finished=False)

    def _save(self, name: str) -> None:
        config = self.config
        states = self.seen.states()
        policy = policy_of(
            self.model,
            config.algorithm,
            architecture(config),
            config.env.spec(),
            self.actions,
            states,
        )
        # before it is measured: returns of a policy that acts otherwise would tell nothing
        difference = check_equal(self.model, policy, self.actions, states)
        measured = measure(
            policy,
            config.env,
            self.task,
            episodes=config.eval_episodes,
            seed=config.seed,
            threads=config.threads,
        )
        # where rollouts are whole, this may be past the step that was asked for
        step = int(self.model.num_timesteps)
        used = time.process_time() - self._cpu_began
        snapshot = Snapshot(name, step, difference, measured, self._seconds(), used)
        policy.card = _card(config, self.task, snapshot)
        replace_folder(self.expert.policy(name), partial(_write, policy))
        self.expert.snapshots.append(snapshot)

    def _write_result(self, *, finished: bool) -> None:
        rows = [snapshot.to_dict() for snapshot in self.expert.snapshots]
        result = {
            "algorithm": self.config.algorithm,
            "suite": self.config.env.suite().name,
            "task": self.task.name,
            "steps": self.config.steps,
            "seed": self.config.seed,
            "finished": finished,
            "versions": _versions(self.config),
            "snapshots": rows,
        }
        write_json(self.expert.out / RESULT_FILE, result)


def _write(policy: MLPPolicy, folder: Path) -> None:
    policy.save_pretrained(folder)


def _card(config: ExpertConfig, task: Task, snapshot: Snapshot) -> dict[str, Any]:
    """What the policy's card says of its training."""
    own = ALGORITHMS[config.algorithm]
    versions = installed_versions(PACKAGES.values())
    package = PACKAGES[own.package]
    measured = snapshot.measured
    return {
        "training": {
            "algorithm": f"{own.name} of {package} {versions[package]}",
            "env": f"{config.env.suite().name}, {task.name}",
            "env steps": snapshot.step,
            "of": config.steps,
            "seed": config.seed,
            "difference from the trained actor": snapshot.difference,
        },
        "results": {
            "return": f"{measured.mean:.1f} +- {measured.deviation:.1f}",
            "solved": f"{measured.solved} of {measured.episodes}",
            "starts": "unseen in training",
        },
    }


def _versions(config: ExpertConfig) -> dict[str, str]:
    found = installed_versions([*PACKAGES.values(), "torch"])
    return found | config.env.versions()


def _task(config: ExpertConfig) -> Task:
    suite = config.env.suite()
    names = [task.name for task in suite.tasks]
    if not config.env.spec().state_dim:
        raise ConfigError(
            [
                f"env: {suite.name} has cameras alone, and an expert learns from the state; use an "
                "env with a state"
            ]
        )
    if config.task is None and len(names) == 1:
        return suite.tasks[0]
    if config.task in names:
        return suite.task(str(config.task))
    there_are = ", ".join(names)
    if config.task is None:
        raise ConfigError([f"task: {suite.name} has {len(names)}; name one of: {there_are}"])
    raise ConfigError([f"task: {suite.name} has no {config.task!r}; it has: {there_are}"])


def _actions(config: ExpertConfig) -> Actions:
    spec = config.env.spec()
    if ALGORITHMS[config.algorithm].discrete:
        return GridActions(spec, config.bins, config.algorithm)
    return RangeActions(spec)


def _env(config: ExpertConfig, task: Task, actions: Actions, seen: SeenStates) -> Any:
    """The vectorised env of the training; `seen` is full."""
    copies = [
        StateEnv(
            config.env.make(task.name),
            actions,
            seen,
            seed=config.seed,
            number=number,
            stride=config.envs,
            end_at_success=config.end_at_success,
        )
        for number in range(config.envs)
    ]
    # the untrained policy is checked, too, and its training has met no state yet
    copies[0].wander(config.seed)
    vectorised = importlib.import_module("stable_baselines3.common.vec_env")
    makers: list[Callable[[], StateEnv]] = [partial(_itself, copy) for copy in copies]
    # the monitor is inside, so that it adds up rewards as they are
    env = vectorised.VecMonitor(vectorised.DummyVecEnv(makers))
    own = ALGORITHMS[config.algorithm]
    states = own.scales_states if config.normalise_states is None else config.normalise_states
    rewards = own.scales_rewards if config.normalise_rewards is None else config.normalise_rewards
    if not states and not rewards:
        return env
    gamma = cast(float, config.options.get("gamma", 0.99))
    return scaled_env(env, states=states, rewards=rewards, gamma=gamma)


def _itself(env: StateEnv) -> StateEnv:
    return env


def _check_free(out: Path, *, restart: bool) -> None:
    """Raises UserError if the folder holds anything that would be lost, or mixed with this run."""
    if (out / RESULT_FILE).exists() or (out / CONFIG_FILE).exists():
        if restart:
            return
        raise UserError(
            f"{out}: holds an expert already. A run cannot go on (stable-baselines3 stores its "
            "state by pickle alone): begin again with --restart, or set out=OTHER_FOLDER"
        )
    if any(out.iterdir()):
        # also to begin again: a training has files of the same names
        raise UserError(f"{out}: is not empty; set out=OTHER_FOLDER")


def _clear(out: Path) -> None:
    # nothing else: what is beside it may be the user's
    shutil.rmtree(out / POLICIES, ignore_errors=True)
    for name in (RESULT_FILE, CONFIG_FILE, METRICS_FILE):
        (out / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    had = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(had)


@contextlib.contextmanager
def _same_numbers() -> Iterator[None]:
    """Training goes on as if nothing had been saved: it draws from the global generators."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextlib.contextmanager
def _bar(config: ExpertConfig, task: Task, *, show: bool) -> Iterator[MovesProgress]:
    label = f"{config.algorithm} on {task.name}"
    console = output_console(stderr=True)
    with progress_bar(label, console=console, show=show, note="") as bar:
        bar(0, config.steps)
        yield bar


__all__ = ["Expert", "Snapshot", "train_expert"]
