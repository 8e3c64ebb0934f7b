"""Rounds by objectives that learn from all that was played, with recordings and critics beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import point_env  # noqa: F401 - registers its env
import pytest
import torch

from vla.config import ConfigError, validate
from vla.models import load_policy
from vla.recipes.online import OnlineConfig, online
from vla.recipes.online import loop as loop_module
from vla.training.checkpoint import newest_checkpoint

BINS = {"type": "bins", "num_bins": 5}
NET = {"type": "mlp", "hidden": 16, "language": None}
GAUSSIAN = {**NET, "head": {"type": "gaussian", "squash": "full", "deviation": "state"}}
CRITIC = {"hidden": 16, "ensemble": 2}
IQL = {"type": "iql", "critic": CRITIC}  # has a V that sac lacks
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sac": ({"type": "sac", "critic": CRITIC}, GAUSSIAN),
    "rlpd": ({"type": "rlpd", "critic": CRITIC}, GAUSSIAN),
    "td3": ({"type": "td3", "critic": CRITIC}, {**NET, "head": {"type": "squashed"}}),
    "mpo": (
        {"type": "mpo", "critic": CRITIC, "samples": 4},
        {**NET, "head": {"type": "categorical"}, "tokenizer": BINS},
    ),
    "cal_ql": ({"type": "cal_ql", "critic": CRITIC, "sampled": 2}, GAUSSIAN),
    "dqn": (
        {"type": "dqn"},
        {**NET, "head": {"type": "q_values", "hidden": 8, "depth": 1}, "tokenizer": BINS},
    ),
}


def config_of(out: Path, name: str, **changes: Any) -> OnlineConfig:
    objective, policy = OBJECTIVES[name]
    values: dict[str, Any] = {
        "out": str(out),
        "env": {"type": "test_point", "image_size": 16, "horizon": 40},
        "policy": policy,
        "objective": objective,
        "rounds": 3,
        "episodes_per_round": 6,
        "updates_per_step": 0.03,
        "batch_size": 16,
        "rewards": {"kind": "success"},
        # at random, since these networks learn next to nothing
        "act": {
            "batch_size": 6,
            "explore": {"random_rounds": 2, "epsilon": 0.9, "persistence": 0.8},
        },
        "evaluate": None,
    }
    return validate(OnlineConfig, values | changes)


def rounds_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


@pytest.mark.parametrize("name", ["rlpd", "td3", "dqn"])  # one of each kind: seconds each
def test_a_run_resumes_to_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online(config_of(tmp_path / "whole", name))
    real, calls = loop_module._Run._learn, 0

    def stopping(run: Any, number: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(run, number)

    with monkeypatch.context() as patched:
        patched.setattr(loop_module._Run, "_learn", stopping)
        with pytest.raises(KeyboardInterrupt):
            online(config_of(tmp_path / "cut", name))
    online(config_of(tmp_path / "cut", name), resume=True)
    assert rounds_of(tmp_path / "cut") == rounds_of(tmp_path / "whole")
    whole, cut = (load_policy(tmp_path / run / "policy").state_dict() for run in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[key]) for key, tensor in whole.items())
    learned = [line for line in rounds_of(tmp_path / "whole") if line["updates"]]
    assert learned
    played = [line["played/steps"] for line in learned]
    assert [line["updates"] for line in learned] == [max(1, round(0.03 * n)) for n in played]


def test_rounds_before_the_first_success_are_played_without_updates(tmp_path: Path) -> None:
    # two steps are too few to arrive anywhere
    config = config_of(tmp_path, "dqn", env={"type": "test_point", "image_size": 16, "horizon": 2})
    result = online(config)
    assert {line["updates"] for line in rounds_of(tmp_path)} == {0.0}
    assert result.rounds == len(rounds_of(tmp_path)) == config.rounds


def test_critics_go_on_beside_recordings(tmp_path: Path) -> None:
    first = tmp_path / "first"
    # many updates here and few below: critics that go on are nearer to these than new ones
    online(config_of(first, "cal_ql", updates_per_step=0.1))
    recordings = {"path": str(first / "episodes"), "share": 0.5}
    go_on: dict[str, Any] = {"policy": None, "init_from": str(first / "policy"), "rounds": 1}
    found = {}
    for name, critics in (("kept", str(first)), ("new", None)):
        config = config_of(
            tmp_path / name, "cal_ql", critics_from=critics, prior_data=recordings, **go_on
        )
        online(config)
        found[name] = _critics(tmp_path / name)
    before = _critics(first)

    def moved(name: str) -> float:
        return sum(float((found[name][key] - before[key]).abs().mean()) for key in before)

    assert moved("kept") < 0.5 * moved("new")


def test_critics_of_nowhere_or_of_another_objective_are_refused(tmp_path: Path) -> None:
    first = tmp_path / "first"
    online(config_of(first, "sac", rounds=2))
    go_on: dict[str, Any] = {"policy": None, "init_from": str(first / "policy")}
    with pytest.raises(ConfigError, match="no run with checkpoints"):
        online(config_of(tmp_path / "a", "sac", critics_from=str(tmp_path / "none"), **go_on))
    with pytest.raises(Exception, match="do not fit this policy and objective"):
        online(config_of(tmp_path / "b", "sac", objective=IQL, critics_from=str(first), **go_on))
    with pytest.raises(ConfigError, match="set init_from"):
        config_of(tmp_path / "c", "sac", critics_from=str(first))


def test_policy_gradients_refuse_exploration_and_paces_are_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective\.temperature"):
        config_of(tmp_path, "sac", objective={"type": "ppo"}, policy=OBJECTIVES["mpo"][1])
    with pytest.raises(ConfigError, match="give one of them"):
        config_of(tmp_path, "sac", updates=3)
    with pytest.raises(ConfigError, match="go together"):
        config_of(tmp_path, "sac", act={"explore": {"epsilon_end": 0.1}})


def test_a_run_ends_with_its_env_steps(tmp_path: Path) -> None:
    result = online(config_of(tmp_path, "td3", rounds=50, max_env_steps=500))
    steps = [line["env_steps"] for line in rounds_of(tmp_path)]
    assert steps[-1] >= 500 > steps[-2]
    assert result.rounds == len(steps) < 50


def _critics(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    prefix = "objective/value.action_critic.net.first"
    return {k: v for k, v in checkpoint.tensors().items() if k.startswith(prefix)}
