"""How good a run's critics are: their values beside the returns that followed the same steps.

B windows, T steps, n lookahead steps, S sampled chunks, N steps that were looked at.
"""

from __future__ import annotations

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
from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.data.detours import detours_of
from vla.data.format import KeyMap
from vla.models.policy import Policy, load_policy
from vla.models.transfer.cameras import cameras_of
from vla.training.checkpoint import (
    checkpoint_folder,
)
from vla.training.losses import advantage_weights, effective_sample_size
from vla.training.metrics import read_metrics
from vla.training.objective import Objective
from vla.training.objectives.actor_critic import ActorCritic
from vla.training.offline_evaluation.advantage_auc import advantage_auc
from vla.training.offline_evaluation.calibration import Calibration, calibrate
from vla.training.offline_evaluation.early_stopping import StopAdvice, advise_stop
from vla.training.offline_evaluation.run_values import (
    Batches,
    restored_objective,
    run_checkpoint,
    saved_steps,
    values_of,
)
from vla.training.offline_rl.extractions.weighted_bc import WeightedBC
from vla.training.run_data.windows import (
    at_size_seen,
    read_windows,
    sizes_seen,
    split_episodes,
)
from vla.training.run_directory import read_run
from vla.training.validation import validate

REPORT_FILE, PLOT_FILE = "diagnostics.json", "calibration.svg"


@dataclass(frozen=True)
class SetDiagnosis:
    """Numbers of one set of episodes.

    Attributes:
        episodes, steps: how many were looked at.
        metrics: those of the objective's own validation, and, if it has critics: `q_data`,
            `q_policy` (samples), `q_mode`, `q_uniform`, `q_policy_above_data`; if it has advantage
            weights, `advantage_positive` and, over all steps together, `weight_ess` (effective
            sample size) and `weight_clipped`; if the data mark detours, `advantage_auc`, how well
            advantages tell them from the rest.
        calibration: values of the data's actions (of states, if only V is learned) against
            Monte-Carlo returns; None if the objective learns no values. The return of a truncated
            episode stops at the cut.
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
        sets: "training" and, if episodes were held out, "held out".
        stop: advice on when to stop, for conservative values; else None.
        nearest: the checkpoint on disk that is nearest to the advised step.
        warnings: what is odd in the dataset.
    """

    run: str
    step: int
    objective: str
    sets: Mapping[str, SetDiagnosis]
    stop: StopAdvice | None = None
    nearest: str | None = None
    warnings: tuple[str, ...] = ()

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Writes diagnostics.json and, if there are values, calibration.svg into `folder`, by
        default the run's own."""
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
        # rich is slow to import, and who reads diagnostics.json needs none
        from rich.console import Group

        parts: list[Any] = [self._metrics_table()]
        for label, found in self.sets.items():
            if found.calibration is not None:
                parts.append(_reliability_table(label, found.calibration))
        if self.stop is not None:
            nearest = f"; nearest checkpoint: {self.nearest}" if self.nearest else ""
            parts.append(self.stop.text + nearest)
        return Group(*parts)

    def _metrics_table(self) -> Any:
        """A row for each number, a column for each set."""
        from vla.common.terminal.tables import Table, whole

        title = f"{self.run}, step {self.step}: {self.objective}"
        table = Table(*whole("", *self.sets), title=title)
        sets = self.sets.values()
        table.add_row("episodes", *(str(s.episodes) for s in sets))
        table.add_row("steps", *(str(s.steps) for s in sets))
        # one set may have a metric that the other lacks: all names, in the order they appear
        names = dict.fromkeys(name for s in sets for name in s.metrics)
        for name in names:
            cells = [f"{s.metrics[name]:.4g}" if name in s.metrics else "" for s in sets]
            table.add_row(name, *cells)
        return table


def _reliability_table(label: str, calibration: Calibration) -> Any:
    """Predicted values beside the returns that followed, bin by bin."""
    from vla.common.terminal.tables import Table

    caption = (
        f"slope {calibration.slope:.2f}, correlation {calibration.correlation:.2f}, "
        f"bias {calibration.bias:.3g}, error {calibration.error:.3g}"
    )
    title = f"{label}: values by tenths"
    table = Table("steps", "value", "return", title=title, caption=caption)
    for b in calibration.bins:
        table.add_row(str(b.count), f"{b.predicted:.4g}", f"{b.outcome:.4g}")
    return table


def diagnose(
    run: str | Path,
    *,
    step: int | None = None,
    episodes: int = 50,
    windows: int = 2048,
    data: str | Path | None = None,
    format: str | None = None,
    keys: KeyMap | None = None,
) -> Diagnosis:
    """Looks at a run's critics.

    Args:
        run: folder of a training run.
        step: of the checkpoint; the newest by default.
        episodes: at most so many of the training and of the held-out episodes are read, drawn by
            the run's seed.
        windows: at most so many of their windows are looked at, evenly spread.
        data: where the dataset lies now; by default where the run's config says.
        format, keys: how it is read there; by default as the run's config says.

    Raises:
        ConfigError: the folder holds no run, or no such checkpoint.
        CheckpointError, DataError: checkpoint or dataset cannot be read.
    """
    run = Path(run)
    config = read_run(run, data=data, format=format, keys=keys)
    if config.data.multi_robot:
        raise ConfigError(
            [
                f"{run}: learned from several robots, which has no critics; diagnose a run on "
                "one dataset"
            ]
        )
    batches = Batches(config.batch_size, config.seed)
    checkpoint = run_checkpoint(run, step)
    # float32, whatever the run's precision was: critics compute in it, as their features should
    accelerator = Accelerator(mixed_precision="no")
    policy = load_policy(checkpoint.folder, device=accelerator.device)
    objective = restored_objective(config.objective, policy, checkpoint).to(accelerator.device)
    dataset = config.data.open("data")
    _check_fits(policy, dataset)
    dataset = at_size_seen(dataset, sizes_seen([policy]))
    sets = {}
    share = config.data.validation_fraction
    for label, chosen in _episodes(dataset, share, config.seed, limit=episodes).items():
        read = read_windows(
            config.data,
            dataset,
            policy,
            objective,
            cameras=list(cameras_of(policy)),
            episodes=chosen,
        )
        sets[label] = _diagnose_set(batches, policy, objective, read, windows, accelerator)
    dataset.issue_warnings()
    advice = _advice(run)
    return Diagnosis(
        run=str(run),
        step=checkpoint.step,
        objective=config.objective.model_dump()["type"],
        sets=sets,
        stop=advice,
        nearest=None if advice is None or advice.step is None else _nearest(run, advice.step),
        warnings=tuple(dataset.warnings),
    )


def _check_fits(policy: Policy, dataset: EpisodeDataset) -> None:
    """Raises ConfigError if the dataset is not of the policy's robot."""
    lines = policy.spec.differences(dataset.spec)
    if lines:
        raise ConfigError([f"{dataset.root}: in the dataset {line}" for line in lines])


def _nearest(run: Path, step: int) -> str | None:
    steps = saved_steps(run)
    if not steps:
        return None
    nearest = min(steps, key=lambda saved: abs(saved - step))
    return str(checkpoint_folder(run / "checkpoints", nearest))


def _episodes(
    dataset: EpisodeDataset,
    validation_fraction: float,
    seed: int,
    *,
    limit: int,
) -> dict[str, list[int]]:
    """Some of the episodes that were trained on, and some of those that were held out."""
    tasks = dataset.episodes["task_index"].tolist()
    # the split of the run itself, which follows from its seed
    training, held_out = split_episodes(tasks, validation_fraction, seed)
    rng = np.random.default_rng(seed)
    sets = {}
    for label, chosen in (("training", training), ("held out", held_out)):
        if chosen:
            sets[label] = sorted(rng.permutation(chosen)[:limit].tolist())
    return sets


def _advice(run: Path) -> StopAdvice | None:
    """Of the curves in metrics.jsonl, if they are those of conservative values."""
    path = run / "metrics.jsonl"
    lines = read_metrics(path) if path.is_file() else []
    conservative = any("conservative_gap" in line for line in lines)
    return advise_stop(lines) if conservative else None


# --- one set of episodes --------------------------------------------------------------------------


def _diagnose_set(
    batches: Batches,
    policy: Policy,
    objective: Objective,
    windows: Windows,
    limit: int,
    accelerator: Accelerator,
) -> SetDiagnosis:
    count = min(limit, len(windows))
    # evenly spread: the first so many would all be of a few episodes
    spread = np.linspace(0, len(windows) - 1, count)
    indices = spread.round().astype(np.int64)
    scores = validate(
        policy,
        objective,
        windows,
        indices,
        accelerator,
        batch_size=batches.size,
        seed=batches.seed,
        bf16=False,
    )
    metrics = {name.removeprefix("validation/"): value for name, value in scores.items()}
    columns = values_of(batches, policy, objective, windows, indices, accelerator.device)
    returns = columns.pop("return", None)
    # V stands in for Q only if there is no Q: V is of states, and the returns are of actions
    predicted = columns.get("q_data", columns.pop("v", None))
    advantage = columns.pop("advantage", None)
    metrics |= _weight_metrics(objective, advantage)
    metrics |= _detour_metrics(windows, indices, advantage)
    metrics |= {name: float(values.mean()) for name, values in columns.items()}
    calibration = None
    if predicted is not None and returns is not None and len(predicted):
        calibration = calibrate(predicted.numpy(), returns.numpy())
    return SetDiagnosis(len(windows.lengths), len(indices), metrics, calibration)


def _weight_metrics(objective: Objective, advantage: Tensor | None) -> dict[str, float]:
    """Metrics of the advantage weights, over all steps together; nothing without advantages."""
    # an effective sample size of single batches says little if few steps have all the weight
    if advantage is None or not isinstance(objective, ActorCritic):
        return {}
    extraction = objective.extraction
    if not isinstance(extraction, WeightedBC):
        return {}
    scale: Tensor | float = 1.0
    if extraction.config.standardise:
        scale = extraction.deviation.cpu().clamp(min=1e-6)
    max_weight = extraction.config.max_weight
    weights = advantage_weights(
        advantage / scale, beta=extraction.config.beta, max_weight=max_weight
    )
    everywhere = torch.ones_like(weights, dtype=torch.bool)
    # exp(log(max_weight)) may round to less than max_weight
    clipped = weights >= max_weight * (1 - 1e-6)
    return {
        "advantage_positive": float((advantage > 0).float().mean()),
        "weight_ess": float(effective_sample_size(weights, everywhere)),
        "weight_clipped": float(clipped.float().mean()),
    }


def _detour_metrics(
    windows: Windows, indices: np.ndarray, advantage: Tensor | None
) -> dict[str, float]:
    """How well advantages tell detours from the rest, if the data mark them."""
    detour_N = detours_of(windows)
    if detour_N is None or advantage is None:
        return {}
    return {"advantage_auc": advantage_auc(advantage.numpy(), detour_N[indices])}


__all__ = ["Diagnosis", "SetDiagnosis", "diagnose"]
