"""Evaluation from a config."""

from __future__ import annotations

import pytest

from vla.sim_eval.evaluation import policy_name


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("expert", "expert"),
        ("runs/mt10/policy", "mt10"),
        ("./runs/mt10/checkpoints/step-000100", "checkpoints/step-000100"),
        ("somebody/rt1-drawer", "somebody/rt1-drawer"),
        ("policy", "policy"),
    ],
)
def test_name_in_tables(policy: str, name: str) -> None:
    assert policy_name(policy) == name
