"""One optimiser step, for whoever decides which batches it sees: a training, or rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from vla.config import UserError
from vla.data.loading.image_text import ImageTextBatch
from vla.data.loading.multi_robot import RobotBatch
from vla.models.policy import Policy
from vla.training.checkpoint import Checkpoint, newest_checkpoint
from vla.training.config import OptimConfig
from vla.training.finetuning.pcgrad import projected_backward
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner, Objective
from vla.training.optimizer import (
    EMA,
    build_optimizer,
    learning_rate,
    set_critic_learning_rate,
)
from vla.training.run_data.batches import to_device
from vla.training.seeding import seed_generators, seed_of
from vla.training.state import TrainingState
from vla.training.step import backward

_MUST_BE_FINITE = {
    "loss": "loss",
    "gradient norm": "grad_norm",
    "gradient norm of the objective's own networks": "critic_grad_norm",
}
"""What a message calls a number -> its name among the metrics."""


class TrainingDivergedError(UserError):
    """The loss or the gradient is not finite. Nothing of that step was applied or saved."""


class Trainer:
    """Does steps: loss, gradients, clipping, a check that all is finite, optimiser, running means.

    Args:
        state: what is trained.
        accelerator: that divides the work; it wraps the learner.
        optim: rates and limits.
        steps: of the whole run, for the schedule of the learning rate.
        seed: with the number of a step it decides dropout, augmentation and sampled actions.
        out: the run directory, whose newest checkpoint an error names.
        bf16: whether the forward pass is in bfloat16.
        tasks: instruction -> task, for projected gradients.
        pairs_weight: of the loss of image-text pairs.

    Attributes:
        model: the learner as the accelerator wraps it.
        watch: where the seconds of a step go.
    """

    def __init__(
        self,
        state: TrainingState,
        accelerator: Accelerator,
        optim: OptimConfig,
        *,
        steps: int,
        seed: int,
        out: Path,
        bf16: bool = False,
        tasks: Mapping[str, str] | None = None,
        pairs_weight: float = 0.0,
    ) -> None:
        self.state = state
        self.accelerator = accelerator
        self.optim = optim
        self.steps = steps
        self.seed = seed
        self.out = out
        self.bf16 = bf16
        self.tasks = dict(tasks or {})
        self.pairs_weight = pairs_weight
        self.model: nn.Module = accelerator.prepare(state.learner)
        self.watch = Stopwatch(accelerator.device)

    def step(
        self,
        step: int,
        batches: Sequence[RobotBatch],
        pairs: Sequence[ImageTextBatch] | None = None,
    ) -> dict[str, float]:
        """Does optimiser step `step`, which counts from 1, on this process's micro-batches.

        Returns the metrics of the step, means over all processes.

        Raises TrainingDivergedError if loss or gradient is not finite; then nothing was changed.
        """
        device = self.accelerator.device
        # a resumed run has the same dropout, augmentation and sampled actions
        seed_generators(seed_of(self.seed, step, self.accelerator.process_index), device)
        batches = [RobotBatch(robot, to_device(batch, device)) for robot, batch in batches]
        self.watch.lap("data")
        numbers = self._gradients(step, batches, pairs)
        # before the update: weights and moments of the last good step stay whole
        if _not_finite(numbers):
            raise self._diverged(step, numbers, batches)
        if self.optim.critic is not None:
            numbers["critic_lr"] = learning_rate(self.optim.critic, step, self.steps)
            set_critic_learning_rate(self.state.optimizer, numbers["critic_lr"])
        numbers["lr"] = self.state.update(learning_rate(self.optim, step, self.steps))
        self.watch.lap("optimizer")
        return numbers

    def _gradients(
        self,
        step: int,
        batches: list[RobotBatch],
        pairs: Sequence[ImageTextBatch] | None,
    ) -> dict[str, float]:
        options: dict[str, Any] = {"bf16": self.bf16, "clip": self.optim.clip_norms}
        objective = self.state.learner.objective
        if self.optim.project_gradients:
            return projected_backward(
                self.model,
                objective,
                batches,
                self.accelerator,
                self.watch,
                seed=seed_of(self.seed, step),
                tasks=self.tasks,
                **options,
            )
        return backward(
            self.model,
            objective,
            batches,
            self.accelerator,
            self.watch,
            pairs=pairs,
            pairs_weight=self.pairs_weight,
            **options,
        )

    def _diverged(
        self,
        step: int,
        numbers: dict[str, float],
        batches: Sequence[RobotBatch],
    ) -> TrainingDivergedError:
        """The error of a step that is not finite, with the tasks in its batch on all processes."""
        what = _not_finite(numbers)[0]
        own_tasks = [text for _, batch in batches for text in batch.instruction]
        tasks = sorted(set(gather_object(own_tasks)))
        shown = ", ".join(repr(task) for task in tasks[:10])
        if len(tasks) > 10:
            shown += f" and {len(tasks) - 10} more"
        last = newest_checkpoint(self.out / "checkpoints")
        if last is None:
            advice = (
                "there is no checkpoint yet: start again with a smaller optim.lr or a longer "
                "optim.warmup_steps"
            )
        else:
            advice = (
                f"the last checkpoint is {last.folder}: start a new run with init_from: "
                f"{last.folder} and a smaller optim.lr"
            )
        value = numbers[_MUST_BE_FINITE[what]]
        return TrainingDivergedError(
            f"step {step}: the {what} is {value}. Tasks in that batch: {shown}. Nothing of this "
            f"step was applied; {advice}"
        )


def training_state(
    policy: Policy,
    objective: Objective,
    accelerator: Accelerator,
    optim: OptimConfig,
    *,
    ema_decay: float | None,
    compiled: bool = False,
    checkpoint: Checkpoint | None = None,
) -> TrainingState:
    """The state at step 0, or at the checkpoint from which the policy was loaded."""
    # On CPUs each process keeps the statistics of its own part: gloo has no synchronised batch
    # norm. With few windows per process `policy.norm: group` is the better choice.
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        policy = convert_sync_batchnorm(policy)
    learner = Learner(policy, objective).train().to(accelerator.device)
    if objective.acts_in_eval_mode:
        policy.eval()
    # before the checkpoint is read: its policy folder holds the mean, which is what was loaded
    ema = EMA(policy, ema_decay) if ema_decay else None
    state = TrainingState(learner, build_optimizer(learner, optim), ema)
    if checkpoint:
        state.restore(checkpoint)
    if compiled:
        policy.compile()
    return state


def _not_finite(numbers: dict[str, float]) -> list[str]:
    """What of a step is NaN or infinite, in words."""
    return [
        words
        for words, name in _MUST_BE_FINITE.items()
        if not math.isfinite(numbers.get(name, 0.0))
    ]


__all__ = ["Trainer", "TrainingDivergedError", "training_state"]
