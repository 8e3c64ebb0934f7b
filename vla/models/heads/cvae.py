"""A conditional variational autoencoder of chunks (ACT: Zhao et al., 2023, arXiv:2304.13705; Sohn
et al., 2015).

In training an encoder sees the chunk that was done and encodes in a latent vector which way it
went; the decoder makes the chunk from that and the read state. In control the latent vector is
drawn, or zero.

B windows, T steps, R hidden states read per step, W their width, K actions per chunk, A action
dimensions, Z latent dimensions, H width of the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.models.heads.continuous import (
    MLP,
    ActionScale,
    check_temperature,
    chunk_mean,
    without_masked,
)
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec


@register("heads", "cvae")
class CVAEConfig(HeadConfig):
    """A variational autoencoder of chunks: several ways to act, two small networks, one pass."""

    type: Literal["cvae"] = "cvae"
    latent: int = Field(default=16, ge=1, le=65536)
    """Dimensions of the latent vector."""
    beta: float = Field(default=0.1, ge=0)
    """Weight of the latent's divergence from a standard normal (nats) beside the mean absolute
    error.

    If it is too large the latent carries nothing and the head becomes a regression; if too small,
    random latents are unlike those of training."""
    read_states: int = Field(default=1, ge=1, le=10000)
    """Hidden states that are read per step."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layers."""
    depth: int = Field(default=2, ge=1, le=1000)
    """Hidden layers of encoder and decoder."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return self.read_states

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> CVAEHead:
        return CVAEHead(self, tokenizer, spec, width)


class CVAEHead(Head):
    """Encoder and decoder, each a small network over the read state and the chunk or the latent
    vector."""

    def __init__(
        self,
        config: CVAEConfig,
        tokenizer: ActionTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        self.chunk_shape = (tokenizer.chunk, spec.action_dim)
        numbers = math.prod(self.chunk_shape)
        H = config.hidden
        self.read = MLP(self.num_readouts * width, H, H)
        # the encoder also sees which actions of the chunk are valid, hence `+ tokenizer.chunk`
        self.encoder = MLP(H + numbers + tokenizer.chunk, H, 2 * config.latent, config.depth)
        self.decoder = MLP(H + config.latent, H, numbers, config.depth)
        self.scale = ActionScale(spec)

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        self.scale.fit(actions)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> CVAEActions:
        return CVAEActions(self.read(hidden.flatten(2)), self)

    def posterior(
        self,
        state: Float[Tensor, "B T H"],
        unit: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None,
    ) -> tuple[Float[Tensor, "B T Z"], Float[Tensor, "B T Z"]]:
        """Mean and log variance of the latent vector, given the valid actions of the chunk."""
        valid = torch.ones_like(unit[..., 0]) if action_mask is None else action_mask.float()
        seen = without_masked(unit, action_mask).flatten(2)
        mean, log_var = self.encoder(torch.cat([state, seen, valid], dim=-1)).chunk(2, dim=-1)
        return mean, log_var

    def decode(
        self,
        state: Float[Tensor, "B T H"],
        latent: Float[Tensor, "B T Z"],
    ) -> Float[Tensor, "B T K A"]:
        """The chunk in units of the data."""
        return self.decoder(torch.cat([state, latent], dim=-1)).unflatten(-1, self.chunk_shape)


@dataclass(frozen=True)
class CVAEActions:
    """Chunks that the decoder makes of a standard normal latent vector.

    Attributes:
        state: (B, T, H), the trunk's hidden states as the head reads them.
        head: encoder and decoder.
    """

    state: Float[Tensor, "B T H"]
    head: CVAEHead

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean absolute error of the chunk's valid actions, plus `beta` times the latent's
        divergence.

        In units of the data; 0 for a chunk without valid actions. Draws a latent vector by torch's
        default generator.
        """
        unit = self.head.scale.to_unit(actions)
        mean, log_var = self.head.posterior(self.state, unit, action_mask)
        # the reparameterisation trick: the gradient passes through the draw
        latent = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        error_BTK = (self.head.decode(self.state, latent) - unit).abs().mean(-1)
        # KL(N(mean, exp(log_var)) || N(0, 1)), summed over Z (Kingma and Welling, 2014, appendix B)
        divergence_BT = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        if action_mask is not None:
            divergence_BT = divergence_BT.where(action_mask.any(-1), 0.0)
        return chunk_mean(error_BTK, action_mask) + self.head.config.beta * divergence_BT

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The chunk of the latent vector zero, as ACT acts.

        If there are several ways to act it may be none of them: then sample.
        """
        shape = (*self.state.shape[:-1], self.head.config.latent)
        return self._chunk(self.state.new_zeros(shape))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` multiplies the latent's variance, 0 gives the mode.

        Raises ValueError if the temperature is negative.
        """
        check_temperature(temperature)
        if temperature == 0:
            return self.mode()
        shape = (*self.state.shape[:-1], self.head.config.latent)
        latent = torch.randn(shape, generator=generator, device=self.state.device)
        return self._chunk(math.sqrt(temperature) * latent)

    def _chunk(self, latent_BTZ: Tensor) -> Tensor:
        return self.head.scale.to_robot(self.head.decode(self.state, latent_BTZ))


__all__ = ["CVAEActions", "CVAEConfig", "CVAEHead"]
