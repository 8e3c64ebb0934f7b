"""Value networks over a policy's features: Q(s, a) and V(s), several at once, in float32.

They lie beside the policies, not beside the objectives that train them, since a policy may also act
by them (see `vla.models.policies.guided`).

B windows, T steps, F features, K actions per chunk, A action dimensions, E members of an ensemble,
H hidden width, N rows, I size of one input, M bins of a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F_
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Config, UserError
from vla.models.layers.value_bins import ValueBins
from vla.types import Spec

NARROW = 64
"""Up to so many inputs, multiplying all of them again for every action costs less than adding up
the products of features and of actions."""


class CriticConfig(Config):
    """Networks that give values of features."""

    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layers."""
    depth: int = Field(default=2, ge=1, le=1000)
    """Hidden layers."""
    ensemble: int = Field(default=2, ge=1, le=1000)
    """Q networks that learn side by side; targets and advantages take the least of them."""
    layer_norm: bool = True
    """Normalise hidden layers: values of unseen actions then grow slowly (Ball et al., 2023)."""
    output_scale: float = Field(default=0.01, gt=0, le=1)
    """Factor on the first weights of the last layer. Small: values start near 0, however large the
    features, which is forgotten sooner than noise that is bootstrapped from. 1: as usual; from
    states a policy that climbs Q finds its way sooner."""
    joint: bool = False
    """Let the critics' gradient into the policy's trunk; else they read features that they do not
    change."""
    executed: int | None = Field(default=None, ge=1, le=10000)
    """How many of a chunk's actions control executes before the policy looks again (`replan_every`
    of the evaluation): Q reads these alone, and its target looks so many steps ahead. null: the
    whole chunk."""
    bins: int | None = Field(default=None, ge=2, le=10000)
    """Q, or V where it is regressed on returns, as a distribution over so many bins of
    `bin_range`, learned by cross-entropy (Farebrother et al., 2024): 51 to 201. null: as a number,
    by its squared error."""
    bin_range: tuple[float, float] | None = None
    """Least and greatest value, for `bins`: what the rewards and the discount allow. A value beyond
    is learned as the edge."""

    @model_validator(mode="after")
    def _bins_have_a_range(self) -> CriticConfig:
        if (self.bins is None) != (self.bin_range is None):
            raise ValueError(
                "bins, bin_range: go together; set both of them or none, for example bins=51 "
                "bin_range=[0,1]"
            )
        if self.bin_range is not None and not self.bin_range[0] < self.bin_range[1]:
            raise ValueError(
                f"bin_range: the least must be below the greatest, got {list(self.bin_range)}"
            )
        return self

    def value_bins(self) -> ValueBins | None:
        """The bins of a value that is learned as a distribution; None of one that is a number."""
        if self.bins is None or self.bin_range is None:
            return None
        return ValueBins(self.bins, *self.bin_range)


class EnsembleMLP(nn.Module):
    """E networks of the same shape as one batched product.

    Args:
        inputs: sizes of the inputs; each has a first layer of its own, and they are added: what
            belongs to many actions of one state is computed once.
        config: sizes of the layers.
        members: E.
        outputs: numbers that each network gives; of one, the results have no axis for it.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        config: CriticConfig,
        *,
        members: int,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        H = config.hidden
        self.members = members
        self.outputs = outputs
        self.narrow = sum(inputs) <= NARROW
        # (E, I, H) each, drawn as one layer over all inputs would be: hence the common fan-in
        fan_in = sum(inputs)
        first = [_uniform(members, size, H, fan_in=fan_in) for size in inputs]
        self.first = nn.ParameterList(first)
        sizes = [H] * (config.depth - 1) + [outputs]
        weights = [_uniform(members, H, size, fan_in=H) for size in sizes]
        self.weights = nn.ParameterList(weights)
        with torch.no_grad():
            self.weights[-1].mul_(config.output_scale)
        # (E * H,), one row each: optimisers then see biases and scales as what they are, and do not
        # decay them
        biases = [_uniform(members * H, fan_in=H) for _ in range(config.depth)]
        last_bias = nn.Parameter(torch.zeros(members * outputs))
        self.biases = nn.ParameterList([*biases, last_bias])
        norms = config.depth if config.layer_norm else 0
        self.scales = nn.ParameterList(torch.ones(members * H) for _ in range(norms))
        self.shifts = nn.ParameterList(torch.zeros(members * H) for _ in range(norms))

    def constants(self, members: int) -> dict[str, Tensor]:
        """The parameters of the first so many networks by name, without gradient.

        `torch.func.functional_call` of this module with them gives those networks' values.
        """
        constants = {}
        for name, parameter in self.named_parameters():
            # members lie one after the other on the first axis, of weights and of flat biases alike
            rows = len(parameter) // self.members * members
            constants[name] = parameter.detach()[:rows]
        return constants

    def forward(self, *inputs: Float[Tensor, ...]) -> Float[Tensor, "E ..."]:
        """Values (E, ...) of inputs (..., I) that broadcast to the first axes of the largest; of
        several outputs (E, ..., outputs)."""
        # not `self.members`: a `functional_call` may bring the constants of fewer networks
        E = len(self.weights[0])
        lead = max((x.shape[:-1] for x in inputs), key=len)
        # no norm of the inputs: that of a state would lose where it lies
        hidden_ENH = self._joined(inputs, lead) if self.narrow else self._apart(inputs)
        for i in range(len(self.weights)):
            if len(self.scales):
                # one normalisation for all members, then each member's own scale and shift
                hidden_ENH = F_.layer_norm(hidden_ENH, hidden_ENH.shape[-1:])
                scale_E1H = self.scales[i].view(E, 1, -1)
                shift_E1H = self.shifts[i].view(E, 1, -1)
                hidden_ENH = hidden_ENH * scale_E1H + shift_E1H
            bias_E1H = self.biases[i + 1].view(E, 1, -1)
            hidden_ENH = torch.baddbmm(bias_E1H, hidden_ENH.relu_(), self.weights[i])
        return hidden_ENH.view(E, *lead, *([self.outputs] if self.outputs > 1 else []))

    def _joined(
        self,
        inputs: Sequence[Tensor],
        lead: torch.Size,
    ) -> Float[Tensor, "E N H"]:
        """The first layer as one product of the inputs side by side."""
        expanded = [x.expand(*lead, -1) for x in inputs]
        x_NI = torch.cat(expanded, dim=-1).flatten(0, -2)
        weight_EIH = torch.cat(list(self.first), dim=1)
        E = len(weight_EIH)
        x_ENI = x_NI.expand(E, -1, -1)
        bias_E1H = self.biases[0].view(E, 1, -1)
        return torch.baddbmm(bias_E1H, x_ENI, weight_EIH)

    def _apart(self, inputs: Sequence[Tensor]) -> Float[Tensor, "E N H"]:
        """The first layer as a sum of products: each input in its own shape, then broadcast."""
        E = len(self.weights[0])
        parts = []
        for x, weight_EIH in zip(inputs, self.first, strict=True):
            x_1NI = x.reshape(1, -1, x.shape[-1])
            y_ENH = torch.matmul(x_1NI, weight_EIH)
            parts.append(y_ENH.view(E, *x.shape[:-1], -1))
        most = max(part.ndim for part in parts)
        aligned = []
        for part in parts:
            # the new axes belong behind E: plain broadcasting would put them in front of it
            ones = [1] * (most - part.ndim)
            aligned.append(part.view(E, *ones, *part.shape[1:]))
        hidden = sum(aligned[1:], aligned[0])
        hidden_ENH = hidden.reshape(E, -1, hidden.shape[-1])
        return hidden_ENH + self.biases[0].view(E, 1, -1)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """As torch's `nn.Linear` starts, for each member."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


@dataclass(frozen=True)
class QEstimate:
    """What critics say of actions, with the gradient.

    Attributes:
        values: Q, (E, ..., B, T).
        logits: (E, ..., B, T, M), of its distribution; None if Q is a number.
        bins: what they are of.
    """

    values: Float[Tensor, "E ..."]
    logits: Float[Tensor, "E ... M"] | None = None
    bins: ValueBins | None = None

    def error(self, targets: Float[Tensor, ...]) -> Float[Tensor, "E ..."]:
        """The squared distance of each critic to the targets, or their cross-entropy (nats)."""
        if self.bins is None or self.logits is None:
            return (self.values - targets).square()
        return self.bins.cross_entropy(self.logits, targets.expand(self.values.shape))


class ActionCritic(nn.Module):
    """Q of a chunk of actions; actions enter in units of the spec's range, -1 to 1.

    What control executes of a chunk is one action of the critics: Q values these `executed` actions
    and looks as many steps ahead, so that it is of what the policy commits itself to. With one it
    is the usual Q.

    Attributes:
        executed: the first so many actions of a chunk are read, all K by default.

    Raises UserError if more are to be executed than a chunk has.
    """

    action_middle: Tensor
    action_half: Tensor

    def __init__(
        self,
        config: CriticConfig,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> None:
        super().__init__()
        self.executed = config.executed or chunk
        if self.executed > chunk:
            raise UserError(
                f"critic.executed: is {self.executed}, but a chunk has {chunk} actions "
                f"(policy.chunk); use {chunk} or less"
            )
        inputs = (feature_dim, self.executed * spec.action_dim)
        self.bins = config.value_bins()
        outputs = 1 if self.bins is None else self.bins.count
        self.net = EnsembleMLP(inputs, config, members=config.ensemble, outputs=outputs)
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        # not persistent: the spec says them, and a checkpoint should not say them a second time
        self.register_buffer("action_middle", (low + high) / 2, persistent=False)
        self.register_buffer("action_half", (high - low) / 2, persistent=False)

    def constants(self, members: int) -> dict[str, Tensor]:
        """See `EnsembleMLP.constants`."""
        return {f"net.{name}": p for name, p in self.net.constants(members).items()}

    def forward(
        self, features: Float[Tensor, "B T F"], actions: Float[Tensor, "... B T K A"]
    ) -> Float[Tensor, "E ..."]:
        """Q (E, ..., B, T); further axes of `actions` in front are further chunks of each step."""
        return self.estimate(features, actions).values

    def estimate(
        self, features: Float[Tensor, "B T F"], actions: Float[Tensor, "... B T K A"]
    ) -> QEstimate:
        """Q as `forward` gives it, and the distribution that it is the mean of, if it has one."""
        # float32 always: values of two actions may differ by less than bfloat16 resolves
        with torch.autocast(features.device.type, enabled=False):
            read = actions[..., : self.executed, :]
            unit = (read.float() - self.action_middle) / self.action_half
            given = self.net(features.float(), unit.flatten(-2))
            if self.bins is None:
                return QEstimate(given)
            return QEstimate(self.bins.expectation(given), given, self.bins)


class StateCritic(nn.Module):
    """V of a state.

    Args:
        regressed: whether V is learned from targets of its own, as `regression` does, and may then
            be a distribution over `config.bins`. What is an expectile of Q is a number whatever
            they say.
    """

    def __init__(self, config: CriticConfig, feature_dim: int, *, regressed: bool = False) -> None:
        super().__init__()
        self.bins = config.value_bins() if regressed else None
        outputs = 1 if self.bins is None else self.bins.count
        self.net = EnsembleMLP((feature_dim,), config, members=1, outputs=outputs)

    def forward(self, features: Float[Tensor, "B T F"]) -> Float[Tensor, "B T"]:
        given = self._given(features)
        return given if self.bins is None else self.bins.expectation(given)

    def regression(
        self, features: Float[Tensor, "B T F"], targets: Float[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """V, and the loss of each step against its target (no gradient): the squared error, or the
        cross-entropy of the bins."""
        given = self._given(features)
        if self.bins is None:
            return given, (given - targets.detach()).square()
        return self.bins.expectation(given), self.bins.cross_entropy(given, targets)

    def _given(self, features: Float[Tensor, "B T F"]) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.net(features.float())[0]


__all__ = ["ActionCritic", "CriticConfig", "EnsembleMLP", "QEstimate", "StateCritic"]
