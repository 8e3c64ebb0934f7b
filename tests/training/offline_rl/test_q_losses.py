"""Backups over tokens against numbers worked out by hand."""

import math

import pytest
import torch

from vla.training.offline_rl.token_losses import (
    cross_entropy_regulariser,
    mean_over_tokens,
    smoothed_error,
    smoothed_labels,
    token_targets,
    values_of_ids,
    zero_regulariser,
)

BEST = torch.tensor([[[0.9, 0.4, 0.7], [0.1, 0.2, 0.3]]])  # one window of two steps, three places
OUTCOME = torch.tensor([[0.5, 0.6]])
ALL = torch.ones(1, 2, 3, dtype=torch.bool)
KNOWN = torch.ones(1, 2, dtype=torch.bool)


def close(found: torch.Tensor, expected: list) -> bool:
    return torch.allclose(found, torch.tensor(expected, dtype=found.dtype))


def test_a_token_takes_the_best_of_the_next_place_and_the_last_one_the_outcome():
    targets = token_targets(BEST, OUTCOME, KNOWN, ALL)
    assert close(
        targets.values, [[[0.4, 0.7, 0.5], [0.2, 0.3, 0.6]]]
    )  # the best first token is nobody's target here
    assert targets.known.all()
    assert not targets.raised.any()


def test_targets_look_further_ahead():
    assert close(
        token_targets(BEST, OUTCOME, KNOWN, ALL, steps=2).values,
        [[[0.7, 0.5, 0.5], [0.3, 0.6, 0.6]]],
    )
    assert close(token_targets(BEST, OUTCOME, KNOWN, ALL, steps=9).values, [[[0.5] * 3, [0.6] * 3]])


def test_floor_is_the_return_of_each_step_and_lifts_all_of_its_tokens():
    floor = torch.tensor([[0.6, 0.25]])
    targets = token_targets(BEST, OUTCOME, KNOWN, ALL, floor=floor)
    assert close(targets.values, [[[0.6, 0.7, 0.6], [0.25, 0.3, 0.6]]])
    assert targets.raised.tolist() == [[[True, False, True], [True, False, False]]]


def test_an_unseen_outcome_is_no_target():
    """Of a truncated chunk only the last token has none: the others look at the next place."""
    known = torch.tensor([[True, False]])
    targets = token_targets(BEST, OUTCOME, known, ALL, floor=torch.ones(1, 2))
    assert targets.known.tolist() == [[[True] * 3, [True, True, False]]]
    assert targets.raised.tolist() == targets.known.tolist()
    assert token_targets(BEST, OUTCOME, known, ALL, steps=3).known.tolist() == [
        [[True] * 3, [False] * 3]
    ]


def test_the_last_token_that_counts_takes_the_outcome():
    counted = torch.tensor([[[True, True, False], [False, False, False]]])
    targets = token_targets(BEST, OUTCOME, KNOWN, counted)
    assert close(targets.values[0, 0, :2], [0.4, 0.5])
    assert torch.equal(targets.known, counted)
    assert close(mean_over_tokens(targets.values, counted), [[0.45, 0.0]])


def test_targets_have_no_gradient():
    best = BEST.clone().requires_grad_()
    assert not token_targets(best, best.sum(-1), KNOWN, ALL).values.requires_grad


def test_others_go_to_zero():
    values = torch.tensor([[0.2, 0.6, 1.0, -torch.inf], [0.5, -torch.inf, -torch.inf, -torch.inf]])
    ids = torch.tensor([1, 0])
    assert close(
        zero_regulariser(values, smoothed_labels(ids, values.shape[-1], width=0)),
        [0.5 * (0.04 + 1.0) / 2, 0.0],
    )
    assert close(values_of_ids(values, ids), [0.6, 0.5])


def test_labels_are_smoothed_over_ordered_ids_alone():
    ids = torch.tensor([[1, 1], [0, 2]])
    labels = smoothed_labels(ids, 3, width=1.0, ordered=torch.tensor([True, False]))
    near = math.exp(-0.5)
    assert close(labels[0, 0], [near, 1.0, near])
    assert close(labels[1, 0], [1.0, near, math.exp(-2)])
    assert labels[:, 1].tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_pull_of_others_does_not_grow_with_the_number_of_ids():
    for V in (2, 8, 256):
        labels = smoothed_labels(torch.zeros(3, dtype=torch.long), V, width=0)
        assert close(zero_regulariser(torch.full((3, V), 0.4), labels), [0.08] * 3)


def test_pull_of_others_leaves_the_data_and_what_is_not_allowed_alone():
    values = torch.tensor([0.2, 0.6, 0.9, 0.1], requires_grad=True)
    masked = values.masked_fill(torch.tensor([False, False, True, False]), -torch.inf)
    zero_regulariser(masked, smoothed_labels(torch.tensor(1), 4, width=0)).backward()
    assert close(values.grad, [0.1, 0.0, 0.0, 0.05])  # Q / (number of the others)


def test_neighbours_learn_with_the_id_of_the_data_and_are_less_drawn_to_zero():
    labels = smoothed_labels(torch.tensor([1]), 4, width=1.0)
    near, far = 0.60653066, 0.13533528  # exp(-1/2), exp(-2)
    assert close(labels, [[near, 1.0, near, far]])
    values = torch.tensor([[0.2, 0.6, -torch.inf, 0.4]])
    error = 0.5 * (near * 0.36 + 1.0 * 0.04 + far * 0.16) / (near + 1.0 + far)  # of a target of 0.8
    assert close(smoothed_error(values, torch.tensor([0.8]), labels), [error])
    pulled = 0.5 * ((1 - near) * 0.04 + (1 - far) * 0.16) / ((1 - near) + (1 - far))
    assert close(zero_regulariser(values, labels), [pulled])


def test_cross_entropy_regulariser_is_a_cross_entropy():
    values = torch.tensor([[0.2, 0.6, 1.0, -torch.inf]], requires_grad=True)
    gap = cross_entropy_regulariser(values, torch.tensor([1]), temperature=0.5)
    by_hand = torch.nn.functional.cross_entropy(values[:, :3] / 0.5, torch.tensor([1]))
    assert gap.item() == pytest.approx(0.5 * by_hand.item())
    gap.sum().backward()
    shares = (values.detach()[0, :3] / 0.5).softmax(-1)
    assert torch.allclose(values.grad[0, :3], shares - torch.tensor([0.0, 1.0, 0.0]))
    assert values.grad[0, 3] == 0
