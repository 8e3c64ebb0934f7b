"""A head that reads one place beside a state token reads the empty action slot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vla.models import RT1, load_policy
from vla.models.critics import ActionCritic
from vla.models.policies.guided import CriticGuidedConfig, critic_guided
from vla.models.policy import Policy
from vla.types import Spec

GAUSSIAN = {"type": "gaussian", "squash": "full"}


def read_tokens(policy: RT1) -> list[str]:
    """What stands at the places that the head reads."""
    layout = policy.transformer.layout
    names = []
    for place in policy._read:
        names += [s.name for s in layout.step if place in layout.slots(s.name)]
    return names


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state_token": True}, ["action"]),
        ({"state_token": True, "read_place": "content"}, ["state"]),
        ({}, ["image"]),
    ],
    ids=["slot", "content", "no state"],
)
def test_which_place_is_read(
    make: Callable[..., RT1], changes: dict[str, Any], expected: list[str]
) -> None:
    assert read_tokens(make(awake=False, head=GAUSSIAN, **changes)) == expected


def test_heads_that_read_several_places_begin_at_the_last_content(make: Callable[..., RT1]) -> None:
    """As released: the first action token is read where the last content stands."""
    policy = make(state_token=True)
    assert read_tokens(policy) == ["state", *["action"] * (policy.tokenizer.num_tokens - 1)]


@pytest.mark.parametrize("guided", [False, True])
def test_a_checkpoint_from_before_acts_as_it_did(
    make: Callable[..., RT1], spec: Spec, guided: bool, tmp_path: Path
) -> None:
    """Its config.json does not have the key, inside a guided policy as by itself."""
    found = {}
    for place in ("content", "slot"):
        inside = make(awake=False, head=GAUSSIAN, state_token=True, read_place=place).eval()
        policy: Policy = inside
        if guided:
            config = CriticGuidedConfig(policy=inside.config, critic={"hidden": 8})
            critic = ActionCritic(config.critic, inside.feature_dim, spec, inside.chunk)
            policy = critic_guided(inside, config, critic)
        folder = tmp_path / place
        policy.save_pretrained(folder)
        loaded = load_policy(folder).unwrapped
        assert isinstance(loaded, RT1)
        found[place] = loaded
    file = tmp_path / "content" / "config.json"
    header = json.loads(file.read_text())
    del header["config"].get("policy", header["config"])["read_place"]
    file.write_text(json.dumps(header))
    old = load_policy(file.parent).unwrapped
    assert isinstance(old, RT1)
    assert read_tokens(old) == ["state"]

    batch = spec.fake_batch(2, 3, 1)
    batch.instruction[:] = ["do task 0", "do task 1"]
    with torch.no_grad():
        actions = {place: policy(batch).actions.mode() for place, policy in found.items()}
        assert torch.equal(old(batch).actions.mode(), actions["content"])
    assert not torch.allclose(actions["slot"], actions["content"])
