"""Which heads learn to look where the state alone continues most frames.

A dot in a small picture is the goal. In most frames the state shows a velocity towards it, in a few first frames it
does not. Of these, what another picture costs says whether the head has asked for it.
"""

import pytest
import torch
from torch import nn

from vla.config import lookup
from vla.models.heads.base import Head
from vla.types import Spec

K, WIDTH, CELLS, STEPS = 4, 64, 12, 400
SPEC = Spec({}, (), ("dx", "dy", "dz", "grip"), (-1.0,) * 4, (1.0,) * 4, 20)
AUTOREGRESSIVE = {"type": "autoregressive", "hidden": 64, "depth": 1}
ROWS = {
    "fine exact codes": (AUTOREGRESSIVE, {"type": "rvq", "codebooks": 4, "codes": 256}),
    "few smoothed codes": (
        AUTOREGRESSIVE | {"code_smoothing": 1.0, "place_weights": "variance", "offset": True},
        {"type": "rvq"},
    ),
}


def frames(
    count: int, rng: torch.Generator, *, first: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (count, CELLS^2), states (count, 5) and chunks; `first`: share of first frames."""
    is_first = (torch.rand(count, generator=rng) < first)[:, None]
    goal = 2 * torch.rand(count, 2, generator=rng) - 1
    anywhere = 2 * torch.rand(count, 2, generator=rng) - 1
    hand = torch.where(is_first, 0.1 * torch.randn(count, 2, generator=rng), anywhere)
    height = torch.rand(count, 1, generator=rng)
    rows = torch.arange(count)
    picture = torch.zeros(count, CELLS, CELLS)
    cell = ((goal + 1) / 2 * (CELLS - 1e-3)).long()
    picture[rows, cell[:, 1], cell[:, 0]] = 1
    for _ in range(2):
        dot = torch.randint(0, CELLS, (count, 2), generator=rng)
        picture[rows, dot[:, 1], dot[:, 0]] -= 0.5
    way = goal - hand
    velocity = torch.where(is_first, 0.0, way / way.norm(dim=1, keepdim=True).clamp(min=1e-3))
    slowing = torch.tensor([1.0, 0.8, 0.6, 0.4])[:, None]
    noise = 0.15 * torch.randn(count, K, 3, generator=rng)
    across = (3 * way[:, None] * slowing).clamp(-1, 1) + noise[..., :2]
    down = (0.6 - 2 * height)[:, None] + noise[..., 2:]
    grip = torch.where(way.norm(dim=1) < 0.3, 1.0, -1.0)[:, None, None].expand(count, K, 1)
    chunks = torch.cat([across, down, grip], -1).clamp(-1, 1)
    return picture.flatten(1), torch.cat([hand, velocity, height], 1), chunks


class Looking(nn.Module):
    """A small trunk over picture and state; the picture enters weakly, as it does at first."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Linear(CELLS**2, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.state = nn.Linear(5, WIDTH)
        self.slots = nn.Parameter(0.5 * torch.randn(head.num_readouts, WIDTH))
        self.mix = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
        )
        self.head = head

    def forward(self, picture: torch.Tensor, state: torch.Tensor):
        hidden = (0.3 * self.picture(picture) + self.state(state))[:, None] + self.slots
        return self.head((hidden + self.mix(hidden))[:, None])


def measured(name: str) -> tuple[float, float]:
    """The picture's share of the loss, and the error of the mode, at first frames never seen."""
    head_options, tokenizer_options = ROWS[name]
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    picture, state, chunks = frames(4000, rng, first=0.07)
    tokenizer = lookup("tokenizers", tokenizer_options["type"])(**tokenizer_options).build(SPEC, K)
    tokenizer.fit(chunks.flatten(0, 1), lengths=[K] * len(chunks))
    head = lookup("heads", head_options["type"])(**head_options).build(tokenizer, SPEC, width=WIDTH)
    head.fit(chunks.flatten(0, 1))
    network = Looking(head)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(STEPS):
        rows = torch.randint(0, len(chunks), (64,), generator=rng)
        loss = network(picture[rows], state[rows]).loss(chunks[rows][:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    picture, state, chunks = frames(300, rng, first=1.0)
    with torch.no_grad():
        true = network(picture, state)
        other = network(picture.roll(1, 0), state)
        share = (other.loss(chunks[:, None]) - true.loss(chunks[:, None])).mean().item()
        error = (true.mode()[:, 0] - chunks).abs().mean().item()
    print(f"\n{name}: the picture's share {share:.2f}, error {error:.3f}")
    return share, error


@pytest.mark.slow
def test_few_smoothed_weighted_codes_ask_for_the_picture():
    fine_share, fine_error = measured("fine exact codes")
    share, error = measured("few smoothed codes")
    assert share > 2 * fine_share
    assert error < fine_error
