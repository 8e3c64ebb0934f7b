"""What a policy gives, what it remembers, and all that simulation knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from vla.types.observation import Observation
from vla.types.spec import Spec


@runtime_checkable
class ActionDistribution(Protocol):
    """A distribution over action chunks for B windows of T steps, in robot units."""

    def loss(self, actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """actions (B, T, K, A), action_mask (B, T, K) -> loss (B, T) to be minimised by
        imitation."""

    def mode(self) -> Tensor:
        """The most likely chunk, (B, T, K, A)."""

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """One random chunk, (B, T, K, A); `temperature` 0 gives the mode."""


@runtime_checkable
class TokenDistribution(Protocol):
    """A distribution over chunks that are N tokens each: what every token was worth, for
    objectives that weigh tokens one by one."""

    @property
    def has_exact_tokens(self) -> bool:
        """Whether `tokens` of the first actions of a chunk that was drawn are the ids that were
        drawn, whatever follows: they are where tokens stand action by action."""

    def tokens(self, actions: Tensor) -> Tensor:
        """The ids of chunks (B, T, K, A), int64 (B, T, N)."""

    def token_logits(self, actions: Tensor) -> Tensor:
        """Logits of each place given the chunk's own ids before it, float32 (B, T, N, V); -inf for
        ids that may not stand there."""

    def token_mask(self, actions: Tensor, action_mask: Tensor) -> Tensor:
        """Which tokens of chunks (B, T, K, A) belong to valid actions (B, T, K): bool (B, T, N),
        without padding."""


@runtime_checkable
class Continuable(Protocol):
    """A distribution over chunks that can begin as the chunk before goes on: real-time chunking."""

    @property
    def continuations(self) -> Mapping[str, int]:
        """Method -> the most actions that it can take as given; the best method first."""

    def continued(
        self,
        previous: Tensor,
        frozen: int,
        weights: Tensor,
        generator: torch.Generator | None = None,
        *,
        method: str | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """One chunk of the last step, (B, K, A), that agrees with what is under way.

        Args:
            previous: (B, K, A), robot units: what the robot would execute from this observation on
                without a new chunk, 0 behind its end.
            frozen: first actions that will be executed whatever the new chunk says.
            weights: (K,) of 0 to 1, how much an action of `previous` counts; methods that keep the
                frozen actions exactly look at no others.
            generator: source of randomness, on the device of the distribution.
            method: of `continuations`; None for the first.
            temperature: as of `sample`.

        Raises ValueError if there is no such method, or it cannot take so many actions as given.
        """


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy's forward pass gives.

    Attributes:
        features: (B, T, F); features at t depend on steps <= t and on no action of step t,
            so that a critic may take the action separately.
        actions: distribution over chunks (B, T, K, A).
        losses: what the policy adds to an objective's loss, by name: (B, T) each, already weighted.
    """

    features: Tensor
    actions: ActionDistribution
    losses: dict[str, Tensor] = field(default_factory=dict)


class Memory(Protocol):
    """What a policy remembers of the past steps of B robots: a value, never changed in place.

    One robot is dropped or reordered by `select`; robots of different age are joined by `stack`.
    """

    # a value: one policy object serves many robots, and a lost episode is replayed by its past
    # steps

    @property
    def batch_size(self) -> int:
        """Number of robots, B."""
        ...

    def select(self, rows: Sequence[int]) -> Self:
        """The memory of some of the robots, in the order of `rows`."""
        ...

    @classmethod
    def stack(cls, memories: Sequence[Self]) -> Self:
        """One memory of all robots, which may be of different ages."""
        ...


@runtime_checkable
class PureStep(Protocol):
    """A policy that can be exported (`vla.export`): its memory is tensors of fixed shapes alone.

    `Policy.step` is free to remember texts, to count steps and to let tensors grow. A graph is not.
    """

    def empty_memory(self) -> dict[str, Tensor]:
        """What one robot remembers at its first step, (1, ...) each: zeros and False.

        Zeros, so that whoever holds the memory can let a robot start without knowing what is in it.
        """
        ...

    def pure_step(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        language: Tensor,
        memory: Mapping[str, Tensor],
    ) -> tuple[PolicyOutput, dict[str, Tensor]]:
        """The output (B, 1, ...) of the present step, and the new memory.

        Equal to `Policy.step`, up to rounding, from an episode's first step on.

        Args:
            images: of the cameras that the policy looks through, uint8 (B, H, W, 3).
            state: (B, S), robot units.
            language: (B, E), vectors as `Policy.embed_instructions` gives them.
            memory: with the names and shapes of `empty_memory`, B in place of 1.
        """
        ...


class Actor(Protocol):
    """Whatever can control robots: a policy, or a baseline. All that simulation knows of a policy.

    Members that an actor may have beside these, and what holds without them:
        counts_steps (False): every call of `act` is one step of the episode; no chunk is executed
            in between.
        executed_actions (None): how many actions of a chunk have to be executed before the next
            call, if its choice of chunks depends on that.
        return_conditioned (False): `Observation.target_return` means something to it.
        cameras (()): the cameras that it looks through; empty for all of the spec's.
        computes_on_cpu (False): it is no torch module, and takes the processor that the envs need.
        fingerprint (None): a hash of all that decides its actions, if it is no torch module.
        source (None): the folder or repository that it was loaded from.
        card ({}): what it says of itself; `training` in it says by which training it was made.
        remember(memory, actions) (the memory as it is): the memory with the actions (B, K, A) that
            are executed next, if they are others than `act` gave.
    """

    spec: Spec
    history: int

    def act(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        """Actions (B, K, A) in robot units, and the new memory; `memory=None` starts an episode."""
