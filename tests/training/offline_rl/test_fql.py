"""Flow Q-learning on bandits whose solutions are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tabular import CRITIC, Step, batch_of, robot

from vla.models.heads.flow import FlowActions
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.models.policies.one_step import OneStepActions, OneStepPolicy
from vla.models.policy import load_policy
from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.objectives.fql import FQLConfig

FLOW = {"type": "flow", "hidden": 32, "depth": 1, "integration_steps": 4}


def flowing(**head: Any) -> MLPPolicy:
    torch.manual_seed(0)
    values = {"hidden": 32, "depth": 1, "head": FLOW | head}
    return MLPConfig.model_validate(values).build(robot(1))


def two_ways() -> list[Step]:
    """One state; the data go left three times as often as right, and right is better."""
    left = [Step(0, -0.5 + 0.02 * i, reward=0.0) for i in range(-4, 5)] * 3
    right = [Step(0, 0.5 + 0.02 * i, reward=1.0) for i in range(-4, 5)]
    return left + right


def learn(policy: MLPPolicy, alpha: float, steps: int = 250) -> ActorCritic:
    batch = batch_of(two_ways(), 1)
    policy.fit(batch.actions[:, 0, 0].numpy(), batch.state[:, 0].numpy(), ["go"])
    values = {"alpha": alpha, "critic": CRITIC, "student": {"hidden": 32, "depth": 2}}
    objective = FQLConfig.model_validate(values).build(policy)
    parameters = [*policy.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    policy.train(), objective.train()
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(policy, batch)[0].backward()
        optimizer.step()
        objective.after_step(policy)
    policy.eval(), objective.eval()
    return objective


def drawn(policy: Any, count: int = 400) -> torch.Tensor:
    batch = robot(1).fake_batch(count, 1)
    batch.state.fill_(1.0)
    torch.manual_seed(1)
    with torch.no_grad():
        return policy(batch).actions.sample().flatten()


@pytest.fixture(scope="module")
def trained() -> dict[float, tuple[MLPPolicy, OneStepPolicy]]:
    found = {}
    for alpha in (0.3, 100.0):
        policy = flowing()
        deployed = learn(policy, alpha).deploy(policy)
        assert isinstance(deployed, OneStepPolicy)
        found[alpha] = (policy, deployed)
    return found


def test_the_flow_imitates_and_the_student_goes_the_better_way(trained: Any) -> None:
    flow, student = trained[0.3]
    assert (drawn(flow) > 0).float().mean().item() == pytest.approx(0.25, abs=0.12)
    assert (drawn(student) > 0).float().mean().item() > 0.9
    # not beyond what the data do, though the critic has seen nothing there
    assert drawn(student).mean().item() == pytest.approx(0.5, abs=0.3)


def test_a_high_price_keeps_the_student_with_the_flow(trained: Any) -> None:
    flow, student = trained[100.0]
    shares = [(drawn(policy) > 0).float().mean().item() for policy in (flow, student)]
    assert shares[1] == pytest.approx(shares[0], abs=0.15)
    batch = robot(1).fake_batch(200, 1)
    batch.state.fill_(1.0)
    noise = torch.randn(200, 1, 1, 1)
    with torch.no_grad():
        actions = student(batch).actions
        error = (actions.of_noise(noise) - actions.flow.flowed(noise)).abs().mean()
    assert error.item() < 0.15


def test_values_ask_the_student_what_follows() -> None:
    policy = flowing()
    objective = FQLConfig.model_validate({"critic": CRITIC}).build(policy)
    lookahead = objective.lookahead(policy, batch_of(two_ways(), 1))
    assert lookahead is not None
    assert isinstance(lookahead.transition.actions, OneStepActions)


def test_the_teacher_is_taught_by_imitation_alone() -> None:
    """Neither Q nor the student's distance may bend the flow."""
    gradients = []
    for alpha in (0.0, 50.0):
        policy = flowing()
        batch = batch_of(two_ways(), 1)
        objective = FQLConfig.model_validate({"alpha": alpha, "critic": CRITIC}).build(policy)
        torch.manual_seed(0)
        objective.loss(policy, batch)[0].backward()
        gradients.append([p.grad.clone() for p in policy.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_a_checkpoint_acts_by_the_student(trained: Any, tmp_path: Path) -> None:
    _, student = trained[0.3]
    student.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, OneStepPolicy)
    torch.testing.assert_close(drawn(loaded), drawn(student), atol=0, rtol=0)
    observation = robot(1).fake_observation(3)
    torch.testing.assert_close(loaded.act(observation)[0], student.act(observation)[0])


def test_noise_of_several_draws_flows_as_one_by_one() -> None:
    policy = flowing()
    actions = policy(robot(1).fake_batch(3, 1)).actions
    assert isinstance(actions, FlowActions)
    noise = torch.randn(5, 3, 1, 1, 1)
    with torch.no_grad():
        together = actions.flowed(noise)
        for i in range(5):
            torch.testing.assert_close(together[i], actions.flowed(noise[i]))


def test_what_cannot_work_is_refused() -> None:
    gaussian = MLPConfig(hidden=8, depth=1).build(robot(1))
    with pytest.raises(ObjectiveError, match=r"set policy\.head: \{type: flow\}"):
        FQLConfig().build(gaussian)
    with pytest.raises(ObjectiveError, match="asks for Q of actions"):
        ActorCriticConfig.model_validate(
            {"value": {"type": "monte_carlo"}, "extraction": {"type": "one_step"}}
        ).build(flowing())
