import torch

from vla.training.losses import action_l1, masked_mean


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
    assert action_l1(predicted, actions, torch.zeros(1, 1, 3, dtype=torch.bool)).tolist() == [[[0.0, 0.0]]]
