"""Small policies with made-up sentence vectors, so that no text encoder is loaded."""

from __future__ import annotations

from typing import Any

import torch

from vla.models import Policy, RT1Config
from vla.models.policies.mlp import MLPConfig
from vla.types import Spec

TINY = {
    "trunk": "test_efficientnet",
    "stride": 16,
    "width": 32,
    "depth": 1,
    "heads": 2,
    "key_dim": 16,
    "history": 3,
    "language_dim": 24,
    "tokens_per_image": 3,
}
TEXTS = ("push the cube", "lift the cube")


def fitted(policy: Policy) -> Policy:
    """The policy with everything that could hide a mistake by being zero away from zero."""
    torch.manual_seed(1)
    policy.language.preload({text: torch.randn(policy.language.dim) / 20 for text in TEXTS})
    low = torch.tensor(policy.spec.action_low)
    width = torch.tensor(policy.spec.action_high) - low
    actions = low + torch.rand(100, policy.spec.action_dim) * width
    policy.fit(actions, 3 + torch.randn(100, policy.spec.state_dim), list(TEXTS))
    for parameter in policy.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


def rt1(spec: Spec, **changes: Any) -> Policy:
    torch.manual_seed(0)
    return fitted(RT1Config(**{**TINY, "cameras": ["front"], **changes}).build(spec))


def mlp(spec: Spec, **changes: Any) -> Policy:
    torch.manual_seed(0)
    return fitted(
        MLPConfig(**{"chunk": 2, "hidden": 16, "language": "minilm", **changes}).build(spec)
    )
