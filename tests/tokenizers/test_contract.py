"""What holds for every registered tokenizer."""

import copy
import functools
import json
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla.config import ConfigError, registered, validate
from vla.tokenizers import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-1.0, 0.0), (1.0, 2.0), 10)
NAMES = list(registered("tokenizers"))
VARIANTS = {name: {"type": name} for name in NAMES} | {
    "bins quantile": {"type": "bins", "scheme": "quantile", "num_bins": 64},
    "bins mu_law": {"type": "bins", "scheme": "mu_law", "num_bins": 64},
    "bins binary": {"type": "bins", "binary": ["y"], "num_bins": 64},
    "fast short": {"type": "fast", "max_tokens": 4, "vocab_size": 128},
    "fast coarse": {"type": "fast", "vocab_size": 64, "scale": 5},
    "kmeans chunk": {"type": "kmeans", "over": "chunk"},
}
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def fit_actions(n: int = 400) -> torch.Tensor:
    unit = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    return torch.tensor(SPEC.action_low) + unit * 2


def build(name: str, chunk: int = 3, spec: Spec = SPEC) -> ActionTokenizer:
    config = registered("tokenizers")[VARIANTS[name]["type"]].model_validate(VARIANTS[name])
    assert isinstance(config, TokenizerConfig)
    return config.build(spec, chunk)


@functools.cache
def fitted(name: str, chunk: int = 3) -> ActionTokenizer:
    return build(name, chunk).fit(fit_actions())


@pytest.fixture(params=VARIANTS)
def tokenizer(request):
    return fitted(request.param)


def test_all_are_registered_by_their_type():
    assert {"bins", "fast", "kmeans", "rvq"} <= set(NAMES)
    assert all(registered("tokenizers")[name]().type == name for name in NAMES)


def test_sizes_are_known_before_fitting():
    for name in VARIANTS:
        new, known = build(name), fitted(name)
        assert (new.num_tokens, new.vocab_size) == (known.num_tokens, known.vocab_size)
        assert (new.grammar is None) == (known.grammar is None)
        assert new.tokens_per_action == known.tokens_per_action
        assert new.tokens_per_action is None or new.num_tokens == 3 * new.tokens_per_action


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


@pytest.mark.parametrize("name", VARIANTS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000))
def test_error_bound_and_what_a_policy_emits_decodes(name, seed, draw):
    tokenizer = fitted(name)
    rng = torch.Generator().manual_seed(seed)
    low, high = tokenizer.fitted_range
    actions = low + torch.rand(8, 3, 2, generator=rng) * (high - low)
    error_A = (
        (tokenizer.decode(tokenizer.encode(actions)).double() - actions.double()).abs().amax((0, 1))
    )
    assert (error_A <= tokenizer.error_bound.double()).all()

    decoded = tokenizer.decode(draw(tokenizer, 8, rng))
    assert (decoded >= torch.tensor(SPEC.action_low)).all()
    assert (decoded <= torch.tensor(SPEC.action_high)).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_100_000_sequences_of_an_untrained_policy_decode(name, draw):
    rng = torch.Generator().manual_seed(1)
    tokenizer = fitted(name)
    for _ in range(10):
        decoded = tokenizer.decode(draw(tokenizer, 10_000, rng))
        assert decoded.shape == (10_000, 3, 2)
        assert (decoded >= torch.tensor(SPEC.action_low)).all()
        assert (decoded <= torch.tensor(SPEC.action_high)).all()


def test_what_encodes_is_allowed(tokenizer):
    actions = 3 * torch.randn(200, 3, 2, generator=torch.Generator().manual_seed(5))
    ids_BD, grammar = tokenizer.encode(actions), tokenizer.grammar
    state = None if grammar is None else grammar.start(200, "cpu")
    for place, ids in enumerate(ids_BD.unbind(1)):
        if tokenizer.allowed_ids is not None:
            assert tokenizer.allowed_ids[place, ids].all()
        if grammar is not None:
            assert grammar.allowed(state, place).gather(1, ids[:, None]).all()
            assert ((ids == grammar.pad_id) == grammar.finished(state)).all()
            state = grammar.advance(state, ids, place)


def test_episodes_do_not_run_into_each_other():
    """A jump between two episodes is in no chunk: fitted with their lengths, a chunk tokenizer gives both back better."""
    low, high = torch.zeros(40, 2), torch.ones(40, 2)
    rows, chunk = torch.cat([low, high]), torch.stack([low[:3], high[:3]])
    for name in ("rvq", "kmeans chunk"):
        values = {**VARIANTS[name], **({"codes": 2} if name == "rvq" else {"centres": 2})}
        config = registered("tokenizers")[values["type"]].model_validate(values)
        tokenizer = config.build(SPEC, 3).fit(rows, lengths=[40, 40])
        assert torch.equal(tokenizer.decode(tokenizer.encode(chunk)), chunk)


def test_dimensions_that_never_move_are_kept_exactly():
    rows = fit_actions()
    rows[:, 1] = 0.3
    for name in ("fast", "fast short", "rvq", "kmeans", "kmeans chunk"):
        tokenizer = build(name).fit(rows)
        decoded = tokenizer.decode(tokenizer.encode(rows[:30].reshape(10, 3, 2)))
        assert torch.equal(decoded[..., 1], torch.full((10, 3), 0.3))
        assert tokenizer.error_bound[1] == 0
        nothing_moves = build(name).fit(torch.full((5, 2), 0.3))
        assert torch.equal(
            nothing_moves.decode(nothing_moves.encode(torch.zeros(2, 3, 2))),
            torch.full((2, 3, 2), 0.3),
        )


@pytest.mark.parametrize("kind", ["fast", "rvq", "kmeans"])
def test_quantiles_of_zero_width_are_refused(kind):
    rows = fit_actions(1000)
    rows[:, 1] = 0.25
    rows[500:503, 1] = 1.5
    tokenizer = registered("tokenizers")[kind](quantiles=(0.01, 0.99)).build(SPEC, 3)
    with pytest.raises(
        TokenizerError,
        match=r"action 'y'.*0\.01 and 0\.99 are both 0\.25.*between 0\.25 and 1\.5.*\[0, 1\]",
    ):
        tokenizer.fit(rows)
    registered("tokenizers")[kind](quantiles=(0.0, 1.0)).build(SPEC, 3).fit(rows)
    with pytest.raises(ConfigError, match="quantiles: needs 0 <= lower < upper <= 1"):
        validate(registered("tokenizers")[kind], {"quantiles": [0.9, 0.1]})


@pytest.mark.parametrize("kind", ["fast", "rvq", "kmeans"])
def test_unfitted_is_told_and_stored(kind, tmp_path):
    build(kind).save(tmp_path / "t.json")
    tokenizer = ActionTokenizer.load(tmp_path / "t.json")
    for call in (
        lambda: tokenizer.encode(torch.zeros(3, 2)),
        lambda: tokenizer.decode(torch.zeros(tokenizer.num_tokens, dtype=torch.long)),
        lambda: tokenizer.error_bound,
    ):
        with pytest.raises(TokenizerError, match=f"the tokenizer {kind} is not fitted: call fit"):
            call()


def test_soft_targets_prefer_the_true_id(tokenizer, tmp_path):
    """Near codes get a share, forbidden ids none; as the spread goes to 0, the true id has all."""
    assert tokenizer.has_soft_targets
    actions = fit_actions(60).reshape(20, 3, 2)
    ids = tokenizer.encode(actions)
    soft = tokenizer.soft_targets(actions, ids, smoothing=1.0)
    assert soft.shape == (*ids.shape, tokenizer.vocab_size)
    torch.testing.assert_close(soft.sum(-1), torch.ones(ids.shape))
    assert (soft.gather(-1, ids[..., None])[..., 0] >= soft.amax(-1) - 1e-5).all()
    assert (soft.amax(-1) < 0.99).any()
    if tokenizer.allowed_ids is not None:
        assert (soft.where(~tokenizer.allowed_ids, 0.0) == 0).all()
    sharp = tokenizer.soft_targets(actions, ids, smoothing=1e-4)
    assert (sharp.argmax(-1) == ids).float().mean() > 0.99
    assert sharp.amax(-1).mean() > 0.99

    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = ActionTokenizer.load(tmp_path / "tokenizer.json")
    assert torch.equal(loaded.soft_targets(actions, ids, smoothing=1.0), soft)
    if tokenizer.has_place_weights:
        assert torch.equal(loaded.place_weights(ids), tokenizer.place_weights(ids))
    else:
        with pytest.raises(TokenizerError, match=r"policy\.head\.place_weights: equal"):
            tokenizer.place_weights(ids)


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
        assert torch.equal(
            loaded.decode(loaded.encode(actions)), tokenizer.decode(tokenizer.encode(actions))
        )


def test_fit_takes_numpy_and_gives_itself():
    for name in VARIANTS:
        tokenizer = build(name)
        assert tokenizer.fit(fit_actions(50).numpy(), lengths=[20, 30]) is tokenizer


def test_copies_are_equal(tokenizer):
    actions = fit_actions(30).reshape(10, 3, 2)
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert torch.equal(twin.encode(actions), tokenizer.encode(actions))


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


@pytest.mark.parametrize("lengths", [[3, 3], [5, 0], [6, -1], []])
def test_fit_refuses_lengths_that_do_not_add_up(tokenizer, lengths):
    with pytest.raises(TokenizerError, match=f"lengths of {len(lengths)} episodes"):
        tokenizer.fit(torch.rand(5, 2), lengths=lengths)


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
