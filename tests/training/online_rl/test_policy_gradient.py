"""Policy gradients on episodes that policies of every kind of head have just played themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from played_rounds import BINS, EXECUTED, HEADS, SPEC, begun, objective_of, play, policy_of
from small_policies import mlp

from vla.common.errors import Notice
from vla.config import ConfigError
from vla.training.losses import masked_mean
from vla.training.objective import Learner, ObjectiveError
from vla.types import Spec

PRESETS = ("reinforce", "a2c", "ppo", "grpo", "trpo")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", PRESETS)
def test_it_learns_what_is_rewarded(name: str, head: str) -> None:
    policy = policy_of(head)
    options = {"max_kl": 0.03, "cg_iterations": 5} if name == "trpo" else {}
    objective = objective_of(name, policy, **options)
    learner = Learner(policy, objective)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    shares = []
    for number in range(7):
        windows = play(policy, seed=number)
        shares.append(windows.rewards.mean())
        batch = begun(objective, policy, windows)
        for _ in range(4):
            loss, _, metrics = learner(batch)
            assert all(torch.isfinite(number) for number in metrics.values())
            loss.backward()
            if objective.freezes_policy:
                policy.zero_grad(set_to_none=True)
            optimizer.step()
            optimizer.zero_grad()
    assert shares[-1] > shares[0] + 0.2, shares


@pytest.mark.parametrize("head", HEADS)
def test_the_first_gradient_is_that_of_reinforce(head: str) -> None:
    policy = policy_of(head)
    windows = play(policy, seed=0)
    for name in ("reinforce", "grpo"):
        batch = begun(objective := objective_of(name, policy), policy, windows)
        loss, metrics = objective.loss(policy, batch)
        own = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
        found = objective._likelihood(policy(batch).actions, batch)
        weighted = found.log_prob * batch.extras["advantage"][..., None]
        by_hand = torch.autograd.grad(
            -masked_mean(weighted, found.mask), list(policy.parameters()), allow_unused=True
        )
        for one, other in zip(own, by_hand, strict=True):
            if one is not None:
                torch.testing.assert_close(one, other)
                assert torch.isfinite(one).all()
        assert abs(metrics["kl"]) < 1e-6
        assert metrics["clipped"] == 0
        assert metrics["entropy"] != 0


@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_ratios_beyond_the_limits_teach_nothing_more(head: str) -> None:
    policy = policy_of(head)
    objective = objective_of("ppo", policy, normalise=False)
    batch = begun(objective, policy, play(policy, seed=0))
    objective.loss(policy, batch)
    # all tokens were half as likely when they were drawn: a ratio of 2
    batch.extras["old_log_prob"] -= float(np.log(2))
    batch.extras["advantage"].fill_(1.0)
    loss, metrics = objective._policy_loss(policy(batch), batch)
    assert float(loss) == pytest.approx(-1.28)
    assert metrics["clipped"] == 1
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    batch.extras["advantage"].fill_(-1.0)  # what was bad is made less likely from anywhere
    loss, _ = objective._policy_loss(policy(batch), batch)
    assert float(loss) == pytest.approx(2.0)


@pytest.mark.parametrize("head", HEADS)
def test_actions_that_were_not_executed_do_not_count(head: str) -> None:
    policy = policy_of(head)
    objective = objective_of("reinforce", policy)
    batch = begun(objective, policy, play(policy, seed=0))
    batch.extras["decision"].fill_(1)
    loss, _ = objective.loss(policy, batch)
    batch.actions[..., 1:, :] = 0.9
    again, _ = objective._policy_loss(policy(batch), batch)
    torch.testing.assert_close(loss, again)
    assert objective.weight(batch) == len(batch.actions)


def test_a_policy_that_is_not_the_one_that_acted_is_noticed() -> None:
    policy = policy_of("categorical")
    objective = objective_of("ppo", policy)
    batch = begun(objective, policy, play(policy, seed=0))
    with torch.no_grad():
        next(policy.head.parameters()).mul_(1.1)
    with pytest.raises(ObjectiveError, match=r"ratio to itself differs from 1 by .*dropout"):
        objective.loss(policy, batch)


def test_a_round_without_any_difference_leaves_the_policy_alone_and_says_so() -> None:
    policy = policy_of("categorical")
    nothing = play(policy, seed=0, reward=lambda state, _: np.zeros(len(state), np.float32))
    for name in PRESETS:
        objective = objective_of(name, policy)
        before = [p.clone() for p in policy.parameters()]
        with pytest.warns(Notice, match=r"all returns are 0, .*episodes_per_round"):
            batch = begun(objective, policy, nothing)
        assert objective.freezes_policy
        objective.loss(policy, batch)[0].backward() if name != "grpo" else None
        assert all(torch.equal(p, q) for p, q in zip(before, policy.parameters(), strict=True))
    equal = play(policy, seed=0, reward=lambda state, _: state[:, 0])
    objective = objective_of("grpo", policy)
    with pytest.warns(Notice, match="episodes of each start all came to the same"):
        begun(objective, policy, equal)


def test_a_round_in_which_only_the_expert_acted_is_refused() -> None:
    policy = policy_of("categorical")
    windows = play(policy, seed=0)
    windows.extras["decision"][:] = 0
    with pytest.raises(ObjectiveError, match="the policy chose no action in this round"):
        objective_of("ppo", policy).begin_round(policy, windows)


def test_values_learn_alone_at_first() -> None:
    policy = policy_of("categorical")
    objective = objective_of("ppo", policy, value_warmup=1)
    begun(objective, policy, play(policy, seed=0))
    assert objective.freezes_policy
    begun(objective, policy, play(policy, seed=1))
    assert not objective.freezes_policy


@pytest.mark.parametrize("head", ["autoregressive", "categorical"])
def test_tokens_of_whole_chunks_are_refused(head: str) -> None:
    policy = mlp(SPEC, head={"type": head}, tokenizer={"type": "rvq"})
    with pytest.raises(ObjectiveError, match=r"which tokens were drawn cannot be read off"):
        objective_of("reinforce", policy).begin_round(policy, play(policy, seed=0))


@pytest.mark.parametrize("head", HEADS)
def test_the_prior_holds_the_policy(head: str, tmp_path: Path) -> None:
    policy = policy_of(head)
    policy.save_pretrained(tmp_path / "prior")
    objective = objective_of("reinforce", policy, kl=0.5, prior=str(tmp_path / "prior"))
    batch = begun(objective, policy, play(policy, seed=0))
    _, metrics = objective.loss(policy, batch)
    assert abs(metrics["prior_kl"]) < 1e-6  # it is the prior still
    batch.extras["advantage"].zero_()
    with torch.no_grad():
        for parameter in policy.head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    divergences = []
    for _ in range(60):
        loss, metrics = objective.loss(policy, batch)
        divergences.append(float(metrics["prior_kl"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert divergences[0] > 0.002
    assert divergences[-1] < divergences[0] / 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 2}, "its chunk is 2, the policy's 3"),
        ({"tokenizer": {**BINS, "num_bins": 6}}, "has another tokenizer"),
        ("gaussian", r"6 Gaussian numbers\) than the policy's \(6 tokens of 5"),
        ("robot", r"action_names|actions"),
    ],
)
def test_priors_that_do_not_fit_are_told(changes: Any, message: str, tmp_path: Path) -> None:
    policy = policy_of("categorical")
    if changes == "robot":
        other = Spec({}, ("x", "y"), ("a", "b"), (-1.0, 0.0), (1.0, 1.0), 10.0)
        prior = mlp(other, chunk=3, head={"type": "categorical"})
    elif changes == "gaussian":
        prior = policy_of("gaussian", tokenizer=BINS)
    else:
        prior = policy_of("categorical", **changes)
    prior.save_pretrained(tmp_path / "prior")
    windows = play(policy, seed=0)

    def learn() -> None:
        objective = objective_of("ppo", policy, kl=0.1, prior=str(tmp_path / "prior"))
        objective.loss(policy, begun(objective, policy, windows))

    with pytest.raises((ConfigError, ObjectiveError), match=message):
        learn()


def test_a_temperature_is_that_of_the_draws() -> None:
    policy = policy_of("categorical")
    windows = play(policy, seed=0, temperature=2.0)
    warm = objective_of("reinforce", policy, temperature=2.0)
    cold = objective_of("reinforce", policy)
    at = {}
    for objective in (warm, cold):
        batch = begun(objective, policy, windows)
        at[objective.config.temperature] = batch.extras["old_log_prob"].clone()
    logits = policy(batch).actions.logits
    ids = policy(batch).actions.tokens(batch.actions)
    expected = (logits / 2).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    shown = batch.extras["decision"][..., None] > 0
    places = torch.arange(6) < 2 * EXECUTED  # of three actions with two tokens each
    torch.testing.assert_close(at[2.0], expected.where(shown & places, 0.0).detach())
    assert (at[1.0] - at[2.0]).abs().max() > 0.01
