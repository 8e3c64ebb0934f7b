"""TD3+BC against the published algorithm, written down once more with torch's own optimisers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tabular import Step, batch_of, robot
from torch import Tensor

from vla.config import ConfigError, load_config
from vla.models.policies.mlp import MLPConfig
from vla.models.policy import Policy
from vla.training.config import OptimConfig
from vla.training.objective import Learner, ObjectiveError
from vla.training.objectives.td3_bc import TD3BCConfig
from vla.training.offline_rl.values.td import TDConfig
from vla.training.optimizer import build_optimizer
from vla.training.state import TrainingState

STATES, DISCOUNT, RATE, LR, STEPS = 3, 0.9, 0.3, 1e-2, 16


def batch() -> object:
    rng = torch.Generator().manual_seed(0)
    actions = (2 * torch.rand(12, generator=rng) - 1).tolist()
    steps = [Step(i % 3, a, reward=a * a, later=((i + 1) % 3, -a)) for i, a in enumerate(actions)]
    return batch_of([*steps, Step(0, 0.9, reward=1.0), Step(1, -0.4, cut=True)], STATES)


def objective_config(**changes: object) -> TD3BCConfig:
    critic = {"hidden": 16, "depth": 2, "layer_norm": False}
    return TD3BCConfig.model_validate(
        {"critic": critic, "discount": DISCOUNT, "target_rate": RATE} | changes
    )


def parameters(policy: Policy, critic: torch.nn.Module) -> list[Tensor]:
    return [p.detach() for network in (policy, critic) for p in network.parameters()]


def published(policy: Policy, critic: torch.nn.Module, steps: int) -> list[Tensor]:
    """Fujimoto and Gu, 2021, equations 3 to 5, over TD3 (Fujimoto et al., 2018, algorithm 1) -> the
    parameters of both."""
    data = batch()
    targets = [copy.deepcopy(network) for network in (policy, critic)]
    actor = torch.optim.Adam(policy.parameters(), lr=LR)
    values = torch.optim.Adam(critic.parameters(), lr=LR)
    now, later = data.steps(0, -1), data.steps(1, None)  # type: ignore[attr-defined]
    ends, known = now.terminals.float(), now.terminals | later.mask
    for step in range(1, steps + 1):
        torch.manual_seed(step)
        with torch.no_grad():
            ahead = targets[0](later).actions.mode()
            noise = (0.2 * torch.randn_like(ahead)).clamp(-0.5, 0.5)
            best = targets[1](later.state, (ahead + noise).clamp(-1, 1)).min(0).values
            target = now.rewards + DISCOUNT * (1 - ends) * best
        error = ((critic(now.state, now.actions) - target).square().sum(0) * known).mean()
        chosen = policy(now).actions.mode()
        q = critic(now.state, chosen)[0]
        loss = -2.5 * q.mean() / q.abs().mean().detach() + (chosen - now.actions).square().mean()
        gradients = torch.autograd.grad(
            loss / 2.5, [p for p in policy.parameters() if p.requires_grad]
        )
        values.zero_grad()
        error.backward()
        if step % 2 == 0:  # by the critics of before this step, as there is one loss of both here
            for p, g in zip(
                [p for p in policy.parameters() if p.requires_grad], gradients, strict=True
            ):
                p.grad = g
            actor.step()
        values.step()
        if step % 2 == 0:
            for slow, network in zip(targets, (policy, critic), strict=True):
                for mine, theirs in zip(slow.parameters(), network.parameters(), strict=True):
                    mine.data.lerp_(theirs.data, RATE)
    return parameters(policy, critic)


def build(config: TD3BCConfig) -> TrainingState:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=16, depth=1, head={"type": "squashed"}).build(robot(STATES))
    learner = Learner(policy, config.build(policy)).train()
    return TrainingState(
        learner, build_optimizer(learner, OptimConfig(weight_decay=0.0, betas=(0.9, 0.999))), None
    )


def run(config: TD3BCConfig, steps: int) -> TrainingState:
    state, data = build(config), batch()
    for step in range(1, steps + 1):
        torch.manual_seed(step)
        state.learner(data)[0].backward()
        state.update(LR)
    return state


def test_it_is_the_published_algorithm() -> None:
    start = build(objective_config())
    expected = published(start.policy, start.learner.objective.value.action_critic, STEPS)

    def distance(config: TD3BCConfig) -> float:
        state = run(config, STEPS)
        found = parameters(state.policy, state.learner.objective.value.action_critic)
        return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))

    assert distance(objective_config()) < 1e-5
    # what is not as published is seen
    assert distance(objective_config(target_policy=False)) > 1e-3
    assert distance(objective_config(policy_every=1)) > 1e-3
    assert distance(objective_config(noise=0.1)) > 1e-3


def test_the_slow_copy_is_of_the_policy_as_it_was_fitted_and_is_kept(tmp_path: Path) -> None:
    state = build(objective_config())
    state.policy.state_mean.fill_(0.25)  # fitted after the objective was built
    state.learner(batch())
    slow = state.learner.objective.target_policy
    assert torch.equal(slow.network.state_mean, state.policy.state_mean)
    assert slow.network.tokenizer is state.policy.tokenizer
    assert not any(name.startswith("objective.target_policy") for name in build_names(state))
    assert any(
        name.startswith("objective/target_policy.network.trunk") for name in state._tensors()
    )


def build_names(state: TrainingState) -> list[str]:
    """Of what the optimiser moves."""
    names = {p: name for name, p in state.learner.named_parameters()}
    return [names[p] for group in state.optimizer.param_groups for p in group["params"]]


def test_what_cannot_be_copied_or_is_not_asked() -> None:
    with pytest.raises(ConfigError, match=r"target_policy: next_actions: data asks no policy"):
        load_config(TDConfig, {"type": "td", "next_actions": "data", "target_policy": True})
    policy = MLPConfig(hidden=8, depth=1, head={"type": "squashed"}).build(robot(1))
    policy.weights = dict  # as of a policy that stores less than it is
    with pytest.raises(
        ObjectiveError,
        match=r"target policy would copy a mlp with its frozen base.*target_policy: false",
    ):
        objective_config().build(policy)
    assert objective_config(target_policy=False).build(policy).target_policy is None
