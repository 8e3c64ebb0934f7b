"""What another episode's picture costs a policy that looks, and one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import training_toy

from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.training.offline_evaluation.picture_share import picture_share

FRAMES = 3


@pytest.fixture
def policy() -> training_toy.Toy:
    torch.manual_seed(0)
    config = training_toy.ToyConfig(history=2, chunk=2, dropout=0.5)
    return config.build(training_toy.SPEC)


@pytest.fixture
def windows(data: Path) -> Windows:
    return Windows(EpisodeDataset(data), history=2, chunk=2)


def test_who_does_not_look_loses_nothing(policy, windows):
    with torch.no_grad():
        policy.embed.weight[:, :-2] = 0  # all that reads the picture
    found = picture_share(policy.eval(), windows, frames=FRAMES)
    assert (found.share, found.error_share, found.interval) == (0, 0, (0, 0))
    assert (found.episodes, found.windows) == (8, 24)
    assert found.loss > 0


def test_the_difference_is_that_of_the_swapped_pictures(policy, windows):
    """Worked out episode by episode, with the partner that the seed gives."""
    found = picture_share(policy.train(), windows, frames=FRAMES, batch_size=5, seed=3)
    assert policy.training
    policy.eval()
    order = np.random.default_rng(3).permutation(8)
    losses = {"true": [], "swapped": []}
    for place, episode in enumerate(order):
        partner = order[(place + 1) % 8]
        for frame in range(FRAMES):
            batch = windows.batch(np.array([12 * episode + frame]))
            other = windows.batch(np.array([12 * partner + frame]))
            for name, images in (("true", batch.images), ("swapped", other.images)):
                seen = type(batch)(**{**vars(batch), "images": images})
                with torch.no_grad():
                    loss = policy(seen).actions.loss(batch.actions, batch.action_mask)
                losses[name].append(loss[0, -1].item())
    assert found.loss == pytest.approx(np.mean(losses["true"]), abs=1e-6)
    assert found.swapped_loss == pytest.approx(np.mean(losses["swapped"]), abs=1e-6)
    assert found.share == pytest.approx(found.swapped_loss - found.loss)
    assert found.interval[0] <= found.share <= found.interval[1]


def test_who_has_to_look_loses_much(policy, windows):
    """The state is hidden and the square in the picture is all that says where the hand is."""
    windows.states[:] = 0
    optimizer = torch.optim.Adam(policy.eval().parameters(), lr=1e-2)
    everything = windows.batch(np.arange(len(windows)))
    for _ in range(300):
        output = policy(everything).actions.loss(everything.actions, everything.action_mask)
        optimizer.zero_grad()
        output[everything.mask].mean().backward()
        optimizer.step()
    found = picture_share(policy, windows, frames=FRAMES)
    assert found.share > 3 * found.loss
    assert found.error_share > found.error
    assert found.interval[0] > 0


def test_too_few_episodes_are_named(policy, data):
    windows = Windows(EpisodeDataset(data), history=2, chunk=2, episodes=[0])
    with pytest.raises(ConfigError, match="two episodes of at least 3 frames, there are 1"):
        picture_share(policy, windows)
