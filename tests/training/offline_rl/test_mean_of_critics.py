"""The running mean covers the critics: a policy by its mean is guided and judged by theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tabular import CRITIC, Step, batch_of, two_ways

from vla.models.policies.guided import CriticGuidedPolicy
from vla.models.policy import load_policy
from vla.training.checkpoint import Checkpoint
from vla.training.config import OptimConfig
from vla.training.objective import Learner
from vla.training.objectives.actor_critic import ActorCriticConfig
from vla.training.offline_evaluation.run_values import restored_objective
from vla.training.optimizer import EMA, build_optimizer
from vla.training.state import TrainingState

DECAY = 0.6
BATCH = batch_of([Step(0, -0.5, reward=1.0), Step(0, 0.5), Step(1, 0.5, reward=0.5)], 2)
CONFIG = ActorCriticConfig.model_validate(
    {
        "value": {"type": "expectile", "critic": CRITIC},
        "extraction": {"type": "best_of_n"},
    }
)


def start() -> TrainingState:
    policy = two_ways(2)
    policy.language.preload({})
    learner = Learner(policy, CONFIG.build(policy)).train()
    return TrainingState(learner, build_optimizer(learner, OptimConfig()), EMA(policy, DECAY))


def learn(state: TrainingState, steps: int) -> list[dict[str, torch.Tensor]]:
    """The raw weights of Q after each step."""
    raw = []
    for _ in range(steps):
        state.learner(BATCH)[0].backward()
        state.update(0.05)
        critic = state.learner.objective.value.action_critic
        raw.append({name: p.detach().clone() for name, p in critic.named_parameters()})
    return raw


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in b)


def test_a_guided_policy_has_the_mean_of_its_critic() -> None:
    state = start()
    means = weights(state.learner.objective.value.action_critic)
    raw = learn(state, 4)
    for step, now in enumerate(raw, 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        means = {name: decay * mean + (1 - decay) * now[name] for name, mean in means.items()}
    with state.deployed() as deployed:
        assert isinstance(deployed, CriticGuidedPolicy)
        found = weights(deployed.critic)
        torch.testing.assert_close(found, means)
        # validation judges the very critic that chooses
        assert state.learner.objective.value.action_critic is deployed.critic
    # training goes on with the raw weights
    assert same(weights(state.learner.objective.value.action_critic), raw[-1])
    finished = state.finish(None)
    assert isinstance(finished, CriticGuidedPolicy)
    assert same(weights(finished.critic), found)


def restored(checkpoint: Checkpoint) -> TrainingState:
    state = start()
    state.policy.load_state_dict(load_policy(checkpoint.folder).unwrapped.state_dict())
    assert state.ema is not None
    for name, mean in state.ema.weights.items():
        mean.copy_(state.policy.get_parameter(name))
    state.restore(checkpoint)
    return state


def test_a_checkpoint_keeps_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start()
    whole.policy.fit(BATCH.actions[:, 0, 0], BATCH.state[:, 0], ["x"])
    learn(whole, 2)
    checkpoint = whole.save(tmp_path, keep_last=2, scores={})
    resumed = restored(checkpoint)
    assert whole.objective_ema is not None
    assert resumed.objective_ema is not None
    for state in (whole, resumed):
        torch.manual_seed(3)
        learn(state, 2)
    assert same(whole.objective_ema.weights, resumed.objective_ema.weights)

    # what is diagnosed is what acts
    deployed = load_policy(checkpoint.folder)
    assert isinstance(deployed, CriticGuidedPolicy)
    judged = restored_objective(CONFIG, deployed, checkpoint)
    assert same(weights(judged.value.action_critic), weights(deployed.critic))

    # a checkpoint from before: the mean begins with the critics that it holds
    stored = checkpoint.tensors()
    former = {k: v for k, v in stored.items() if not k.startswith("objective_mean/")}
    monkeypatch.setattr(Checkpoint, "tensors", lambda self: former)
    old = restored(checkpoint)
    assert old.objective_ema is not None
    assert same(weights(old.learner.objective), old.objective_ema.weights)
