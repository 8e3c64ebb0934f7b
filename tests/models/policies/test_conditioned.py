"""Policies that read an advantage indicator, and act with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import vlm_toys

from vla.config import ConfigError, lookup, validate
from vla.models import Policy, load_policy
from vla.models.heads.base import HeadError
from vla.models.indicator import indicator_of, with_indicator, without_indicator
from vla.models.policies.conditioned import ConditionedConfig, ConditionedPolicy
from vla.models.policies.mlp import MLPConfig
from vla.models.policy_contract import check_policy
from vla.types import Batch, Observation

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
    "indicator": True,
    "language": "blank",
}
MLP = {"type": "mlp", "hidden": 16, "chunk": K, "language": "blank", "indicator": True}
POLICIES: dict[str, dict[str, Any]] = {
    "rt1": {"type": "rt1", "key_dim": 8, **SEEING},
    "rt1_flow": {
        "type": "rt1",
        "key_dim": 8,
        **SEEING,
        "head": {"type": "flow", "hidden": 16, "depth": 1, "integration_steps": 2},
    },
    "decision_transformer": {
        "type": "decision_transformer",
        "dropout": 0.0,
        "return_scale": 1.0,
        **SEEING,
        "head": {"type": "autoregressive", "hidden": 16, "depth": 1, "heads": 1},
    },
    "mlp": {**MLP, "head": {"type": "categorical"}},
}


def conditioned(
    policy: dict[str, Any], guidance: float = 1.0, *, fresh: bool = False
) -> ConditionedPolicy:
    torch.manual_seed(0)
    inside = validate(lookup("policies", policy["type"]), policy)
    built = ConditionedConfig(policy=inside, guidance=guidance).build(SPEC)
    with torch.no_grad():  # what is zero at initialisation could hide a mistake
        for parameter in () if fresh else built.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.3)
    return built.eval()


def asked(policy: Policy, batch: Batch, indicator: Any) -> torch.Tensor:
    if indicator is not None:
        texts = with_indicator(batch.instruction, indicator)
        batch = dataclasses.replace(batch, instruction=texts)
    with torch.no_grad():
        torch.manual_seed(0)
        return policy(batch).actions.loss(batch.actions, batch.action_mask)


def test_an_indicator_is_a_line_behind_the_instruction() -> None:
    [text] = with_indicator(["pick the cup"], "negative")
    assert text.splitlines() == ["pick the cup", "Advantage: negative"]
    assert indicator_of(text) == "negative"
    assert without_indicator(text) == "pick the cup"
    assert with_indicator([text], "positive") == with_indicator(["pick the cup"], "positive")
    assert indicator_of("pick the cup") is None


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_control_says_what_the_forward_pass_says(name: str, guidance: float) -> None:
    check_policy(conditioned(POLICIES[name], guidance))


@pytest.mark.parametrize("name", POLICIES)
def test_the_indicator_changes_what_the_trunk_says(name: str) -> None:
    inside = conditioned(POLICIES[name]).policy
    batch = SPEC.fake_batch(2, T if name != "mlp" else 1, K)
    plain, positive, negative = (
        asked(inside, batch, indicator) for indicator in (None, "positive", "negative")
    )
    assert (plain - positive).abs().max() > 1e-4
    assert (positive - negative).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["rt1", "mlp"])
def test_a_new_indicator_changes_nothing(name: str) -> None:
    inside = conditioned(POLICIES[name], fresh=True).policy
    batch = SPEC.fake_batch(2, 1, K)
    assert torch.equal(asked(inside, batch, None), asked(inside, batch, "positive"))


def test_guidance_leads_from_the_plain_policy_to_the_positive_one_and_beyond() -> None:
    batch = SPEC.fake_batch(2, 1, K)
    logits = {}
    for guidance in (0.0, 0.5, 1.0, 2.0):
        policy = conditioned(POLICIES["mlp"], guidance)
        with torch.no_grad():
            logits[guidance] = policy(batch).actions.logits.log_softmax(-1)
    with torch.no_grad():
        plain = policy.policy(batch).actions.logits.log_softmax(-1)
    torch.testing.assert_close(logits[0.0], plain)
    way = logits[1.0] - plain
    for guidance in (0.5, 2.0):
        expected = (plain + guidance * way).log_softmax(-1)
        torch.testing.assert_close(logits[guidance], expected)


def test_guidance_of_a_flow_is_that_of_its_velocity() -> None:
    batch = SPEC.fake_batch(2, 1, K)
    policy = conditioned(POLICIES["rt1_flow"], 2.0)
    x = torch.randn(2, 1, K, SPEC.action_dim)
    time = torch.full((2, 1), 0.3)
    with torch.no_grad():
        guided = policy(batch).actions
        velocity = guided._velocity(x, time)
        positive = guided._velocity_under(guided.state, x, time, None)
        plain = policy.policy(batch).actions._velocity(x, time)
    torch.testing.assert_close(velocity, 2 * positive - plain)
    assert (positive - plain).abs().max() > 1e-4


def test_guidance_of_a_head_of_tokens_one_by_one_is_exact() -> None:
    batch = SPEC.fake_batch(2, T, K)
    policy = conditioned(POLICIES["decision_transformer"], 2.0)
    with torch.no_grad():
        actions = policy(batch).actions
        chosen = actions.mode()
        texts = with_indicator(batch.instruction, "positive")
        positive = policy.policy(dataclasses.replace(batch, instruction=texts)).actions
        plain = policy.policy(batch).actions
        ids = positive.tokens(chosen).flatten(0, 1)
        own = positive.head.logits(positive.states.flatten(0, 1), ids).log_softmax(-1)
        base = plain.head.logits(plain.states.flatten(0, 1), ids).log_softmax(-1)
    assert torch.equal((2 * own - base).argmax(-1), ids)


def test_a_checkpoint_acts_as_before(tmp_path: Path) -> None:
    policy = conditioned(POLICIES["decision_transformer"], 1.5)
    policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, ConditionedPolicy)
    batch = SPEC.fake_batch(2, T, K)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(batch).actions.mode(), policy(batch).actions.mode(), atol=0, rtol=0
        )
    # no text with an indicator behind it is stored: it is no sentence
    texts = load_policy(tmp_path).language.cached()
    assert all(indicator_of(text) is None for text in texts)


def test_robots_act_side_by_side_as_alone() -> None:
    policy = conditioned(POLICIES["rt1"], 1.5)
    batch = SPEC.fake_batch(3, 1, K)
    together, _ = policy.act(batch.observation())
    for row in range(3):
        seen = batch.observation()
        one = Observation(
            images={name: image[row : row + 1] for name, image in seen.images.items()},
            state=seen.state[row : row + 1],
            instruction=seen.instruction[row : row + 1],
        )
        alone, memory = policy.act(one)
        torch.testing.assert_close(alone[0], together[row])
        assert memory.batch_size == 1


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"policy\.language: blank"):
        MLPConfig.model_validate({"indicator": True}).build(SPEC)
    regression = {**MLP, "head": {"type": "regression"}}
    with pytest.raises(HeadError, match=r"guidance: 2: .* set guidance: 1"):
        conditioned(regression, 2.0)(SPEC.fake_batch(1, 1, K))
