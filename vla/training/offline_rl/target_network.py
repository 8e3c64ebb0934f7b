"""Slowly moving copies of networks, from which temporal-difference targets are computed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn


class TargetCopy(nn.Module):
    """A copy that follows a network by Polyak averaging.

    It is never trained, always in evaluation mode, and part of the state of the objective that
    holds it.

    Args:
        network: what is followed.
        shared: what the copy has in common with it, such as a tokenizer that is yet to be fitted.
    """

    started: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        shared: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        # deepcopy takes what its memo holds already for copied: these objects stay the same ones
        memo = {id(thing): thing for thing in shared}
        self.network = copy.deepcopy(network, memo).requires_grad_(False).eval()
        self.register_buffer("started", torch.tensor(False))
        self._start_was_checked = False
        self._pairs: _Pairs | None = None

    def forward(self, *inputs: Any) -> Any:
        with torch.no_grad():
            return self.network(*inputs)

    def train(self, mode: bool = True) -> Self:
        """Dropout and batch statistics stay off, whatever the learner's mode."""
        super().train(mode)
        self.network.eval()
        return self

    def start(self, network: nn.Module) -> None:
        """Takes the weights and buffers of `network`, once.

        An objective is built before the policy is fitted to the data, so the copy made then is not
        of the weights that training starts from. A copy that was restored from a checkpoint keeps
        its own.
        """
        if self._start_was_checked:  # reading a buffer makes a GPU wait: once is enough
            return
        if not self.started:
            self.follow(network, rate=1.0)
            self.started.fill_(True)
        self._start_was_checked = True

    @torch.no_grad()
    def follow(self, network: nn.Module, *, rate: float) -> None:
        """Moves the weights by `rate` of the way to those of `network`; buffers are copied."""
        pairs = self._pairs_with(network)
        torch._foreach_lerp_(pairs.own_parameters, pairs.parameters, rate)
        # buffers hold statistics and counts: half of the way to a count means nothing
        for own, other in zip(pairs.own_buffers, pairs.buffers, strict=True):
            own.copy_(other)

    def _pairs_with(self, network: nn.Module) -> _Pairs:
        # kept: a step of a small network would feel the walk through all modules
        if self._pairs is None or self._pairs.network is not network:
            own_parameters = dict(self.network.named_parameters())
            own_buffers = dict(self.network.named_buffers())
            # by name: what is followed may hold more than the copy, such as a slow copy of its own
            parameters = dict(network.named_parameters())
            buffers = dict(network.named_buffers())
            self._pairs = _Pairs(
                network,
                list(own_parameters.values()),
                list(own_buffers.values()),
                [parameters[name] for name in own_parameters],
                [buffers[name] for name in own_buffers],
            )
        return self._pairs


class _Pairs(NamedTuple):
    """Tensors of a copy and of the network that it follows, in the same order.

    A tuple, since a module that is an attribute of a module becomes a part of it and of its state.
    """

    network: nn.Module
    own_parameters: list[Tensor]
    own_buffers: list[Tensor]
    parameters: list[Tensor]
    buffers: list[Tensor]


__all__ = ["TargetCopy"]
