"""Reward models in a loop: they learn from rounds, score them, and go on after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reward_toys as toys
import torch

from vla.config import ConfigError, validate
from vla.models.rewards.base import RewardError
from vla.models.rewards.storage import load_reward
from vla.training.reward_learning.online import OnlineRewardConfig, RewardLearner


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("online")
    return toys.write(root / "expert", 20, seed=1, kinds=("expert",))


def learner(expert: Path, kind: str = "discriminator", **changes: Any) -> RewardLearner:
    settings = {
        "model": {"type": kind, "hidden": 32},
        "policy": {"type": "mlp", "hidden": 8, "language": "minilm"},
        "demonstrations": {"path": str(expert)},
        "updates": 60,
        "lr": 3e-3,
        **changes,
    }
    config = validate(OnlineRewardConfig, settings)
    return config.build(toys.SPEC, seed=0, device="cpu")


@pytest.mark.parametrize("kind", ["discriminator", "classifier"])
def test_what_the_expert_does_is_worth_more_after_a_round(expert: Path, kind: str) -> None:
    scorer = learner(expert, kind)
    lost = toys.episodes(30, seed=2, kinds=("lost",))
    _, metrics = scorer.round(lost, 0)
    assert np.isfinite(metrics["loss"])
    scored, _ = scorer.round(lost + toys.episodes(10, seed=3, kinds=("expert",)), 1)
    worth = [float(episode.rewards.mean()) for episode in scored]
    assert np.mean(worth[30:]) > np.mean(worth[:30]) + 0.05
    if kind == "discriminator":
        assert max(float(episode.rewards.max()) for episode in scored) <= 0
        # it judges no success: the env's own stays
        assert scored[0].success is lost[0].success


def test_the_same_round_after_a_restart(expert: Path) -> None:
    rounds = [toys.episodes(12, seed=seed) for seed in (4, 5)]
    whole, first, second = (learner(expert, updates=5) for _ in range(3))
    for number, episodes in enumerate(rounds):
        scored, _ = whole.round(episodes, number)
    first.round(rounds[0], 0)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    resumed, _ = second.round(rounds[1], 1)
    for a, b in zip(scored, resumed, strict=True):
        np.testing.assert_array_equal(a.rewards, b.rewards)
    with pytest.raises(RewardError, match="of another reward model"):
        learner(expert, "classifier", model={"type": "classifier", "hidden": 4}).restore(
            first.tensors()
        )


def test_a_trained_model_scores_without_learning(expert: Path, tmp_path: Path) -> None:
    made = learner(expert, "classifier", updates=1)
    made.save(tmp_path / "reward")
    fixed = learner(
        expert, path=str(tmp_path), model=None, policy=None, demonstrations=None, updates=0
    )
    episodes = toys.episodes(6)
    before = {name: tensor.clone() for name, tensor in fixed.tensors().items()}
    scored, metrics = fixed.round(episodes, 0)
    assert {"reward"} <= set(metrics)
    assert "loss" not in metrics
    for name, tensor in fixed.tensors().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert len(scored) == 6
    assert type(load_reward(tmp_path)) is type(fixed.model)
    np.testing.assert_array_equal(scored[0].state, episodes[0].state)


def test_precision_is_against_the_success_that_episodes_came_with(expert: Path) -> None:
    scorer = learner(expert, "classifier", updates=1)
    scorer.model.threshold.fill_(0.0)  # calls everything solved
    _, metrics = scorer.round(toys.episodes(12, kinds=("expert", "lost")), 0)
    assert metrics["precision"] == 0.5
    assert metrics["recall"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "x"}, "name a reward model, or describe a new one"),
        ({"model": None}, "name a reward model, or describe a new one"),
        ({"updates": 0}, "a new model has to learn"),
        ({"demonstrations": None}, r"demonstrations\.path=FOLDER, or updates=0"),
        ({"model": {"type": "progress"}}, "progress does not learn from rounds"),
        ({"policy": None}, "policy: is required"),
    ],
)
def test_configs_that_contradict_themselves(
    expert: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        learner(expert, **changes)
