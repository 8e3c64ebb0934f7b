"""A shield chooses among a policy's chunks by their risk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from risk_toys import risk_network
from small_policies import TEXTS, mlp

from vla.config import UserError
from vla.control import BatchedPolicy, EpisodeState
from vla.control.exploration import Exploration
from vla.control.settings import ControlSettings
from vla.control.shield import chosen_candidates
from vla.control.shield_config import ShieldConfig
from vla.models.rewards.base import RewardError
from vla.types import Spec

SPEC = Spec({}, ("x", "y"), ("vx", "vy"), (-1.0, -1.0), (1.0, 1.0), control_hz=10)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("risk")
    risk_network(SPEC, folder)
    return folder


@pytest.fixture(scope="module")
def policy():
    return mlp(SPEC, head={"type": "gaussian"}, language="minilm")


def episodes(count: int = 16) -> list[EpisodeState]:
    rng = np.random.default_rng(0)
    return [
        EpisodeState(
            robot_state=rng.normal(3, 2, 2).astype(np.float32), instruction=TEXTS[number % 2]
        )
        for number in range(count)
    ]


def first_actions(actor, settings: ControlSettings) -> tuple[np.ndarray, BatchedPolicy]:
    batched = BatchedPolicy(actor, settings)
    chosen = batched.act(episodes(), {}, seed=1)
    return np.stack([chunk[0] for chunk in chosen]), batched


def test_the_first_admissible_else_the_least_risky() -> None:
    risk = torch.tensor([[0.1, 0.0, 0.0], [0.9, 0.4, 0.2], [0.9, 0.8, 0.7], [0.5, 0.1, 0.1]])
    assert chosen_candidates(risk, 0.5).tolist() == [0, 1, 2, 0]
    assert chosen_candidates(risk, 0.0).tolist() == [1, 2, 2, 1]


def test_what_is_dangerous_is_not_executed(policy, network: Path) -> None:
    plain, _ = first_actions(policy, ControlSettings())
    assert (plain[:, 0] > 0.1).any()
    config = ShieldConfig(path=str(network), samples=64, sample_temperature=3.0, threshold=0.5)
    shielded, batched = first_actions(policy, ControlSettings(shield=config))
    # near the middle the network cannot be sharp
    assert (shielded[:, 0] < 0.1).all()
    assert batched.shield.decisions == 16
    changed = (shielded != plain).any(-1)
    assert batched.shield.interventions == changed.sum() > 0
    # what was admissible is as without a shield
    np.testing.assert_array_equal(shielded[~changed], plain[~changed])


def test_a_shield_that_admits_everything_changes_nothing(policy, network: Path) -> None:
    config = ShieldConfig(path=str(network), threshold=1.0)
    plain, _ = first_actions(policy, ControlSettings())
    shielded, batched = first_actions(policy, ControlSettings(shield=config))
    np.testing.assert_array_equal(shielded, plain)
    assert batched.shield.interventions == 0


def test_binary_dimensions_are_judged_as_they_are_executed(tmp_path: Path) -> None:
    spec = replace(SPEC, binary_actions=("vx",))
    risk_network(spec, tmp_path)
    policy = mlp(spec, head={"type": "gaussian"}, language="minilm")
    config = ShieldConfig(path=str(tmp_path), samples=64, sample_temperature=3.0, threshold=0.5)
    shielded, _ = first_actions(policy, ControlSettings(shield=config))
    assert (shielded[:, 0] == -1).all()


def test_the_running_episode_holds_what_was_executed(policy, network: Path) -> None:
    batched = BatchedPolicy(policy, ControlSettings(shield=ShieldConfig(path=str(network))))
    (episode,) = episodes(1)
    (chunk,) = batched.act([episode], {}, seed=0)
    np.testing.assert_array_equal(episode.running.steps[-1].action, chunk[0])
    batched.tell_executed(episode, np.array([[0.25, -0.25]], np.float32))
    np.testing.assert_array_equal(episode.running.steps[-1].action, [0.25, -0.25])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": 0.1}, "ensemble executes others"),
        ({"exploration": Exploration(noise=0.1)}, "explore executes others"),
    ],
)
def test_what_is_executed_has_been_judged(policy, network: Path, changes, message: str) -> None:
    settings = ControlSettings(shield=ShieldConfig(path=str(network)), **changes)
    with pytest.raises(UserError, match=message):
        BatchedPolicy(policy, settings)


class Plain:
    """An actor that has no distribution."""

    spec, history = SPEC, 1

    def act(self, observation, memory=None):
        return torch.zeros(observation.batch_size, 1, 2), None


def test_actors_without_a_distribution_and_other_robots_are_refused(network: Path) -> None:
    settings = ControlSettings(shield=ShieldConfig(path=str(network)))
    with pytest.raises(UserError, match="no chunks to choose among"):
        BatchedPolicy(Plain(), settings)
    other = replace(SPEC, action_names=("ax", "ay"))
    with pytest.raises(RewardError, match=r"shield\.path: action_names are"):
        BatchedPolicy(mlp(other, head={"type": "gaussian"}), settings)
