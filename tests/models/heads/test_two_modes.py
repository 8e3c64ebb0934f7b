"""Left or right around an obstacle: demonstrations take either way, half of them each; what do heads make of it?

A chunk is a whole way of 8 steps in the plane, from (0, y) to about (1, y). The obstacle is a disc of radius 0.2 around
(0.5, 0); the ways pass it at a distance of about 0.5. Features are fixed random functions of y, so that a head can tell
where it starts, and cannot tell which way to take.
"""

import math
from typing import Any

import pytest
import torch

from vla.config import lookup
from vla.models.heads.base import Head
from vla.types import Spec

K, WIDTH, BATCH, TRIES = 8, 32, 64, 400
SPEC = Spec({}, (), ("dx", "dy"), (-0.5, -0.5), (0.5, 0.5), 10)
NO_TOKENS: dict[str, Any] = {"type": "bins"}
HEADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "regression l2": ({"type": "regression", "error": "l2", "hidden": 64}, NO_TOKENS),
    "categorical, bins": ({"type": "categorical"}, {"type": "bins", "num_bins": 32}),
    "autoregressive, bins": (
        {"type": "autoregressive", "hidden": 32, "depth": 1, "heads": 2},
        {"type": "bins", "num_bins": 32},
    ),
    "autoregressive, fast": (
        {"type": "autoregressive", "hidden": 32, "depth": 1, "heads": 2},
        {"type": "fast", "vocab_size": 128, "scale": 5.0},
    ),
    "clusters over chunks": (
        {"type": "clusters", "hidden": 64},
        {"type": "kmeans", "centres": 8, "over": "chunk"},
    ),
    "mixture": ({"type": "gaussian_mixture", "hidden": 64}, NO_TOKENS),
    "flow": ({"type": "flow", "hidden": 64, "depth": 2, "samples": 8}, NO_TOKENS),
    "cvae": ({"type": "cvae", "hidden": 64, "latent": 4}, NO_TOKENS),
}
IN_BETWEEN = {"regression l2": 0.95, "categorical, bins": 0.25}
"""Heads that lead through the obstacle, and in how many of the samples at least."""
STEPS = 300


def demonstrations(count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Starting heights (count,) and ways (count, K, 2), half of them left and half right."""
    start = 0.1 * (2 * torch.rand(count, generator=rng) - 1)
    side = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)
    height = side * (0.5 + 0.04 * torch.randn(count, generator=rng))
    time = torch.linspace(0, 1, K + 1)
    y = height[:, None] * torch.sin(math.pi * time)
    way = torch.stack([time.expand(count, -1), y], dim=-1)
    return start, way.diff(dim=1) + 0.005 * torch.randn(count, K, 2, generator=rng)


def features(start: torch.Tensor, reads: int) -> torch.Tensor:
    """(B,) -> (B, 1, R, W), fixed."""
    rng = torch.Generator().manual_seed(0)
    slope, shift = (torch.randn(reads, WIDTH, generator=rng) for _ in range(2))
    return torch.sin(10 * start[:, None, None] * slope + 2 * shift)[:, None]


def hits(start: torch.Tensor, chunk: torch.Tensor) -> float:
    """Share of the chunks (B, K, 2) that lead through the obstacle."""
    way = chunk.cumsum(1)
    way = torch.cat([torch.zeros_like(way[:, :1]), way], dim=1)
    way[..., 1] += start[:, None]
    between = torch.cat(
        [way[:, :-1] + share * way.diff(dim=1) for share in (0.0, 0.25, 0.5, 0.75)], dim=1
    )
    return float(((between - torch.tensor([0.5, 0.0])).norm(dim=-1) < 0.2).any(1).float().mean())


def left(chunk: torch.Tensor) -> float:
    """Share of the chunks (B, K, 2) that are on the left halfway."""
    return float((chunk[:, : K // 2, 1].sum(1) > 0).float().mean())


def trained(name: str) -> Head:
    head_options, tokenizer_options = HEADS[name]
    rng = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    _, ways = demonstrations(200, rng)
    tokenizer = lookup("tokenizers", tokenizer_options["type"])(**tokenizer_options).build(SPEC, K)
    tokenizer.fit(ways.flatten(0, 1), lengths=[K] * len(ways))
    head = lookup("heads", head_options["type"])(**head_options).build(tokenizer, SPEC, width=WIDTH)
    head.fit(ways.flatten(0, 1), lengths=[K] * len(ways))
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    for _ in range(STEPS):
        start, ways = demonstrations(BATCH, rng)
        loss = head(features(start, head.num_readouts)).loss(ways[:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head


def shares(name: str) -> tuple[float, float]:
    """Share of the samples that hit the obstacle, and share that go left."""
    head = trained(name)
    start, _ = demonstrations(TRIES, torch.Generator().manual_seed(2))
    with torch.no_grad():
        distribution = head(features(start, head.num_readouts))
        chunk = distribution.sample(torch.Generator().manual_seed(3))[:, 0]
    print(
        f"\n{name:22} {100 * hits(start, chunk):5.1f} % hit, {100 * left(chunk):5.1f} % go left; "
        f"mode: {100 * hits(start, distribution.mode()[:, 0]):5.1f} % hit"
    )
    return hits(start, chunk), left(chunk)


def test_demonstrations_do_not_hit():
    start, ways = demonstrations(TRIES, torch.Generator().manual_seed(2))
    assert hits(start, ways) == 0
    assert hits(start, (ways[0::2] + ways[1::2]).repeat_interleave(2, 0) / 2) == 1  # the middle way


@pytest.mark.parametrize("name", [name for name in HEADS if name not in IN_BETWEEN])
def test_one_way_or_the_other(name):
    hit, go_left = shares(name)
    assert hit < (0.03 if name in ("mixture", "clusters over chunks") else 0.12)
    assert 0.35 < go_left < 0.65


@pytest.mark.parametrize(("name", "least"), IN_BETWEEN.items())
def test_in_between(name, least):
    """A mean of both ways is none; and tokens that are drawn independently go left in one action and right in the next."""
    hit, _ = shares(name)
    assert hit > least
