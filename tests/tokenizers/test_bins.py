"""Action bins: exact edges, centres, the three schemes, and storage."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.config import ConfigError, validate
from vla.tokenizers import ActionTokenizer, BinsConfig, BinsTokenizer, TokenizerError
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y", "grip"), (-1.0, 0.0, -3.0), (1.0, 0.5, 9.0), 10)
LOW, HIGH = torch.tensor(SPEC.action_low), torch.tensor(SPEC.action_high)


def random_actions(n: int, seed: int = 0) -> torch.Tensor:
    return LOW + torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) * (HIGH - LOW)


def fitted(scheme: str, num_bins: int = 256, chunk: int = 1) -> BinsTokenizer:
    return BinsConfig(scheme=scheme, num_bins=num_bins).build(SPEC, chunk).fit(random_actions(5000))


def test_uniform_by_hand():
    tokenizer = BinsConfig(num_bins=4).build(Spec({}, (), ("x",), (-1,), (1,), 10), 1)
    assert tokenizer.edges.tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]]
    assert tokenizer.centres.tolist() == [[-0.75, -0.25, 0.25, 0.75]]
    values = torch.tensor([-9.0, -1.0, -0.51, -0.5, 0.0, 0.499, 0.5, 1.0, 9.0]).reshape(-1, 1, 1)
    assert tokenizer.encode(values).flatten().tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3]
    assert tokenizer.error_bound.item() == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("scheme", ["uniform", "quantile", "mu_law"])
def test_every_edge_begins_its_own_bin(scheme):
    tokenizer = fitted(scheme)
    assert tokenizer.edges.shape == (3, 257)
    assert tokenizer.centres.shape == (3, 256)
    on_edges = tokenizer.encode(tokenizer.edges.T[:, None, :])
    expected = torch.tensor([*range(256), 255])[:, None].expand(-1, 3)
    assert torch.equal(on_edges, expected)
    below = torch.nextafter(tokenizer.edges, torch.tensor(-torch.inf))
    # just below zero lie denormal numbers, which threads that have trained a model before flush to zero
    below = below.where(tokenizer.edges != 0, -torch.finfo(below.dtype).tiny).T[1:, None, :]
    assert torch.equal(tokenizer.encode(below), torch.arange(256)[:, None].expand(-1, 3))


@pytest.mark.parametrize("scheme", ["uniform", "quantile", "mu_law"])
def test_every_id_survives_decode_and_encode(scheme):
    tokenizer = fitted(scheme)
    ids = torch.arange(256)[:, None].expand(-1, 3)
    assert torch.equal(tokenizer.encode(tokenizer.decode(ids)), ids)


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(["uniform", "mu_law", "quantile"]),
    num_bins=st.integers(2, 300),
    low=st.floats(-128, 128, width=32),
    width=st.floats(0.125, 1024, width=32),
    seed=st.integers(0, 99),
)
def test_error_bound_holds_in_the_fitted_range(scheme, num_bins, low, width, seed):
    spec = Spec({}, (), ("x",), (low,), (low + width,), 10)
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.uniform(low, low + width, (500, 1)).astype(np.float32))
    tokenizer = BinsConfig(scheme=scheme, num_bins=num_bins, mu=50).build(spec, 1).fit(values)
    inside = values.clamp(tokenizer.edges[0, 0], tokenizer.edges[0, -1])[:, None, :]
    inside = torch.cat([inside, tokenizer.edges.T[:, None, :]])
    error = (tokenizer.decode(tokenizer.encode(inside)).double() - inside.double()).abs().max()
    assert error <= tokenizer.error_bound.double().item()
    assert error >= 0.9 * tokenizer.error_bound.double().item()  # the widest bin's edges reach it


def test_quantile_range_leaves_outliers_out():
    actions = random_actions(20_000)
    actions[:50] *= 1000
    tokenizer = BinsConfig(scheme="quantile").build(SPEC, 1).fit(actions)
    expected = np.quantile(actions.double().numpy(), [0.01, 0.99], axis=0)
    np.testing.assert_allclose(tokenizer.edges[:, [0, -1]].T, expected, rtol=1e-6)
    assert (tokenizer.error_bound < 1.1 * (HIGH - LOW) / 512).all()
    far = torch.full((1, 1, 3), 1e9)
    assert torch.equal(tokenizer.encode(far), torch.full((1, 3), 255))


def test_mu_law_is_finest_at_zero_and_spans_the_range():
    tokenizer = fitted("mu_law")
    widths = tokenizer.edges.diff(dim=1)
    assert torch.equal(tokenizer.edges[:, 0], LOW)
    assert torch.equal(tokenizer.edges[:, -1], HIGH)
    at_zero = tokenizer.encode(torch.zeros(1, 1, 3))[0]
    for dim in range(3):
        assert widths[dim, at_zero[dim]] <= widths[dim].min() * 1.02
    assert widths[0].max() > 20 * widths[0].min()


def test_tokens_run_action_by_action():
    tokenizer = fitted("uniform", chunk=2)
    chunk = torch.stack([LOW, HIGH])[None]
    assert tokenizer.encode(chunk).tolist() == [[0, 0, 0, 255, 255, 255]]
    assert tokenizer.num_tokens == 6


def test_range_that_float32_cannot_divide():
    with pytest.raises(
        TokenizerError, match=r"action 'x': 256 bins do not fit between 1e\+06 and 1e\+06"
    ):
        BinsConfig().build(Spec({}, (), ("x",), (1e6,), (1e6 + 1,), 10), 1)


def test_quantile_unfitted_and_constant_data():
    tokenizer = BinsConfig(scheme="quantile").build(SPEC, 1)
    with pytest.raises(TokenizerError, match=r"not fitted: call fit"):
        tokenizer.encode(torch.zeros(1, 1, 3))
    actions = random_actions(500)
    actions[:, 1] = 0.25
    with pytest.raises(TokenizerError, match=r"action 'y'.*0\.25.*use scheme 'uniform'"):
        tokenizer.fit(actions)


def test_unfitted_quantile_bins_are_stored_unfitted(tmp_path):
    BinsConfig(scheme="quantile").build(SPEC, 1).save(tmp_path / "t.json")
    with pytest.raises(TokenizerError, match="not fitted"):
        ActionTokenizer.load(tmp_path / "t.json").decode(torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize("edit", ["shape", "order", "missing", "nan"])
def test_damaged_edges(tmp_path, edit):
    tokenizer = fitted("uniform", num_bins=8)
    values = tokenizer.to_dict()
    edges = values["state"]["edges"]
    if edit == "shape":
        edges[0] = edges[0][:-1]
    elif edit == "order":
        edges[0][2], edges[0][3] = edges[0][3], edges[0][2]
    elif edit == "nan":
        edges[0][2] = float("nan")
    else:
        del values["state"]["edges"]
    (tmp_path / "t.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=r"t\.json"):
        ActionTokenizer.load(tmp_path / "t.json")


def test_binary_dimensions_take_two_ids():
    tokenizer = BinsConfig(scheme="quantile", binary=("grip",)).build(SPEC, 2)  # -3 to 9
    actions = random_actions(500)
    actions[:, 2] = 9.0  # would have no quantiles to divide
    tokenizer.fit(actions)
    chunk = torch.tensor([[0.5, 0.25, 2.999], [0.5, 0.25, 3.0]])
    ids = tokenizer.encode(chunk)
    assert ids[[2, 5]].tolist() == [0, 1]
    assert tokenizer.decode(ids)[:, 2].tolist() == [-3.0, 9.0]
    far = tokenizer.encode(torch.tensor([[0.0, 0.0, -1e9], [0.0, 0.0, 1e9]]))
    assert far[[2, 5]].tolist() == [0, 1]
    assert tokenizer.allowed_ids.shape == (6, 256)
    assert tokenizer.allowed_ids.sum(1).tolist() == [256, 256, 2, 256, 256, 2]
    assert tokenizer.error_bound[2].item() == pytest.approx(6.0)
    with pytest.raises(TokenizerError, match=r"id 2 may not stand at place 5.*allowed_ids"):
        tokenizer.decode(torch.tensor([[0, 0, 0, 0, 0, 0], [9, 9, 1, 9, 9, 2]]))


def test_binary_dimensions_are_stored(tmp_path):
    for scheme in ("uniform", "quantile"):
        tokenizer = BinsConfig(scheme=scheme, num_bins=8, binary=("grip", "x")).build(SPEC, 1)
        tokenizer.save(tmp_path / "t.json")
        assert "Infinity" not in (tmp_path / "t.json").read_text()
        loaded = ActionTokenizer.load(tmp_path / "t.json").fit(random_actions(50))
        loaded.save(tmp_path / "t.json")
        again = ActionTokenizer.load(tmp_path / "t.json")
        assert again.decode(again.encode(torch.tensor([[0.1, 0.2, 2.0]])))[0, [0, 2]].tolist() == [
            1.0,
            -3.0,
        ]


def test_unknown_binary_dimension():
    with pytest.raises(
        TokenizerError, match=r"no action dimension 'gripper'; there are: x, y, grip"
    ):
        BinsConfig(binary=("gripper",)).build(SPEC, 1)


def test_files_from_before_binary_dimensions_still_load(tmp_path):
    config = {
        "type": "bins",
        "scheme": "uniform",
        "num_bins": 2,
        "quantiles": [0.01, 0.99],
        "mu": 255.0,
    }
    values = {
        "format": "vla.action_tokenizer",
        "version": 1,
        "class": "BinsTokenizer",
        "action_names": ["x"],
        "chunk": 1,
        "state": {**config, "edges": [[-1.0, 0.0, 1.0]]},
    }
    (tmp_path / "t.json").write_text(json.dumps(values))
    loaded = ActionTokenizer.load(tmp_path / "t.json")
    assert loaded.decode(torch.tensor([[0], [1]])).flatten().tolist() == [-0.5, 0.5]
    assert loaded.allowed_ids is None
    assert loaded.tokens_per_action == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_bins", 1), ("quantiles", [0.9, 0.1]), ("mu", 0), ("scheme", "log"), ("bins", 3)],
)
def test_wrong_config_names_the_key(key, value):
    with pytest.raises(ConfigError, match=key):
        validate(BinsConfig, {key: value})
