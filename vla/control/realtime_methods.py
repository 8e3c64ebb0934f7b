"""Which methods of real-time chunking a policy can follow, and chunks by those that ask more of it
than its most likely actions.

B robots, K actions per chunk, A action dimensions, n actions that are left of a chunk.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla.config import UserError
from vla.control.inference_mode import inference
from vla.control.realtime import CONTINUING, Method, RealtimeSettings, nearest, padded
from vla.control.realtime import prefix_weights as weights_of
from vla.control.realtime_plan import Plan
from vla.types import ActionDistribution, Actor, Continuable, Observation, Spec

WITHOUT_DISTRIBUTION: tuple[Method, ...] = ("blend", "ensemble", "switch", "hold")
PREFERRED = ("prefix", "guidance", "bid", "blend")
"""What `auto` takes, the first that the policy can."""


@dataclass(frozen=True)
class Abilities:
    """What a policy can do about late chunks.

    Attributes:
        chunk: K.
        methods: method -> the most actions under way that it can take.
    """

    chunk: int
    methods: Mapping[Method, int]


def abilities_of(actor: Actor, observation: Observation) -> Abilities:
    """Asks the policy for one chunk, and its distribution for what it can.

    Args:
        observation: one that fits the policy; what it shows does not matter.
    """
    seen: list[ActionDistribution] = []

    def look(actions: ActionDistribution) -> Tensor:
        seen.append(actions)
        return actions.mode()

    takes_choose = can_choose(actor)
    options = {"choose": look} if takes_choose else {}
    with inference(actor):
        chunk_BKA, _ = actor.act(observation, None, **options)
        K = int(chunk_BKA.shape[1])
        methods: dict[Method, int] = {}
        if seen and isinstance(seen[0], Continuable):
            methods |= {name: n for name, n in seen[0].continuations.items() if name in CONTINUING}
        if seen and _draws_differ(seen[0]):
            methods["bid"] = K
    methods |= dict.fromkeys(WITHOUT_DISTRIBUTION, K)
    return Abilities(K, methods)


def can_choose(actor: Actor) -> bool:
    """Whether its distribution can be asked for other chunks than it gives by itself."""
    return "choose" in inspect.signature(actor.act).parameters


def _draws_differ(actions: ActionDistribution) -> bool:
    # some heads give one point at every temperature: there is nothing to choose from
    draws = [actions.sample(temperature=1.0) for _ in range(2)]
    return not torch.equal(*draws)


def chosen_method(wanted: str, abilities: Abilities, delay: int) -> Method:
    """The method to follow: the one that was asked for, or the best one for `auto`.

    Raises UserError if the policy cannot follow it; the message names those that it can.
    """
    able = [name for name, most in abilities.methods.items() if delay <= most]
    if wanted == "auto":
        return next(name for name in PREFERRED if name in able)  # type: ignore[return-value]
    for name in able:
        if name == wanted:
            return name
    possible = f"choose from: {', '.join(able)}"
    most = abilities.methods.get(wanted)  # type: ignore[call-overload]
    if most is not None:
        raise UserError(
            f"method is {wanted!r}, which this policy can with at most {most} actions under way, "
            f"and the latency is {delay} control steps: {possible}; or train it with "
            f"policy.head.prefix_max={delay}"
        )
    raise UserError(f"method is {wanted!r}, which this policy cannot follow: {possible}")


def chooser(
    plans: Sequence[Plan],
    settings: RealtimeSettings,
    spec: Spec,
    *,
    every: int,
    temperature: float,
) -> Callable[[ActionDistribution], Tensor]:
    """What `act` is given to choose chunks (B, 1, K, A) that go on from these plans, one for each
    robot, which are of one length."""
    chunk = len(plans[0].rest) + every
    previous_BKA = torch.from_numpy(np.stack([padded(plan.rest, chunk) for plan in plans]))
    weights_K = torch.from_numpy(weights_of(chunk, settings.delay, every, settings.schedule))

    def continued(actions: ActionDistribution) -> Tensor:
        assert isinstance(actions, Continuable)
        chunk_BKA = actions.continued(
            previous_BKA,
            settings.delay,
            weights_K,
            method=settings.method,
            temperature=temperature,
        )
        return chunk_BKA[:, None]

    def nearest_draw(actions: ActionDistribution) -> Tensor:
        # here, not above: a policy that has a distribution has loaded its own room already
        from vla.models.sampling import sample_many

        # draws of temperature 0 would all be the same one
        drawn = sample_many(actions, settings.draws, temperature=temperature or 1.0)
        drawn_SBKA = drawn[:, :, -1]
        unit_A = torch.tensor(spec.action_high) - torch.tensor(spec.action_low)
        unit_A = unit_A.to(drawn_SBKA) / 2
        previous = previous_BKA.to(drawn_SBKA)
        place_SBKA = nearest(drawn_SBKA / unit_A, previous / unit_A, weights_K.to(drawn_SBKA))
        return (place_SBKA * unit_A)[:, None]

    return nearest_draw if settings.method == "bid" else continued


__all__ = ["Abilities", "abilities_of", "can_choose", "chooser", "chosen_method"]
