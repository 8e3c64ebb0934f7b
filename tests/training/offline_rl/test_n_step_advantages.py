"""Monte-Carlo values whose advantage looks n steps ahead, and whether it tells good moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tabular import CRITIC, DISCOUNT, Step, batch_of, two_ways

from vla.training.objectives.actor_critic import ActorCriticConfig
from vla.training.objectives.awr import AWRConfig
from vla.training.offline_evaluation.advantage_auc import advantage_auc

STEPS = [
    Step(0, -0.5, reward=0.1, later=(1, 0.5), returned=0.4),  # goes on
    Step(1, 0.5, reward=1.0, returned=1.0),  # the task ends here
    Step(1, -0.5, cut=True, returned=0.2),  # the recording ends here
]


def test_the_advantage_is_what_n_steps_brought_and_v_behind_them() -> None:
    batch = batch_of(STEPS, 2)
    policy = two_ways(2)
    value = {"type": "monte_carlo", "advantage_steps": 1, "critic": CRITIC}
    config = {"value": value, "discount": DISCOUNT}
    objective = ActorCriticConfig.model_validate(config).build(policy)
    assert objective.next_step == 1
    lookahead = objective.lookahead(policy, batch)
    now = batch.steps(0, -1)
    output = policy(now)
    transition = objective.transition(policy, now, output, output.features, lookahead)
    v = objective.value.state_critic(transition.features)[:, 0]
    # the first step's V behind it is that of state 1, which the second step stands in
    expected = torch.stack([0.1 + DISCOUNT * v[1] - v[0], 1.0 - v[1], 0.2 - v[2]])
    torch.testing.assert_close(objective.value.advantage(transition)[:, 0], expected)


def test_the_preset_hands_it_on() -> None:
    objective = AWRConfig(advantage_steps=3).build(two_ways(2))
    assert objective.value.config.advantage_steps == 3
    assert objective.next_step == 3
    with pytest.raises(ValidationError, match="advantage_steps: advantage: td looks ahead by the"):
        AWRConfig(advantage="td", advantage_steps=3)


@pytest.mark.parametrize(
    ("advantage", "bad", "expected"),
    [
        ([3, 2, 1, 0], [False, False, True, True], 1.0),
        ([0, 1, 2, 3], [False, False, True, True], 0.0),
        ([1, 1, 1, 1], [False, True, False, True], 0.5),
        # of the four pairs (3 : 2), (3 : 0), (1 : 2), (1 : 0) three are right
        ([3, 2, 1, 0], [False, True, False, True], 0.75),
    ],
)
def test_the_area_under_the_curve_by_hand(advantage, bad, expected) -> None:
    assert advantage_auc(np.array(advantage), np.array(bad)) == pytest.approx(expected)


def test_without_both_kinds_there_is_no_area() -> None:
    assert np.isnan(advantage_auc(np.array([1.0, 2.0]), np.array([False, False])))
