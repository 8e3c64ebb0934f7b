"""RECAP on problems whose solutions are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tabular import CRITIC, Step, batch_of, robot
from torch import Tensor

from vla.models.indicator import with_indicator
from vla.models.policies.conditioned import ConditionedPolicy
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.models.policy import load_policy
from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.objectives.recap import RecapConfig
from vla.training.offline_rl.running_quantile import TaskQuantiles
from vla.types import Batch

LEFT, RIGHT = -0.5, 0.5
VALUE = {"type": "monte_carlo", "critic": CRITIC}


def reader(states: int, **options: Any) -> MLPPolicy:
    """A policy that knows two actions and reads an indicator."""
    torch.manual_seed(0)
    config = {
        "hidden": 32,
        "depth": 1,
        "head": {"type": "categorical"},
        "tokenizer": {"type": "bins", "num_bins": 2},
        "language": "blank",
        "indicator": True,
    }
    return MLPConfig.model_validate(config | options).build(robot(states))


def learn(policy: MLPPolicy, batch: Batch, steps: int = 250, **options: Any) -> ActorCritic:
    config = RecapConfig.model_validate({"value": VALUE} | options)
    objective = config.build(policy)
    # several copies: which windows are asked with an indicator is drawn, and averages out sooner
    batch = Batch.concat([batch] * 8)
    parameters = [*policy.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    policy.train(), objective.train()
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(policy, batch)[0].backward()
        optimizer.step()
        schedule.step()
        objective.after_step(policy)
    policy.eval(), objective.eval()
    return objective


def shares(policy: MLPPolicy, batch: Batch, indicator: Any = None) -> Tensor:
    """How often the policy goes right in each window."""
    if indicator is not None:
        texts = with_indicator(batch.instruction, indicator)
        batch = dataclasses.replace(batch, instruction=texts)
    with torch.no_grad():
        return policy(batch).actions.logits.softmax(-1)[:, 0, 0, 1]


def two_states() -> Batch:
    """In state 0 right is better, and rare; in state 1 left is; state 1 is worse as a whole."""
    steps = [Step(0, LEFT, returned=1.0)] * 7 + [Step(0, RIGHT, returned=2.0)] * 3
    steps += [Step(1, RIGHT, returned=0.0)] * 7 + [Step(1, LEFT, returned=1.0)] * 3
    return batch_of(steps, 2).steps(0, -1)


def test_asked_for_the_better_way_it_goes_it_and_without_it_imitates() -> None:
    policy, batch = reader(2), two_states()
    objective = learn(policy, batch, per_task=False)
    rows = [0, 10]  # one window of each state
    assert shares(policy, batch)[rows].tolist() == pytest.approx([0.3, 0.7], abs=0.05)
    assert shares(policy, batch, "positive")[rows].tolist() == pytest.approx([1.0, 0.0], abs=0.05)
    assert shares(policy, batch, "negative")[rows].tolist() == pytest.approx([0.0, 1.0], abs=0.05)
    deployed = objective.deploy(policy)
    assert isinstance(deployed, ConditionedPolicy)
    assert shares(deployed, batch)[rows].tolist() == pytest.approx([1.0, 0.0], abs=0.05)


def test_guidance_goes_beyond_what_the_data_does() -> None:
    # luck: right brings more on average, but some of the left is good too
    steps = [Step(0, RIGHT, returned=1.0)] * 2 + [Step(0, LEFT, returned=1.0)] * 1
    steps += [Step(0, LEFT, returned=0.0)] * 5 + [Step(0, RIGHT, returned=0.0)] * 2
    batch = batch_of(steps, 1).steps(0, -1)
    found = {}
    for guidance in (1.0, 3.0):
        policy = reader(1)
        objective = learn(policy, batch, guidance=guidance, per_task=False)
        found[guidance] = shares(objective.deploy(policy), batch)[0].item()
    assert found[1.0] == pytest.approx(2 / 3, abs=0.05)
    # odds of the positive actions, times the odds ratio to the plain policy (4 : 6) twice more
    odds = 2 * (2 / (4 / 6)) ** 2
    assert found[3.0] == pytest.approx(odds / (1 + odds), abs=0.03)


@pytest.mark.parametrize("per_task", [True, False])
def test_a_threshold_for_each_task_does_not_call_easy_tasks_good(per_task: bool) -> None:
    # the value sees no instruction (blank), so all of the easy task lies above it
    steps = [Step(0, LEFT, returned=5.0)] * 6 + [Step(0, RIGHT, returned=6.0)] * 6
    steps += [Step(0, LEFT, returned=0.0)] * 6 + [Step(0, RIGHT, returned=1.0)] * 6
    batch = batch_of(steps, 1).steps(0, -1)
    batch = dataclasses.replace(batch, instruction=["easy"] * 12 + ["hard"] * 12)
    objective = learn(reader(1), batch, per_task=per_task, positive_share=0.5)
    thresholds = objective.extraction.thresholds.of(["easy", "hard"])
    advantage = torch.tensor([5.0, 6.0, 0.0, 1.0]) - 3
    positive = (advantage.view(2, 2) > thresholds[:, None]).tolist()
    if per_task:
        assert positive == [[False, True], [False, True]]
    else:
        assert positive == [[True, True], [False, False]]


def test_every_step_has_the_same_weight_in_the_mean() -> None:
    """Steps of both kinds stand in one window, which is asked with one of them."""
    policy = reader(1).eval()
    steps = [Step(0, RIGHT)]
    first = batch_of(steps, 1).steps(0, 1)
    batch = dataclasses.replace(
        robot(1).fake_batch(1, 5),
        instruction=first.instruction,
        mask=torch.tensor([[False, True, True, True, True]]),
    )
    objective = RecapConfig.model_validate({"value": VALUE, "dropout": 0}).build(policy)
    positive = torch.tensor([[True, True, False, False, False]])
    total = torch.zeros(1, 5)
    rounds = 800
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(rounds):
            total += objective.extraction._asked(
                policy, batch, positive, torch.zeros(1).numpy().astype(int)
            )
        one = policy(batch).actions.loss(batch.actions, batch.action_mask)
    expected = one.where(batch.mask, 0.0)
    torch.testing.assert_close(total / rounds, expected, atol=0.1, rtol=0.12)


def test_the_running_quantile_finds_the_share_of_each_task_and_follows_it() -> None:
    torch.manual_seed(0)
    quantiles = TaskQuantiles(0.3, per_task=True)
    middle = {"a": (0.0, 1.0), "b": (50.0, 10.0), "c": (-3.0, 0.1)}
    names = list(middle)
    for shift in (0.0, 5.0):
        for _ in range(1500):
            texts = [names[i] for i in torch.randint(3, (16,)).tolist()]
            rows = [middle[text][0] + shift + middle[text][1] * torch.randn(4) for text in texts]
            mask = torch.rand(16, 4) < 0.8
            values = torch.stack(rows).masked_fill(~mask, torch.nan)
            quantiles.update(values, mask, texts)
        for text, (mean, deviation) in middle.items():
            unit = (quantiles.of([text]).item() - mean - shift) / deviation
            above = 1 - torch.distributions.Normal(0, 1).cdf(torch.tensor(unit)).item()
            assert above == pytest.approx(0.3, abs=0.08)
    unseen = quantiles.of(["never seen"])
    assert torch.equal(unseen, quantiles.quantile[-1:])


def test_a_trained_policy_is_saved_and_taken_up_again(tmp_path: Path) -> None:
    policy, batch = reader(2), two_states()
    deployed = learn(policy, batch, steps=30, guidance=2.0).deploy(policy)
    deployed.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    torch.testing.assert_close(shares(loaded, batch), shares(deployed, batch), atol=0, rtol=0)
    # the next round starts from the policy inside, which still reads indicators
    RecapConfig.model_validate({"value": VALUE}).build(loaded.unwrapped)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"policy\.indicator: true"):
        RecapConfig().build(reader(1, indicator=False))
    with pytest.raises(ObjectiveError, match="without values"):
        RecapConfig.model_validate({"value": {"type": "none"}}).build(reader(1))
    with pytest.raises(ValueError, match=r"dropout: 0 never trains"):
        ActorCriticConfig.model_validate(
            {"extraction": {"type": "advantage_conditioned", "guidance": 2.0, "dropout": 0.0}}
        )
