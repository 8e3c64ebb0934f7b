"""The expert takes over where a risk network calls the policy's action dangerous."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from point_env import PointConfig
from risk_toys import risk_network
from small_policies import rt1

from vla.config import ConfigError, validate
from vla.models.policies.mlp import MLPConfig
from vla.models.rewards.base import RewardError
from vla.models.rewards.classifier import ClassifierConfig
from vla.models.rewards.risk import RiskConfig
from vla.models.rewards.storage import save_reward
from vla.sim_eval.gates.base import Proposal
from vla.sim_eval.gates.risk import RiskGateConfig
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.rollouts.takeover import TakeoverConfig
from vla.types import Observation

CONFIG = PointConfig(image_size=48, horizon=12)
SPEC = CONFIG.spec()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("risk")
    risk_network(SPEC, folder)
    return folder


class Steady:
    """Goes to one side in chunks of three, whatever it sees."""

    spec, history = SPEC, 1

    def __init__(self, speed: float) -> None:
        self.speed = speed

    def act(self, observation: Observation, memory: object = None) -> tuple[torch.Tensor, None]:
        return torch.full((observation.batch_size, 3, 2), self.speed), None


def play(actor: Steady, gate: RiskGateConfig, *, workers: int = 0) -> tuple[list, np.ndarray]:
    jobs = []
    for task in CONFIG.suite().tasks:
        for number in range(2):
            seed = episode_seed("collect", 0, task.name, number)
            takeover = TakeoverConfig(gate=gate)
            jobs.append(
                Job(task.name, "", number, seed, task.horizon, record=True, takeover=takeover)
            )
    stats = RolloutStats(episodes={}, actions={})
    records = rollout(CONFIG, jobs, actor, stats=stats, replan_every=3, workers=workers)
    acted = [episode.extras["intervention"] for episode in stats.episodes.values()]
    return records, np.concatenate(acted)


def test_dangerous_actions_are_the_experts(network: Path) -> None:
    gate = validate(TakeoverConfig, {"gate": {"type": "risk", "path": str(network)}}).gate
    records, acted = play(Steady(0.9), gate)
    assert acted.all()
    assert all(record.success_ever for record in records)
    _, acted = play(Steady(-0.9), gate)
    assert not acted.any()
    # never above 1
    _, acted = play(Steady(0.9), gate.model_copy(update={"threshold": 1.0}))
    assert not acted.any()


@pytest.mark.slow
def test_workers_decide_the_same(network: Path) -> None:
    gate = RiskGateConfig(path=str(network), threshold=0.5)
    alone = play(Steady(0.9), gate)
    spread = play(Steady(0.9), gate, workers=2)
    assert alone[0] == spread[0]
    np.testing.assert_array_equal(alone[1], spread[1])


def test_a_network_that_sees_gets_the_picture_of_every_step(tmp_path: Path) -> None:
    policy = rt1(SPEC, cameras=["top"], history=2, language="minilm")
    # known sentences: no text encoder is loaded for the rollouts below
    texts = [task.instruction for task in CONFIG.suite().tasks]
    policy.language.preload({text: torch.randn(policy.language.dim) / 20 for text in texts})
    model = RiskConfig(hidden=8).build(SPEC, policy).eval()
    save_reward(model, tmp_path)
    gate = RiskGateConfig(path=str(tmp_path), threshold=0.0).build(SPEC)
    action = np.zeros(2, np.float32)
    risks = []
    for shade in (0, 255):
        picture = np.full((48, 48, 3), shade, np.uint8)
        seen = {"images": {"top": picture}, "state": np.zeros(2, np.float32)}
        assert gate.opens(Proposal(seen, action, action, None, "push the cube"))
        gate.executed(action)
        picture[:] = 128  # the simulator draws into the same memory
        risks.append(gate.risk)
    assert risks[0] != risks[1]
    (first, second) = gate._episode.steps
    assert first.images["top"].max() == 0
    assert second.images["top"].min() == 255
    # within a chunk pictures are drawn for it
    play(Steady(0.9), RiskGateConfig(path=str(tmp_path), threshold=1.0))


def test_what_is_no_risk_network_of_this_robot_is_refused(network: Path, tmp_path: Path) -> None:
    policy = MLPConfig(hidden=8, language=None).build(SPEC)
    save_reward(ClassifierConfig(hidden=8).build(policy.spec, policy), tmp_path)
    with pytest.raises(RewardError, match=r"gate\.path: .* holds a Classifier, not a risk"):
        RiskGateConfig(path=str(tmp_path)).build(SPEC)
    other = PointConfig(image_size=48).spec()
    object.__setattr__(other, "action_names", ("ax", "ay"))
    with pytest.raises(RewardError, match=r"gate\.path: action_names are"):
        RiskGateConfig(path=str(network)).build(other)
    with pytest.raises(ConfigError, match="path"):
        validate(RiskGateConfig, {"type": "risk"})
