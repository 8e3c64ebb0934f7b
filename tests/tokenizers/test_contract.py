"""What holds for every registered tokenizer."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.config import registered
from vla.tokenizers import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-1.0, 0.0), (1.0, 2.0), 10)
NAMES = list(registered("tokenizers"))
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def fit_actions(n: int = 400) -> torch.Tensor:
    unit = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    return torch.tensor(SPEC.action_low) + unit * 2


def fitted(name: str, chunk: int = 3) -> ActionTokenizer:
    config = registered("tokenizers")[name]()
    assert isinstance(config, TokenizerConfig)
    assert config.type == name
    return config.build(SPEC, chunk).fit(fit_actions())


@pytest.fixture(params=NAMES)
def tokenizer(request):
    return fitted(request.param)


def test_something_is_registered():
    assert "bins" in NAMES


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 4), (0,)])
def test_shapes_types_and_device(tokenizer, shape, device):
    actions = torch.zeros(*shape, 3, 2, device=device)
    ids = tokenizer.encode(actions)
    assert ids.shape == (*shape, tokenizer.num_tokens)
    assert (ids.dtype, ids.device) == (torch.int64, actions.device)
    decoded = tokenizer.decode(ids)
    assert decoded.shape == actions.shape
    assert (decoded.dtype, decoded.device) == (torch.float32, actions.device)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_error_bound_and_any_ids_decode(name, seed):
    tokenizer = fitted(name)
    rng = torch.Generator().manual_seed(seed)
    rows = fit_actions()
    low, high = rows.quantile(0.02, dim=0), rows.quantile(0.98, dim=0)
    actions = low + torch.rand(8, 3, 2, generator=rng) * (high - low)
    error_A = (tokenizer.decode(tokenizer.encode(actions)).double() - actions.double()).abs().amax((0, 1))
    assert (error_A <= tokenizer.error_bound.double()).all()

    ids = torch.randint(0, tokenizer.vocab_size, (8, tokenizer.num_tokens), generator=rng)
    assert torch.isfinite(tokenizer.decode(ids)).all()


def test_out_of_range_is_clipped(tokenizer):
    decoded = tokenizer.decode(tokenizer.encode(torch.tensor([[1e6, -1e6]]).repeat(3, 1)))
    bound = tokenizer.error_bound
    assert (decoded >= torch.tensor(SPEC.action_low) - bound).all()
    assert (decoded <= torch.tensor(SPEC.action_high) + bound).all()


def test_json_round_trip(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    actions = fit_actions(30).reshape(10, 3, 2)
    for cls in (ActionTokenizer, type(tokenizer)):
        loaded = cls.load(tmp_path / "tokenizer.json")
        assert type(loaded) is type(tokenizer)
        assert loaded.to_dict() == tokenizer.to_dict()
        assert torch.equal(loaded.encode(actions), tokenizer.encode(actions))
        assert torch.equal(loaded.decode(loaded.encode(actions)), tokenizer.decode(tokenizer.encode(actions)))


def test_fit_takes_numpy_and_gives_itself(tokenizer):
    assert tokenizer.fit(fit_actions().numpy()) is tokenizer


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.zeros(4, 3), r"\(N, 2 \(x, y\)\), got \(4, 3\)"),
        (torch.zeros(4), r"got \(4,\)"),
        (torch.zeros(0, 2), "no actions"),
        (torch.tensor([[0.0, torch.nan]]), "NaN or infinity in y"),
        (torch.tensor([[torch.inf, 0.0]]), "NaN or infinity in x"),
    ],
)
def test_fit_refuses(tokenizer, actions, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer.fit(actions)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.zeros(5, 3, 4), r"\(\.\.\., 3, 2 \(x, y\)\), got \(5, 3, 4\)"),
        (torch.zeros(5, 2, 2), r"got \(5, 2, 2\)"),
        (torch.zeros(2), r"got \(2,\)"),
        (torch.full((3, 2), torch.nan), "NaN or infinity in x, y"),
    ],
)
def test_encode_refuses(tokenizer, actions, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer.encode(actions)


def test_decode_refuses(tokenizer):
    n, vocab = tokenizer.num_tokens, tokenizer.vocab_size
    with pytest.raises(TokenizerError, match="shape"):
        tokenizer.decode(torch.zeros(2, n + 1, dtype=torch.long))
    with pytest.raises(TokenizerError, match="integer ids"):
        tokenizer.decode(torch.zeros(2, n))
    for wrong in (-1, vocab):
        with pytest.raises(TokenizerError, match=rf"\[0, {vocab}\)"):
            tokenizer.decode(torch.full((2, n), wrong))


def test_other_robot_is_refused(tokenizer):
    tokenizer.check_spec(SPEC)
    other = Spec({}, (), ("x", "z"), (-1, 0), (1, 2), 10)
    with pytest.raises(TokenizerError, match=r"\['x', 'y'\].*\['x', 'z'\]"):
        tokenizer.check_spec(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not an action tokenizer"),
        ({"version": 99}, "version 99"),
        ({"class": "NoSuchTokenizer"}, "no tokenizer class 'NoSuchTokenizer'"),
        ({"state": {}}, "damaged"),
        ({"action_names": None}, "damaged"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_foreign_files_are_refused(tokenizer, tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**tokenizer.to_dict(), **change}))
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*{message}"):
        ActionTokenizer.load(path)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\xff\xfe", b"{"])
def test_unreadable_files_are_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        ActionTokenizer.load(path)
    with pytest.raises(FileNotFoundError):
        ActionTokenizer.load(tmp_path / "none.json")
