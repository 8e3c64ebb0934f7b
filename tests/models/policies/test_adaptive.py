"""Rapid motor adaptation: a hidden number decides, and is inferred from the last steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sign_env import SPEC, SignConfig, SignEnv

from vla.config import ConfigError, validate
from vla.control import BatchedPolicy, EpisodeState
from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
from vla.models import Policy, load_policy
from vla.models.policies.adaptive import AdaptiveConfig, AdaptivePolicy, ContextError
from vla.models.policies.mlp import MLPConfig
from vla.models.policy_contract import check_policy
from vla.sim_eval.collection.demonstrations import CollectConfig, demonstrate
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.training.objective import ObjectiveError
from vla.training.objectives.adaptation import AdaptationConfig
from vla.training.objectives.bc import BCConfig
from vla.types import Observation

SMALL = {
    "privileged": {"sign": [-1, 1]},
    "history": 4,
    "encoding": 2,
    "hidden": 32,
    "policy": {"hidden": 32, "head": {"type": "regression"}},
}


def adaptive(**changes) -> AdaptivePolicy:
    torch.manual_seed(0)
    return validate(AdaptiveConfig, {"type": "adaptive", **SMALL, **changes}).build(SPEC)


def episodes_of(actor, count: int, *, first: int = 0) -> list[Episode]:
    """Recorded rollouts, with the column `privileged`."""
    task = SignConfig().suite().tasks[0]
    jobs = [
        Job(task.name, "", e, episode_seed("collect", 0, task.name, e), task.horizon, record=True)
        for e in range(first, first + count)
    ]
    stats = RolloutStats(episodes={}, actions={})
    rollout(SignConfig(), jobs, actor, stats=stats, workers=0)
    return [stats.episodes[task.name, job.episode] for job in jobs]


def demonstrations(count: int) -> list[Episode]:
    config = CollectConfig(env=SignConfig(), out="unused", noise={"std": 0.0})
    return [demonstrate(SignEnv(), config, seed)[0] for seed in range(count)]


def learn(policy: Policy, objective, root, episodes: list[Episode], steps: int) -> None:
    with DatasetWriter(root, SPEC) as writer:
        writer.add_episodes(episodes)
    windows = Windows(
        EpisodeDataset(root), history=policy.history, chunk=1, extras=list(policy.extras)
    )
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=5e-3)
    rng = np.random.default_rng(0)
    policy.train()
    for _ in range(steps):
        batch = windows.batch(rng.integers(len(windows), size=64))
        loss, _ = objective.loss(policy, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    policy.eval()


def solved(policy: Policy, count: int = 40) -> int:
    # one step is kept after the success that ends an episode
    played = episodes_of(policy, count, first=1000)
    return sum(bool(episode.success.any()) for episode in played)


@pytest.mark.slow
def test_adaptation_solves_what_no_memoryless_policy_can(tmp_path) -> None:
    shown = demonstrations(40)
    assert shown[0].extras["privileged"].shape == (len(shown[0]), 1)
    # it knows which way the actuator is wired: the oracle
    policy = adaptive()
    learn(policy, BCConfig().build(policy), tmp_path / "base", shown, 250)
    assert solved(policy) == 40
    policy.save_pretrained(tmp_path / "stage1")

    # the same data without it: both wirings at once
    torch.manual_seed(0)
    memoryless = MLPConfig(**SMALL["policy"]).build(SPEC)
    learn(memoryless, BCConfig().build(memoryless), tmp_path / "mlp", shown, 250)
    assert solved(memoryless) < 30

    # the second stage, on its own episodes: those of round 1 too
    adapted = load_policy(tmp_path / "stage1")
    objective = AdaptationConfig().build(adapted)
    frozen = {name: tensor.clone() for name, tensor in adapted.base.state_dict().items()}
    own: list[Episode] = []
    for number in range(5):
        own += episodes_of(adapted.eval(), 15, first=100 * number)
        learn(adapted, objective, tmp_path / f"round{number}", own, 150)
    assert solved(adapted) >= 38
    for name, tensor in adapted.base.state_dict().items():
        assert torch.equal(tensor, frozen[name])
    adapted.save_pretrained(tmp_path / "stage2")
    loaded = load_policy(tmp_path / "stage2")
    assert bool(loaded.adapted)
    assert loaded.extras == ()
    assert solved(loaded, 10) == solved(adapted, 10)


def test_control_says_what_the_forward_pass_says() -> None:
    policy = adaptive(stage="adapted").eval()
    for parameter in policy.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    check_policy(policy)
    # whatever happened before the window is forgotten
    batch = SPEC.fake_batch(2, 6)
    memory = None
    for t in range(6):
        output, memory = policy.step(batch.observation(t), memory)
        memory = policy.remember(memory, batch.actions[:, t])
    window = dataclasses.replace(
        batch, **{name: getattr(batch, name)[:, 2:] for name in ("state", "actions", "mask")}
    )
    torch.testing.assert_close(
        output.actions.mode()[:, -1], policy(window).actions.mode()[:, -1], rtol=1e-4, atol=1e-5
    )
    assert memory.steps["state"].shape[1] == 3


def test_the_hidden_numbers_decide_in_the_first_stage_alone() -> None:
    policy = adaptive().eval()
    batch = SPEC.fake_batch(2, 4)
    with pytest.raises(ContextError, match="no column `privileged`"):
        policy(batch)
    with pytest.raises(ContextError, match=r"the env does not tell them.*objective=\{type: adap"):
        policy.step(batch.observation(), None)
    modes = []
    for sign in (-1.0, 1.0):
        known = dataclasses.replace(batch, extras={"privileged": torch.full((2, 4), sign)})
        modes.append(policy(known).actions.mode()[:, -1])
        output, _ = policy.step(known.observation(), None)
        torch.testing.assert_close(output.actions.mode()[:, 0], modes[-1])
    assert (modes[0] - modes[1]).abs().max() > 1e-4
    known = dataclasses.replace(batch, extras={"privileged": torch.ones(2, 4)})
    assert policy.adaptation_loss(known).shape == (2, 4)


def test_padding_and_the_present_action_leave_no_trace() -> None:
    policy = adaptive(stage="adapted").eval()
    batch = SPEC.fake_batch(2, 4)
    mask = batch.mask.clone()
    mask[0, :2] = False
    padded = dataclasses.replace(batch, mask=mask)
    state, actions = batch.state.clone(), batch.actions.clone()
    state[0, :2] += 5
    actions[0, :2] = 0.9
    actions[:, -1] = -0.9
    other = dataclasses.replace(padded, state=state, actions=actions)
    torch.testing.assert_close(policy.inferred(padded)[:, -1], policy.inferred(other)[:, -1])
    actions[:, -2] = 0.77
    moved = dataclasses.replace(other, actions=actions.clone())
    assert (policy.inferred(moved)[:, -1] - policy.inferred(padded)[:, -1]).abs().max() > 1e-5


def test_batched_control_hands_over_what_the_env_tells() -> None:
    policy = adaptive().eval()
    states = [
        EpisodeState(robot_state=np.array([0.5], np.float32), privileged=np.array([sign]))
        for sign in (-1.0, 1.0)
    ]
    first, second = BatchedPolicy(policy).act(states, {})
    assert abs(first - second).max() > 1e-4


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="teaches policies of type adaptive"):
        AdaptationConfig().build(MLPConfig().build(SPEC))
    with pytest.raises(ConfigError, match=r"privileged\.sign: needs low < high"):
        validate(AdaptiveConfig, {**SMALL, "privileged": {"sign": [1, 1]}})
    with pytest.raises(ConfigError, match=r"set them in policy\.policy"):
        validate(AdaptiveConfig, {**SMALL, "indicator": True})


def test_observations_without_it_stay_as_they_were() -> None:
    seen = Observation.from_numpy({}, np.zeros((1, 1)), ["go"])
    assert seen.privileged is None
