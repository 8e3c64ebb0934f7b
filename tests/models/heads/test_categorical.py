"""The categorical head against numbers worked out by hand."""

import math

import pytest
import torch

from vla.models.heads.categorical import CategoricalActions
from vla.tokenizers.bins import BinsConfig
from vla.types import Spec

SPEC = Spec({"cam": (8, 8)}, (), ("a", "b"), (0.0, -4.0), (4.0, 4.0), 10)
TOKENIZER = BinsConfig(num_bins=4).build(SPEC, 2)
# one step, chunk of two: bins (0, 3) and (1, 2)
ACTIONS = torch.tensor([[[[0.5, 3.0], [1.5, 1.0]]]])


def head(ids_logits: torch.Tensor, **options) -> CategoricalActions:
    return CategoricalActions(ids_logits.view(1, 1, 4, 4), TOKENIZER, **options)


def test_uniform():
    uniform = head(torch.zeros(4, 4))
    assert uniform.loss(ACTIONS).item() == pytest.approx(math.log(4))
    assert uniform.log_prob(ACTIONS).item() == pytest.approx(-4 * math.log(4))
    assert uniform.entropy().item() == pytest.approx(4 * math.log(4))


def test_cross_entropy_and_mask_by_hand():
    logits = torch.zeros(4, 4)
    logits[0, 0] = math.log(3)  # p = 3/6
    logits[1, 0] = logits[3, 1] = math.log(5)  # the true bin has p = 1/8
    actions = head(logits)
    assert actions.tokens(ACTIONS).tolist() == [[[0, 3, 1, 2]]]
    expected = [math.log(2), math.log(8), math.log(4), math.log(8)]
    assert actions.loss(ACTIONS).item() == pytest.approx(sum(expected) / 4)
    first = torch.tensor([[[True, False]]])
    assert actions.loss(ACTIONS, first).item() == pytest.approx(sum(expected[:2]) / 2)
    assert actions.log_prob(ACTIONS, first).item() == pytest.approx(-sum(expected[:2]))
    assert actions.loss(ACTIONS, torch.zeros(1, 1, 2, dtype=torch.bool)).item() == 0


def test_smoothing_by_hand():
    logits = torch.arange(16.0).view(4, 4) / 7
    log_p = logits.log_softmax(-1)
    target = torch.tensor([0, 3, 1, 2])
    weight = torch.exp(-0.5 * ((torch.arange(4) - target[:, None]) / 0.8) ** 2)
    weight = weight / weight.sum(-1, keepdim=True)
    expected = -(weight * log_p).sum(-1).mean()
    assert head(logits, bin_smoothing=0.8).loss(ACTIONS).item() == pytest.approx(
        expected.item(), abs=1e-6
    )
    mixed = 0.9 * weight + 0.1 / 4
    both = head(logits, bin_smoothing=0.8, label_smoothing=0.1).loss(ACTIONS).item()
    assert both == pytest.approx(-(mixed * log_p).sum(-1).mean().item(), abs=1e-6)
    sharp = head(logits, bin_smoothing=0.01, label_smoothing=0.1).loss(ACTIONS).item()
    assert sharp == pytest.approx(head(logits, label_smoothing=0.1).loss(ACTIONS).item(), abs=1e-6)


def test_smoothing_leaves_binary_dimensions_alone():
    """Their two ids are neighbours in number and opposites in value."""
    tokenizer = BinsConfig(num_bins=4, binary=("b",)).build(SPEC, 2)
    logits = torch.arange(16.0).view(1, 1, 4, 4) / 7
    logits[..., [1, 3], 2:] = -torch.inf
    actions = torch.tensor([[[[0.5, 4.0], [1.5, -4.0]]]])
    smooth, sharp = (
        CategoricalActions(logits, tokenizer, bin_smoothing=width) for width in (0.8, 0.0)
    )
    second = torch.tensor([[[False, True]]])
    for mask in (None, second):
        both = [one._cross_entropy(one.tokens(actions))[0, 0] for one in (smooth, sharp)]
        assert torch.equal(both[0][[1, 3]], both[1][[1, 3]])
        assert (both[0][[0, 2]] != both[1][[0, 2]]).all()
        assert smooth.loss(actions, mask).isfinite()


def test_mode_and_samples():
    logits = torch.full((4, 4), -1e9)
    logits[[0, 1, 2, 3], [0, 3, 1, 2]] = 0
    actions = head(logits)
    assert torch.equal(actions.mode(), ACTIONS)
    assert torch.equal(actions.sample(), ACTIONS)
    even = head(torch.zeros(4, 4))
    drawn = [even.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(even.sample(temperature=0.0), even.mode())
    with pytest.raises(ValueError, match="temperature"):
        even.sample(temperature=-1.0)


def test_sample_frequencies():
    logits = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])).expand(2000, 1, 4, 4)
    distribution = CategoricalActions(logits, TOKENIZER)
    first = distribution.sample(torch.Generator().manual_seed(0))[..., 0].flatten()
    shares = torch.stack([((first > i) & (first < i + 1)).float().mean() for i in range(4)])
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.03)
