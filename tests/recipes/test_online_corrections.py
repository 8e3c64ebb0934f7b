"""Gated corrections in rounds: who acted, what is learned of it, and when episodes end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import point_env  # noqa: F401 - registers its env
import pytest

from vla.config import UserError, validate
from vla.data import EpisodeDataset
from vla.recipes.online import OnlineConfig, online

POINT: dict[str, Any] = {
    "env": {"type": "test_point", "image_size": 16, "horizon": 12},
    "policy": {
        "type": "mlp",
        "hidden": 32,
        "language": None,
        "chunk": 2,
        "head": {"type": "categorical"},
        "tokenizer": {"type": "bins", "num_bins": 9},
    },
    "objective": {"type": "bc"},
    "optim": {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant"},
    "rounds": 2,
    "episodes_per_round": 8,
    "updates": 150,
    "batch_size": 32,
    "evaluate": None,
}


def run(out: Path, **changes: Any) -> list[Any]:
    """The episodes of a run."""
    online(validate(OnlineConfig, {**POINT, "out": str(out), **changes}))
    dataset = EpisodeDataset(out / "episodes")
    return [dataset.episode(i) for i in range(len(dataset))]


def test_a_policy_that_is_unsure_is_corrected_less_once_it_has_learned(tmp_path: Path) -> None:
    label = {"gate": {"type": "uncertain", "threshold": 0.6}, "learn": "corrections"}
    episodes = run(tmp_path / "run", label=label, act={"replan_every": 2})
    shares = {1: [], 2: []}
    for episode in episodes:
        intervention = episode.extras["intervention"]
        expert = episode.extras["expert_action"]
        np.testing.assert_array_equal(episode.actions[intervention], expert[intervention])
        assert (episode.extras["decision"][intervention] == 0).all()
        shares[episode.info["round"]].append(intervention.mean())
    # an untrained policy is unsure everywhere
    assert np.mean(shares[1]) == 1.0
    assert np.mean(shares[2]) < 0.9


def test_rounds_end_episodes_where_nothing_moves(tmp_path: Path) -> None:
    act = {"stop_if_stuck": {"steps": 4, "tolerance": 9.0}}
    for episode in run(tmp_path / "run", label={}, act=act, rounds=1):
        assert len(episode) == 4
        assert not episode.terminated


def test_a_person_is_asked_for_a_terminal_and_one_episode_at_a_time(tmp_path: Path) -> None:
    label = {"gate": {"type": "keyboard"}}
    with pytest.raises(UserError, match=r"act\.workers, act\.batch_size"):
        run(tmp_path / "a", label=label)
    with pytest.raises(UserError, match="needs a terminal"):
        run(tmp_path / "b", label=label, act={"workers": 0, "batch_size": 1})
