"""Slowly moving copies of networks, from which temporal-difference targets are computed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn


class TargetCopy(nn.Module):
    """A copy that follows a network by Polyak averaging: never trained, always in evaluation mode, part of the
    state of the objective that holds it.

    An objective is built before the policy is fitted to the data, so the copy takes the network's weights at the first
    `start`; a copy that was restored from a checkpoint keeps its own.

    Args:
        network: what is followed.
        shared: what the copy has in common with it, such as a tokenizer that is yet to be fitted.
    """

    started: Tensor

    def __init__(self, network: nn.Module, *, shared: Sequence[Any] = ()) -> None:
        super().__init__()
        self.network = (
            copy.deepcopy(network, {id(thing): thing for thing in shared})
            .requires_grad_(False)
            .eval()
        )
        self.register_buffer("started", torch.tensor(False))
        self._looked = False
        self._pairs: tuple[nn.Module, list[list[Any]]] | None = None

    def forward(self, *inputs: Any) -> Any:
        with torch.no_grad():
            return self.network(*inputs)

    def train(self, mode: bool = True) -> Self:
        """Dropout and batch statistics stay off, whatever the learner's mode."""
        super().train(mode)
        self.network.eval()
        return self

    def start(self, network: nn.Module) -> None:
        """Takes the weights and buffers of `network`, once."""
        if not self._looked:  # reading a buffer makes a GPU wait: once is enough
            if not self.started:
                self.follow(network, rate=1.0)
                self.started.fill_(True)
            self._looked = True

    @torch.no_grad()
    def follow(self, network: nn.Module, *, rate: float) -> None:
        """Moves the weights by `rate` of the way to those of `network`; buffers are copied."""
        if (
            self._pairs is None or self._pairs[0] is not network
        ):  # a small network's step would feel the walk
            lists = [
                list(values)
                for n in (self.network, network)
                for values in (n.parameters(), n.buffers())
            ]
            self._pairs = (network, lists)
        parameters, buffers, theirs, their_buffers = self._pairs[1]
        torch._foreach_lerp_(parameters, theirs, rate)
        for mine, other in zip(buffers, their_buffers, strict=True):
            mine.copy_(other)


__all__ = ["TargetCopy"]
