"""Every algorithm trains, and its actor becomes a policy that acts the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from vla.config import load_config
from vla.models import load_policy
from vla.recipes.experts.algorithms import ALGORITHMS, architecture
from vla.recipes.experts.config import AlgorithmName, ExpertConfig
from vla.recipes.experts.equality import TOLERANCE
from vla.recipes.experts.run import train_expert
from vla.types import Observation

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

ENV: dict[str, Any] = {"type": "locomotion", "robot": "inverted-pendulum", "horizon": 60}
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    "trpo": {"n_steps": 64, "batch_size": 32},
    "a2c": {},
    "ars": {"n_delta": 2},
}
"""Options with which the algorithm learns within a hundred steps."""


def config_of(out: Path, algorithm: str = "sac", **values: Any) -> ExpertConfig:
    options = SMALL.get(algorithm, {"learning_starts": 20, "batch_size": 32})
    base = {
        "env": ENV,
        "algorithm": algorithm,
        "out": str(out),
        "steps": 100,
        "hidden": 16,
        "critic_hidden": 16,
        "eval_episodes": 1,
        "options": options,
    }
    return load_config(ExpertConfig, base | values)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_policy(folder).state_dict()


@pytest.mark.parametrize("algorithm", get_args(AlgorithmName))
def test_the_snapshots_act_as_the_actor(algorithm: AlgorithmName, tmp_path: Path) -> None:
    config = config_of(tmp_path, algorithm)
    expert = train_expert(config, progress=False)
    assert [
        (row.name, row.step >= at) for row, at in zip(expert.snapshots, (0, 50, 100), strict=True)
    ] == [
        ("random", True),
        ("medium", True),
        ("expert", True),
    ]
    assert expert.snapshots[0].step == 0
    assert all(row.difference <= TOLERANCE for row in expert.snapshots)
    # it has learned something in between, and the folder holds it
    first, last = weights(expert.policy("random")), weights(expert.policy("expert"))
    assert any(not torch.equal(first[name], last[name]) for name in first)
    result = json.loads((tmp_path / "expert.json").read_text())
    assert result["finished"] is True
    assert [row["step"] for row in result["snapshots"]] == [row.step for row in expert.snapshots]


def test_every_algorithm_of_the_config_is_known() -> None:
    assert set(get_args(AlgorithmName)) == set(ALGORITHMS)


def test_the_card_tells_how_it_was_trained(tmp_path: Path) -> None:
    expert = train_expert(config_of(tmp_path, "a2c"), progress=False)
    policy = load_policy(expert.policy("expert"))
    training = policy.card["training"]
    assert training["algorithm"].startswith("A2C of stable-baselines3 ")
    assert training["env steps"] == 100
    measured = expert.snapshots[-1].measured
    assert policy.card["results"]["return"] == f"{measured.mean:.1f} +- {measured.deviation:.1f}"
    readme = (expert.policy("expert") / "README.md").read_text()
    assert "| env steps | 100 |" in readme


def test_saving_does_not_change_the_training(tmp_path: Path) -> None:
    """Nor does another run with the same seed; one with another seed is another."""
    shares = [{"expert": 1.0}, {"random": 0.0, "third": 0.33, "half": 0.5, "expert": 1.0}]
    found = []
    for number, snapshots in enumerate(shares):
        config = config_of(tmp_path / str(number), snapshots=snapshots)
        found.append(weights(train_expert(config, progress=False).policy("expert")))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    other = train_expert(config_of(tmp_path / "other", seed=1), progress=False)
    changed = weights(other.policy("expert"))
    assert any(not torch.equal(found[0][name], changed[name]) for name in changed)


def test_linear_search_learns_to_balance(tmp_path: Path) -> None:
    """Augmented random search from zero weights, whose pole falls at once."""
    config = config_of(
        tmp_path,
        "ars",
        env=ENV | {"horizon": 200},
        steps=12_000,
        eval_episodes=5,
        options={"n_delta": 4, "delta_std": 0.2, "learning_rate": 0.1},
        snapshots={"zero": 0.0, "expert": 1.0},
    )
    expert = train_expert(config, progress=False)
    zero, last = (row.measured.mean for row in expert.snapshots)
    assert zero < 60
    assert last > 150


def test_a_folder_acts_as_its_policy_did(tmp_path: Path) -> None:
    """What was measured before it was saved is what `vla eval` meets."""
    from vla.sim_eval.evaluation import EvalConfig, evaluate

    expert = train_expert(config_of(tmp_path / "run", "ppo"), progress=False)
    values = {"env": ENV, "out": str(tmp_path / "eval"), "episodes_per_task": 1, "workers": 0}
    policy = load_policy(expert.policy("expert"))
    results = evaluate(policy, load_config(EvalConfig, values), progress=False)
    (record,) = results.episodes
    assert record.return_ == pytest.approx(expert.snapshots[-1].measured.mean)


def test_architectures_are_the_algorithms_own_unless_set() -> None:
    values = {"env": ENV, "out": "x"}
    own = architecture(load_config(ExpertConfig, values | {"algorithm": "crossq"}))
    assert (own.hidden, own.critic_hidden, own.depth, own.activation) == (256, 1024, 2, "relu")
    set_ = {"algorithm": "ppo", "hidden": 32, "depth": 3, "activation": "relu"}
    own = architecture(load_config(ExpertConfig, values | set_))
    assert (own.hidden, own.critic_hidden, own.depth, own.activation) == (32, 32, 3, "relu")


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_sampled_actions_spread_as_the_actors(algorithm: AlgorithmName, tmp_path: Path) -> None:
    """Deviations are fitted where they depend on the state, and exact where they do not."""
    from vla.recipes.experts import run

    config = config_of(tmp_path, algorithm, normalise_states=False)
    made: list[Any] = []
    build = run.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build_model", lambda *a: made.append(build(*a)) or made[-1])
        expert = train_expert(config, progress=False)
    policy = load_policy(expert.policy("expert"))
    states = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * 0.3
    output, _ = policy.step(Observation.from_numpy({}, states, [""] * 200), None)
    model = made[0]
    if algorithm == "sac":
        with torch.no_grad():
            _, expected, _ = model.actor.get_action_dist_params(torch.from_numpy(states))
        assert torch.allclose(output.actions.log_std[:, 0, 0], expected, atol=0.05)
    else:
        expected = model.policy.log_std.detach()
        assert torch.allclose(output.actions.log_std[0], expected, atol=1e-5)
