"""Flow matching over chunks: straight paths from noise to actions (Lipman et al., 2023,
arXiv:2210.02747).

See also Liu et al., 2023, arXiv:2209.03003; for robots Black et al., 2024, pi0, arXiv:2410.24164.

At time 0 a chunk is noise, at time 1 it is actions, between them x_t = t * actions + (1 - t) *
noise. The network learns the velocity actions - noise from x_t, t and the read state; following it
from noise gives a chunk.

B windows, T steps, R hidden states read per step, W their width, K actions per chunk, A action
dimensions, H width of the head, S draws.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig, HeadError
from vla.models.heads.continuation import check_continuation
from vla.models.heads.continuous import (
    MLP,
    ActionScale,
    check_temperature,
    chunk_mean,
    without_masked,
)
from vla.models.heads.flow_continuation import guided_flow, prefixed_flow
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec

TIME_FEATURES = 64
LATEST = 0.999
"""The latest time that is trained at under `beta`, as in pi0."""


@register("heads", "flow")
class FlowConfig(HeadConfig):
    """Flow matching: any distribution over chunks, at the cost of `integration_steps` passes of a
    small network."""

    type: Literal["flow"] = "flow"
    times: Literal["uniform", "beta"] = "uniform"
    """Distribution of the times of training: uniform, or beta, where early, noisy times are more
    frequent (pi0)."""
    samples: int = Field(default=4, ge=1, le=100000)
    """Draws of noise and time per chunk and training step; the trunk runs once for all of them."""
    integration_steps: int = Field(default=10, ge=1, le=100000)
    """Euler steps from noise to a chunk."""
    read_states: int = Field(default=1, ge=1, le=10000)
    """Hidden states that are read per step."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the network."""
    depth: int = Field(default=3, ge=1, le=1000)
    """Residual layers of the network."""
    prefix_max: int = Field(default=0, ge=0, le=10000)
    """Most first actions of a chunk that are given in training, as in control they are under way
    while the network computes (real-time chunking); 0: none, chunks are continued by guidance."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return self.read_states

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> FlowHead:
        """Raises HeadError if whole chunks would be given."""
        if self.prefix_max >= tokenizer.chunk and self.prefix_max:
            raise HeadError(
                f"policy.head.prefix_max is {self.prefix_max}, but a chunk has {tokenizer.chunk} "
                f"actions and one at least must be predicted: set policy.head.prefix_max="
                f"{tokenizer.chunk - 1}"
            )
        return FlowHead(self, tokenizer, spec, width)


class FlowHead(Head):
    """The condition is computed once per step of control, the velocity once per integration
    step."""

    def __init__(
        self,
        config: FlowConfig,
        tokenizer: ActionTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        self.chunk_shape = (tokenizer.chunk, spec.action_dim)
        self.read = MLP(self.num_readouts * width, config.hidden, config.hidden)
        numbers = math.prod(self.chunk_shape)
        # a time for each action, since given actions are at their end while the others flow
        times = tokenizer.chunk if config.prefix_max else 0
        self.velocity = VelocityNetwork(numbers, config.hidden, config.depth, times)
        self.scale = ActionScale(spec)

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        self.scale.fit(actions)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> FlowActions:
        return FlowActions(self.read(hidden.flatten(2)), self)


class VelocityNetwork(nn.Module):
    """Residual layers over a flattened chunk; time and read state enter each of them.

    Args:
        numbers: K * A.
        times: numbers that enter behind those of the chunk: a time for each action, or none.
    """

    def __init__(self, numbers: int, hidden: int, depth: int, times: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(numbers + times, hidden)
        self.time = nn.Linear(TIME_FEATURES, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, numbers)

    def forward(
        self,
        x: Float[Tensor, "*batch inputs"],
        time: Float[Tensor, "*batch"],
        state: Float[Tensor, "*batch H"],
    ) -> Float[Tensor, "*batch KA"]:
        dtype = self.out.weight.dtype
        condition = state.to(dtype) + self.time(time_features(time).to(dtype))
        y = self.enter(x.to(dtype)) + condition
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=True):
            # in every layer: deep layers would forget a condition that enters only once
            y = y + outer(F.gelu(inner(norm(y)) + condition))
        return self.out(self.norm(y)).float()


def time_features(time: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch features"]:
    """Sines and cosines of times in [0, 1], of periods from 4 down to 0.004."""
    half = TIME_FEATURES // 2
    exponent = torch.arange(half, device=time.device) / (half - 1)  # 0 to 1
    frequency = 0.5 * math.pi * 1000**exponent
    angle = time.float()[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@dataclass(frozen=True)
class FlowActions:
    """Chunks that flow from standard normal noise.

    Attributes:
        state: (B, T, H), the trunk's hidden states as the head reads them.
        head: the network and its settings.
        base: (B, T, H), other hidden states, from which guidance leads away; None without it.
        guidance: factor of the way from the velocity under `base` to that under `state`.
    """

    state: Float[Tensor, "B T H"]
    head: FlowHead
    base: Float[Tensor, "B T H"] | None = None
    guidance: float = 1.0

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean squared error of the velocity over the chunk's valid actions, in units of the data.

        0 for a chunk without valid actions. Draws noise and times by torch's default generator.
        """
        S = self.head.config.samples
        # the network sees whole chunks: actions that do not count must not be seen there either
        unit_BTKA = without_masked(self.head.scale.to_unit(actions), action_mask)
        unit = unit_BTKA.expand(S, *actions.shape)
        noise = torch.randn_like(unit)
        time_SBT = self._times((S, *actions.shape[:2]))
        t = time_SBT[..., None, None]
        x = t * unit + (1 - t) * noise
        if self.head.config.prefix_max:
            return self._loss_after_prefix(x, unit, noise, time_SBT, action_mask)
        velocity = self._velocity(x, time_SBT)
        # the mean over S draws and action dimensions
        error_BTK = (velocity - (unit - noise)).square().mean((0, -1))
        return chunk_mean(error_BTK, action_mask)

    def _loss_after_prefix(
        self,
        x: Float[Tensor, "S B T K A"],
        unit: Float[Tensor, "S B T K A"],
        noise: Float[Tensor, "S B T K A"],
        time_SBT: Float[Tensor, "S B T"],
        action_mask: Bool[Tensor, "B T K"] | None,
    ) -> Float[Tensor, "B T"]:
        """The loss of the actions behind 0 to `prefix_max` given ones, as many for each draw as
        chance has it."""
        K = x.shape[-2]
        most = self.head.config.prefix_max
        frozen_SBT1 = torch.randint(0, most + 1, (*time_SBT.shape, 1), device=x.device)
        given_SBTK = torch.arange(K, device=x.device) < frozen_SBT1
        x = torch.where(given_SBTK[..., None], unit, x)
        velocity = self._velocity(x, time_SBT, given_SBTK)
        error_SBTK = (velocity - (unit - noise)).square().mean(-1)
        counted_SBTK = ~given_SBTK
        if action_mask is not None:
            counted_SBTK = counted_SBTK & action_mask
        # each draw over the actions that it predicts, however many were given
        return chunk_mean(error_SBTK, counted_SBTK).mean(0)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """Where zero noise, the most likely noise, flows to.

        It need not be the most likely chunk: with two equally likely ways to act it may lie between
        them; then sample.
        """
        shape = (*self.state.shape[:-1], *self.head.chunk_shape)
        return self._flow(self.state.new_zeros(shape))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` multiplies the noise's variance, 0 gives the mode.

        Raises ValueError if the temperature is negative.
        """
        check_temperature(temperature)
        if temperature == 0:
            return self.mode()
        shape = (*self.state.shape[:-1], *self.head.chunk_shape)
        noise = torch.randn(shape, generator=generator, device=self.state.device)
        return self._flow(math.sqrt(temperature) * noise)

    def extrapolated(self, base: FlowActions, weight: float) -> FlowActions:
        """From `base` (weight 0) to this flow (1) and beyond: classifier-free guidance of the
        velocity."""
        return dataclasses.replace(self, base=base.state, guidance=weight)

    @property
    def continuations(self) -> Mapping[str, int]:
        """Guidance of any flow; prefix where the head was trained with given actions."""
        guided = {"guidance": self.head.chunk_shape[0]}
        most = self.head.config.prefix_max
        return {"prefix": most, **guided} if most else guided

    def continued(
        self,
        previous: Float[Tensor, "B K A"],
        frozen: int,
        weights: Float[Tensor, " K"],
        generator: torch.Generator | None = None,
        *,
        method: str | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B K A"]:
        """A chunk of the last step that goes on from `previous`; see `Continuable`.

        Prefix takes no more than `prefix_max` actions as given.
        """
        method = check_continuation(self, method, frozen)
        check_temperature(temperature)
        last = dataclasses.replace(self, state=self.state[:, -1:])
        if self.base is not None:
            last = dataclasses.replace(last, base=self.base[:, -1:])
        device = self.state.device
        # the network's units: there all dimensions weigh alike
        unit_B1KA = self.head.scale.to_unit(previous.to(device))[:, None]
        # drawn as by `sample`; the mode flows from zero noise
        noise_B1KA = torch.zeros_like(unit_B1KA)
        if temperature:
            noise_B1KA.normal_(generator=generator).mul_(math.sqrt(temperature))
        steps = self.head.config.integration_steps
        if method == "prefix":
            flowed = prefixed_flow(
                last.velocity_after(frozen), noise_B1KA, unit_B1KA, frozen, steps
            )
        else:
            weights_K = weights.to(unit_B1KA)
            flowed = guided_flow(last.velocity_after(0), noise_B1KA, unit_B1KA, weights_K, steps)
        return self.head.scale.to_robot(flowed)[:, 0]

    def velocity_after(self, frozen: int) -> Callable[[Tensor, float], Tensor]:
        """The velocity (B, T, K, A) of chunks of which the first `frozen` actions are given."""
        given_K = torch.arange(self.head.chunk_shape[0], device=self.state.device) < frozen

        def velocity(x_BTKA: Tensor, time: float) -> Tensor:
            time_BT = x_BTKA.new_full(x_BTKA.shape[:-2], time)
            return self._velocity(x_BTKA, time_BT, given_K)

        return velocity

    def flowed(self, noise: Float[Tensor, "... B T K A"]) -> Float[Tensor, "... B T K A"]:
        """Where this noise flows to, robot units."""
        return self._flow(noise)

    def _flow(self, x_BTKA: Tensor) -> Tensor:
        """Follows the velocity from noise at time 0 to actions at time 1, by Euler's method; robot
        units."""
        steps = self.head.config.integration_steps
        for step in range(steps):
            time_BT = x_BTKA.new_full(x_BTKA.shape[:-2], step / steps)
            x_BTKA = x_BTKA + self._velocity(x_BTKA, time_BT) / steps
        return self.head.scale.to_robot(x_BTKA)

    def _velocity(self, x: Tensor, time: Tensor, given: Tensor | None = None) -> Tensor:
        """given: (..., K), which actions are at their end; None: none are."""
        velocity = self._velocity_under(self.state, x, time, given)
        if self.base is None:
            return velocity
        base = self._velocity_under(self.base, x, time, given)
        return base + self.guidance * (velocity - base)

    def _velocity_under(
        self, state: Tensor, x: Tensor, time: Tensor, given: Tensor | None
    ) -> Tensor:
        state = state.expand(*time.shape, -1)
        inputs = x.flatten(-2)
        if self.head.config.prefix_max:
            # time 1 is where actions are actions, and no noise
            times = time[..., None].expand(x.shape[:-1])
            if given is not None:
                times = torch.where(given, 1.0, times)
            inputs = torch.cat([inputs, times], dim=-1)
        return self.head.velocity(inputs, time, state).unflatten(-1, self.head.chunk_shape)

    def _times(self, shape: tuple[int, ...]) -> Tensor:
        uniform = torch.rand(shape, device=self.state.device)
        if self.head.config.times == "uniform":
            return uniform
        return LATEST * (1 - uniform ** (1 / 1.5))  # u^(1/a) is distributed as Beta(a, 1)


__all__ = ["FlowActions", "FlowConfig", "FlowHead", "VelocityNetwork", "time_features"]
