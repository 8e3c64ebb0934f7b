"""What every registered policy promises: control says what the forward pass says, and a checkpoint gives it back whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gru_policy
import pytest
import torch
import vlm_toys
from torch import nn

from vla.config import registered
from vla.data.loading.multi_robot import joint_spec
from vla.models import Policy, PolicyConfig, load_policy
from vla.models.policies.multi_robot import MultiRobotConfig, MultiRobotPolicy
from vla.models.policy_contract import PolicyContractError, check_policy
from vla.models.roles import STATE_INPUT, TRUNK, Role
from vla.types import Batch, Observation, PolicyOutput

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
    "adaptive": lambda folder: {
        "privileged": {"friction": [0.2, 1.0]},
        "stage": "adapted",
        "history": T,
        "chunk": K,
        "hidden": 16,
        "policy": MLP,
    },
    "conditioned": lambda folder: {
        "policy": {"type": "rt1", "key_dim": 8, "indicator": True, **SEEING},
        "guidance": 1.5,
        "history": T,
        "chunk": K,
    },
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
        "selection": {"type": "coordinate_ascent"},
    },
    "mlp": lambda folder: MLP,
    "multi_robot": lambda folder: {
        "policy": {"type": "rt1", "key_dim": 8, **SEEING},
        "robots": {"arm": {"spec": SPEC.to_dict()}},
        "history": T,
        "chunk": K,
    },
    "one_step": lambda folder: {
        "policy": {**MLP, "head": {"type": "flow", "hidden": 8, "depth": 1}},
        "chunk": K,
        "history": 1,
        "student": {"hidden": 8, "depth": 1},
    },
    "q_transformer": lambda folder: {"key_dim": 8, **SEEING},
    "rt1": lambda folder: {"key_dim": 8, "state_token": True, **SEEING},
    "vlm": lambda folder: {
        "base": str(vlm_toys.smolvlm(folder / "base")),
        "chunk": K,
        "lora": {"rank": 4},
    },
}
"""Values of a small config of each policy, for the robot `SPEC`; a new policy is added here."""


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


def one_robot(policy: Policy) -> Policy:
    """What reads windows: of a policy for several robots the part of one of them."""
    return policy.part("arm") if isinstance(policy, MultiRobotPolicy) else policy


def same(a: PolicyOutput, b: PolicyOutput, **tolerance: float) -> None:
    torch.testing.assert_close(a.features, b.features, **tolerance)
    torch.testing.assert_close(a.actions.mode(), b.actions.mode(), **tolerance)


@torch.no_grad()
def test_stepping_along_says_what_the_forward_pass_says(policy: Policy) -> None:
    if not isinstance(policy, MultiRobotPolicy):
        check_policy(policy)
        return
    # it acts as one of its robots, which says what its part in the whole says
    actor = policy.robot("arm")
    check_policy(actor)
    # of a policy for several robots, a robot that was taken out says what its part says
    batch = SPEC.fake_batch(2, T, K)
    whole = policy.part("arm")(batch)
    assert whole.features.shape == (2, T, policy.feature_dim)
    assert whole.actions.loss(batch.actions, batch.action_mask).shape == (2, T)
    same(actor(batch), whole, atol=1e-4, rtol=1e-4)


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
    batch = SPEC.fake_batch(2, T, K)
    same(one_robot(loaded)(batch), one_robot(policy)(batch), atol=0, rtol=0)


# --- policies that break the contract -----------------------------------------------------------------


class NeverForgets(gru_policy.GRUPolicy):
    """Control carries the GRU's state on from step to step: it has seen the whole episode."""

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        _, new = super().step(observation, memory)
        past = gru_policy.frames_of(memory, new)
        hidden_BTF, _ = self.gru(past)
        return self.output(hidden_BTF[:, -1:]), dataclasses.replace(new, frames=past)


class ForgetsAll(gru_policy.GRUPolicy):
    """Control sees the present frame alone."""

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        return super().step(observation, None)


class ChangesItsMemory(gru_policy.GRUPolicy):
    """What one robot remembers is overwritten by whoever steps next."""

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        output, new = super().step(observation, memory)
        if memory is not None:
            memory.frames.add_(1.0)
        return output, new


class SeesItsActions(gru_policy.GRUPolicy):
    """Its features hold the action that a critic is to judge."""

    def forward(self, batch: Batch) -> PolicyOutput:
        output = super().forward(batch)
        seen = batch.actions.mean((2, 3))[..., None]
        return dataclasses.replace(output, features=output.features + seen)


class SeesTheFuture(gru_policy.GRUPolicy):
    """Its features hold what is seen at the end of the window."""

    def forward(self, batch: Batch) -> PolicyOutput:
        output = super().forward(batch)
        return dataclasses.replace(
            output, features=output.features + batch.state[:, -1:].mean(-1, keepdim=True)
        )


class CallsItsStateTrunk(gru_policy.GRUPolicy):
    def parameter_roles(self) -> dict[str, Role]:
        roles = super().parameter_roles()
        return {name: TRUNK if role == STATE_INPUT else role for name, role in roles.items()}


class TellsNoRoles(gru_policy.GRUPolicy):
    def parameter_roles(self) -> dict[str, Role]:
        return Policy.parameter_roles(self)


class MisspellsARole(gru_policy.GRUPolicy):
    def parameter_roles(self) -> dict[str, Role]:
        return super().parameter_roles() | {"state_imput.weight": STATE_INPUT}


BAD: dict[type[gru_policy.GRUPolicy], str] = {
    NeverForgets: r"at step 4 .* forward over the last 3 steps .* does not forget older steps",
    ForgetsAll: r"at step 2 .* forward over the last 2 steps .* remembers too little",
    ChangesItsMemory: "never change it in place",
    SeesItsActions: "features of a step change with the actions of that step",
    SeesTheFuture: "features of a step change with what is seen later",
    CallsItsStateTrunk: "STATE_INPUT at 0 the actions still depend on the state",
    TellsNoRoles: r"parameter_roles: tells nothing of state_input\.weight",
    MisspellsARole: r"no parameter or buffer 'state_imput\.weight' \(did you mean 'state_input",
}


def gru(cls: type[gru_policy.GRUPolicy]) -> gru_policy.GRUPolicy:
    torch.manual_seed(0)
    return cls(gru_policy.GRUConfig(history=3, chunk=2), gru_policy.SPEC).eval()


def test_a_plug_in_keeps_the_contract() -> None:
    policy = gru(gru_policy.GRUPolicy)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    check_policy(policy.train())
    assert policy.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


@pytest.mark.parametrize("cls", BAD, ids=lambda cls: cls.__name__)
def test_what_is_wrong_with_a_policy_is_named(cls: type[gru_policy.GRUPolicy]) -> None:
    with pytest.raises(PolicyContractError, match=BAD[cls]):
        check_policy(gru(cls))


def test_who_never_forgets_shows_only_after_the_history() -> None:
    policy = gru(NeverForgets)
    check_policy(policy, steps=policy.history)


def test_a_frozen_part_stays_frozen_while_the_policy_is_checked() -> None:
    policy = gru(gru_policy.GRUPolicy)
    policy.norm = nn.BatchNorm1d(2)
    policy.frozen_modules = frozenset(["norm"])
    assert not policy.train().norm.training
