"""The natural gradient against matrices that are written out, and the region that it may not leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from played_rounds import HEADS, begun, objective_of, play, policy_of
from pydantic import ValidationError
from small_policies import mlp, rt1

from vla.config import lookup
from vla.data import Episode
from vla.data.replay.growing_windows import GrowingWindows
from vla.training.objective import ObjectiveError
from vla.training.online_rl.conjugate_gradient import backtracking, conjugate_gradient
from vla.training.online_rl.trust_region import TrustRegion
from vla.types import Observation, Spec


def test_conjugate_gradient_solves_what_a_matrix_solves() -> None:
    torch.manual_seed(0)
    half = torch.randn(6, 6, dtype=torch.float64)
    matrix = half @ half.T + 0.1 * torch.eye(6, dtype=torch.float64)
    target = torch.randn(6, dtype=torch.float64)
    asked = []

    def product(vector: torch.Tensor) -> torch.Tensor:
        asked.append(vector)
        return matrix @ vector

    found = conjugate_gradient(product, target, iterations=20, tolerance=1e-24)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target))
    assert len(asked) < 12  # six are exact but for rounding
    near = conjugate_gradient(product, target, iterations=2)
    assert (matrix @ near - target).norm() < target.norm()


def test_backtracking_takes_the_longest_step_that_is_accepted() -> None:
    assert backtracking(lambda share: share < 0.7, shrink=0.5) == 0.5
    assert backtracking(lambda share: True) == 1
    assert backtracking(lambda share: False) == 0


def test_products_are_those_of_the_fisher_matrix() -> None:
    # one token of four ids for each decision: J^T (diag(p) - p p^T) J, a mean over decisions
    spec = Spec({}, ("x", "y"), ("a",), (-1.0,), (1.0,), 10.0)
    policy = mlp(
        spec,
        chunk=1,
        hidden=3,
        head={"type": "categorical"},
        tokenizer={"type": "bins", "num_bins": 4},
    )
    windows = play_single(policy)
    objective = objective_of("trpo", policy, damping=0.5)
    assert isinstance(objective, TrustRegion)
    batch = begun(objective, policy, windows)
    parameters = list(policy.parameters())
    rows = np.flatnonzero(windows.extras["decision"] > 0)
    logits = policy(batch).actions.logits[:, -1, 0]
    size = sum(p.numel() for p in parameters)
    fisher = torch.zeros(size, size)
    for row in logits:
        jacobian = torch.stack(
            [
                torch.cat(
                    [
                        g.reshape(-1)
                        for g in torch.autograd.grad(
                            logit, parameters, retain_graph=True, materialize_grads=True
                        )
                    ]
                )
                for logit in row
            ]
        )
        p = row.detach().softmax(-1)
        fisher += jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian / len(logits)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(3))
    found = objective._fisher_product(policy, parameters, windows, rows, vector)
    torch.testing.assert_close(found, fisher @ vector + 0.5 * vector, rtol=1e-3, atol=1e-5)


def play_single(policy: Any) -> GrowingWindows:
    """Episodes of one step, in which the policy's chunk of one action was executed."""
    generator = np.random.default_rng(0)
    windows = GrowingWindows(policy.spec, history=1, chunk=1, extras=["decision"])
    state = (3 + generator.normal(size=(6, 2))).astype(np.float32)
    observation = Observation({}, torch.from_numpy(state), ["push the cube"] * 6)
    torch.manual_seed(0)
    with torch.no_grad():
        actions = policy.act(observation, temperature=1.0)[0].numpy()
    windows.append(
        [
            Episode(
                images={},
                state=state[number : number + 1],
                actions=actions[number],
                rewards=actions[number, :, 0],
                success=np.zeros(1, bool),
                terminated=True,
                instruction="push the cube",
                extras={"decision": np.ones(1, np.int64)},
            )
            for number in range(6)
        ]
    )
    return windows


@pytest.mark.parametrize("head", HEADS)
def test_a_step_is_better_and_near(head: str) -> None:
    policy = policy_of(head)
    before = [p.detach().clone() for p in policy.parameters()]
    windows = play(policy, seed=0)
    objective = objective_of("trpo", policy, max_kl=0.02, cg_iterations=5)
    batch = begun(objective, policy, windows)
    notes = objective._notes
    assert 0.002 < notes["kl"] <= 0.02
    assert notes["gain"] > 0
    assert 0 < notes["step_share"] <= 1
    assert any(not torch.equal(p, q) for p, q in zip(before, policy.parameters(), strict=True))
    # what was good has become likelier
    now = objective._likelihood(policy(batch).actions, batch)
    change = (now.log_prob - batch.extras["old_log_prob"]).where(now.mask, 0.0)
    assert (change * batch.extras["advantage"][..., None]).sum() > 0
    # the updates are of the values alone
    loss, metrics = objective.loss(policy, batch)
    loss.backward()
    assert all(p.grad is None for p in policy.parameters())
    assert objective.freezes_policy
    assert {"kl", "gain", "value_loss", "explained_variance"} <= metrics.keys()


def test_a_policy_moves_only_once_values_are_warm() -> None:
    policy = policy_of("categorical")
    before = [p.detach().clone() for p in policy.parameters()]
    objective = objective_of("trpo", policy, value_warmup=1)
    begun(objective, policy, play(policy, seed=0))
    assert all(torch.equal(p, q) for p, q in zip(before, policy.parameters(), strict=True))
    assert objective._notes["step_share"] == 0
    begun(objective, policy, play(policy, seed=1))
    assert objective._notes["step_share"] > 0


def test_a_step_that_is_nowhere_near_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("categorical")
    before = [p.detach().clone() for p in policy.parameters()]
    objective = objective_of("trpo", policy)
    assert isinstance(objective, TrustRegion)
    monkeypatch.setattr(objective, "_outcome", lambda *_: (1e9, 1.0))
    begun(objective, policy, play(policy, seed=0))
    assert all(torch.equal(p, q) for p, q in zip(before, policy.parameters(), strict=True))
    assert objective._notes["kl"] == 0


def test_a_part_of_the_round_can_stand_for_its_fisher_matrix() -> None:
    policy = policy_of("categorical")
    objective = objective_of("trpo", policy, fisher_share=0.25)
    begun(objective, policy, play(policy, seed=0))
    assert objective._notes["step_share"] > 0


def test_a_matrix_of_no_size_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("categorical")
    objective = objective_of("trpo", policy, damping=0.0)
    monkeypatch.setattr(objective, "_fisher_product", lambda *arguments: 0 * arguments[-1])
    with pytest.raises(ObjectiveError, match=r"set objective\.damping above 0"):
        begun(objective, policy, play(policy, seed=0))


def test_attention_over_images_has_second_derivatives() -> None:
    spec = Spec({"front": (32, 32)}, ("x",), ("a",), (-1.0,), (1.0,), 10.0)
    policy = rt1(spec, chunk=1, history=2)
    rng = np.random.default_rng(0)
    windows = GrowingWindows(spec, history=2, chunk=1, extras=["decision"], cameras=["front"])
    for number in range(2):
        windows.append(
            [
                Episode(
                    images={"front": rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)},
                    state=rng.normal(size=(3, 1)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (3, 1)).astype(np.float32),
                    rewards=np.full(3, float(number), np.float32),
                    success=np.zeros(3, bool),
                    terminated=True,
                    instruction="push the cube",
                    extras={"decision": np.ones(3, np.int64)},
                )
            ]
        )
    objective = objective_of("trpo", policy, cg_iterations=3)
    begun(objective, policy, windows)
    assert 0 < objective._notes["kl"] <= 0.01


def test_values_may_not_train_the_trunk() -> None:
    with pytest.raises(ValidationError, match=r"critic\.joint: the policy moves by its natural"):
        lookup("objectives", "trpo").model_validate({"type": "trpo", "critic": {"joint": True}})
