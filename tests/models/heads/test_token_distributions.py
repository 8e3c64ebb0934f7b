"""Which distributions tell what each of their tokens was worth, and whether actions tell the tokens."""

from __future__ import annotations

import pytest
import torch
from small_policies import mlp

from vla.types import Spec, TokenDistribution

SPEC = Spec({}, ("x", "y"), ("a", "b", "grip"), (-1.0, -2.0, 0.0), (1.0, 2.0, 1.0), 10.0)
BINS = {"type": "bins", "num_bins": 7, "binary": ["grip"]}
AUTOREGRESSIVE = {"type": "autoregressive", "depth": 1, "hidden": 16, "heads": 2}


@pytest.mark.parametrize("head", [{"type": "categorical"}, AUTOREGRESSIVE], ids=lambda h: h["type"])
def test_what_was_drawn_is_read_off_the_actions_that_were_executed(head: dict) -> None:
    policy = mlp(SPEC, head=head, tokenizer=BINS)
    actions = policy(SPEC.fake_batch(20, 1, 2)).actions
    assert isinstance(actions, TokenDistribution)
    assert actions.has_exact_tokens
    torch.manual_seed(0)
    chunk = actions.sample(temperature=2.0)
    ids = actions.tokens(chunk)
    executed = chunk.clone()
    executed[:, :, 1] = 0.123  # what followed in its place
    assert torch.equal(actions.tokens(executed)[..., :3], ids[..., :3])
    logits, other = actions.token_logits(chunk), actions.token_logits(executed)
    # nothing that comes later changes what an earlier token was worth
    torch.testing.assert_close(logits[..., :3, :], other[..., :3, :])
    mask = torch.tensor([True, False]).expand(20, 1, 2)
    counted = actions.token_mask(executed, mask)
    assert counted.tolist() == [[[True] * 3 + [False] * 3]] * 20


@pytest.mark.parametrize(
    ("head", "tokenizer"),
    [
        (AUTOREGRESSIVE, {"type": "fast", "vocab_size": 64, "scale": 4.0}),
        (AUTOREGRESSIVE, {"type": "rvq"}),
        ({"type": "categorical"}, {"type": "rvq"}),
    ],
)
def test_tokens_of_whole_chunks_are_known_for_inexact(head: dict, tokenizer: dict) -> None:
    actions = mlp(SPEC, head=head, tokenizer=tokenizer)(SPEC.fake_batch(2, 1, 2)).actions
    assert isinstance(actions, TokenDistribution)
    assert not actions.has_exact_tokens


@pytest.mark.parametrize("head", ["regression", "gaussian", "flow"])
def test_distributions_over_numbers_have_no_tokens(head: str) -> None:
    actions = mlp(SPEC, head={"type": head})(SPEC.fake_batch(2, 1, 2)).actions
    assert not isinstance(actions, TokenDistribution)
