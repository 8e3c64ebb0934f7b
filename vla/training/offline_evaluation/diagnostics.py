"""What a run's critics are worth: their values beside what came of the same steps, on training and on held-out episodes.

B windows, T steps, n lookahead steps, S sampled chunks, N steps that were looked at.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from vla.common.atomic import atomic_path
from vla.config import ConfigError, load_config
from vla.data import EpisodeDataset, Windows
from vla.models.policy import Policy, load_policy
from vla.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_folder,
    newest_checkpoint,
)
from vla.training.config import TrainConfig
from vla.training.losses import advantage_weights, effective_sample_size
from vla.training.objective import Objective
from vla.training.objectives.actor_critic import ActorCritic
from vla.training.offline_evaluation.calibration import Calibration, calibrate
from vla.training.offline_evaluation.early_stopping import StopAdvice, advise_stop
from vla.training.offline_rl.extractions.weighted_bc import WeightedBC
from vla.training.offline_rl.token_objective import TokenValueObjective
from vla.training.offline_rl.values.base import Moment, draw
from vla.training.run_data.batches import to_device
from vla.training.run_data.windows import read_windows, split_episodes
from vla.training.seeding import seed_of
from vla.training.validation import validate
from vla.types import Batch

REPORT_FILE, PLOT_FILE = "diagnostics.json", "calibration.svg"
_SAMPLES = 8  # chunks of the policy, and uniform ones, that Q is averaged over


@dataclass(frozen=True)
class SetDiagnosis:
    """Numbers of one set of episodes.

    Attributes:
        episodes, steps: how many were looked at.
        metrics: what the objective's own validation says, and, where it has critics: `q_data`, `q_policy` (samples),
            `q_mode`, `q_uniform`, `q_policy_above_data`; where it weighs by advantages `advantage_positive` and, over all
            steps together, `weight_ess` (effective sample size) and `weight_clipped`.
        calibration: values of the data's actions (of states, where only V is learned) against Monte-Carlo returns; None
            where the objective learns no values. The return of a truncated episode stops at the cut.
    """

    episodes: int
    steps: int
    metrics: Mapping[str, float]
    calibration: Calibration | None


@dataclass(frozen=True)
class Diagnosis:
    """A training run at one checkpoint.

    Attributes:
        run, step, objective: what was looked at.
        sets: "training" and, where episodes were held out, "held out".
        stop: advice on when to stop, for conservative values; else None.
        nearest: the checkpoint on disk that is nearest to the advised step.
    """

    run: str
    step: int
    objective: str
    sets: Mapping[str, SetDiagnosis]
    stop: StopAdvice | None = None
    nearest: str | None = None

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Writes diagnostics.json and, where there are values, calibration.svg into `folder`, by default the run's own."""
        from vla.training.offline_evaluation.scatter_plot import dots_svg

        folder = Path(folder or self.run)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {REPORT_FILE: json.dumps(asdict(self), indent=2) + "\n"}
        groups = {
            label: [(b.predicted, b.outcome, "") for b in s.calibration.bins]
            for label, s in self.sets.items()
            if s.calibration is not None
        }
        if groups:
            names = {"x": "value of the data's action", "y": "return that followed"}
            texts[PLOT_FILE] = dots_svg(
                groups, f"{self.objective}, step {self.step}", connect=True, diagonal=True, **names
            )
        for name, text in texts.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text)
        return [folder / name for name in texts]

    def tables(self) -> Any:
        """For the terminal: numbers of each set, and the reliability of its values."""
        from rich.console import Group
        from rich.table import Table

        title = f"{self.run}, step {self.step}: {self.objective}"
        numbers = Table("", *self.sets, title=title)
        names = dict.fromkeys(name for s in self.sets.values() for name in s.metrics)
        for name in ("episodes", "steps"):
            numbers.add_row(name, *(str(getattr(s, name)) for s in self.sets.values()))
        for name in names:
            numbers.add_row(
                name,
                *(
                    f"{s.metrics[name]:.4g}" if name in s.metrics else ""
                    for s in self.sets.values()
                ),
            )
        parts: list[Any] = [numbers]
        for label, found in self.sets.items():
            if (c := found.calibration) is not None:
                caption = f"slope {c.slope:.2f}, correlation {c.correlation:.2f}, bias {c.bias:.3g}, error {c.error:.3g}"
                table = Table(
                    "steps", "value", "return", title=f"{label}: values by tenths", caption=caption
                )
                for b in c.bins:
                    table.add_row(str(b.count), f"{b.predicted:.4g}", f"{b.outcome:.4g}")
                parts.append(table)
        if self.stop is not None:
            parts.append(
                self.stop.text + (f"; nearest checkpoint: {self.nearest}" if self.nearest else "")
            )
        return Group(*parts)


def diagnose(
    run: str | Path,
    *,
    step: int | None = None,
    episodes: int = 50,
    windows: int = 2048,
    data: str | Path | None = None,
) -> Diagnosis:
    """Looks at a run's critics.

    Args:
        run: folder of a training run.
        step: of the checkpoint; the newest by default.
        episodes: at most so many of the training and of the held-out episodes are read, drawn by the run's seed.
        windows: at most so many of their windows are looked at, evenly spread.
        data: where the dataset lies now; by default where the run's config says.

    Raises:
        ConfigError: the folder holds no run, or no such checkpoint.
        CheckpointError, DataError: checkpoint or dataset cannot be read.
    """
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise ConfigError(
            [
                f"{run}: no training run: it has no config.yaml; name the folder that `out` of `vla train` was"
            ]
        )
    config = load_config(
        TrainConfig, run / "config.yaml", [] if data is None else [f"data.path={data}"]
    )
    if config.data.multi_robot:
        raise ConfigError(
            [
                f"{run}: learned from several robots, which has no critics; diagnose a run on one dataset"
            ]
        )
    checkpoint = _checkpoint(run, step)
    accelerator = Accelerator(mixed_precision="no")
    policy = load_policy(checkpoint.folder, device=accelerator.device)
    objective = restored_objective(config, policy, checkpoint).to(accelerator.device)
    dataset = EpisodeDataset(config.data.path)
    sets = {}
    for label, chosen in _episodes(config, dataset, episodes).items():
        read = read_windows(
            config.data,
            dataset,
            policy,
            objective,
            cameras=list(policy.spec.cameras),
            episodes=chosen,
        )
        sets[label] = _diagnose_set(config, policy, objective, read, windows, accelerator)
    advice = _advice(run)
    return Diagnosis(
        run=str(run),
        step=checkpoint.step,
        objective=config.objective.model_dump()["type"],
        sets=sets,
        stop=advice,
        nearest=None if advice is None or advice.step is None else _nearest(run, advice.step),
    )


def restored_objective(config: TrainConfig, policy: Policy, checkpoint: Checkpoint) -> Objective:
    """The objective with the critics of a checkpoint, in evaluation mode. Raises CheckpointError where they do not fit."""
    objective: Objective = config.objective.build(policy.trained)
    prefix = "objective/"
    tensors = {
        k.removeprefix(prefix): t for k, t in checkpoint.tensors().items() if k.startswith(prefix)
    }
    try:
        objective.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit the run's objective: {error}"
        ) from error
    return objective.eval()


def _checkpoint(run: Path, step: int | None) -> Checkpoint:
    root = run / "checkpoints"
    newest = newest_checkpoint(root)
    if step is None and newest is not None:
        return newest
    folder = None if step is None else checkpoint_folder(root, step)
    if step is None or folder is None or not folder.is_dir():
        saved = ", ".join(str(s) for s in _saved_steps(run)) or "none"
        raise ConfigError(
            [
                f"{root}: no whole checkpoint{'' if step is None else f' of step {step}'}; steps saved: {saved}"
            ]
        )
    return Checkpoint(folder, step, {})


def _saved_steps(run: Path) -> list[int]:
    names = (
        p.name.removeprefix("step-") for p in (run / "checkpoints").glob("step-*") if p.is_dir()
    )
    return sorted(
        int(name) for name in names if name.isdecimal()
    )  # not the copies that people set aside


def _nearest(run: Path, step: int) -> str | None:
    steps = _saved_steps(run)
    return (
        str(checkpoint_folder(run / "checkpoints", min(steps, key=lambda s: abs(s - step))))
        if steps
        else None
    )


def _episodes(config: TrainConfig, dataset: EpisodeDataset, limit: int) -> dict[str, list[int]]:
    """Some of the episodes that were trained on, and some of those that were held out."""
    tasks = dataset.episodes["task_index"].tolist()
    rng = np.random.default_rng(config.seed)
    sets = zip(
        ("training", "held out"),
        split_episodes(tasks, config.data.validation_fraction, config.seed),
        strict=True,
    )
    return {
        label: sorted(rng.permutation(chosen)[:limit].tolist()) for label, chosen in sets if chosen
    }


def _advice(run: Path) -> StopAdvice | None:
    """Of the curves in metrics.jsonl, where they are those of conservative values."""
    path = run / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a kill may have cut the last line short
            lines.append(json.loads(text))
    return advise_stop(lines) if any("conservative_gap" in line for line in lines) else None


# --- one set of episodes -------------------------------------------------------------------------------


def _diagnose_set(
    config: TrainConfig,
    policy: Policy,
    objective: Objective,
    windows: Windows,
    limit: int,
    accelerator: Accelerator,
) -> SetDiagnosis:
    indices = np.linspace(0, len(windows) - 1, min(limit, len(windows))).round().astype(np.int64)
    options: dict[str, Any] = {"batch_size": config.batch_size, "seed": config.seed, "bf16": False}
    scores = validate(policy, objective, windows, indices, accelerator, **options)
    metrics = {name.removeprefix("validation/"): value for name, value in scores.items()}
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed))
        for rows in np.array_split(indices, -(-len(indices) // config.batch_size)):
            for name, values in _values(
                objective, policy, to_device(windows.batch(rows), accelerator.device)
            ).items():
                found.setdefault(name, []).append(values.float().cpu())
    columns = {name: torch.cat(parts) for name, parts in found.items()}
    returns, predicted = columns.pop("return", None), columns.get("q_data", columns.pop("v", None))
    metrics |= _weights(objective, columns.pop("advantage", None))
    metrics |= {name: float(values.mean()) for name, values in columns.items()}
    calibration = None
    if predicted is not None and returns is not None and len(predicted):
        calibration = calibrate(predicted.numpy(), returns.numpy())
    return SetDiagnosis(len(windows.lengths), len(indices), metrics, calibration)


def _values(objective: Objective, policy: Policy, batch: Batch) -> dict[str, Tensor]:
    """Values (N,) of the last present step of each window, where the objective learns any."""
    now = batch.steps(0, -objective.next_step) if objective.next_step else batch
    if isinstance(objective, TokenValueObjective):
        *_, numbers = objective.weigh(policy.trained, batch)
        return {"q_data": numbers["q_data"][:, -1], "return": now.returns_to_go[:, -1]}
    if not isinstance(objective, ActorCritic):
        return {}
    value, output = objective.value, policy.trained(now)
    moment = Moment(
        now, output.features, output.actions, objective.lookahead(policy.trained, batch)
    )
    found = {"return": now.returns_to_go}
    if value.state_critic is not None:
        found["v"] = value.state_critic(moment.features)
    if (critic := value.action_critic) is not None:
        found |= _action_values(critic, moment)
    if isinstance(objective.extraction, WeightedBC):
        found["advantage"] = value.advantage(moment)
    return {name: values_BT[:, -1] for name, values_BT in found.items()} if len(found) > 1 else {}


def _action_values(critic: Any, moment: Moment) -> dict[str, Tensor]:
    """Mean Q over the ensemble of the data's chunks and of others, each (B, T)."""
    data = moment.batch.actions
    drawn = draw(moment.actions, _SAMPLES)
    unit = 2 * torch.rand(_SAMPLES, *data.shape, device=data.device) - 1
    uniform = critic.action_middle + unit * critic.action_half
    found = {"q_data": critic(moment.features, data).mean(0)}
    found["q_mode"] = critic(moment.features, moment.actions.mode()).mean(0)
    found["q_policy"] = critic(moment.features, drawn).mean((0, 1))
    found["q_uniform"] = critic(moment.features, uniform).mean((0, 1))
    found["q_policy_above_data"] = found["q_policy"] - found["q_data"]
    return found


def _weights(objective: Objective, advantage: Tensor | None) -> dict[str, float]:
    """Of all steps together: an effective sample size of single batches says little where few steps weigh all."""
    if (
        advantage is None
        or not isinstance(objective, ActorCritic)
        or not isinstance(objective.extraction, WeightedBC)
    ):
        return {}
    extraction = objective.extraction
    scale = extraction.deviation.cpu().clamp(min=1e-6) if extraction.config.standardise else 1.0
    greatest = extraction.config.max_weight
    weights = advantage_weights(advantage / scale, beta=extraction.config.beta, max_weight=greatest)
    return {
        "advantage_positive": float((advantage > 0).float().mean()),
        "weight_ess": float(
            effective_sample_size(weights, torch.ones_like(weights, dtype=torch.bool))
        ),
        "weight_clipped": float((weights >= greatest * (1 - 1e-6)).float().mean()),
    }


__all__ = ["Diagnosis", "SetDiagnosis", "diagnose", "restored_objective"]
