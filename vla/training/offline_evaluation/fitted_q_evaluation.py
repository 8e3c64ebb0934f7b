"""Which policy is best, told from recorded episodes alone: fitted Q evaluation of checkpoints (Le, Voloshin and Yue, 2019).

N frames, n environment steps per decision, F features, A action dimensions.
"""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from vla.config import Config, ConfigError, RootConfig
from vla.data import EpisodeDataset, Windows
from vla.data.rewards import RewardConfig, check_rewards
from vla.models.policy import load_policy
from vla.training.offline_evaluation.calibration import bootstrap_interval, calibrate
from vla.training.offline_evaluation.fitted_q import (
    FittedQ,
    FittedQConfig,
    Transitions,
    fit_q,
    transitions,
)
from vla.training.offline_evaluation.fqe_result import FQEResult, PolicyEstimate
from vla.training.offline_evaluation.policy_actions import decide
from vla.training.run_data.windows import split_episodes

Tell = Callable[[str], None]


class FQEDataConfig(Config):
    """Recorded episodes, best of several qualities: what nobody ever did, nobody can value."""

    path: str
    """Folder of the dataset."""
    rewards: RewardConfig = RewardConfig()
    """What is rewarded; for success rates `{kind: success}`."""
    cache: Literal["ram", "disk", "shared"] = "ram"
    """Where decoded frames live."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the episodes that teach nothing: errors are measured on them. With fraction and seed of the policies' own
    training on this dataset these are episodes that the policies have not seen either. 0: errors are those of the training
    data."""
    episodes: Annotated[int, Field(ge=2)] | None = None
    """At most this many episodes, drawn by the seed; null uses all."""


class FQEConfig(FittedQConfig, RootConfig):
    """Fitted Q evaluation. `vla fqe CONFIG`, or `vla.training.offline_evaluation.fitted_q_evaluation.fqe(config)`."""

    policies: Annotated[list[str], Field(min_length=1)]
    """Folders of checkpoints; patterns (`runs/iql/checkpoints/step-*`) stand for all that fit."""
    data: FQEDataConfig
    """Recorded episodes."""
    features: str | None = None
    """The checkpoint whose trunk's features the critics of all policies read; null: the first of `policies`. Policies over
    states give the state."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Per environment step."""
    replan_every: PositiveInt = 1
    """Actions of a chunk that are executed before the policy looks again, as in the evaluation: what one value is of."""
    success: dict[str, str] = Field(default_factory=dict)
    """Policy -> folder of its evaluation (or the results.json in it), to compare the order with the true one."""
    evaluations: list[str] = Field(default_factory=list)
    """Folders of evaluations, or patterns; each belongs to the policy that its own config names."""
    seed: NonNegativeInt = 0
    """Decides held-out episodes, initial weights and batches."""
    device: str | None = None
    """Where to compute; null: a GPU where there is one."""
    out: str = "runs/fqe"
    """Folder for fqe.json."""


def fqe(config: FQEConfig, *, tell: Tell | None = None) -> FQEResult:
    """Values of the policies of a config, saved in `config.out`. The same config gives the same numbers on a CPU.

    Values hold for the policy's most likely actions, executed from the first steps of the recorded episodes on. Truncated
    episodes go on unseen: their last steps have no targets, and what follows them is what the critics make of it.

    Raises:
        ConfigError: a policy fits neither the dataset nor `replan_every`, or is named twice.
        CheckpointError, DataError: a policy or the dataset cannot be read, or its rewards cannot tell good from bad.
    """
    tell = tell or (lambda text: None)
    clock = [time.perf_counter()]
    device = _device(config.device)
    torch.set_flush_denormal(True)
    folders = policy_folders(config.policies)
    success = known_success(config, folders)
    dataset = EpisodeDataset(config.data.path)
    windows, teaching = _open(config, dataset, _cameras(config, folders, dataset))
    clock.append(time.perf_counter())
    features, chosen = _decisions(config, folders, windows, device, tell)
    clock.append(time.perf_counter())

    data = transitions(
        windows, features, n=config.replan_every, teaching_episodes=teaching, device=device
    )
    if not len(data.teaches):
        raise ConfigError(
            [
                f"data.path: every episode of {dataset.root} is cut off within replan_every={config.replan_every} steps of its "
                "start, so nothing follows from any action; use longer episodes"
            ]
        )
    starts = torch.from_numpy(np.cumsum(windows.lengths) - windows.lengths).to(device)
    before: list[float] = []

    def watch(step: int, learned: Sequence[FittedQ]) -> None:
        if step == max(1, round(0.9 * config.steps)):
            before.extend(float(q.values(data, starts).mean()) for q in learned)
        if step % max(1, config.steps // 10) == 0:
            tell(f"values of {len(folders)} policies: step {step} of {config.steps}")

    learned = fit_q(
        data, [a.to(device) for a in chosen], dataset.spec, config, seed=config.seed, progress=watch
    )
    measure = _Measure(data, windows, starts, teaching, config.seed)
    estimates = [
        measure(folder, q, earlier, success.get(folder))
        for folder, q, earlier in zip(folders, learned, before, strict=True)
    ]
    clock.append(time.perf_counter())
    result = FQEResult(
        estimates=tuple(estimates),
        data_value=float(data.monte_carlo[starts].mean()),
        episodes=len(starts),
        held_out=len(starts) - teaching,
        frames=len(windows),
        seconds=dict(zip(("data", "decisions", "values"), np.diff(clock).tolist(), strict=True)),
        config=config.model_dump(mode="json"),
    )
    result.save(config.out)
    return result


# --- what goes in --------------------------------------------------------------------------------------


def policy_folders(patterns: Sequence[str]) -> list[str]:
    """The folders that patterns stand for, in order. Raises ConfigError where one stands for none, or a folder comes twice."""
    found: list[str] = []
    for pattern in patterns:
        folders = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not folders:
            raise ConfigError(
                [f"policies: no folder fits {pattern!r}; name checkpoints, or correct the pattern"]
            )
        found += folders
    twice = sorted(
        {folder for folder in found if [_path(f) for f in found].count(_path(folder)) > 1}
    )
    if twice:
        raise ConfigError([f"policies: {twice[0]} comes more than once; name each checkpoint once"])
    return found


def known_success(config: FQEConfig, folders: Sequence[str]) -> dict[str, float]:
    """Policy folder -> success rate, of those that the config's evaluations tell about.

    Raises ConfigError where an evaluation cannot be read or is of a policy that is not evaluated here.
    """
    by_path = {_path(folder): folder for folder in folders}
    found: dict[str, float] = {}
    for policy, evaluation in config.success.items():
        if _path(policy) not in by_path:
            raise ConfigError(
                [f"success: {policy} is none of the policies; they are: {', '.join(folders)}"]
            )
        found[by_path[_path(policy)]] = _success_rate(evaluation)[1]
    for pattern in config.evaluations:
        for evaluation in sorted(glob.glob(pattern)) or [pattern]:
            policy, rate = _success_rate(evaluation)
            if _path(policy) in by_path:
                found.setdefault(by_path[_path(policy)], rate)
    return found


def _success_rate(evaluation: str) -> tuple[str, float]:
    """The policy that an evaluation was of, and its success rate."""
    path = Path(evaluation)
    path = path / "results.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text())
        return str(values["config"]["policy"]), float(values["overall"]["rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            [
                f"{path}: not the results.json of an evaluation ({error}); make it with `vla eval` and name its folder"
            ]
        ) from error


def _cameras(config: FQEConfig, folders: Sequence[str], dataset: EpisodeDataset) -> list[str]:
    """The cameras that the policies look through. Raises ConfigError with every way in which they do not fit."""
    cameras: dict[str, None] = {}
    problems = []
    for folder in _with_reference(config, folders):
        policy = load_policy(folder)
        cameras |= dict.fromkeys(policy.spec.cameras)
        problems += [
            f"policies: {folder}: in the dataset {line}"
            for line in policy.spec.differences(dataset.spec)
        ]
        if policy.chunk < config.replan_every:
            problems.append(
                f"replan_every: is {config.replan_every}, but {folder} plans {policy.chunk} steps; use that or less"
            )
        if config.replan_every > 1 and (
            policy.history > 1 or getattr(policy, "counts_steps", False)
        ):
            problems.append(
                f"replan_every: is {config.replan_every}, but {folder} looks back and must see every step; set it to 1"
            )
    if problems:
        raise ConfigError(problems)
    return list(cameras)


def _with_reference(config: FQEConfig, folders: Sequence[str]) -> list[str]:
    """The policies, and after them the one that only gives the features."""
    extra = config.features is not None and _path(config.features) not in map(_path, folders)
    return [*folders, *([str(config.features)] if extra else [])]


def _open(
    config: FQEConfig, dataset: EpisodeDataset, cameras: Sequence[str]
) -> tuple[Windows, int]:
    """Windows of single steps, and how many of their first episodes teach; the others are held out."""
    tasks = dataset.episodes["task_index"].tolist()
    teaching, held_out = split_episodes(tasks, config.data.validation_fraction, config.seed)
    if config.data.episodes is not None and config.data.episodes < len(tasks):
        rng = np.random.default_rng(config.seed)
        count = min(
            len(held_out),
            max(bool(held_out), round(config.data.episodes * config.data.validation_fraction)),
        )
        held_out = sorted(rng.permutation(held_out)[:count].tolist())
        teaching = sorted(rng.permutation(teaching)[: config.data.episodes - count].tolist())
    windows = Windows(
        dataset,
        history=1,
        chunk=1,
        discount=config.discount,
        rewards=config.data.rewards,
        cache=config.data.cache,
        episodes=[*teaching, *held_out],
        cameras=cameras,
    )
    check_rewards(windows, needs="varied")
    return windows, len(teaching)


def _decisions(
    config: FQEConfig, folders: Sequence[str], windows: Windows, device: torch.device, tell: Tell
) -> tuple[Float[Tensor, "N F"], list[Float[Tensor, "N n A"]]]:
    """The features of all frames, and what each policy would do there; one policy is loaded at a time."""
    features, chosen = torch.empty(0), []
    wanted = _path(config.features or folders[0])
    for folder in _with_reference(config, folders):
        tell(f"{folder}: what it would do in {len(windows)} frames")
        decisions = decide(load_policy(folder, device=device), windows, seed=config.seed)
        if _path(folder) == wanted:
            features = decisions.features
        chosen.append(decisions.actions[:, : config.replan_every].contiguous())
    return features, chosen[: len(folders)]


def _device(name: str | None) -> torch.device:
    """Raises ConfigError where there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            [f"device: {name!r} is not to be had here ({error}); use cpu, cuda, or null"]
        ) from error
    return device


def _path(folder: str) -> Path:
    return Path(folder).resolve()


# --- what comes out ------------------------------------------------------------------------------------


class _Measure:
    """Makes an estimate of what was learned of a policy."""

    def __init__(
        self, data: Transitions, windows: Windows, starts: Tensor, teaching: int, seed: int
    ) -> None:
        self.data, self.starts, self.seed = data, starts, seed
        held_out = torch.arange(
            int(windows.lengths[:teaching].sum()), len(windows), device=starts.device
        )
        self.every = torch.arange(len(windows), device=starts.device)
        self.held_out = held_out if data.known[held_out].any() else self.every

    def __call__(
        self, folder: str, q: FittedQ, before: float, success: float | None
    ) -> PolicyEstimate:
        value_EB, held_out = q.values(self.data, self.starts), self.held_out
        inside = self.data.known[held_out]  # elsewhere the chunk may run past the episode's end
        error = (q.actions[held_out] - self.data.actions[held_out])[inside].abs().mean()
        q_held_out = q.values(self.data, held_out, of="data").mean(0)
        return PolicyEstimate(
            policy=folder,
            value=float(value_EB.mean()),
            interval=bootstrap_interval(value_EB.mean(0).numpy(), seed=self.seed),
            member_spread=float(value_EB.mean(1).std(unbiased=False)),
            drift=float(value_EB.mean()) - before,
            q_data=float(q.values(self.data, self.every, of="data").mean()),
            q_policy=float(q.values(self.data, self.every).mean()),
            td_error=q.td_error(self.data, held_out),
            action_error=float(error),
            calibration=calibrate(
                q_held_out.numpy(), self.data.monte_carlo[held_out].cpu().numpy()
            ),
            success=success,
        )


__all__ = ["FQEConfig", "FQEDataConfig", "fqe", "known_success", "policy_folders"]
