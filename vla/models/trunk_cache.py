"""What a trunk keeps of past steps in control: keys and values, layer by layer.

B robots, H attention heads, P tokens of the prefix, S past steps, n tokens per step that others may attend to, E width
of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
        keys_BHNE, _ = self.steps[0]
        return keys_BHNE.shape[2] // self.tokens

    def layer(self, number: int) -> KeyValue:
        """Keys and values (B, H, P + S * n, E) of one layer: first the prefix, then the steps."""
        prefix_keys, prefix_values = self.prefix[number]
        keys, values = self.steps[number]
        return torch.cat([prefix_keys, keys], dim=2), torch.cat([prefix_values, values], dim=2)

    def select(self, rows: Sequence[int]) -> TrunkCache:
        """Of some robots, in the order given."""
        index = list(rows)
        prefix = tuple((keys[index], values[index]) for keys, values in self.prefix)
        steps = tuple((keys[index], values[index]) for keys, values in self.steps)
        ages = tuple(self.ages[row] for row in index)
        return TrunkCache(prefix, steps, ages, self.tokens)

    def without_steps(self) -> TrunkCache:
        """The prefix alone: what is known before the first step."""
        steps = tuple((keys[:, :, :0], values[:, :, :0]) for keys, values in self.steps)
        return TrunkCache(self.prefix, steps, (0,) * len(self.ages), self.tokens)

    @classmethod
    def stack(cls, caches: Sequence[TrunkCache]) -> TrunkCache:
        """Of several groups of robots, of whatever age, as one."""
        longest = max(cache.steps[0][0].shape[2] for cache in caches)
        padded = []
        for cache in caches:
            # zeros on the left are never attended to: `ages` says from where on a robot's steps are real
            padded.append([(_pad_left(k, longest), _pad_left(v, longest)) for k, v in cache.steps])
        return cls(
            prefix=_join_layers([cache.prefix for cache in caches]),
            steps=_join_layers(padded),
            ages=tuple(age for cache in caches for age in cache.ages),
            tokens=caches[0].tokens,
        )


def _join_layers(groups: Sequence[Sequence[KeyValue]]) -> tuple[KeyValue, ...]:
    """Layers of several groups of robots -> layers of all robots."""
    joined = []
    for layer in zip(*groups, strict=True):
        keys = torch.cat([keys for keys, _ in layer])
        values = torch.cat([values for _, values in layer])
        joined.append((keys, values))
    return tuple(joined)


def _pad_left(x_BHNE: Tensor, tokens: int) -> Tensor:
    return nn.functional.pad(x_BHNE, (0, 0, tokens - x_BHNE.shape[2], 0))


__all__ = ["TrunkCache"]
