"""What holds for an actor that has no more than `spec`, `history` and `act`, and what one may say of itself."""

from __future__ import annotations

import torch
from point_env import PointConfig
from seeker import Seeker

from vla.control.actor_traits import ActorTraits, traits_of
from vla.models.policies.decision_transformer import DecisionTransformerConfig

SPEC = PointConfig().spec()


def test_an_actor_that_says_nothing_has_the_defaults() -> None:
    traits = traits_of(Seeker(SPEC))
    assert traits == ActorTraits()
    assert (traits.return_conditioned, traits.counts_steps, traits.source) == (False, False, None)
    memory = object()
    assert traits.remember(memory, torch.zeros(1, 1, 2)) is memory


def test_what_an_actor_says_counts() -> None:
    class Loaded(Seeker):
        counts_steps = True

        def __init__(self) -> None:
            super().__init__(SPEC)
            self.source = "runs/seeker"

        def remember(self, memory: list, actions: torch.Tensor) -> list:
            return [*memory, actions]

    traits = traits_of(Loaded())
    assert (traits.counts_steps, traits.source) == (True, "runs/seeker")
    assert traits.remember([1], torch.zeros(1)) == [1, torch.zeros(1)]


def test_a_policy_has_them_all() -> None:
    config = DecisionTransformerConfig(cameras=[], width=16, depth=1, history=2)
    policy = config.build(SPEC)
    traits = traits_of(policy)
    assert traits.counts_steps
    assert traits.return_conditioned
    assert traits.remember == policy.remember
