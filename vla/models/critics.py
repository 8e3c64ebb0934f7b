"""Value networks over a policy's features: Q(s, a) and V(s), several at once, in float32.

They stand beside the policies, not beside the objectives that train them, since a policy may also decide by them (see
`vla.models.policies.guided`). Features enter as they are: of a state, a layer norm would lose where it lies.

B windows, T steps, F features, K actions per chunk, A action dimensions, E members of an ensemble, H hidden width, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F_
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vla.config import Config
from vla.types import Spec

NARROW = 64
"""So few inputs cost less to multiply anew for every action than to add up products of features and actions."""


class CriticConfig(Config):
    """Networks that tell values from features."""

    hidden: int = Field(default=256, ge=1)
    """Width of the hidden layers."""
    depth: int = Field(default=2, ge=1)
    """Hidden layers."""
    ensemble: int = Field(default=2, ge=1)
    """Q networks that learn side by side; targets and advantages take the least of them."""
    layer_norm: bool = True
    """Normalise every hidden layer: values of unseen actions then grow slowly (Ball et al., 2023)."""
    output_scale: float = Field(default=0.01, gt=0, le=1)
    """Factor on the first weights of the last layer. Small: values start near 0, however large the features, which is forgotten
    sooner than noise that is bootstrapped from. 1: as usual; from states a policy that climbs Q finds its way sooner."""
    joint: bool = False
    """Let the critics' gradient into the policy's trunk; else they read features that they do not change."""


class EnsembleMLP(nn.Module):
    """E networks of the same shape as one batched product.

    Args:
        inputs: sizes of the inputs; each has a first layer of its own, and they are added: what stands for many actions
            of one state is computed once.
    """

    def __init__(self, inputs: tuple[int, ...], config: CriticConfig, *, members: int) -> None:
        super().__init__()
        H, self.members, self.narrow = config.hidden, members, sum(inputs) <= NARROW
        self.first = nn.ParameterList(
            _uniform(members, size, H, fan_in=sum(inputs)) for size in inputs
        )
        sizes = [H] * (config.depth - 1) + [1]
        self.weights = nn.ParameterList(_uniform(members, H, size, fan_in=H) for size in sizes)
        with torch.no_grad():
            self.weights[-1].mul_(config.output_scale)
        # one row each, so that optimisers see biases and scales as what they are and do not decay them
        self.biases = nn.ParameterList(
            _uniform(members * size, fan_in=H) for size in [H] * config.depth
        )
        self.biases.append(nn.Parameter(torch.zeros(members)))
        norms = config.depth if config.layer_norm else 0
        self.scales = nn.ParameterList(torch.ones(members * H) for _ in range(norms))
        self.shifts = nn.ParameterList(torch.zeros(members * H) for _ in range(norms))

    def constants(self, members: int) -> dict[str, Tensor]:
        """The parameters of the first so many networks by name, without gradient: `torch.func.functional_call` of this
        module with them gives those networks' values."""
        return {
            name: p.detach()[: len(p) // self.members * members]
            for name, p in self.named_parameters()
        }

    def forward(self, *inputs: Float[Tensor, ...]) -> Float[Tensor, "E ..."]:
        """inputs (..., size) each, of shapes that broadcast to the first axes of the largest -> (E, ...)."""
        E = len(self.weights[0])
        lead = max((x.shape[:-1] for x in inputs), key=len)
        hidden = self._joined(inputs, lead) if self.narrow else self._apart(inputs)
        for i in range(len(self.weights)):
            if len(self.scales):
                hidden = F_.layer_norm(hidden, hidden.shape[-1:])
                hidden = hidden * self.scales[i].view(E, 1, -1) + self.shifts[i].view(E, 1, -1)
            hidden = torch.baddbmm(
                self.biases[i + 1].view(E, 1, -1), hidden.relu_(), self.weights[i]
            )
        return hidden.view(E, *lead)

    def _joined(self, inputs: Sequence[Tensor], lead: torch.Size) -> Tensor:
        """The first layer (E, N, H) as one product of the inputs side by side."""
        x = torch.cat([x.expand(*lead, -1) for x in inputs], dim=-1).flatten(0, -2)
        weight = torch.cat(list(self.first), dim=1)
        E = len(weight)
        return torch.baddbmm(self.biases[0].view(E, 1, -1), x.expand(E, -1, -1), weight)

    def _apart(self, inputs: Sequence[Tensor]) -> Tensor:
        """The first layer (E, N, H) as a sum of products: each input is multiplied in its own shape, then broadcast."""
        E = len(self.weights[0])
        parts = []
        for x, weight in zip(inputs, self.first, strict=True):
            y = torch.matmul(x.reshape(1, -1, x.shape[-1]), weight)
            parts.append(y.view(E, *x.shape[:-1], -1))
        most = max(part.ndim for part in parts)
        parts = [part.view(E, *[1] * (most - part.ndim), *part.shape[1:]) for part in parts]
        hidden = sum(parts[1:], parts[0])
        return hidden.reshape(E, -1, hidden.shape[-1]) + self.biases[0].view(E, 1, -1)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class ActionCritic(nn.Module):
    """Q of a whole chunk of actions; actions enter in units of the spec's range, -1 to 1."""

    action_middle: Tensor
    action_half: Tensor

    def __init__(self, config: CriticConfig, feature_dim: int, spec: Spec, chunk: int) -> None:
        super().__init__()
        self.net = EnsembleMLP(
            (feature_dim, chunk * spec.action_dim), config, members=config.ensemble
        )
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        self.register_buffer("action_middle", (low + high) / 2, persistent=False)
        self.register_buffer("action_half", (high - low) / 2, persistent=False)

    def constants(self, members: int) -> dict[str, Tensor]:
        """See `EnsembleMLP.constants`."""
        return {f"net.{name}": p for name, p in self.net.constants(members).items()}

    def forward(
        self, features: Float[Tensor, "B T F"], actions: Float[Tensor, "... B T K A"]
    ) -> Float[Tensor, "E ..."]:
        """-> (E, ..., B, T), for as many chunks of each step as `actions` has further axes in front."""
        with torch.autocast(features.device.type, enabled=False):
            unit = ((actions.float() - self.action_middle) / self.action_half).flatten(-2)
            return self.net(features.float(), unit)


class StateCritic(nn.Module):
    """V of a state."""

    def __init__(self, config: CriticConfig, feature_dim: int) -> None:
        super().__init__()
        self.net = EnsembleMLP((feature_dim,), config, members=1)

    def forward(self, features: Float[Tensor, "B T F"]) -> Float[Tensor, "B T"]:
        with torch.autocast(features.device.type, enabled=False):
            return self.net(features.float())[0]


__all__ = ["ActionCritic", "CriticConfig", "EnsembleMLP", "StateCritic"]
