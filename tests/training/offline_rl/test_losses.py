import math

import pytest
import torch
import torch.nn.functional as F

from vla.training.losses import (
    action_l1,
    advantage_weights,
    calibrated,
    conservative_gap,
    discrete_conservative_gap,
    effective_sample_size,
    expectile_loss,
    masked_mean,
    n_step_returns,
)


def test_masked_mean_selects_rather_than_multiplies() -> None:
    values = torch.tensor([1.0, 3.0, float("nan")])
    assert masked_mean(values, torch.tensor([True, True, False])) == 2.0
    assert masked_mean(values, torch.tensor([False, False, False])) == 0.0


def test_masked_mean_gives_no_gradient_to_padding() -> None:
    values = torch.tensor([1.0, float("inf")], requires_grad=True)
    masked_mean(values, torch.tensor([True, False])).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0]


def test_action_l1_by_hand() -> None:
    predicted = torch.tensor([[[[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]]])  # B=1 T=1 K=3 A=2
    actions = torch.tensor([[[[0.0, 0.5], [2.0, 0.0], [0.0, 0.0]]]])
    error = action_l1(predicted, actions, torch.tensor([[[True, True, False]]]))
    assert error.tolist() == [[[1.5, 0.25]]]
    assert action_l1(predicted, actions, torch.zeros(1, 1, 3, dtype=torch.bool)).tolist() == [
        [[0.0, 0.0]]
    ]


# --- targets of values ----------------------------------------------------------------------------

YES, NO = True, False


def test_n_step_returns_inside_an_episode() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    nowhere, everywhere = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    returns, bootstrap, known = n_step_returns(rewards, nowhere, everywhere, n=2, discount=0.5)
    assert returns.tolist() == [[2.0, 4.0]]  # 1 + 2/2, 2 + 4/2
    assert bootstrap.tolist() == [[0.25, 0.25]]
    assert known.tolist() == [[True, True]]
    returns, bootstrap, _ = n_step_returns(rewards, nowhere, everywhere, n=1, discount=0.5)
    assert (returns.tolist(), bootstrap.tolist()) == ([[1.0, 2.0, 4.0]], [[0.5, 0.5, 0.5]])


def test_n_step_returns_stop_at_a_true_end_within_the_n_steps() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    terminals, mask = torch.tensor([[NO, YES, NO, NO]]), torch.ones(1, 4, dtype=torch.bool)
    returns, bootstrap, known = n_step_returns(rewards, terminals, mask, n=3, discount=0.5)
    assert (returns.item(), bootstrap.item(), known.item()) == (
        2.0,
        0.0,
        True,
    )  # the 4 after the end counts for nothing


def test_n_step_returns_at_the_last_step_of_an_episode_that_ended_and_of_one_that_was_cut() -> None:
    rewards, mask = (
        torch.tensor([[3.0, 5.0, 0.0]]).expand(2, 3),
        torch.tensor([[YES, YES, NO]]).expand(2, 3),
    )
    terminals = torch.tensor([[NO, YES, NO], [NO, NO, NO]])
    returns, bootstrap, known = n_step_returns(rewards, terminals, mask, n=1, discount=0.9)
    assert returns.tolist() == [[3.0, 5.0], [3.0, 5.0]]
    assert torch.allclose(bootstrap, torch.tensor([[0.9, 0.0], [0.9, 0.9]]))
    assert known.tolist() == [[True, True], [True, False]]  # what came after the cut was not seen
    # looking 2 steps ahead the end is seen from the first step; the cut hides what follows it
    returns, bootstrap, known = n_step_returns(rewards, terminals, mask, n=2, discount=0.9)
    assert (returns[0].item(), bootstrap[0].item(), known[0].item()) == (7.5, 0.0, True)
    assert not known[1].item()


def test_n_step_returns_say_nothing_of_padded_steps() -> None:
    mask = torch.tensor([[NO, YES, YES]])
    *_, known = n_step_returns(
        torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool), mask, n=1, discount=1.0
    )
    assert known.tolist() == [[False, True]]


def test_expectile_weighs_positive_errors_by_tau() -> None:
    error = torch.tensor([2.0, -2.0, 0.0])  # target above the value, below it
    assert torch.allclose(expectile_loss(error, 0.9), torch.tensor([3.6, 0.4, 0.0]))
    assert torch.allclose(
        expectile_loss(error, 0.5), torch.tensor([2.0, 2.0, 0.0])
    )  # half the squared error


def test_the_least_expectile_loss_is_at_the_expectile() -> None:
    # of 0 and 1 at equal shares it is tau itself: tau (1 - v) = (1 - tau) v
    value = torch.linspace(0, 1, 101)
    loss = expectile_loss(torch.tensor([[0.0], [1.0]]) - value, 0.8).mean(0)
    assert value[loss.argmin()] == 0.8


# --- policy extraction ----------------------------------------------------------------------------


def test_advantage_weights_are_clipped_do_not_overflow_and_have_no_gradient() -> None:
    advantage = torch.tensor([0.0, 0.5, -0.5, 10.0, 1e6, -1e6, 3e38], requires_grad=True)
    weights = advantage_weights(advantage, beta=2.0, max_weight=20.0)
    expected = torch.tensor([1.0, math.e, 1 / math.e, 20.0, 20.0, 0.0, 20.0])
    assert torch.allclose(weights, expected)
    assert not weights.requires_grad
    half = advantage_weights(torch.tensor([12.0]).bfloat16(), beta=1.0, max_weight=1e6)
    assert half.dtype == torch.float32  # exp in half precision would be off by a per cent
    assert torch.allclose(half, torch.tensor([math.exp(12)]))


def test_effective_sample_size() -> None:
    all_of_them = torch.ones(4, dtype=torch.bool)
    assert effective_sample_size(torch.full((4,), 7.0), all_of_them) == 1.0
    assert effective_sample_size(torch.tensor([0.0, 5.0, 0.0, 0.0]), all_of_them) == 0.25
    assert torch.isclose(
        effective_sample_size(torch.tensor([1.0, 3.0]), all_of_them[:2]), torch.tensor(0.8)
    )  # 16 / 20
    two = torch.tensor([YES, YES, NO, NO])
    assert effective_sample_size(torch.tensor([1.0, 1.0, float("nan"), 9.0]), two) == 1.0
    assert effective_sample_size(torch.ones(4), ~all_of_them) == 0.0


@pytest.mark.parametrize("size", [1e-12, 1e-30, 1e12])
def test_effective_sample_size_does_not_depend_on_the_weights_size(size: float) -> None:
    weights = torch.tensor([1.0, 3.0]) * size
    assert torch.isclose(
        effective_sample_size(weights, torch.tensor([YES, YES])), torch.tensor(0.8)
    )


# --- conservatism ---------------------------------------------------------------------------------


def test_the_discrete_gap_is_the_cross_entropy() -> None:
    q, ids = (
        torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)),
        torch.arange(15).view(5, 3) % 7,
    )
    expected = F.cross_entropy(q.flatten(0, 1), ids.flatten(), reduction="none").view(5, 3)
    assert torch.allclose(discrete_conservative_gap(q, ids), expected, atol=1e-6)


def test_the_discrete_gap_leaves_out_ids_that_may_not_stand_there() -> None:
    q = torch.tensor([[0.0, 0.0, 50.0]])
    gap = discrete_conservative_gap(q, torch.tensor([0]), torch.tensor([[YES, YES, NO]]))
    assert torch.allclose(gap, torch.tensor([math.log(2)]))


def test_the_sampled_gap_by_hand() -> None:
    q = torch.log(torch.tensor([[[1.0]], [[3.0]]]))
    gap = conservative_gap(q, torch.zeros(1, 1))
    # the data's action is one of them: the mean of exp Q is (1 + 3 + 1) / 3
    assert torch.allclose(gap, torch.tensor([[math.log(5 / 3)]]))
    # the second was drawn three times as densely, so that it counts a third: (1 + 3/3) / 2
    density = torch.log(torch.tensor([[[1.0]], [[3.0]]]))
    assert torch.allclose(
        conservative_gap(q, torch.zeros(1, 1), log_density=density), torch.zeros(1, 1), atol=1e-6
    )
    soft = conservative_gap(
        torch.tensor([[[0.0]], [[2.0]]]), torch.tensor([[0.5]]), temperature=0.01
    )
    assert torch.allclose(
        soft, torch.tensor([[2 - 0.01 * math.log(3) - 0.5]])
    )  # nearly the greatest


def test_importance_weights_make_the_gap_that_of_all_actions_whatever_was_drawn() -> None:
    # Actions in [0, 1], drawn by density 2a. A constant Q has no gap; Q = log(3a) has log of the
    # integral of 3a = log 1.5.
    actions = torch.rand(200_000, generator=torch.Generator().manual_seed(0)).sqrt().view(-1, 1, 1)
    density = torch.log(2 * actions)
    constant = conservative_gap(
        torch.full_like(actions, 5.0), torch.full((1, 1), 5.0), log_density=density
    )
    assert abs(constant.item()) < 0.02
    rising = conservative_gap(torch.log(3 * actions), torch.zeros(1, 1), log_density=density)
    assert abs(rising.item() - math.log(1.5)) < 0.01
    assert (
        abs(conservative_gap(torch.log(3 * actions), torch.zeros(1, 1)).item() - math.log(2)) < 0.01
    )  # 3 E[a] = 2; the data's action is one of 200,001


def test_without_densities_the_gap_has_a_bound_and_q_of_the_data_stays_at_its_target() -> None:
    # one state, target 0.5, alpha 1: a gap that only ever pays for raising Q of the data's action
    # would end at 1, where 2 (Q - 0.5) = alpha, with the others falling for ever
    data = torch.zeros(1, 1, requires_grad=True)
    others = torch.zeros(10, 1, 1, requires_grad=True)
    optimizer = torch.optim.SGD([data, others], lr=0.5)
    lowest = []
    for _ in range(2000):
        gap = conservative_gap(others, data)
        loss = (data - 0.5).square().sum() + gap.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lowest.append(others.mean().item())
    assert data.item() == pytest.approx(0.5, abs=0.01)
    assert -12 < lowest[-1] < -5
    assert lowest[-1] == pytest.approx(lowest[1000], abs=1.0)  # no longer in proportion to steps
    assert gap.item() >= -math.log(11)
    # what is far above the others gets no push
    far = torch.full((1, 1), 50.0, requires_grad=True)
    conservative_gap(torch.zeros(10, 1, 1), far).sum().backward()
    assert far.grad is not None
    assert far.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_calibrated_raises_to_the_return_and_says_where() -> None:
    raised, bound = calibrated(
        torch.tensor([[[1.0, 5.0]], [[3.0, 2.0]]]), torch.tensor([[2.0, 4.0]])
    )
    assert raised.tolist() == [[[2.0, 5.0]], [[3.0, 4.0]]]
    assert bound.tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
