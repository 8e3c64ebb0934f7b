"""Binary action dimensions of a spec: every tokenizer decodes them to one of two values."""

import json

import pytest
import torch

from vla.config import registered
from vla.tokenizers import ActionTokenizer
from vla.tokenizers.bins import BinsConfig
from vla.types import Spec

SPEC = Spec({}, (), ("x", "done"), (-1.0, 0.0), (1.0, 2.0), 10, ("done",))
VARIANTS = {
    "bins": {"type": "bins"},
    "bins quantile": {"type": "bins", "scheme": "quantile", "num_bins": 16},
    "fast": {"type": "fast"},
    "fast short": {"type": "fast", "max_tokens": 4, "vocab_size": 128},
    "kmeans": {"type": "kmeans", "centres": 5, "quantiles": (0.01, 0.99)},
    "rvq": {"type": "rvq", "codes": 4},
}


def rows(n: int = 1000) -> torch.Tensor:
    """Done is set in one step of 500: a rare flag, outside of the quantiles of FAST."""
    x = torch.rand(n, generator=torch.Generator().manual_seed(0)) * 2 - 1
    done = torch.zeros(n)
    done[::500] = 2.0
    return torch.stack([x, done], -1)


def build(name: str) -> ActionTokenizer:
    values = VARIANTS[name]
    return registered("tokenizers")[values["type"]].model_validate(values).build(SPEC, 3)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_emitted_decodes_to_an_end(name, draw, tmp_path):
    tokenizer = build(name).fit(rows())
    tokenizer.save(tmp_path / "tokenizer.json")
    for one in (tokenizer, ActionTokenizer.load(tmp_path / "tokenizer.json")):
        decoded = one.decode(draw(one, 200, torch.Generator().manual_seed(2)))
        ends = set(decoded[..., 1].unique().tolist())
        # codes are means: a flag that is rare in the data is rounded away in all of few codes
        assert ends == {0.0} if name in ("kmeans", "rvq") else ends == {0.0, 2.0}
        assert len(decoded[..., 0].unique()) > 2


@pytest.mark.parametrize("name", ["bins", "bins quantile", "fast"])
def test_a_rare_flag_is_kept(name):
    tokenizer = build(name).fit(rows())
    chunks = torch.tensor([[[0.1, 0.0], [0.2, 0.0], [0.3, 2.0]], [[0.0, 2.0]] * 3])
    decoded = tokenizer.decode(tokenizer.encode(chunks))
    assert torch.equal(decoded[..., 1], chunks[..., 1])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_error_bound_covers_values_beside_the_middle(name):
    tokenizer = build(name).fit(rows())
    low, high = tokenizer.fitted_range
    unit = torch.rand(500, 3, 2, generator=torch.Generator().manual_seed(3))
    chunks = low + unit * (high - low)
    error_A = (tokenizer.decode(tokenizer.encode(chunks)) - chunks).abs().amax((0, 1))
    assert (error_A <= tokenizer.error_bound).all()


def test_bins_take_two_ids_and_need_no_second_naming():
    tokenizer = BinsConfig().build(SPEC, 2)
    assert tokenizer.vocab_size == 256
    assert tokenizer.allowed_ids[1].sum() == 2
    assert tokenizer.allowed_ids[0].all()
    named = BinsConfig(binary=("done",)).build(SPEC, 2)
    chunk = torch.tensor([[0.3, 0.99], [0.3, 1.0]])
    assert torch.equal(tokenizer.encode(chunk), named.encode(chunk))
    assert tokenizer.decode(tokenizer.encode(chunk))[:, 1].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("name", VARIANTS)
def test_files_of_other_robots_stay_as_they_were(name):
    values = VARIANTS[name]
    plain = Spec({}, (), ("x", "y"), (-1.0, 0.0), (1.0, 2.0), 10)
    config = registered("tokenizers")[values["type"]].model_validate(values)
    stored = config.build(plain, 3).to_dict()
    assert "binary_ends" not in stored
    assert ActionTokenizer.from_dict(json.loads(json.dumps(stored))).binary_ends == {}
