"""What every registered policy promises: control says what the forward pass says, and a checkpoint gives it back whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import vlm_toys

from vla.config import registered
from vla.data.loading.multi_robot import joint_spec
from vla.models import Policy, PolicyConfig, load_policy
from vla.models.policies.multi_robot import MultiRobotConfig, MultiRobotPolicy
from vla.types import Batch, Observation, Spec

POLICIES = {
    name: cls for name, cls in registered("policies").items() if cls.__module__.startswith("vla.")
}
SPEC = vlm_toys.SPEC
T, K = 3, 2
SEEING: dict[str, Any] = {
    "trunk": "test_efficientnet",
    "stride": 16,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "language_dim": 16,
    "tokens_per_image": 2,
    "history": T,
    "chunk": K,
}
MLP = {"type": "mlp", "hidden": 16, "chunk": K, "language": "minilm"}
SPEAKING = {**MLP, "head": {"type": "categorical"}}
SMALL: dict[str, Callable[[Path], dict[str, Any]]] = {
    "decision_transformer": lambda folder: {
        **SEEING,
        "dropout": 0.0,
        "return_scale": 1.0,
        "language": "minilm",
    },
    "guided": lambda folder: {
        "policy": SPEAKING,
        "chunk": K,
        "history": 1,
        "critic": {"hidden": 8},
        "rule": {"type": "climb"},
    },
    "mlp": lambda folder: MLP,
    "multi_robot": lambda folder: {
        "policy": {"type": "rt1", "key_dim": 8, **SEEING},
        "robots": {"arm": {"spec": SPEC.to_dict()}},
        "history": T,
        "chunk": K,
    },
    "q_transformer": lambda folder: {"key_dim": 8, **SEEING},
    "rt1": lambda folder: {"key_dim": 8, **SEEING},
    "vlm": lambda folder: {
        "base": str(vlm_toys.smolvlm(folder / "base")),
        "chunk": K,
        "lora": {"rank": 4},
    },
}
"""Values of a small config of each policy, for the robot `SPEC`; a new policy is added here."""


def episode(spec: Spec) -> Batch:
    """The first T steps of episodes in which the returns count down by the rewards."""
    batch = spec.fake_batch(2, T, K)
    return dataclasses.replace(batch, returns_to_go=batch.rewards.flip(1).cumsum(1).flip(1))


def seen(batch: Batch, t: int) -> Observation:
    reward = batch.rewards[:, t - 1] if t else torch.zeros(batch.batch_size)
    return dataclasses.replace(
        batch.observation(t), reward=reward, target_return=batch.returns_to_go[:, 0]
    )


def build(name: str, folder: Path) -> Policy:
    torch.manual_seed(0)
    config: PolicyConfig = POLICIES[name].model_validate({"type": name, **SMALL[name](folder)})
    policy = config.build(
        joint_spec(config.specs) if isinstance(config, MultiRobotConfig) else SPEC
    )
    if policy.language.dim:
        policy.language.preload(
            {f"do task {i}": torch.randn(policy.language.dim) / 20 for i in range(3)}
        )
    with torch.no_grad():  # what is zero at initialisation could hide a mistake
        for parameter in policy.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1)
    policy.state_mean.normal_()
    return policy.eval()


@pytest.fixture(scope="module", params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    assert request.param in SMALL, f"add a small config of {request.param} to SMALL"
    return build(request.param, tmp_path_factory.mktemp(request.param))


def one_robot(policy: Policy) -> tuple[Policy, Policy]:
    """Who reads windows, and who acts: of a policy for several robots the part of one, and that robot taken out."""
    if isinstance(policy, MultiRobotPolicy):
        return policy.part("arm"), policy.robot("arm")
    return policy, policy


def same(a: Any, b: Any, **tolerance: float) -> None:
    torch.testing.assert_close(a.features, b.features, **tolerance)
    torch.testing.assert_close(a.actions.mode(), b.actions.mode(), **tolerance)


@torch.no_grad()
def test_stepping_along_says_what_the_forward_pass_says(policy: Policy) -> None:
    reader, actor = one_robot(policy)
    batch = episode(SPEC)
    whole, memory = reader(batch), None
    assert whole.features.shape == (2, T, policy.feature_dim)
    assert whole.actions.mode().shape == (2, T, K, SPEC.action_dim)
    assert whole.actions.loss(batch.actions, batch.action_mask).shape == (2, T)
    for t in range(T):
        output, memory = actor.step(seen(batch, t), memory)
        memory = actor.remember(memory, batch.actions[:, t])
        window = reader(batch.steps(0, t + 1))  # ends where control stands
        torch.testing.assert_close(
            output.features[:, 0], window.features[:, -1], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            output.actions.mode()[:, 0], window.actions.mode()[:, -1], atol=1e-4, rtol=1e-4
        )
        assert memory.batch_size == 2
        apart = [memory.select([1]), memory.select([0])]
        memory = type(memory).stack(apart).select([1, 0])


@torch.no_grad()
def test_a_checkpoint_gives_back_weights_and_outputs(policy: Policy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert type(loaded) is type(policy)
    assert loaded.source == str(tmp_path / "policy")
    assert loaded.spec == policy.spec
    expected, found = policy.state_dict(), loaded.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    batch = episode(SPEC)
    same(one_robot(loaded)[0](batch), one_robot(policy)[0](batch), atol=0, rtol=0)
