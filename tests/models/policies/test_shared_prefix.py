"""The best of N: all proposals come from one pass of the trunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import vlm_toys
from torch import nn

from vla.config import lookup, validate
from vla.models.critics import ActionCritic, CriticConfig
from vla.models.policies.guided import (
    BestOfN,
    CriticGuidedConfig,
    CriticGuidedPolicy,
    critic_guided,
)
from vla.models.policy import Policy
from vla.models.sampling import sample_many

SPEC = vlm_toys.SPEC
K = 2
RT1: dict[str, Any] = {
    "type": "rt1",
    "trunk": "test_efficientnet",
    "stride": 16,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "key_dim": 8,
    "language_dim": 16,
    "tokens_per_image": 2,
    "history": 2,
    "chunk": K,
    "language": "blank",
    "head": {"type": "autoregressive", "hidden": 16, "depth": 1, "heads": 2},
}


def built(values: dict[str, Any]) -> Policy:
    torch.manual_seed(0)
    policy: Policy = validate(lookup("policies", values["type"]), values).build(SPEC)
    low, high = policy.action_low, policy.action_high
    unit = torch.rand(50, SPEC.action_dim)
    policy.fit(low + unit * (high - low), torch.randn(50, SPEC.state_dim), ["do task 0"])
    return policy.eval()


def guided(policy: Policy, samples: int) -> CriticGuidedPolicy:
    critic = ActionCritic(CriticConfig(hidden=8), policy.feature_dim, SPEC, K)
    selection = BestOfN(samples=samples)
    config = CriticGuidedConfig(
        policy=policy.config, critic=CriticConfig(hidden=8), selection=selection
    )
    return critic_guided(policy, config, critic)


class Counted:
    """The lengths of the sequences that a module is given, and their number."""

    def __init__(self, module: nn.Module) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._handle = module.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        hidden = getattr(output, "last_hidden_state", output)
        self.shapes.append((hidden.shape[0], hidden.shape[1]))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    base = vlm_toys.smolvlm(tmp_path_factory.mktemp("base"))
    return built({"type": "vlm", "base": str(base), "chunk": K, "lora": {"rank": 4}})


def test_a_language_model_reads_its_prompt_once_for_all_proposals(vlm: Policy) -> None:
    samples = 5
    counted = Counted(vlm.trunk.model.base_model)
    observation = SPEC.fake_observation(2)
    guided(vlm, samples).act(observation)
    prompts = [shape for shape in counted.shapes if shape[1] > 1]
    assert len(prompts) == 1
    assert prompts[0][0] == 2  # the robots, each once
    tokens = [shape[0] for shape in counted.shapes if shape[1] == 1]
    # the most likely chunk, and all others side by side
    passes = vlm.tokenizer.num_tokens - 1
    assert (
        tokens == [2 * samples] * passes + [2] * passes
        or tokens == [2] * passes + [2 * samples] * passes
    )


def test_windows_too_are_read_once(vlm: Policy) -> None:
    """`forward` has read prompt and true tokens; drawing needs the prompt alone, once."""
    counted = Counted(vlm.trunk.model.base_model)
    with torch.no_grad():
        actions = guided(vlm, 3)(SPEC.fake_batch(2, 1, K)).actions
        actions.mode()
        actions.mode()
    assert len([shape for shape in counted.shapes if shape[1] > 1]) == 2


def test_rt1_runs_its_trunk_once() -> None:
    policy = built(RT1)
    counted = Counted(policy.transformer)
    guided(policy, 6).act(SPEC.fake_observation(2))
    assert len(counted.shapes) == 1


@pytest.mark.parametrize("kind", ["vlm", "rt1"])
def test_draws_side_by_side_are_draws_of_the_same_distribution(kind: str, vlm: Policy) -> None:
    policy = vlm if kind == "vlm" else built(RT1)
    batch = SPEC.fake_batch(2, 1, K)
    with torch.no_grad():
        actions = policy(batch).actions
        nearly_greedy = sample_many(actions, 4, temperature=1e-6)
        assert torch.equal(nearly_greedy, actions.mode()[None].expand_as(nearly_greedy))
        generator = torch.Generator().manual_seed(0)
        many = sample_many(actions, 200, generator)
        alone = torch.stack([actions.sample(generator) for _ in range(200)])
    assert many.shape == (200, 2, 1, K, SPEC.action_dim)
    spread = alone.std(0)
    assert ((many.mean(0) - alone.mean(0)).abs() < 0.45 * spread).all()
    torch.testing.assert_close(many.std(0), spread, rtol=0.4, atol=0.05)
