"""Windows with their oldest steps hidden, so that a policy learns from any length of history.

B windows, T steps.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vla.types import Batch


def shorten_history(batch: Batch, rng: np.random.Generator, *, next_step: int = 0) -> Batch:
    """The same windows with a random number of their oldest steps hidden.

    Of T steps every window keeps the last 1 .. T, drawn evenly, and the steps after them where it
    holds some; hidden steps are as padded ones.

    Args:
        next_step: how many steps after the current one the windows hold (see `Windows`).
    """
    # what follows the current step is no history: a target n steps later needs it whole
    B, steps = batch.mask.shape
    return hide_oldest(batch, draw_first_seen(rng, B, steps - next_step))


def draw_first_seen(rng: np.random.Generator, windows: int, history: int) -> np.ndarray:
    """The first step that each window keeps, int64 (B,).

    It is from 0 (all steps) to `history` - 1 (the current step alone).
    """
    return rng.integers(0, history, size=windows)


def hide_oldest(batch: Batch, first_seen_B: np.ndarray) -> Batch:
    """The windows with the steps before `first_seen_B`, int (B,), hidden as padding."""
    steps = batch.mask.shape[1]
    seen_BT = torch.arange(steps) >= torch.from_numpy(first_seen_B)[:, None]
    # images and state keep their content: what is under the mask is never read
    return dataclasses.replace(
        batch,
        mask=batch.mask & seen_BT,
        action_mask=batch.action_mask & seen_BT[..., None],
        rewards=batch.rewards * seen_BT,
        returns_to_go=batch.returns_to_go * seen_BT,
        terminals=batch.terminals & seen_BT,
        success=batch.success & seen_BT,
    )


__all__ = ["draw_first_seen", "hide_oldest", "shorten_history"]
