"""What each token was worth: equal to the heads' own likelihoods, to sums by hand, and to what sampling does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_policies import mlp

from vla.models.heads.gaussian import GaussianActions
from vla.training.objective import ObjectiveError
from vla.training.online_rl.likelihood import likelihood
from vla.types import Spec

SPEC = Spec({}, ("x", "y"), ("a", "b", "grip"), (-1.0, -2.0, 0.0), (1.0, 2.0, 1.0), 10.0)
HEADS = {
    "categorical": {"head": {"type": "categorical"}, "tokenizer": {"type": "bins", "num_bins": 7}},
    "autoregressive": {
        "head": {"type": "autoregressive", "depth": 1},
        "tokenizer": {"type": "bins", "num_bins": 7},
    },
    "gaussian": {"head": {"type": "gaussian"}},
    "squashed": {"head": {"type": "gaussian", "squash": "full"}},
}


def drawn(name: str):
    """A policy's distribution over a batch, and chunks that it draws."""
    policy = mlp(SPEC, **HEADS[name])
    batch = SPEC.fake_batch(5, 1, 2)
    with torch.no_grad():
        actions = policy(batch).actions
        chunk = actions.sample(torch.Generator().manual_seed(0))
    return actions, chunk


ALL = torch.ones(5, 1, 2, dtype=torch.bool)
FIRST = torch.tensor([True, False]).expand(5, 1, 2)


@pytest.mark.parametrize("name", ["categorical", "autoregressive"])
@pytest.mark.parametrize("mask", [ALL, FIRST], ids=["chunk", "first"])
def test_tokens_add_up_to_the_chunk(name: str, mask: torch.Tensor) -> None:
    actions, chunk = drawn(name)
    found = likelihood(actions, chunk, mask)
    torch.testing.assert_close(found.log_prob.sum(-1), actions.log_prob(chunk, mask))
    assert found.mask.sum() == mask.sum() * 3  # one token for each dimension
    assert found.log_prob.shape == (5, 1, 6)


@pytest.mark.parametrize("name", ["gaussian", "squashed"])
def test_numbers_add_up_to_the_chunk(name: str) -> None:
    actions, chunk = drawn(name)
    found = likelihood(actions, chunk, ALL)
    in_units = actions.log_prob(chunk, ALL) + 2 * actions.half.log().sum()
    torch.testing.assert_close(found.log_prob.sum(-1), in_units)


@pytest.mark.parametrize("name", HEADS)
def test_nothing_diverges_from_itself(name: str) -> None:
    actions, chunk = drawn(name)
    found = likelihood(actions, chunk, ALL)
    assert found.kl(found).abs().max() < 1e-6


def test_entropy_and_divergence_of_ids_by_hand() -> None:
    actions, chunk = drawn("categorical")
    found = likelihood(actions, chunk, ALL)
    torch.testing.assert_close(found.entropy().sum(-1), actions.entropy())
    flat = dataclasses.replace(
        actions, logits=actions.logits.where(actions.logits == -torch.inf, 0.0)
    )
    other = likelihood(flat, chunk, ALL)
    p = actions.logits.softmax(-1)
    count = torch.isfinite(actions.logits).sum(-1)
    expected = (torch.special.xlogy(p, p)).sum(-1) + count.log()
    torch.testing.assert_close(found.kl(other), expected)


def test_the_divergence_of_gaussians_is_torchs_own() -> None:
    torch.manual_seed(0)
    mean, other_mean = torch.randn(2, 4, 1, 2, 3) / 2
    log_std, other_log_std = torch.randn(2, 4, 1, 2, 3) / 4
    middle, half = torch.zeros(3), torch.ones(3)
    chunk = torch.zeros(4, 1, 2, 3)
    mask = torch.ones(4, 1, 2, dtype=torch.bool)
    one = likelihood(GaussianActions(mean, log_std, middle, half), chunk, mask)
    two = likelihood(GaussianActions(other_mean, other_log_std, middle, half), chunk, mask)
    normal = torch.distributions.Normal(mean, log_std.exp())
    other = torch.distributions.Normal(other_mean, other_log_std.exp())
    torch.testing.assert_close(
        one.kl(two), torch.distributions.kl_divergence(normal, other).flatten(-2)
    )
    torch.testing.assert_close(one.entropy(), normal.entropy().flatten(-2))
    torch.testing.assert_close(one.log_prob, normal.log_prob(chunk).flatten(-2))


@pytest.mark.parametrize("name", ["categorical", "autoregressive"])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_at_a_temperature_it_is_how_often_tokens_are_drawn(name: str, temperature: float) -> None:
    actions, _ = drawn(name)
    generator = torch.Generator().manual_seed(1)
    if name == "autoregressive":
        draws = actions.sample_many(1500, generator, temperature=temperature)
    else:
        one_by_one = [actions.sample(generator, temperature=temperature) for _ in range(1500)]
        draws = torch.stack(one_by_one)
    first = actions.tokens(draws)[..., 0]
    for window in range(5):
        chunk = draws[0]
        found = likelihood(actions, chunk, ALL, temperature=temperature)
        share = (first[:, window, 0] == first[0, window, 0]).float().mean()
        assert abs(float(found.log_prob[window, 0, 0].exp()) - float(share)) < 0.06


def test_a_gaussian_at_a_temperature_has_another_spread() -> None:
    actions, chunk = drawn("gaussian")
    hot = likelihood(actions, chunk, ALL, temperature=4.0)
    torch.testing.assert_close(hot.entropy(), likelihood(actions, chunk, ALL).entropy() + 0.6931472)


def test_heads_that_give_no_likelihood_are_named() -> None:
    policy = mlp(SPEC, head={"type": "regression"})
    actions = policy(SPEC.fake_batch(5, 1, 2)).actions
    with pytest.raises(ObjectiveError, match=r"RegressedActions does not give; use policy\.head"):
        likelihood(actions, torch.zeros(5, 1, 2, 3), ALL)


def test_forbidden_ids_have_gradients() -> None:
    binary = {"type": "bins", "num_bins": 7, "binary": ["grip"]}
    for head in ({"type": "categorical"}, {"type": "autoregressive", "depth": 1}):
        policy = mlp(SPEC, head=head, tokenizer=binary)
        actions = policy(SPEC.fake_batch(5, 1, 2)).actions
        chunk = actions.sample(torch.Generator().manual_seed(0))
        found = likelihood(actions, chunk, ALL)
        assert (found.log_probs == -torch.inf).any()
        (found.entropy().sum() + found.kl(found.detached()).sum()).backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in policy.parameters())


def test_divergences_of_tokens_in_a_row_add_up_to_that_of_chunks() -> None:
    # KL of chunks = mean over chunks of the sum of the KL of each token given those before
    spec = Spec({}, ("x", "y"), ("a", "b"), (-1.0, -1.0), (1.0, 1.0), 10.0)
    options = {
        "chunk": 1,
        "head": {"type": "autoregressive", "depth": 1},
        "tokenizer": {"type": "bins", "num_bins": 3},
    }
    one, other = mlp(spec, **options), mlp(spec, **options)
    with torch.no_grad():
        for parameter in other.head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ids = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    batch = spec.fake_batch(1, 1, 1)
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    with torch.no_grad():
        by_tokens = by_chunks = entropy = surprise = torch.zeros(())
        for pair in ids:
            chunk = one.tokenizer.decode(pair)[None, None]
            p = likelihood(one(batch).actions, chunk, mask)
            q = likelihood(other(batch).actions, chunk, mask)
            share = p.log_prob.sum().exp()
            by_tokens = by_tokens + share * p.kl(q).sum()
            by_chunks = by_chunks + share * (p.log_prob.sum() - q.log_prob.sum())
            entropy = entropy + share * p.entropy().sum()
            surprise = surprise - share * p.log_prob.sum()
    assert by_chunks > 0.001
    torch.testing.assert_close(by_tokens, by_chunks)
    torch.testing.assert_close(entropy, surprise)


def test_draws_beyond_the_range_count_as_its_edge() -> None:
    torch.manual_seed(0)
    middle, half = torch.tensor([0.5, 0.0]), torch.tensor([1.5, 1.0])
    mean = torch.tensor([0.8, -1.2]).expand(1, 1, 1, 2).requires_grad_()
    actions = GaussianActions(mean, torch.tensor([[-1.0, -0.5]]), middle, half)
    draws = torch.cat([actions.sample() for _ in range(4000)])[:, 0, 0]
    high, low = middle + half, middle - half
    edges = torch.stack([high[0], low[1]]).expand(1, 1, 1, 2)
    log_probs = actions.number_log_probs(edges)[0, 0, 0]
    shares = torch.stack([(draws[:, 0] >= high[0]), (draws[:, 1] <= low[1])], -1).float().mean(0)
    torch.testing.assert_close(log_probs.exp(), shares, atol=0.03, rtol=0)
    # a mean beyond the edge is not held back by what was cut off at it
    [pull] = torch.autograd.grad(log_probs[1], mean)
    assert pull[..., 1] < 0
    inside = torch.zeros(1, 1, 1, 2)
    torch.testing.assert_close(actions.number_log_probs(inside), actions._log_density(inside))


def test_distributions_over_different_things_have_no_divergence() -> None:
    found = {name: likelihood(*drawn(name), ALL) for name in HEADS}
    with pytest.raises(ObjectiveError, match=r"6 Gaussian numbers\) than the policy's \(6 tokens"):
        found["categorical"].kl(found["gaussian"])
    with pytest.raises(ObjectiveError, match=r"squashed Gaussian numbers\) than .* \(6 Gaussian"):
        found["gaussian"].kl(found["squashed"])
