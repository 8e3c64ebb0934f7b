"""Learning a reward model: load, step, log, validate, measure, save.

Every step draws its examples from (seed, step), so a resumed run goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from vla.common.atomic import replace_folder
from vla.common.folder_lock import alone
from vla.config import ConfigError, check_config
from vla.data import EpisodeDataset, prefetch
from vla.data.held_out import split_episodes
from vla.data.loading.multi_robot import RobotBatch
from vla.models.policy import Policy, load_policy
from vla.models.rewards.base import Examples, RewardError, RewardModel
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.scoring import check_same_robot, score_steps, steps_of, windows_of
from vla.models.rewards.storage import REWARD_FOLDER, save_reward
from vla.training.checkpoint import Checkpoint, prune_checkpoints, scores_of
from vla.training.hardware.allocator import keep_freed_memory
from vla.training.hardware.precision import resolve_precision
from vla.training.metrics import MetricsLog
from vla.training.progress import ProgressDisplay
from vla.training.reward_learning.config import RewardTrainConfig
from vla.training.reward_learning.measures import measure
from vla.training.reward_learning.objective import RewardObjective, with_imitation
from vla.training.run_data.batches import to_device
from vla.training.run_directory import open_run, recorded_precision, write_run
from vla.training.state import TrainingState
from vla.training.trainer import Trainer, training_state
from vla.types import Batch

_VALIDATION_BATCHES = 8
_SAMPLE = 4096
"""Steps by which the model's rewards are scaled when learning has ended."""


@dataclass(frozen=True)
class RewardResult:
    """What a training of a reward model left.

    Attributes:
        model: in evaluation mode; the running mean of the weights if that is on.
        out: the run directory; `out / "reward"` holds the same model on disk.
        step: optimiser steps that were done in all.
        measures: on held-out episodes, see `measure`; empty if none are held out.
    """

    model: RewardModel
    out: Path
    step: int
    measures: dict[str, float]


def learn_reward(config: RewardTrainConfig, *, resume: bool = False) -> RewardResult:
    """Trains a reward model on recorded episodes, on one process.

    Args:
        config: everything that decides the run.
        resume: go on from the newest whole checkpoint in `config.out`, or begin if there is none.

    Raises:
        ConfigError: the config contradicts itself, the data or the run in `config.out`.
        RewardError: nothing can be learned from these data.
        FolderInUseError: another training writes to `config.out`.
        TrainingDivergedError: the loss became NaN or infinite.
        CheckpointError: a checkpoint could not be written or read.
    """
    check_config(config, RewardTrainConfig)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ConfigError(
            ["vla reward: runs on one process; start it without `accelerate launch` or `torchrun`"]
        )
    display = ProgressDisplay(config.steps, config.max_minutes, enabled=True)
    with alone(Path(config.out)), display:
        return _Run(config, accelerator, display, resume=resume).result()


class _Run:
    """One call of `learn_reward`."""

    def __init__(
        self,
        config: RewardTrainConfig,
        accelerator: Accelerator,
        display: ProgressDisplay,
        *,
        resume: bool,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.display = display
        self.out = Path(config.out)
        # it asks for no more than what configs of both kinds of runs have
        self.checkpoint: Checkpoint | None = open_run(cast(Any, config), resume=resume)
        dataset = config.data.open("data")
        set_seed(config.seed)
        policy = self._policy(dataset)
        spec = dataset.spec if policy is None else policy.spec
        self.model: RewardModel = config.model.build(spec, policy)
        tasks = dataset.episodes["task_index"].tolist()
        training, held_out = split_episodes(tasks, config.data.validation_fraction, config.seed)
        self.steps = self._steps(dataset, training)
        self.held_out = self._steps(dataset, held_out) if held_out else None
        self.demonstrations: LabelledSteps | None = None
        if config.demonstrations is not None:
            self.demonstrations = self._steps(config.demonstrations.open("demonstrations"), None)
        if policy is not None and self.checkpoint is None and config.init_from is None:
            texts = [self.steps.instructions[task] for task in np.unique(self.steps.task_index)]
            policy.fit(
                self.steps.actions, self.steps.states, texts, lengths=self.steps.lengths.tolist()
            )
        self.fitted = self.model.fit(self.steps, self.demonstrations)
        recorded = recorded_precision(self.out) if self.checkpoint else None
        precision = "no"
        if policy is not None:
            device = accelerator.device
            precision = resolve_precision(config.precision, policy, device, recorded)
        self.bf16 = precision == "bf16"
        write_run(cast(Any, config), precision)

    def _policy(self, dataset: EpisodeDataset) -> Policy | None:
        """The trunk's policy: of the checkpoint, of `init_from`, or a new one."""
        config = self.config
        if not config.model.needs_policy:
            return None
        source = self.checkpoint.folder if self.checkpoint else config.init_from
        if source is None:
            assert config.policy is not None  # the config sees to it
            made: Policy = config.policy.build(dataset.spec)
            return made
        policy = load_policy(source).unwrapped
        lines = policy.spec.differences(dataset.spec)
        if lines:
            raise ConfigError([f"data.path: {line} (as the policy in {source})" for line in lines])
        return policy

    def _steps(self, dataset: EpisodeDataset, episodes: list[int] | None) -> LabelledSteps:
        check_same_robot(self.model, dataset.spec, str(dataset.root))
        windows = windows_of(self.model, dataset, episodes, cache=self.config.data.cache)
        return steps_of(self.model, windows)

    def result(self) -> RewardResult:
        model = self.model.to(self.accelerator.device)
        step = 0
        with MetricsLog(self.out / "metrics.jsonl", self.accelerator, self._done) as log:
            if self.config.model.learns_by_steps:
                step = self._learn(log)
            elif self.fitted:
                log.write(0, self.fitted)
            model.eval()
            if self.config.model.learns_by_steps:
                model.finish(score_steps(model, self._sample()).scores)
            measures: dict[str, float] = {}
            if self.held_out is not None:
                self.display.say(f"measuring on {len(self.held_out.lengths)} held-out episodes")
                measures = measure(
                    model,
                    self.held_out,
                    false_alarms=self.config.false_alarms,
                    seed=self.config.seed,
                )
                log.write(step, {f"held_out/{name}": value for name, value in measures.items()})
        model.card = {
            "data": {"dataset": self.config.data.path, "episodes": len(self.steps.lengths)},
            "steps": step,
            "held out": measures,
        }
        replace_folder(self.out / REWARD_FOLDER, lambda folder: save_reward(model, folder))
        # an earlier process may have ended before it removed old checkpoints
        prune_checkpoints(self.out / "checkpoints", keep_last=self.config.keep_last)
        return RewardResult(model, self.out, step, measures)

    @property
    def _done(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    def _sample(self) -> LabelledSteps:
        """Whole episodes of those that were learned from, evenly spread."""
        lengths = self.steps.lengths
        wanted = max(1, min(len(lengths), round(_SAMPLE / float(lengths.mean()))))
        chosen = np.unique(np.linspace(0, len(lengths) - 1, wanted).round().astype(int))
        return self.steps.chosen(chosen)

    # --- steps of gradient descent ----------------------------------------------------------------

    def _learn(self, log: MetricsLog) -> int:
        """Returns the steps done in all."""
        config, model = self.config, self.model
        examples = model.examples(self.steps, self.demonstrations)
        if config.imitation and not self.steps.solved.any():
            raise RewardError(
                f"{self.steps.name}: no episode is solved, so none can be imitated; set imitation=0"
            )
        unseen = self._unseen_examples()
        state = self._state()
        trainer = Trainer(
            state,
            self.accelerator,
            config.optim,
            steps=config.steps,
            seed=config.seed,
            out=self.out,
            bf16=self.bf16,
        )
        self.display.begin(state.step)
        for text in (f"{self.out}: step {state.step} of {config.steps}", *examples.lines):
            self.display.say(text)
        steps = range(state.step + 1, config.steps + 1)
        trainer.watch.start()
        for step, batch in prefetch(self._batches(examples, steps)):
            numbers = trainer.step(step, [RobotBatch("", batch)])
            self.display.advance(step)
            state.mean.add(numbers)
            last = step == config.steps or self.display.out_of_time
            line: dict[str, float] = {}
            if step % config.log_every == 0 or last:
                line = state.mean.take() | {"eta": self.display.eta}
            saving = last or (config.save_every is not None and step % config.save_every == 0)
            due = config.validate_every is not None and step % config.validate_every == 0
            if unseen is not None and (saving or due):
                line |= self._validate(state, unseen)
            if line:
                log.write(step, line)
                self.display.show(line)
            if saving:
                log.sync()
                folder = self.out / "checkpoints"
                state.save(folder, keep_last=config.keep_last, scores=scores_of(line))
            if last:
                break
            trainer.watch.start()
        state.finish(None)
        return state.step

    def _batches(self, examples: Examples, steps: range) -> Iterator[tuple[int, Batch]]:
        size = self.config.batch_size
        solved = np.flatnonzero(self.steps.episode_solved[self.steps.episode_of])
        for step in steps:
            rng = np.random.default_rng([self.config.seed, step])
            batch = examples.batch(rng, size)
            if self.config.imitation:
                batch = with_imitation(batch, self.steps, solved, rng, size)
            yield step, batch

    def _unseen_examples(self) -> list[Batch] | None:
        """The same held-out examples at each validation; None if they show nothing."""
        if self.held_out is None:
            return None
        try:
            examples = self.model.examples(self.held_out, self.demonstrations)
        except ValueError:
            return None  # too few episodes are held out: for example none is solved
        rng = np.random.default_rng([self.config.seed, 0])
        return [examples.batch(rng, self.config.batch_size) for _ in range(_VALIDATION_BATCHES)]

    @torch.no_grad()
    def _validate(self, state: TrainingState, unseen: list[Batch]) -> dict[str, float]:
        objective = state.learner.objective
        sums: dict[str, float] = {}
        with state.deployed() as policy:
            objective.eval()
            for batch in unseen:
                found = objective.validate(policy, to_device(batch, self.accelerator.device))
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        objective.train()
        return {f"validation/{name}": total / len(unseen) for name, total in sums.items()}

    def _state(self) -> TrainingState:
        model = self.model
        assert model.policy is not None  # what learns by steps reads a trunk
        return training_state(
            model.policy,
            RewardObjective(model, self.config.imitation),
            self.accelerator,
            self.config.optim,
            ema_decay=self.config.ema_decay,
            checkpoint=self.checkpoint,
        )


__all__ = ["RewardResult", "learn_reward"]
