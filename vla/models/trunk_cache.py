"""What a trunk keeps of past steps in control: keys and values, layer by layer.

B robots, H attention heads, P tokens of the prefix, S past steps, n tokens per step that others may
attend to, M tokens of any kind, E width of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla.models.layers.transformer import KeyValue


@dataclass(frozen=True)
class TrunkCache:
    """Keys and values of past steps of B robots, layer by layer; and of the prefix.

    Attributes:
        prefix: (B, H, P, E) each, of the prefix's tokens.
        steps: (B, H, S * n, E) each, of the n tokens per step that others may attend to.
        ages: past steps of each robot, more than S if older ones are out of sight.
        tokens: n.
    """

    prefix: tuple[KeyValue, ...]
    steps: tuple[KeyValue, ...]
    ages: tuple[int, ...]
    tokens: int

    @property
    def num_steps(self) -> int:
        """S, the past steps of the oldest robot that are kept."""
        keys_BHME, _ = self.steps[0]
        return keys_BHME.shape[2] // self.tokens

    def layer(self, number: int) -> KeyValue:
        """Keys and values (B, H, P + S * n, E) of one layer: the prefix, then the steps."""
        prefix_keys, prefix_values = self.prefix[number]
        keys, values = self.steps[number]
        return (
            torch.cat([prefix_keys, keys], dim=2),
            torch.cat([prefix_values, values], dim=2),
        )

    def select(self, rows: Sequence[int]) -> TrunkCache:
        """Of some robots, in the order given."""
        index = list(rows)
        return TrunkCache(
            prefix=_each(self.prefix, lambda x_BHME: x_BHME[index]),
            steps=_each(self.steps, lambda x_BHME: x_BHME[index]),
            ages=tuple(self.ages[row] for row in index),
            tokens=self.tokens,
        )

    def without_steps(self) -> TrunkCache:
        """The prefix alone: what is known before the first step."""
        return TrunkCache(
            prefix=self.prefix,
            # empty, not absent: the shapes still tell heads and width
            steps=_each(self.steps, lambda x_BHME: x_BHME[:, :, :0]),
            ages=(0,) * len(self.ages),
            tokens=self.tokens,
        )

    @classmethod
    def stack(cls, caches: Sequence[TrunkCache]) -> TrunkCache:
        """Of several groups of robots, of whatever age, as one."""
        longest = max(keys.shape[2] for cache in caches for keys, _ in cache.steps)
        # zeros on the left are never attended to: `ages` says which steps are real
        padded = [_each(cache.steps, lambda x_BHME: _pad_left(x_BHME, longest)) for cache in caches]
        ages: list[int] = []
        for cache in caches:
            ages += cache.ages
        return cls(
            prefix=_join_layers([cache.prefix for cache in caches]),
            steps=_join_layers(padded),
            ages=tuple(ages),
            tokens=caches[0].tokens,
        )


def _each(
    layers: Sequence[KeyValue],
    change: Callable[[Tensor], Tensor],
) -> tuple[KeyValue, ...]:
    """The keys and values of all layers, changed alike."""
    return tuple((change(keys), change(values)) for keys, values in layers)


def _join_layers(groups: Sequence[Sequence[KeyValue]]) -> tuple[KeyValue, ...]:
    """Layers of several groups of robots -> layers of all robots."""
    joined = []
    for layer in zip(*groups, strict=True):
        keys = torch.cat([keys for keys, _ in layer])
        values = torch.cat([values for _, values in layer])
        joined.append((keys, values))
    return tuple(joined)


def _pad_left(
    x_BHME: Float[Tensor, "B H M E"],
    tokens: int,
) -> Float[Tensor, "B H tokens E"]:
    missing = tokens - x_BHME.shape[2]
    # the last axis first: nothing on E, then the tokens
    return nn.functional.pad(x_BHME, (0, 0, missing, 0))


__all__ = ["TrunkCache"]
