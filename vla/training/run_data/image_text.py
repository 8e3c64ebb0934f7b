"""Image-text pairs beside robot data (co-fine-tuning: Brohan et al. 2023, RT-2, section 3.2).

Every optimiser step also answers some questions about pictures. Which, is a pure function of (seed, step, process), as
it is for windows.
"""

from __future__ import annotations

from collections.abc import Iterator

from vla.config import ConfigError
from vla.data import WindowSampler, prefetch
from vla.data.loading.image_text import ImageTextBatch, ImageTextPairs
from vla.models.policy import Policy
from vla.training.config import CoTrainingConfig, TrainConfig
from vla.training.run_data.batches import seed_of

_SALT = 0x7E87  # the pairs' order has nothing to do with that of the windows


def open_pairs(config: TrainConfig, policy: Policy, world_size: int) -> ImageTextPairs | None:
    """The image-text pairs of the run; None where there are none.

    Raises:
        ConfigError: the policy cannot answer in text, or the pairs of a step do not divide among the processes.
        DataError: the pairs cannot be read.
    """
    wanted = config.co_training
    if wanted is None:
        return None
    if not hasattr(policy, "image_text_loss"):
        raise ConfigError(
            [
                f"co_training: policy {policy.config.model_dump()['type']!r} has no words; use a vlm policy"
            ]
        )
    parts = world_size * config.grad_accumulation
    if wanted.batch_size % parts:
        raise ConfigError(
            [
                f"co_training.batch_size: {wanted.batch_size} does not divide among {world_size} processes x "
                f"{config.grad_accumulation} micro-batches; use a multiple of {parts}"
            ]
        )
    return ImageTextPairs(wanted.path)


def pair_batches(
    config: TrainConfig, pairs: ImageTextPairs | None, steps: range, *, rank: int, world_size: int
) -> Iterator[list[ImageTextBatch] | None]:
    """Yields each step's micro-batches of pairs, read in a thread while the steps before are computed."""
    if pairs is None or config.co_training is None:
        return (None for _ in steps)
    size, parts = config.co_training.batch_size, config.grad_accumulation
    sampler = WindowSampler(
        len(pairs),
        batch_size=size,
        seed=seed_of(config.seed, _SALT),
        rank=rank,
        world_size=world_size,
    )
    return prefetch(pairs.batch(sampler.indices(step - 1)).split(parts) for step in steps)


__all__ = ["CoTrainingConfig", "open_pairs", "pair_batches"]
