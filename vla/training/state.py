"""Everything of a run that changes from step to step, and its way to disk and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vla.common.atomic import replace_folder
from vla.common.machine_faults import DISK_FAULTS
from vla.models.layers.low_rank import adapter_state, merge_adapters
from vla.models.policy import Policy
from vla.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    prune_checkpoints,
    save_checkpoint,
)
from vla.training.metrics import Mean
from vla.training.objective import Learner
from vla.training.optimizer import (
    EMA,
    forget_zero_gradients,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)

_GROUPS = ("optimizer", "objective", "objective_mean", "raw", "adapter", "adapter_mean")
"""First parts of the names in a checkpoint's training state."""


@dataclass
class TrainingState:
    """What is trained, its optimiser, and how far it is.

    Attributes:
        learner: policy and objective, with the raw weights.
        optimizer: over the learner's parameters.
        ema: running mean of the policy's weights, or None.
        objective_ema: that of the objective's own networks, by the same decay; None if it has none.
        step: optimiser steps that were done.
        mean: means of the metrics since the last line of the log.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    step: int = 0
    mean: Mean = field(default_factory=Mean)
    objective_ema: EMA | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # critics were trained on the features of the raw trunk: with the mean of the policy goes
        # the mean of what reads it, in validation as in a policy that acts by a critic
        trained = any(p.requires_grad for p in self.learner.objective.parameters())
        if self.ema is not None and trained:
            self.objective_ema = EMA(self.learner.objective, self.ema.decay)

    @property
    def policy(self) -> Policy:
        return self.learner.policy

    def update(self, lr: float) -> float:
        """One optimiser step with the gradients that are there. Returns the learning rate."""
        set_learning_rate(self.optimizer, lr)
        objective = self.learner.objective
        # With a loss of the critics alone the policy has gradients of zero, by which AdamW would
        # decay its weights and move them on by its moments.
        if objective.freezes_policy:
            self.policy.zero_grad(set_to_none=True)
        elif objective.skips_policy_update:
            forget_zero_gradients(self.policy)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        objective.after_step(self.policy)
        if self.ema:
            self.ema.update(self.policy, self.step)
        if self.objective_ema:
            self.objective_ema.update(objective, self.step)
        return lr

    @contextmanager
    def deployed(self) -> Iterator[Policy]:
        """The policy as it would be used now.

        It is in eval mode, has the running mean of the weights if that is on, and the objective's
        critics if it acts by them. These have their running mean meanwhile, too.
        """
        was_training = self.policy.training
        objective = self.learner.objective
        with _applied(self.ema, self.policy), _applied(self.objective_ema, objective):
            # what acts need not be what is trained: a guided policy holds this one and its critics
            deployed = objective.deploy(self.policy.eval())
            try:
                yield deployed
            finally:
                self.policy.train(was_training)

    def save(self, root: Path, *, keep_last: int, scores: dict[str, float]) -> Checkpoint:
        """Writes a checkpoint and removes old ones but the best. Raises CheckpointError."""
        self.policy.card["results"] = {"training steps": self.step, **scores}
        state: dict[str, Any] = {"mean": self.mean.state(), "scores": scores}
        checkpoint = save_checkpoint(root, self.step, self._write_policy, self._tensors(), state)
        prune_checkpoints(root, keep_last=keep_last)
        return checkpoint

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to `checkpoint`. The policy and `ema` must come from its folder already.

        Raises CheckpointError if it does not fit this policy and objective.
        """
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in _GROUPS}
        for key, tensor in checkpoint.tensors().items():
            group, _, name = key.partition("/")
            groups[group][name] = tensor
        try:
            load_optimizer_tensors(self.optimizer, self.learner, groups["optimizer"])
            self.learner.objective.load_state_dict(groups["objective"])
            for name, tensor in adapter_state(self.policy).items():
                tensor.copy_(groups["adapter"][name])
            if self.ema:
                # first the adapters' mean: the folder holds it only merged into the weights
                for name, tensor in groups["adapter_mean"].items():
                    self.ema.weights[name].copy_(tensor)
                self._load_raw_weights(groups["raw"])
            if self.objective_ema:
                self._load_objective_mean(groups["objective_mean"])
            self.mean = Mean(checkpoint.state["mean"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.folder} does not fit this policy and objective: {error}"
            ) from error
        self.step = checkpoint.step

    def restore_objective(self, checkpoint: Checkpoint) -> None:
        """Goes on with the objective's own networks of another training: critics, their slow
        copies, learned temperatures.

        Raises CheckpointError if they are of another policy or objective.
        """
        tensors = checkpoint.tensors()
        state = _group(tensors, "objective")
        # the policy that training left has the running mean of its weights, and so do its critics
        state |= _group(tensors, "objective_mean")
        try:
            self.learner.objective.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.folder}: its critics do not fit this policy and objective: {error}"
            ) from error
        if self.objective_ema is not None:
            self._load_objective_mean(state)

    @torch.no_grad()
    def _load_raw_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])

    @torch.no_grad()
    def _load_objective_mean(self, weights: dict[str, Tensor]) -> None:
        assert self.objective_ema is not None
        if not weights:
            # a checkpoint from before the critics had a mean: it begins with what was saved
            weights = dict(self.learner.objective.named_parameters())
        for name, mean in self.objective_ema.weights.items():
            mean.copy_(weights[name])

    def finish(self, folder: Path | None) -> Policy:
        """Makes the deployed policy the policy for good, and writes it into `folder`, if any.

        Raises CheckpointError if it cannot be written.
        """
        if folder:
            try:
                replace_folder(folder, self._write_policy)
            except OSError as error:
                what = DISK_FAULTS.get(error.errno or 0, error)
                raise CheckpointError(
                    f"{folder} was not written: {what}. The newest checkpoint holds the same "
                    "policy: mend that and resume, which writes it"
                ) from error
        if self.ema:
            self.ema.copy_to(self.policy)
        if self.objective_ema:
            self.objective_ema.copy_to(self.learner.objective)
        merge_adapters(self.policy)
        policy = self.learner.objective.deploy(self.policy.eval())
        policy.source = None if folder is None else str(folder)
        return policy

    def _write_policy(self, folder: Path) -> None:
        with self.deployed() as policy:
            policy.save_pretrained(folder)

    def _tensors(self) -> dict[str, Tensor]:
        """What a policy folder does not hold."""
        tensors: dict[str, Tensor] = {}

        def add(group: str, named: Mapping[str, Tensor]) -> None:
            tensors.update({f"{group}/{name}": tensor for name, tensor in named.items()})

        add("optimizer", optimizer_tensors(self.optimizer, self.learner))
        add("objective", self.learner.objective.state_dict())
        # a policy folder holds merged weights, out of which adapters cannot be restored
        adapters = adapter_state(self.policy)
        add("adapter", adapters)
        if self.ema:
            trained = {k: v for k, v in self.policy.named_parameters() if v.requires_grad}
            add("raw", trained)
            means = {k: v for k, v in self.ema.weights.items() if k in adapters}
            add("adapter_mean", means)
        if self.objective_ema:
            add("objective_mean", self.objective_ema.weights)
        return tensors


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of one group of a training state, by their own names."""
    prefix = f"{group}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _applied(ema: EMA | None, module: nn.Module) -> AbstractContextManager[None]:
    """The module with its running mean inside the context; as it is without one."""
    return nullcontext() if ema is None else ema.applied_to(module)
