"""Low-rank adapters of a policy's own linear layers (Hu et al. 2021, "LoRA"), which leave every
name as it was.

An adapted layer keeps `weight` and `bias`, frozen, and has `lora_A` and `lora_B` in addition.
Merged weights are stored: a checkpoint of an adapted policy is one of an ordinary policy.
(Vision-language bases, which come from transformers, are adapted by peft: see
`vla.models.layers.lora`.)

I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vla.models.layers.lora import LoraSettings


class AdaptedLinear(nn.Linear):
    """x -> W x + b + alpha / R * B A x, where only A (R, I) and B (O, R) learn.

    At first it computes the same as the layer that it adapts.
    """

    def __init__(self, layer: nn.Linear, settings: LoraSettings) -> None:
        # not nn.Linear's: it would draw a weight that is thrown away, and move the random numbers
        nn.Module.__init__(self)
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.weight = layer.weight.requires_grad_(False)
        self.bias = layer.bias
        if layer.bias is not None:
            layer.bias.requires_grad_(False)
        self.scale = settings.alpha / settings.rank
        self.dropout = nn.Dropout(settings.dropout)
        device = layer.weight.device
        self.lora_A = nn.Parameter(torch.empty(settings.rank, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, settings.rank, device=device))
        # B is zero, so A must not be: else neither would ever get a gradient
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        inner = F.linear(self.dropout(x), self.lora_A)
        return super().forward(x) + self.scale * F.linear(inner, self.lora_B)

    @torch.no_grad()
    def merged(self) -> Float[Tensor, "O I"]:
        """The weight of the plain layer that computes the same."""
        change = self.scale * (self.lora_B @ self.lora_A)
        return (self.weight.float() + change).to(self.weight.dtype)


def plain_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """The layers that can be adapted, by name: `nn.Linear` itself, no subclass of it."""
    # a subclass (a head, an adapted layer) may do more in `forward` than its matrix says
    return {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}


def add_adapters(module: nn.Module, names: Iterable[str], settings: LoraSettings) -> None:
    """Puts adapters around the named layers of `plain_linears`; their own weights are frozen."""
    layers = plain_linears(module)
    for name in names:
        _replace(module, name, AdaptedLinear(layers[name], settings))


@torch.no_grad()
def merge_adapters(module: nn.Module) -> None:
    """Every adapted layer becomes the plain one that computes the same."""
    for name, layer in list(_adapted(module)):
        # on "meta" no weight is allocated or drawn before the merged one takes its place
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(layer.merged())
        plain.bias = layer.bias
        _replace(module, name, plain.train(layer.training))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """State of `module` as after `merge_adapters`; without adapters its own, as views, not
    copies."""
    state = dict(module.state_dict())
    for name, layer in _adapted(module):
        state[f"{name}.weight"] = layer.merged()
        del state[f"{name}.lora_A"], state[f"{name}.lora_B"]
    return state


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """What cannot be derived from `merged_state`: frozen weights and adapters apart; views, not
    copies.

    A resumed run needs them: a merged matrix does not say which part of it still learns.
    """
    state = {}
    for name, layer in _adapted(module):
        state[f"{name}.weight"] = layer.weight.detach()
        state[f"{name}.lora_A"] = layer.lora_A.detach()
        state[f"{name}.lora_B"] = layer.lora_B.detach()
    return state


def _adapted(module: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    for name, layer in module.named_modules():
        if isinstance(layer, AdaptedLinear):
            yield name, layer


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    cast(nn.Module, module.get_submodule(parent)).__setattr__(child, layer)


__all__ = [
    "AdaptedLinear",
    "adapter_state",
    "add_adapters",
    "merge_adapters",
    "merged_state",
    "plain_linears",
]
