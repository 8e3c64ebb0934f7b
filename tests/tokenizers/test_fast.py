"""FAST: the transform, the pairs, the grammar worked out by hand, short chunks, and every wrong sequence."""

import itertools
import json

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.tokenizers import ActionTokenizer, FastConfig, FastTokenizer, TokenizerError
from vla.tokenizers.fast import cosine_transform, places_left
from vla.tokenizers.integer_bpe import IntegerBPE
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-1.0, -1.0), (1.0, 1.0), 50)


def smooth(steps: int = 600, dims: int = 2, seed: int = 0) -> torch.Tensor:
    """Sums of slow sines, within [-1, 1]."""
    rng = np.random.default_rng(seed)
    time = np.arange(steps)[:, None, None]
    waves = np.sin(time * rng.uniform(0.01, 0.08, (1, dims, 3)) + rng.uniform(0, 6, (1, dims, 3)))
    return torch.from_numpy(waves.mean(-1).astype(np.float32))


def fitted(chunk: int = 10, **config) -> FastTokenizer:
    return (
        FastConfig(**{"vocab_size": 256, "quantiles": (0.0, 1.0), **config})
        .build(SPEC, chunk)
        .fit(smooth())
    )


def chunks_of(rows: torch.Tensor, chunk: int) -> torch.Tensor:
    return rows.unfold(0, chunk, 1).transpose(1, 2)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_transform_is_scipys(steps):
    values = np.random.default_rng(0).normal(size=(steps, 3))
    np.testing.assert_allclose(
        cosine_transform(steps).numpy() @ values,
        scipy.fft.dct(values, axis=0, norm="ortho"),
        atol=1e-12,
    )


def test_pairs_by_hand():
    bpe = IntegerBPE.train(np.array([[1, 0, 0, 1, 0, 0], [2, 0, 0, -1, 0, 0]]), 2, 7)
    assert bpe.tokens == [[-2], [-1], [0], [1], [2], [0, 0], [1, 0, 0]]
    assert bpe.merges == [(2, 2), (3, 5)]
    assert bpe.encode(np.array([[1, 0, 0, 0, 2, -2]])) == [[6, 2, 4, 0]]


def test_coefficients_are_laid_out_by_frequency():
    tokenizer = (
        FastConfig(scale=10, quantiles=(0, 1))
        .build(SPEC, 2)
        .fit(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    )
    chunk = torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    # sums and differences over the root of 2, times 10: 7.07, 7.07 | 7.07, 0
    coefficients = [
        tokenizer._bpe.tokens[i] for i in tokenizer.encode(chunk).tolist() if i != tokenizer.pad_id
    ]
    assert list(itertools.chain(*coefficients)) == [7, 7, 7, 0]
    expected = torch.tensor([[14, 7], [0, 7]]) / 10 / 2**0.5
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(chunk)), expected)


def test_smooth_chunks_take_few_tokens_and_err_within_the_bound():
    tokenizer = fitted(50)
    chunks = chunks_of(smooth(seed=1), 50).clamp(*tokenizer.fitted_range)
    ids = tokenizer.encode(chunks)
    assert (ids != tokenizer.pad_id).sum(1).float().mean() < 100 / 4
    error = (tokenizer.decode(ids) - chunks).abs().amax((0, 1))
    assert (error <= tokenizer.error_bound).all()
    # 0.05 times the greatest sum of magnitudes of a column of the transform, times half the range
    half = (tokenizer.fitted_range[1] - tokenizer.fitted_range[0]) / 2
    columns = torch.from_numpy(scipy.fft.dct(np.eye(50), axis=0, norm="ortho")).abs().sum(0)
    torch.testing.assert_close(
        tokenizer.error_bound, 0.05 * columns.max().float() * half, rtol=1e-4, atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), chunk=st.integers(1, 12), scale=st.sampled_from([1.0, 10.0, 40.0])
)
def test_any_chunk_in_range_encodes_within_the_bound(seed, chunk, scale):
    tokenizer = FastConfig(scale=scale, vocab_size=512, quantiles=(0, 1)).build(SPEC, chunk)
    tokenizer.fit(torch.cat([torch.full((1, 2), -1.0), torch.full((1, 2), 1.0), smooth(40)]))
    rng = torch.Generator().manual_seed(seed)
    noise = torch.rand(4, chunk, 2, generator=rng) * 2 - 1
    chunks = torch.cat(
        [noise, noise.sign(), noise[:1].abs().ceil()]
    )  # corners have the greatest coefficients
    error = (
        (tokenizer.decode(tokenizer.encode(chunks)).double() - chunks.double()).abs().amax((0, 1))
    )
    assert (error <= tokenizer.error_bound.double()).all()


def fast_motion() -> torch.Tensor:
    """Slow motion, and four times in two thousand steps a chunk of three times the speed."""
    rows = 0.3 * smooth(2000)
    for start in range(50, 2000, 500):
        rows[start : start + 4] = torch.tensor([0.9, -0.9])
    return rows


def test_the_fastest_motions_can_be_said():
    """Beyond the quantiles, within the bound; outliers of which there are a few as well."""
    rows = fast_motion()
    tokenizer = FastConfig(vocab_size=512).build(SPEC, 4).fit(rows)
    quantile = np.quantile(rows.numpy(), 0.99, axis=0)
    assert (quantile < 0.5).all()
    fastest = torch.tensor([0.9, -0.9]).expand(1, 4, 2)
    error = (tokenizer.decode(tokenizer.encode(fastest)) - fastest).abs().amax((0, 1))
    assert (error <= tokenizer.error_bound).all()
    assert tokenizer.error_bound.max() < 0.05
    low, high = tokenizer.fitted_range
    torch.testing.assert_close(high[0], torch.tensor(0.9))
    torch.testing.assert_close(low[1], torch.tensor(-0.9))


def test_a_few_wild_values_leave_ids_for_pairs():
    rows = fast_motion()
    rows[7] = torch.tensor([1.0, -1.0]) * 40
    tokenizer = FastConfig(vocab_size=128, scale=10).build(SPEC, 4).fit(rows)
    assert 2 * tokenizer.greatest + 1 <= 64 < len(tokenizer._bpe.tokens)
    low, high = tokenizer.fitted_range
    assert (high < 40).all()
    corners = torch.stack([low, high]).repeat(2, 1)[None]
    error = (tokenizer.decode(tokenizer.encode(corners)) - corners).abs().amax((0, 1))
    assert (error <= tokenizer.error_bound).all()


def test_a_tokenizer_from_before_goes_on_clipping(tmp_path):
    """Its file has no limits: all that it was fitted with lies between the quantiles."""
    rows = fast_motion()
    within = FastConfig(vocab_size=512).build(SPEC, 4)
    # as it was fitted then: to values that were clipped to the quantiles first
    values = rows.double().numpy()
    low, high = (torch.from_numpy(np.quantile(values, q, axis=0)).float() for q in (0.01, 0.99))
    within.fit(rows)
    within.save(tmp_path / "tokenizer.json")
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    state = stored["state"]
    del state["limits"]
    clipped = FastConfig(vocab_size=512, quantiles=(0, 1)).build(SPEC, 4)
    clipped.fit(rows.clamp(low, high))
    state["merges"] = [list(pair) for pair in clipped._bpe.merges]
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    old = ActionTokenizer.load(tmp_path / "tokenizer.json")
    assert old.greatest == clipped.greatest
    chunks = chunks_of(rows, 4)
    assert torch.equal(old.encode(chunks), clipped.encode(chunks))
    assert torch.equal(old.decode(old.encode(chunks)), clipped.decode(clipped.encode(chunks)))


def test_short_chunks_lose_their_highest_frequencies():
    whole, short = fitted(20), fitted(20, max_tokens=8)
    assert (short.num_tokens, whole.num_tokens) == (8, 40)
    noise = torch.rand(50, 20, 2, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    chunks = torch.cat([chunks_of(smooth(seed=2), 20)[::20], noise])
    ids = short.encode(chunks)
    fits = (whole.encode(chunks) != whole.pad_id).sum(1) <= 8
    assert 0 < fits.sum() < len(chunks)
    decoded = short.decode(ids)
    assert torch.equal(decoded[fits], whole.decode(whole.encode(chunks))[fits])
    spectrum = torch.einsum(
        "fk,bka->bfa",
        cosine_transform(20),
        (decoded[~fits] - decoded[~fits].mean(1, keepdim=True)).double(),
    )
    energy = spectrum.square().sum(-1)
    assert energy[:, 15:].sum() < 0.01 * energy.sum()
    inside = chunks.clamp(*short.fitted_range)
    assert (
        (short.decode(short.encode(inside)) - inside).abs().amax((0, 1)) <= short.error_bound
    ).all()
    torch.testing.assert_close(short.error_bound, short.fitted_range[1] - short.fitted_range[0])


def test_places_by_hand():
    # ids: 0 and 1 tell one coefficient, 2 tells three, 3 none; four coefficients are 2 and 0, or four of the small ones
    left = places_left(np.array([1, 1, 3, 0]), 4)
    never = np.iinfo(np.int16).max
    assert left.tolist() == [
        [never, never, never, never],
        [0, 0, never, never],
        [1, 1, never, never],
        [2, 2, 0, never],
        [1, 1, 1, never],
    ]


def test_grammar_admits_exactly_what_decodes():
    """All sequences of a tiny tokenizer, one by one."""
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.5], [1.0, 1.0], [-1.0, -1.0]]).repeat(5, 1)
    tokenizer = (
        FastConfig(vocab_size=7, scale=1, quantiles=(0, 1), max_tokens=3).build(SPEC, 2).fit(rows)
    )
    grammar, decodes = tokenizer.grammar, 0
    assert any(len(token) > 1 for token in tokenizer._bpe.tokens)
    for ids in itertools.product(range(tokenizer.vocab_size), repeat=3):
        state, allowed = grammar.start(1, "cpu"), True
        for place, i in enumerate(ids):
            allowed = allowed and bool(grammar.allowed(state, place)[0, i])
            state = grammar.advance(state, torch.tensor([i]), place) if allowed else state
        try:
            tokenizer.decode(torch.tensor(ids))
            assert allowed, ids
            decodes += 1
        except TokenizerError:
            assert not allowed, ids
    assert decodes > 10


@pytest.mark.parametrize("wrong", ["all padding", "too long", "padding first", "unused id"])
def test_sequences_outside_the_grammar_are_refused(wrong):
    tokenizer = fitted(4)
    ids = torch.full((2, 8), tokenizer.pad_id)
    ids[0] = tokenizer.encode(torch.zeros(4, 2))
    if wrong == "too long":
        ids[1] = len(tokenizer._bpe.tokens) - 1
    elif wrong == "padding first":
        ids[1, 1:] = tokenizer.encode(torch.zeros(4, 2))[:-1]
    elif wrong == "unused id":
        few = (
            FastConfig(vocab_size=1024, quantiles=(0, 1))
            .build(SPEC, 4)
            .fit(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        )
        tokenizer, ids = few, torch.full((2, 8), few.pad_id)
        ids[0] = few.encode(torch.zeros(4, 2))
        ids[1] = ids[0]
        ids[1, -1] = 1000
    with pytest.raises(TokenizerError, match=r"sequence 1 holds .* a chunk has 8.*grammar"):
        tokenizer.decode(ids)


def test_decoding_in_batches_is_decoding_alone(draw):
    tokenizer = fitted(8)
    ids = draw(tokenizer, 40, torch.Generator().manual_seed(3))
    together = tokenizer.decode(ids.reshape(5, 8, 16))
    alone = torch.stack([tokenizer.decode(row) for row in ids])
    assert torch.equal(together.flatten(0, 1), alone)


def test_autocast_changes_nothing():
    tokenizer, chunks = fitted(), chunks_of(smooth(), 10)
    with torch.autocast("cpu", torch.bfloat16):
        ids = tokenizer.encode(chunks)
        decoded = tokenizer.decode(ids)
    assert torch.equal(ids, tokenizer.encode(chunks))
    assert torch.equal(decoded, tokenizer.decode(ids))


def test_sizes_that_cannot_work():
    with pytest.raises(
        TokenizerError,
        match=r"vocab_size 100 .* chunks of 50 actions at scale 10 need 143 integers",
    ):
        FastConfig(vocab_size=100).build(SPEC, 50)
    with pytest.raises(
        TokenizerError, match=r"max_tokens 1 .* a chunk at rest takes [0-9]+ tokens"
    ):
        FastConfig(vocab_size=150, max_tokens=1).build(SPEC, 50).fit(torch.rand(300, 2))


@pytest.mark.parametrize("edit", ["merge", "range", "width", "many", "none"])
def test_damaged_state(tmp_path, edit):
    values = fitted().to_dict()
    state = values["state"]
    if edit == "merge":
        state["merges"][0] = [0, 9999]
    elif edit == "range":
        state["range"]["low"][0] = 99.0
    elif edit == "width":
        state["range"]["low"].append(0.0)
    elif edit == "many":
        state["config"]["vocab_size"] = 100
    else:
        del state["merges"]
    (tmp_path / "t.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=r"t\.json"):
        ActionTokenizer.load(tmp_path / "t.json")
