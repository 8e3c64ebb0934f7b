"""Whether a policy's loss asks for the picture: what another episode's picture costs.

Most frames of a demonstration can be continued from the robot's state alone. At the first frames of
an episode the hand has not set out, and only picture and instruction tell where to. A policy whose
loss there is the same with any picture has not learned to look, however low its loss is.

E episodes, F first frames of each, N = E * F windows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from vla.config import ConfigError
from vla.data import Windows
from vla.models.policy import Policy
from vla.training.losses import action_l1
from vla.training.offline_evaluation.calibration import bootstrap_interval
from vla.types import Batch


@dataclass(frozen=True)
class PictureShare:
    """Means over the first frames of episodes.

    Attributes:
        episodes, windows: how many were looked at.
        loss: of the actions, with the true pictures, in the head's own unit (nats for tokens).
        swapped_loss: with the pictures of another episode at the same step; state, instruction and
            actions stay.
        interval: of `share`, 95 %, over episodes (bootstrap).
        error: mean L1 of the most likely actions with the true pictures, robot units: heads of any
            kind compare by it.
        swapped_error: the same with the other pictures.
    """

    episodes: int
    windows: int
    loss: float
    swapped_loss: float
    interval: tuple[float, float]
    error: float
    swapped_error: float

    @property
    def share(self) -> float:
        """The picture's share of the loss: `swapped_loss - loss`; near 0 if it is not looked at."""
        return self.swapped_loss - self.loss

    @property
    def error_share(self) -> float:
        """`swapped_error - error`."""
        return self.swapped_error - self.error


@torch.no_grad()
def picture_share(
    policy: Policy,
    windows: Windows,
    *,
    frames: int = 3,
    episodes: int = 200,
    batch_size: int = 64,
    seed: int = 0,
) -> PictureShare:
    """Compares the loss of episodes' first frames with that under another episode's pictures.

    Args:
        policy: evaluated in evaluation mode; its mode is restored.
        windows: of `policy.history` and `policy.chunk`; held-out episodes, or memory of the data
            counts as looking.
        frames: F, first frames of an episode that count.
        episodes: at most so many are looked at, drawn by `seed`.
        batch_size: windows in one pass.
        seed: also pairs the episodes, and draws the noise of heads whose loss has some.

    Raises:
        ConfigError: the policy looks through no camera, or there are not two episodes of at least
            `frames` frames.
    """
    own_EF, other_EF = _paired_rows(windows, frames, episodes, seed)
    own_N = own_EF.flatten()
    other_N = other_EF.flatten()
    was_training = policy.training
    policy.eval()
    found = []
    try:
        for start in range(0, len(own_N), batch_size):
            rows = slice(start, start + batch_size)
            batch = windows.batch(own_N[rows])
            pictures = windows.batch(other_N[rows]).images
            if not pictures:
                raise ConfigError(["picture_share: these windows have no pictures; name cameras"])
            swapped = dataclasses.replace(batch, images=pictures)
            columns = []
            for seen in (batch, swapped):
                columns += _scores(policy, seen.to(policy.device), seed)
            found.append(torch.stack(columns, -1).cpu().double())
    finally:
        if was_training:
            # not always: `train` also forgets where the policy was loaded from
            policy.train()
    scores_EF4 = torch.cat(found).numpy().reshape(*own_EF.shape, 4)
    loss, error, swapped_loss, swapped_error = scores_EF4.mean((0, 1)).tolist()
    # an episode's frames resemble each other, so episodes are what is drawn again
    share_E = (scores_EF4[..., 2] - scores_EF4[..., 0]).mean(1)
    return PictureShare(
        episodes=len(own_EF),
        windows=own_EF.size,
        loss=loss,
        swapped_loss=swapped_loss,
        interval=bootstrap_interval(share_E),
        error=error,
        swapped_error=swapped_error,
    )


def _paired_rows(
    windows: Windows,
    frames: int,
    episodes: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of the first frames, and those whose pictures they get instead, both (E, F)."""
    long_enough = np.flatnonzero(windows.lengths >= frames)
    if len(long_enough) < 2:
        raise ConfigError(
            [
                f"picture_share: needs two episodes of at least {frames} frames, there are "
                f"{len(long_enough)}; give more episodes, or frames=1"
            ]
        )
    chosen_E = np.random.default_rng(seed).permutation(long_enough)[:episodes]
    first_frame = np.cumsum(windows.lengths) - windows.lengths
    own_EF = first_frame[chosen_E][:, None] + np.arange(frames)
    # each gets those of the next one: at the same step, so that the hand is where it is expected
    return own_EF, np.roll(own_EF, -1, axis=0)


def _scores(policy: Policy, batch: Batch, seed: int) -> list[torch.Tensor]:
    """Loss and L1 error of the present step of each window, (B,) each."""
    # the same noise with both pictures: only they may differ
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        distribution = policy(batch).actions
        loss_BT = distribution.loss(batch.actions, batch.action_mask)
        error_BTA = action_l1(distribution.mode(), batch.actions, batch.action_mask)
    return [loss_BT[:, -1].float(), error_BTA[:, -1].mean(-1).float()]


__all__ = ["PictureShare", "picture_share"]
