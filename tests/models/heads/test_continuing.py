"""Chunks that go on from the one before: guidance and given actions of flows, forced tokens."""

import dataclasses
import math

import pytest
import torch

from vla.models.heads.autoregressive import AutoregressiveConfig
from vla.models.heads.base import HeadError
from vla.models.heads.flow import FlowConfig
from vla.models.heads.flow_continuation import guidance_factor, guided_flow, prefixed_flow
from vla.tokenizers import BinsConfig, RVQConfig
from vla.types import Continuable, Spec

SPEC = Spec({}, (), ("x", "y"), (-4.0, 0.0), (4.0, 2.0), 10)
K, WIDTH = 4, 8


def flow(seed=0, chunk=K, **options):
    torch.manual_seed(seed)
    settings = {"hidden": 16, "depth": 1, "integration_steps": 5, **options}
    head = FlowConfig(**settings).build(
        BinsConfig(num_bins=4).build(SPEC, chunk), SPEC, width=WIDTH
    )
    return head(torch.randn(2, 3, head.num_readouts, WIDTH))


def tokens(seed=0, temperature_of_weights=0.5, tokenizer=None):
    torch.manual_seed(seed)
    tokenizer = tokenizer or BinsConfig(num_bins=4).build(SPEC, K)
    head = AutoregressiveConfig(hidden=16, heads=2).build(tokenizer, SPEC, width=WIDTH)
    torch.nn.init.normal_(head.out.weight, std=temperature_of_weights)
    return head(torch.randn(2, 3, head.num_readouts, WIDTH))


# --- the formulas -------------------------------------------------------------------------------------


def test_the_factor_of_guidance_by_hand():
    assert guidance_factor(0.0, 5) == 5
    assert guidance_factor(0.5, 5) == pytest.approx(1 * (0.25 + 0.25) / 0.25)
    assert guidance_factor(0.8, 5) == pytest.approx(0.25 * (0.64 + 0.04) / 0.04)
    assert guidance_factor(0.1, 5) == 5  # 9 * 0.82 / 0.81


def test_guidance_of_a_linear_velocity_by_hand():
    """v = a x: the estimated end is x (1 + (1 - t) a), its Jacobian that number."""
    a, target, weight, steps = -0.5, 2.0, 0.75, 5
    x = 1.0
    for step in range(steps):
        t = step / steps
        slope = 1 + (1 - t) * a
        pull = slope * weight * (target - slope * x)
        x += (a * x + guidance_factor(t, steps) * pull) / steps
    found = guided_flow(
        lambda x, t: a * x,
        torch.ones(1, 1, 2, 1),
        torch.full((1, 1, 2, 1), target),
        torch.tensor([weight, 0.0]),
        steps,
    )
    assert found[0, 0, 0, 0].item() == pytest.approx(x, rel=1e-5)
    # without weight nothing pulls
    assert found[0, 0, 1, 0].item() == pytest.approx((1 + a / steps) ** steps, rel=1e-5)


def test_guidance_works_where_gradients_are_off():
    with torch.no_grad():
        found = guided_flow(
            lambda x, t: -x, torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, 1), torch.ones(2), 4
        )
    assert torch.isfinite(found).all()
    assert not found.requires_grad


def test_given_actions_stay_what_they_are_on_the_way():
    seen = []

    def velocity(x, t):
        seen.append(x.clone())
        return torch.ones_like(x)

    given = torch.arange(4.0).view(1, 1, 4, 1)
    found = prefixed_flow(velocity, torch.zeros(1, 1, 4, 1), given, 2, 4)
    assert found.flatten().tolist() == [0, 1, 1, 1]
    assert all(x[0, 0, :2, 0].tolist() == [0, 1] for x in seen)


# --- flows --------------------------------------------------------------------------------------------


def test_a_flow_without_weights_is_the_mode_and_draws_as_sample_does():
    actions = flow()
    previous = torch.zeros(2, K, 2)
    free = actions.continued(previous, 0, torch.zeros(K), temperature=0.0)
    assert torch.allclose(free, actions.mode()[:, -1], atol=1e-5)
    drawn = actions.continued(previous, 0, torch.zeros(K), torch.Generator().manual_seed(3))
    last = dataclasses.replace(actions, state=actions.state[:, -1:])
    sampled = last.sample(torch.Generator().manual_seed(3))[:, 0]
    assert torch.allclose(drawn, sampled, atol=1e-5)


def test_guidance_leads_towards_the_chunk_before():
    actions = flow()
    previous = torch.tensor([3.0, 1.8]).expand(2, K, 2)
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0])
    free = actions.continued(previous, 2, torch.zeros(K), temperature=0.0)
    led = actions.continued(previous, 2, weights, temperature=0.0)
    before = (free - previous)[:, :2].abs().mean()
    assert (led - previous)[:, :2].abs().mean() < 0.3 * before
    assert isinstance(actions, Continuable)
    assert dict(actions.continuations) == {"guidance": K}


def test_guidance_from_other_states_enters_too():
    actions = flow().extrapolated(flow(seed=1), 2.0)
    found = actions.continued(torch.zeros(2, K, 2), 0, torch.zeros(K), temperature=0.0)
    assert torch.allclose(found, actions.mode()[:, -1], atol=1e-5)


def test_a_flow_of_given_actions_keeps_them_exactly():
    actions = flow(prefix_max=2)
    assert dict(actions.continuations) == {"prefix": 2, "guidance": K}
    previous = torch.rand(2, K, 2)
    found = actions.continued(previous, 2, torch.zeros(K), temperature=0.0)
    assert torch.allclose(found[:, :2], previous[:, :2], atol=1e-5)
    others = actions.continued(previous + 1, 2, torch.zeros(K), temperature=0.0)
    # the rest depends on what is given
    assert (found[:, 2:] - others[:, 2:]).abs().max() > 1e-3


def test_more_given_actions_than_were_trained_are_refused():
    with pytest.raises(ValueError, match="frozen is 3: prefix takes 0 to 2"):
        flow(prefix_max=2).continued(torch.zeros(2, K, 2), 3, torch.zeros(K), method="prefix")
    with pytest.raises(ValueError, match="method 'prefix': expected one of guidance"):
        flow().continued(torch.zeros(2, K, 2), 1, torch.zeros(K), method="prefix")


def test_a_prefix_of_the_whole_chunk_is_refused_with_the_remedy():
    with pytest.raises(HeadError, match=r"set policy\.head\.prefix_max=3"):
        flow(prefix_max=4)


def test_without_a_prefix_nothing_has_changed():
    """Sizes and losses of former checkpoints and configs."""
    actions = flow()
    assert actions.head.velocity.enter.in_features == K * 2
    assert flow(prefix_max=1).head.velocity.enter.in_features == K * 2 + K
    chunk = torch.rand(2, 3, K, 2)
    torch.manual_seed(5)
    loss = actions.loss(chunk)
    torch.manual_seed(5)
    unit = actions.head.scale.to_unit(chunk).expand(4, 2, 3, K, 2)
    noise = torch.randn_like(unit)
    time = torch.rand(4, 2, 3)
    t = time[..., None, None]
    x = (t * unit + (1 - t) * noise).flatten(-2)
    state = actions.state.expand(4, 2, 3, -1)
    velocity = actions.head.velocity(x, time, state).unflatten(-1, (K, 2))
    assert torch.equal(loss, (velocity - (unit - noise)).square().mean((0, -1)).mean(-1))


def test_the_loss_is_of_the_actions_behind_those_given():
    """A velocity of zero: the error of each action that counts is known."""
    actions = flow(prefix_max=3, samples=3000, hidden=4)
    for parameter in actions.head.velocity.out.parameters():
        torch.nn.init.zeros_(parameter)
    chunk = actions.head.scale.to_robot(torch.full((2, 3, K, 2), 2.0))
    with torch.no_grad():
        loss = actions.loss(chunk)
        # E (2 - noise)^2 = 5, for any number of given actions: a mean over those that count
        assert loss.mean().item() == pytest.approx(5.0, rel=0.05)
        mask = torch.zeros(2, 3, K, dtype=torch.bool)
        mask[..., 0] = True
        # of draws with a given action nothing is left: one in four has none
        assert actions.loss(chunk, mask).mean().item() == pytest.approx(5.0 / 4, rel=0.1)


def test_given_actions_are_learned():
    """Chunks of one random number: only the given action tells the rest."""
    actions = flow(prefix_max=1, hidden=64, depth=1, samples=2)
    optimizer = torch.optim.Adam(actions.head.parameters(), 3e-3)
    state = torch.zeros(64, 1, 64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        value = torch.randn(64, 1, 1, 1, generator=generator).clamp(-2, 2)
        batch = dataclasses.replace(actions, state=state)
        loss = batch.loss(actions.head.scale.to_robot(value.expand(64, 1, K, 2) / 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    value = torch.linspace(-0.8, 0.8, 64)[:, None, None].expand(64, K, 2)
    with torch.no_grad():
        found = dataclasses.replace(actions, state=state).continued(
            actions.head.scale.to_robot(value), 1, torch.zeros(K), generator
        )
    error = (actions.head.scale.to_unit(found) - value)[:, 1:].abs().mean()
    assert error < 0.2  # without looking at the given action: 0.5


# --- tokens -------------------------------------------------------------------------------------------


def test_forced_tokens_give_the_actions_and_what_follows_given_them():
    actions = tokens()
    previous = actions.sample(torch.Generator().manual_seed(1))[:, -1]
    assert isinstance(actions, Continuable)
    found = actions.continued(previous, 2, torch.zeros(K), temperature=0.0)
    assert torch.equal(found[:, :2], previous[:, :2])
    # the rest, by the network in one pass over the ids before
    ids = actions.tokenizer.encode(found)
    logits = actions.head.logits(actions.states[:, -1], ids)
    assert torch.equal(ids[:, 4:], logits.argmax(-1)[:, 4:])


def test_forced_tokens_draw_as_the_distribution_does():
    """Shares of the last token given the others, against its probabilities."""
    actions = tokens(temperature_of_weights=0.2)
    previous = actions.mode()[:, -1]
    states = actions.states[:1, -1:].expand(4000, -1, -1, -1)
    wide = type(actions)(states, actions.head)
    torch.manual_seed(0)
    drawn = wide.continued(previous[:1].expand(4000, -1, -1), K - 1, torch.zeros(K))
    ids = actions.tokenizer.encode(drawn)
    logits = actions.head.logits(states[:1, -1], ids[:1])
    shares = torch.bincount(ids[:, 6], minlength=4) / 4000
    assert torch.allclose(shares, logits[0, 6].softmax(-1), atol=4 * math.sqrt(0.25 / 4000))


def test_nothing_forced_is_the_mode():
    actions = tokens()
    found = actions.continued(torch.zeros(2, K, 2), 0, torch.zeros(K), temperature=0.0)
    assert torch.equal(found, actions.mode()[:, -1])


def test_codes_of_whole_chunks_cannot_be_continued():
    tokenizer = RVQConfig(codebooks=2, codes=4).build(SPEC, K)
    tokenizer.fit(torch.rand(200, 2))
    actions = tokens(tokenizer=tokenizer)
    assert not actions.continuations
    with pytest.raises(ValueError, match="cannot be continued"):
        actions.continued(torch.zeros(2, K, 2), 1, torch.zeros(K))
