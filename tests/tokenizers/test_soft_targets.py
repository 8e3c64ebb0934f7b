"""Targets by decoded distance and weights of places, against numbers worked out by hand."""

import math

import pytest
import torch

from vla.tokenizers import (
    ActionTokenizer,
    BinsConfig,
    FastConfig,
    KMeansConfig,
    RVQConfig,
    TokenizerError,
)
from vla.tokenizers.clustering import soft_nearest
from vla.tokenizers.fast_runs import run_targets, run_weights
from vla.tokenizers.place_weights import weights_by_variance
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-2.0, 0.0), (2.0, 1.0), 10)
FOUR_POINTS = torch.tensor([[-1.0, 0.3], [-0.8, 0.3], [0.8, 0.3], [1.0, 0.3]])


def shares(*exponents: float) -> list[float]:
    """Their softmax."""
    powers = [math.exp(e) for e in exponents]
    return [power / sum(powers) for power in powers]


def two_levels() -> ActionTokenizer:
    """Codes -0.9 and 0.9, then -0.1 and 0.1 around them."""
    config = RVQConfig(codebooks=2, codes=2)
    return config.build(SPEC, 1).fit(FOUR_POINTS.repeat(5, 1), lengths=[1] * 20)


def smooth_actions() -> torch.Tensor:
    time = torch.linspace(0, 30, 400)
    return torch.stack([time.sin(), (1.3 * time).cos() / 2 + 0.5], dim=-1)


def test_soft_choice_by_hand():
    points = torch.tensor([[0.0, 0.0]])
    centres = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, -2.0]])  # at distances 5, 1, 2
    soft = soft_nearest(points, centres, width=2.0)
    assert soft[0].tolist() == pytest.approx(shares(-25 / 8, -1 / 8, -4 / 8))
    assert soft_nearest(points, centres, width=0.0).tolist() == [[0, 1, 0]]


def test_levels_of_rvq_by_hand():
    tokenizer = two_levels()
    # after the first level +-0.1 is left, after the second nothing
    assert tokenizer.leaves == pytest.approx([0.1, 0.0], abs=1e-6)
    # variance (1 + 0.64) / 2 = 0.82: 0.81 is explained by the first level and 0.01 by the second,
    # which is lifted to a tenth of the first: 10 to 1, with a mean of 1
    ids = tokenizer.encode(FOUR_POINTS[:, None])
    expected = [2 * 10 / 11, 2 * 1 / 11]
    assert tokenizer.place_weights(ids)[3].tolist() == pytest.approx(expected, rel=1e-4)

    soft = tokenizer.soft_targets(FOUR_POINTS[3:, None], ids[3:], smoothing=10.0)[0]
    true, other = ids[3, 0], 1 - ids[3, 0]
    # 0.1 and 1.9 away from the codes 0.9 and -0.9, in a unit of 10 * 0.1
    assert soft[0, [true, other]].tolist() == pytest.approx(
        shares(-(0.1**2) / 2, -(1.9**2) / 2), abs=1e-4
    )
    assert soft[1].argmax() == ids[3, 1]
    assert soft[1].max() == 1


def test_the_second_level_is_asked_from_the_true_first_code():
    """Its residual is that of the ids given, as a head is taught them."""
    tokenizer = RVQConfig(codebooks=2, codes=4).build(SPEC, 2).fit(smooth_actions())
    chunk = smooth_actions()[10:12][None]
    ids = tokenizer.encode(chunk)
    books = tokenizer.codebooks
    low, high = tokenizer.fitted_range
    unit = ((chunk - (low + high) / 2) / ((high - low) / 2)).flatten()
    residual = unit - books[0, ids[0, 0]]
    distance = (books[1] - residual).square().sum(1)
    expected = (-distance / (2 * tokenizer.leaves[1] ** 2)).softmax(0)
    soft = tokenizer.soft_targets(chunk, ids, smoothing=1.0)
    torch.testing.assert_close(soft[0, 1], expected, atol=1e-5, rtol=1e-4)


def test_weights_of_places():
    assert weights_by_variance(torch.tensor([3.0, 1.0])).tolist() == [1.5, 0.5]
    assert weights_by_variance(torch.zeros(3)).tolist() == [1, 1, 1]
    # VQ-BeT's 5 and 0.5
    assert weights_by_variance(torch.tensor([9.0, 0.0])).tolist() == pytest.approx(
        [20 / 11, 2 / 11]
    )


def test_bins_by_hand():
    spec = Spec({}, (), ("a", "grip"), (0.0, 0.0), (4.0, 1.0), 10)
    tokenizer = BinsConfig(num_bins=4, binary=("grip",)).build(spec, 1)
    for value in (0.5, 0.9, -9.0):  # from the middle of its bin, wherever it lies there
        actions = torch.tensor([[value, 1.0]])
        soft = tokenizer.soft_targets(actions, tokenizer.encode(actions), smoothing=2.0)
        expected = shares(0, -1 / 8, -4 / 8, -9 / 8)
        assert soft[0].tolist() == pytest.approx(expected)
        assert soft[1].tolist() == [0, 1, 0, 0]  # open or closed, nothing between


def test_runs_of_coefficients_by_hand():
    soft = run_targets([[-1], [0], [1], [0, 0], [1, 2]], 6, smoothing=1.0)
    assert soft[0].tolist() == pytest.approx([*shares(0, -0.5, -2), 0, 0, 0])
    assert soft[3].tolist() == pytest.approx([0, 0, 0, *shares(0, -2.5), 0])
    assert soft[5].tolist() == [0, 0, 0, 0, 0, 1]  # padding

    weights = torch.tensor([2.0, 0.5, 0.05])
    lengths = torch.tensor([[1, 1, 1, 0], [1, 2, 0, 0], [3, 0, 0, 0]])
    # 0.05 alone is lifted to a tenth of the heaviest coefficient, 0.2
    expected = torch.tensor([[2.0, 0.5, 0.2, 0], [2.0, 0.55, 0, 0], [2.55, 0, 0, 0]])
    torch.testing.assert_close(run_weights(lengths, weights), expected)


def test_distance_of_runs_is_that_of_decoded_chunks():
    """The transform is orthonormal: what the soft targets rest on."""
    tokenizer = FastConfig(vocab_size=200, scale=4.0).build(SPEC, 6).fit(smooth_actions())
    low, high = tokenizer.fitted_range
    middle, half = (low + high) / 2, (high - low) / 2
    # well inside the range, where nothing is clipped
    chunk = middle + 0.4 * half * torch.linspace(-1, 1, 6)[:, None]
    ids = tokenizer.encode(chunk)
    runs = tokenizer._bpe.tokens
    true = torch.tensor(runs[ids[0]])
    for index, run in enumerate(runs):
        steps = (torch.tensor(run) - true if len(run) == len(true) else torch.zeros(0)).float()
        if not 0 < steps.norm() < 2:
            continue
        other = ids.clone()
        other[0] = index
        apart = (tokenizer.decode(ids) - tokenizer.decode(other)) / half
        assert apart.norm().item() == pytest.approx(steps.norm().item() / 4, rel=1e-4)


def test_fast_weighs_what_moves_most():
    tokenizer = FastConfig(vocab_size=400, scale=5.0).build(SPEC, 8).fit(smooth_actions())
    chunks = smooth_actions()[:40].reshape(5, 8, 2)
    ids = tokenizer.encode(chunks)
    weights = tokenizer.place_weights(ids)
    assert (weights[ids == tokenizer.pad_id] == 0).all()
    assert (weights[ids != tokenizer.pad_id] > 0).all()
    assert (weights[:, 0] > weights.sum(1) / tokenizer.num_tokens).all()


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (RVQConfig(codes=8), ("leaves", "place_weights")),
        (KMeansConfig(centres=8), ("leaves",)),
        (FastConfig(vocab_size=200, scale=5.0), ("coefficient_weights",)),
    ],
    ids=["rvq", "kmeans", "fast"],
)
def test_files_of_older_versions_still_encode(config, keys):
    tokenizer = config.build(SPEC, 4).fit(smooth_actions())
    values = tokenizer.to_dict()
    old = {key: value for key, value in values["state"].items() if key not in keys}
    loaded = ActionTokenizer.from_dict({**values, "state": old})
    chunks = smooth_actions()[:40].reshape(10, 4, 2)
    ids = loaded.encode(chunks)
    assert torch.equal(ids, tokenizer.encode(chunks))
    assert torch.equal(loaded.decode(ids), tokenizer.decode(ids))
    if "leaves" in keys:
        with pytest.raises(
            TokenizerError, match=r"before the errors that its codes leave .* fit it"
        ):
            loaded.soft_targets(chunks, ids, smoothing=1.0)
    if loaded.has_place_weights:
        with pytest.raises(TokenizerError, match="fit it again"):
            loaded.place_weights(ids)


def test_codes_of_old_configs_stay():
    """A stored config names its sizes; the defaults are those of VQ-BeT."""
    assert (RVQConfig().codebooks, RVQConfig().codes) == (2, 32)
    old = {"type": "rvq", "codebooks": 4, "codes": 256, "quantiles": [0.0, 1.0], "seed": 0}
    tokenizer = RVQConfig(**old).build(SPEC, 2)
    assert (tokenizer.num_tokens, tokenizer.vocab_size) == (4, 256)
