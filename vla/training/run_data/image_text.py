"""Image-text pairs beside robot data (co-fine-tuning: Brohan et al. 2023, RT-2, section 3.2).

Every optimiser step also answers some questions about pictures. Which, is a pure function of (seed,
step, process), as it is for windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from vla.config import ConfigError
from vla.data import WindowSampler, prefetch
from vla.data.loading.image_text import ImageTextBatch, ImageTextPairs
from vla.models.policy import Policy
from vla.training.config import CoTrainingConfig
from vla.training.run_data.drawing import BatchPlan
from vla.training.seeding import seed_of

_SALT = 0x7E87  # the pairs' order has nothing to do with that of the windows


@runtime_checkable
class AnswersInText(Protocol):
    """What a policy provides that can learn from image-text pairs."""

    def image_text_loss(
        self,
        images: Sequence[Sequence[np.ndarray]],
        prompts: Sequence[str],
        answers: Sequence[str],
    ) -> Tensor:
        """The loss (N,) of N answers, given the images and the text of each question."""


def open_pairs(
    co_training: CoTrainingConfig | None,
    policy: Policy,
    plan: BatchPlan,
) -> ImageTextPairs | None:
    """The image-text pairs of the run; None if there are none.

    Raises:
        ConfigError: the policy cannot answer in text, or the pairs of a step do not divide among
            the processes.
        DataError: the pairs cannot be read.
    """
    if co_training is None:
        return None
    if not isinstance(policy, AnswersInText):
        kind = policy.config.model_dump()["type"]
        raise ConfigError([f"co_training: policy {kind!r} has no words; use a vlm policy"])
    parts = plan.world_size * plan.micro_batches
    if co_training.batch_size % parts:
        # uneven parts would weigh the pairs of one process more than those of another
        raise ConfigError(
            [
                f"co_training.batch_size: {co_training.batch_size} does not divide among "
                f"{plan.world_size} processes x {plan.micro_batches} micro-batches; use a multiple "
                f"of {parts}"
            ]
        )
    return ImageTextPairs(co_training.path)


def pair_batches(
    pairs: ImageTextPairs | None,
    steps: range,
    plan: BatchPlan,
    *,
    batch_size: int,
) -> Iterator[list[ImageTextBatch] | None]:
    """Yields each step's micro-batches of pairs, read in a thread ahead of it.

    Args:
        pairs: None yields None for every step.
        steps: which steps; they count from 1.
        plan: how the run's batches are divided.
        batch_size: pairs of a step, over all processes and micro-batches.
    """
    if pairs is None:
        return (None for _ in steps)
    sampler = WindowSampler(
        len(pairs),
        batch_size=batch_size,
        seed=seed_of(plan.seed, _SALT),
        rank=plan.rank,
        world_size=plan.world_size,
    )
    parts = plan.micro_batches
    return prefetch(pairs.batch(sampler.indices(step - 1)).split(parts) for step in steps)


__all__ = ["AnswersInText", "open_pairs", "pair_batches"]
