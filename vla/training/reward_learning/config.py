"""What `vla reward` does: which model learns from which episodes, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vla.config import Choice, PathText, RootConfig
from vla.config.numbers import MOST_WEIGHT, BatchSize, Count, Seed
from vla.data.dataset_config import DatasetConfig
from vla.training.config import OptimConfig


class RewardDataConfig(DatasetConfig):
    """Which episodes a reward model learns from."""

    cache: Literal["ram", "disk", "shared"] = "ram"
    """Where decoded frames live (as `data.cache` of a training)."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the episodes of each task held out, on which the model is measured; 0 measures
    nothing."""


class RewardTrainConfig(RootConfig):
    """One training of a reward model."""

    out: PathText
    """Run directory: config, metrics, checkpoints and the model, in `reward/`."""
    seed: Seed = 0
    """Decides initial weights, which examples are drawn, and held-out episodes."""
    data: RewardDataConfig
    """Episodes, with what the model needs to know of them."""
    demonstrations: DatasetConfig | None = None
    """An expert's episodes of the same robot, for a discriminator or maxent."""
    model: Annotated[Any, Choice("rewards")]
    """The reward model."""
    policy: Annotated[Any, Choice("policies")] | None = None
    """The network whose trunk the model reads. May be left out where `init_from` names one."""
    init_from: PathText | None = None
    """Folder of a trained policy whose trunk it begins with."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    steps: Count = 1000
    """Optimiser steps of the whole run; of models that learn by none it means nothing."""
    max_minutes: PositiveFloat | None = None
    """Stop and save after this time of one call, even before `steps`."""
    batch_size: BatchSize = 64
    """Windows per optimiser step; for preferences a pair is as many windows as both its segments
    have steps."""
    imitation: Annotated[float, Field(ge=0, le=MOST_WEIGHT)] = 0.0
    """Weight of imitating solved episodes with the same trunk, as many windows again as
    `batch_size`. Whether something is done says little of what the words mean: from pictures a
    trunk learns that sooner where it also has to act."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.99
    """Decay of the running mean of the weights, which becomes the model; null is off."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Of the trunk's forward pass, as of a training."""
    false_alarms: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The threshold of success is 0.5, or higher if more than this share of the held-out episodes
    that did not do what was asked would be called solved. Half of them choose it, the other half
    is what is reported. Of a risk network: the share of safe steps above its threshold."""
    log_every: PositiveInt = 50
    """Steps between metrics lines; each holds means over these steps."""
    validate_every: PositiveInt | None = 500
    """Steps between losses on held-out examples; null never."""
    save_every: PositiveInt | None = 500
    """Steps between checkpoints; null saves at the end only."""
    keep_last: PositiveInt = 1
    """Newest checkpoints that are kept, beside the one of least validation loss."""

    @model_validator(mode="after")
    def _consistent(self) -> RewardTrainConfig:
        kind = self.model.type
        if self.model.needs_policy and self.policy is None and self.init_from is None:
            raise ValueError(
                f"policy: is required: model {kind} reads a trunk (or name a trained policy with "
                "init_from)"
            )
        if not self.model.needs_policy and (self.policy or self.init_from):
            raise ValueError(f"policy: model {kind} reads no policy; leave out policy, init_from")
        if self.imitation and not (self.model.needs_policy and self.model.learns_by_steps):
            raise ValueError(f"imitation: model {kind} trains no trunk; leave it out")
        if self.imitation and self.model.freeze_trunk:
            raise ValueError(
                "imitation: teaches the trunk, which model.freeze_trunk keeps as it is; set one"
            )
        if self.model.needs_demonstrations and self.demonstrations is None:
            raise ValueError(
                f"demonstrations: is required: model {kind} learns from an expert's episodes; "
                "write demonstrations.path=FOLDER"
            )
        if not self.model.needs_demonstrations and self.demonstrations is not None:
            raise ValueError(f"demonstrations: model {kind} learns from data alone; leave it out")
        return self


__all__ = ["RewardDataConfig", "RewardTrainConfig"]
