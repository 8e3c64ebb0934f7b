"""Which policy is best, judged by recorded episodes alone: fitted Q evaluation of checkpoints.

Le, Voloshin and Yue, 2019, "Batch policy learning under constraints", algorithm 3.

N frames, n environment steps per decision, F features, A action dimensions, E members.
"""

from __future__ import annotations

import glob
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from vla.common.folder_lock import alone
from vla.common.foreign.json_files import read_json
from vla.config import ConfigError, PathText, RootConfig
from vla.config.numbers import Seed
from vla.data import EpisodeDataset, Windows
from vla.data.dataset_config import DatasetConfig
from vla.data.rewards import RewardConfig, check_rewards
from vla.models.policy import Policy, load_policy
from vla.training.offline_evaluation.calibration import bootstrap_interval, calibrate
from vla.training.offline_evaluation.fitted_q import (
    FittedQ,
    FittedQConfig,
    Transitions,
    fit_q,
    transitions,
)
from vla.training.offline_evaluation.fqe_result import FQEResult, PolicyEstimate
from vla.training.offline_evaluation.policy_actions import predict_actions
from vla.training.run_data.windows import Seen, at_size_seen, sizes_seen, split_episodes

Tell = Callable[[str], None]


class FQEDataConfig(DatasetConfig):
    """Recorded episodes, best of several qualities: what nobody ever did, nobody can value."""

    rewards: RewardConfig = RewardConfig()
    """What is rewarded; for success rates `{kind: success}`."""
    cache: Literal["ram", "disk", "shared"] = "ram"
    """Where decoded frames live."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the episodes that teach nothing: errors are measured on them. With fraction and seed
    of the policies' own training on this dataset these are episodes that the policies have not seen
    either. 0: errors are those of the training data."""
    episodes: Annotated[int, Field(ge=2)] | None = None
    """At most this many episodes, drawn by the seed; null uses all."""


class FQEConfig(FittedQConfig, RootConfig):
    """Fitted Q evaluation.

    `vla fqe CONFIG`, or `vla.training.offline_evaluation.fitted_q_evaluation.fqe(config)`.
    """

    policies: Annotated[list[PathText], Field(min_length=1)]
    """Folders of checkpoints; patterns (`runs/iql/checkpoints/step-*`) stand for all that fit."""
    data: FQEDataConfig
    """Recorded episodes."""
    features: PathText | None = None
    """The checkpoint whose trunk's features the critics of all policies read; null: the first of
    `policies`. Policies over states give the state."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Per environment step."""
    replan_every: PositiveInt = 1
    """Actions of a chunk that are executed before the policy looks again, as in the evaluation:
    what one value is of."""
    success: dict[PathText, PathText] = Field(default_factory=dict)
    """Policy -> folder of its evaluation (or the results.json in it), to compare the order with the
    true one."""
    evaluations: list[PathText] = Field(default_factory=list)
    """Folders of evaluations, or patterns; each belongs to the policy that its own config names."""
    seed: Seed = 0
    """Decides held-out episodes, initial weights and batches."""
    device: str | None = None
    """Where to compute; null: a GPU if there is one."""
    out: PathText = "runs/fqe"
    """Folder for fqe.json."""


def fqe(config: FQEConfig, *, tell: Tell | None = None) -> FQEResult:
    """Values of the policies of a config, saved in `config.out`.

    The same config gives the same numbers on a CPU. Values hold for the policy's most likely
    actions, executed from the first steps of the recorded episodes on. Truncated episodes have no
    targets in their last steps; values behind the cut are what the critics generalise from similar
    frames.

    Args:
        config: policies, data and critics.
        tell: called with a line at each stage, to show progress.

    Raises:
        ConfigError: a policy fits neither the dataset nor `replan_every`, or is named twice.
        CheckpointError, DataError: a policy or the dataset cannot be read, or its rewards cannot
            tell good from bad.
        FolderInUseError: another process writes to `config.out`.
    """
    with alone(Path(config.out)):
        return _fqe(config, tell or (lambda text: None))


def _fqe(config: FQEConfig, tell: Tell) -> FQEResult:
    clock = [time.perf_counter()]
    device = _device(config.device)
    # denormal numbers, which values near 0 run into, are many times slower on CPUs
    torch.set_flush_denormal(True)
    folders = policy_folders(config.policies)
    success = known_success(config, folders)
    dataset = config.data.open("data")
    windows, teaching = _open(config, dataset, _seen(config, folders, dataset))
    clock.append(time.perf_counter())
    features, chosen = _policy_actions(config, folders, windows, device, tell)
    clock.append(time.perf_counter())

    data = transitions(
        windows, features, n=config.replan_every, teaching_episodes=teaching, device=device
    )
    if not len(data.teaches):
        raise ConfigError(
            [
                f"data.path: every episode of {dataset.root} is cut off within "
                f"replan_every={config.replan_every} steps of its start, so nothing follows from "
                "any action; use longer episodes"
            ]
        )
    starts = torch.from_numpy(np.cumsum(windows.lengths) - windows.lengths).to(device)
    watch = _Watch(config.steps, data, starts, tell)
    learned = fit_q(
        data,
        [actions.to(device) for actions in chosen],
        dataset.spec,
        config,
        seed=config.seed,
        progress=watch,
    )
    measure = _Measure(data, windows, starts, teaching, config.seed)
    estimates = [
        measure(folder, q, earlier, success.get(folder))
        for folder, q, earlier in zip(folders, learned, watch.earlier_values, strict=True)
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
        warnings=tuple(dataset.warnings),
    )
    # what came up while frames were read
    dataset.issue_warnings()
    result.save(config.out)
    return result


# --- what goes in ---------------------------------------------------------------------------------


def policy_folders(patterns: Sequence[str]) -> list[str]:
    """The folders that patterns stand for, in order.

    Raises ConfigError if a pattern stands for none, or a folder comes twice.
    """
    found: list[str] = []
    for pattern in patterns:
        # a name without wildcards is kept though there be no such folder: loading says so better
        folders = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not folders:
            raise ConfigError(
                [f"policies: no folder fits {pattern!r}; name checkpoints, or correct the pattern"]
            )
        found += folders
    # by resolved path: the same checkpoint may be written in several ways
    times = Counter(_path(folder) for folder in found)
    repeated = sorted(folder for folder in found if times[_path(folder)] > 1)
    if repeated:
        raise ConfigError(
            [f"policies: {repeated[0]} comes more than once; name each checkpoint once"]
        )
    return found


def known_success(
    config: FQEConfig,
    folders: Sequence[str],
) -> dict[str, float]:
    """Policy folder -> success rate, of those that the config's evaluations are of.

    Raises ConfigError if an evaluation cannot be read or is of a policy that is not evaluated here.
    """
    by_path = {_path(folder): folder for folder in folders}
    found: dict[str, float] = {}
    for policy, evaluation in config.success.items():
        if _path(policy) not in by_path:
            raise ConfigError(
                [f"success: {policy} is none of the policies; they are: {', '.join(folders)}"]
            )
        _, rate = _success_rate(evaluation)
        found[by_path[_path(policy)]] = rate
    for pattern in config.evaluations:
        for evaluation in sorted(glob.glob(pattern)) or [pattern]:
            policy, rate = _success_rate(evaluation)
            if _path(policy) in by_path:
                # `success` names the policy itself, so it goes before what an evaluation says
                found.setdefault(by_path[_path(policy)], rate)
    return found


def _success_rate(evaluation: str) -> tuple[str, float]:
    """The policy that an evaluation was of, and its success rate."""
    path = Path(evaluation)
    path = path / "results.json" if path.is_dir() else path
    try:
        values = read_json(path)
        return str(values["config"]["policy"]), float(values["overall"]["rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            [
                f"{path}: not the results.json of an evaluation ({error}); make it with `vla eval` "
                "and name its folder"
            ]
        ) from error


def _seen(
    config: FQEConfig,
    folders: Sequence[str],
    dataset: EpisodeDataset,
) -> list[Seen]:
    """What the policies see of the dataset's cameras.

    Raises ConfigError with every way in which they do not fit.
    """
    seen: list[Seen] = []
    problems = []
    for folder in _with_reference(config, folders):
        policy = load_policy(folder)
        seen += sizes_seen([policy])
        problems += _misfits(config, folder, policy, dataset)
        doubt = policy.spec.doubt(dataset.spec)
        if doubt is not None:
            # with the dataset's own warnings, so that it is printed and kept in fqe.json
            dataset.add_warning(f"{folder}: {doubt}; it is valued as if they were")
    if problems:
        raise ConfigError(problems)
    return seen


def _misfits(
    config: FQEConfig,
    folder: str,
    policy: Policy,
    dataset: EpisodeDataset,
) -> list[str]:
    """Why this policy cannot be valued on this dataset."""
    problems = [
        f"policies: {folder}: in the dataset {line}"
        for line in policy.spec.differences(dataset.spec)
    ]
    n = config.replan_every
    if policy.chunk < n:
        problems.append(
            f"replan_every: is {n}, but {folder} plans {policy.chunk} steps; use that or less"
        )
    # between two decisions of a chunk the policy sees no frame: its history would have holes
    if n > 1 and (policy.history > 1 or policy.counts_steps):
        problems.append(
            f"replan_every: is {n}, but {folder} looks back and must see every step; set it to 1"
        )
    return problems


def _with_reference(
    config: FQEConfig,
    folders: Sequence[str],
) -> list[str]:
    """The policies, and after them the one that only gives the features."""
    reference = config.features
    if reference is None or _path(reference) in map(_path, folders):
        return list(folders)
    return [*folders, reference]


def _open(config: FQEConfig, dataset: EpisodeDataset, seen: Sequence[Seen]) -> tuple[Windows, int]:
    """Windows of single steps, and how many of their first episodes teach; the others are held
    out."""
    teaching, held_out = _split(config, dataset.episodes["task_index"].tolist())
    windows = Windows(
        at_size_seen(dataset, seen),
        history=1,
        chunk=1,
        discount=config.discount,
        rewards=config.data.rewards,
        cache=config.data.cache,
        episodes=[*teaching, *held_out],
        cameras=list(dict.fromkeys(camera for camera, _ in seen)),
    )
    check_rewards(windows, needs="varied")
    return windows, len(teaching)


def _split(
    config: FQEConfig,
    tasks: list[int],
) -> tuple[list[int], list[int]]:
    """The episodes that teach and those that are held out, at most `data.episodes` in all."""
    # the split of training itself, so that held-out episodes are new to the policies as well
    teaching, held_out = split_episodes(tasks, config.data.validation_fraction, config.seed)
    limit = config.data.episodes
    if limit is None or limit >= len(tasks):
        return teaching, held_out
    # at least one is held out if any were: errors are measured on it
    wanted = max(bool(held_out), round(limit * config.data.validation_fraction))
    count = min(len(held_out), wanted)
    rng = np.random.default_rng(config.seed)
    held_out = sorted(rng.permutation(held_out)[:count].tolist())
    teaching = sorted(rng.permutation(teaching)[: limit - count].tolist())
    return teaching, held_out


def _policy_actions(
    config: FQEConfig,
    folders: Sequence[str],
    windows: Windows,
    device: torch.device,
    tell: Tell,
) -> tuple[Float[Tensor, "N F"], list[Float[Tensor, "N n A"]]]:
    """The features of all frames, and what each policy would do there."""
    features, chosen = torch.empty(0), []
    reference = _path(config.features or folders[0])
    for folder in _with_reference(config, folders):
        tell(f"{folder}: what it would do in {len(windows)} frames")
        # one policy is loaded at a time: several large ones need not fit side by side
        found = predict_actions(load_policy(folder, device=device), windows, seed=config.seed)
        # one checkpoint's features for all: critics with different eyes could not be compared
        if _path(folder) == reference:
            features = found.features
        chosen.append(found.actions[:, : config.replan_every].contiguous())
    return features, chosen[: len(folders)]


def _device(name: str | None) -> torch.device:
    """Raises ConfigError if there is no such device."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # a device may have a name and not be there
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            [f"device: {name!r} is not available here ({error}); use cpu, cuda, or null"]
        ) from error
    return device


def _path(folder: str) -> Path:
    return Path(folder).resolve()


# --- what comes out -------------------------------------------------------------------------------


class _Watch:
    """Follows the fit: shows how far it is, and notes the values after nine tenths of its steps.

    Attributes:
        earlier_values: of each policy, to compare the final ones with; empty until then.
    """

    def __init__(
        self,
        steps: int,
        data: Transitions,
        starts: Tensor,
        tell: Tell,
    ) -> None:
        self.steps, self.data, self.starts, self.tell = steps, data, starts, tell
        self.earlier_values: list[float] = []

    def __call__(self, step: int, learned: Sequence[FittedQ]) -> None:
        if step == max(1, round(0.9 * self.steps)):
            self.earlier_values = [float(q.values(self.data, self.starts).mean()) for q in learned]
        if step % max(1, self.steps // 10) == 0:
            self.tell(f"values of {len(learned)} policies: step {step} of {self.steps}")


class _Measure:
    """Makes an estimate of a policy out of its fitted Q."""

    def __init__(
        self,
        data: Transitions,
        windows: Windows,
        starts: Tensor,
        teaching: int,
        seed: int,
    ) -> None:
        self.data, self.starts, self.seed = data, starts, seed
        self.every = torch.arange(len(windows), device=starts.device)
        teaching_frames = int(windows.lengths[:teaching].sum())
        held_out = self.every[teaching_frames:]
        # without a held-out frame whose target is known errors are those of all frames
        self.held_out = held_out if data.known[held_out].any() else self.every

    def __call__(
        self, folder: str, q: FittedQ, earlier_value: float, success: float | None
    ) -> PolicyEstimate:
        data, held_out = self.data, self.held_out
        value_EB = q.values(data, self.starts)
        inside = data.known[held_out]  # elsewhere the chunk may run past the episode's end
        error = (q.actions[held_out] - data.actions[held_out])[inside].abs().mean()
        q_held_out = q.values(data, held_out, of="data").mean(0)
        outcomes = data.monte_carlo[held_out].cpu()
        return PolicyEstimate(
            policy=folder,
            value=float(value_EB.mean()),
            interval=bootstrap_interval(value_EB.mean(0).numpy(), seed=self.seed),
            member_spread=float(value_EB.mean(1).std(unbiased=False)),
            drift=float(value_EB.mean()) - earlier_value,
            q_data=float(q.values(data, self.every, of="data").mean()),
            q_policy=float(q.values(data, self.every).mean()),
            td_error=q.td_error(data, held_out),
            action_error=float(error),
            calibration=calibrate(q_held_out.numpy(), outcomes.numpy()),
            success=success,
        )


__all__ = ["FQEConfig", "FQEDataConfig", "fqe", "known_success", "policy_folders"]
