"""The autoregressive head: probabilities of all sequences, generation against one pass, grammars, masks."""

import itertools

import pytest
import torch

from vla.models.heads.autoregressive import (
    AutoregressiveActions,
    AutoregressiveConfig,
    AutoregressiveHead,
)
from vla.tokenizers import BinsConfig, FastConfig, RVQConfig
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec

SPEC = Spec({}, (), ("x", "grip"), (-1.0, 0.0), (1.0, 1.0), 10)
BINS = BinsConfig(num_bins=3, binary=("grip",)).build(SPEC, 2)
WIDTH = 8


def fast(chunk: int = 2, **options) -> ActionTokenizer:
    time = torch.linspace(0, 20, 200)
    actions = torch.stack([time.sin(), (time.cos() + 1) / 2], dim=-1)
    return (
        FastConfig(**{"vocab_size": 7, "scale": 1.0, "quantiles": (0.0, 1.0), **options})
        .build(SPEC, chunk)
        .fit(actions)
    )


def distribution(
    tokenizer: ActionTokenizer, rows: int = 1, *, seed: int = 0, steps: int = 1, **options
) -> AutoregressiveActions:
    """Of a head that is far from uniform."""
    torch.manual_seed(seed)
    head = AutoregressiveConfig(**{"hidden": 16, "heads": 2, **options}).build(
        tokenizer, SPEC, width=WIDTH
    )
    torch.nn.init.normal_(head.out.weight, std=0.5)
    return head(torch.randn(rows, steps, head.num_readouts, WIDTH))


def with_states(like: AutoregressiveActions, rows: int) -> AutoregressiveActions:
    return AutoregressiveActions(like.states[:1].expand(rows, -1, -1, -1), like.head)


def legal_sequences(tokenizer: ActionTokenizer) -> torch.Tensor:
    """All sequences of ids that decode, (n, D)."""
    ids = torch.tensor(
        list(itertools.product(range(tokenizer.vocab_size), repeat=tokenizer.num_tokens))
    )
    good = []
    for row in ids:
        try:
            tokenizer.decode(row)
        except ValueError:
            continue
        good.append(row)
    return torch.stack(good)


def log_prob_of_ids(actions: AutoregressiveActions, ids_ND: torch.Tensor) -> torch.Tensor:
    places = actions.head.places(ids_ND)
    logits = actions.head.logits(actions.states[:1, 0].expand(len(ids_ND), -1, -1), places.ids)
    if places.allowed is not None:
        logits = logits.masked_fill(~places.allowed, -torch.inf)
    return logits.log_softmax(-1).gather(-1, places.ids[..., None]).sum((-1, -2))


@pytest.mark.parametrize("tokenizer", [BINS, fast()], ids=["bins", "fast"])
def test_probabilities_of_all_sequences_add_up(tokenizer):
    sequences = legal_sequences(tokenizer)
    assert 4 < len(sequences) < tokenizer.vocab_size**tokenizer.num_tokens
    log_probs = log_prob_of_ids(distribution(tokenizer), sequences)
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_log_prob_is_that_of_what_is_drawn():
    one = distribution(BINS)
    drawn = with_states(one, 4000).sample(torch.Generator().manual_seed(0))
    chunks, counts = drawn.flatten(1).unique(dim=0, return_counts=True)
    expected = with_states(one, len(chunks)).log_prob(chunks.view(-1, 1, 2, 2)).exp().flatten()
    assert len(chunks) > 10
    assert torch.allclose(counts / 4000, expected, atol=0.03)
    assert expected.sum() > 0.98


@pytest.mark.parametrize(
    "tokenizer",
    [BinsConfig(num_bins=16, binary=("grip",)).build(SPEC, 6), fast(6, vocab_size=64, scale=3.0)],
    ids=["bins", "fast"],
)
@pytest.mark.parametrize("read_states", [1, 3])
def test_generation_equals_one_pass(tokenizer, read_states, monkeypatch):
    actions = distribution(tokenizer, 5, read_states=read_states, depth=3)
    head, steps = actions.head, []
    original = AutoregressiveHead._next_logits

    def recorded(self, x, past):
        logits, kept = original(self, x, past)
        steps.append(logits)
        return logits, kept

    monkeypatch.setattr(AutoregressiveHead, "_next_logits", recorded)
    ids = head.generate(
        actions.states[:, 0], temperature=1.0, generator=torch.Generator().manual_seed(1)
    )
    cached = torch.stack(steps, dim=1)
    together = head.logits(actions.states[:, 0], ids)[:, : cached.shape[1]]
    assert torch.allclose(cached, together, atol=1e-5)


def test_a_token_depends_on_those_before_alone():
    actions = distribution(BINS, read_states=2)
    states = actions.states[:, 0]
    ids = torch.tensor([[0, 1, 2, 0]])
    logits = actions.head.logits(states, ids)
    changed = actions.head.logits(states, torch.tensor([[0, 1, 0, 1]]))
    assert torch.allclose(logits[:, :3], changed[:, :3], atol=1e-6)
    assert not torch.allclose(logits[:, 3], changed[:, 3], atol=1e-3)


def test_generation_stops_when_all_are_finished(monkeypatch):
    tokenizer = fast(8, vocab_size=200, scale=2.0)
    actions = distribution(tokenizer, 64)
    calls = []
    original = AutoregressiveHead._next_logits
    monkeypatch.setattr(
        AutoregressiveHead,
        "_next_logits",
        lambda self, x, past: (calls.append(1), original(self, x, past))[1],
    )
    ids = actions.head.generate(actions.states[:, 0], temperature=1.0)
    num_tokens = (ids != tokenizer.pad_id).sum(1)
    assert len(calls) == num_tokens.max() < tokenizer.num_tokens
    assert tokenizer.decode(ids).shape == (64, 8, 2)


@pytest.mark.parametrize(
    "tokenizer",
    [
        BinsConfig(num_bins=5, binary=("grip",)).build(SPEC, 3),
        fast(3, vocab_size=20),
        fast(4, vocab_size=40, scale=2.0, max_tokens=6),
        RVQConfig()
        .build(SPEC, 2)
        .fit(torch.rand(300, 2, generator=torch.Generator().manual_seed(0))),
    ],
    ids=["bins", "fast", "short fast", "rvq"],
)
def test_whatever_is_drawn_decodes(tokenizer):
    """Also by a head that prefers what may not stand there: nothing raises, no chunk is invalid."""
    actions = distribution(tokenizer, 300)
    torch.nn.init.normal_(actions.head.out.bias, std=20)
    assert torch.isfinite(actions.sample(temperature=2.0)).all()
    assert torch.isfinite(actions.mode()).all()


def test_mask_counts_the_tokens_of_valid_actions():
    actions = distribution(BINS)
    chunk = torch.tensor([[[[0.9, 1.0], [-0.9, 0.0]]]])
    ids = BINS.encode(chunk)[0]
    first = torch.tensor([[[True, False]]])
    logits = actions.head.logits(actions.states[:, 0], ids).masked_fill(
        ~BINS.allowed_ids, -torch.inf
    )
    each = logits.log_softmax(-1).gather(-1, ids[..., None])[0, :, 0]
    assert actions.log_prob(chunk, first).item() == pytest.approx(each[:2].sum().item(), abs=1e-5)
    assert actions.loss(chunk, first).item() == pytest.approx(-each[:2].mean().item(), abs=1e-5)
    assert actions.loss(chunk).item() == pytest.approx(-each.mean().item(), abs=1e-5)
    right = (logits.argmax(-1) == ids).float()[0]
    assert actions.token_accuracy(chunk, first).item() == pytest.approx(right[:2].mean().item())


def test_accuracy_without_gradients_before_the_loss_keeps_the_gradient():
    """Logits that were computed for the accuracy are taken for the loss only where they carry gradients."""
    actions = distribution(BINS)
    chunk = torch.tensor([[[[0.9, 1.0], [-0.9, 0.0]]]])
    with torch.no_grad():
        actions.token_accuracy(chunk)
    assert actions.loss(chunk).requires_grad
    other = torch.tensor([[[[-0.9, 0.0], [0.9, 1.0]]]])
    assert actions.loss(other).item() != actions.loss(chunk).item()


def test_hidden_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="multiple of heads"):
        AutoregressiveConfig(hidden=10, heads=4)
