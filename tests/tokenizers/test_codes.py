"""K-means, residual codes and centres with offsets."""

import json

import pytest
import torch

from vla.tokenizers import ActionTokenizer, KMeansConfig, RVQConfig, TokenizerError
from vla.tokenizers.chunks import chunk_rows
from vla.tokenizers.clustering import kmeans, nearest
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-2.0, 0.0), (2.0, 1.0), 10)


def walk(steps: int = 400, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (0.2 * torch.randn(steps, 2, generator=rng)).cumsum(0).sin()


def test_chunks_of_episodes_by_hand():
    assert chunk_rows([3, 1], 2).tolist() == [[0, 1], [1, 2], [2, 2], [3, 3]]
    assert chunk_rows([2], 4).tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert chunk_rows([100], 1, most=3).flatten().tolist() == [0, 50, 99]


def test_kmeans_finds_the_clusters():
    true = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    rng = torch.Generator().manual_seed(0)
    points = true[torch.randint(4, (800,), generator=rng)] + 0.1 * torch.randn(
        800, 2, generator=rng
    )
    for seed in range(5):
        found = kmeans(points, 4, seed=seed)
        torch.testing.assert_close(found[nearest(true, found)], true, atol=0.05, rtol=0)
    assert torch.equal(kmeans(points, 4, seed=1), kmeans(points, 4, seed=1))


def test_kmeans_with_fewer_points_than_centres():
    points = torch.tensor([[1.0], [2.0], [2.0]])
    centres = kmeans(points, 8)
    assert centres.shape == (8, 1)
    assert set(centres.flatten().tolist()) == {1.0, 2.0}


def test_every_codebook_refines():
    rows = walk()
    chunks = rows[chunk_rows([400], 5)]
    errors = []
    for codebooks in (2, 4, 8):
        tokenizer = RVQConfig(codebooks=codebooks, codes=32).build(SPEC, 5).fit(rows)
        assert tokenizer.num_tokens == codebooks
        error = (tokenizer.decode(tokenizer.encode(chunks)) - chunks).abs()
        torch.testing.assert_close(error.amax((0, 1)), tokenizer.fitted_error)
        assert (tokenizer.fitted_error < tokenizer.error_bound).all()
        errors.append(error.mean().item())
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


def test_rvq_by_hand():
    rows = torch.tensor([[-1.0, 0.3], [-0.8, 0.3], [0.8, 0.3], [1.0, 0.3]])
    tokenizer = (
        RVQConfig(codebooks=2, codes=2).build(SPEC, 1).fit(rows.repeat(5, 1), lengths=[1] * 20)
    )
    assert sorted(tokenizer.codebooks[0, :, 0].tolist()) == pytest.approx([-0.9, 0.9])
    assert sorted(tokenizer.codebooks[1, :, 0].tolist()) == pytest.approx([-0.1, 0.1])
    ids = tokenizer.encode(rows[:, None])
    assert len({tuple(row) for row in ids.tolist()}) == 4
    torch.testing.assert_close(tokenizer.decode(ids)[:, 0], rows)


def test_centres_and_offsets():
    rows = walk()
    for over, tokens, steps in (("action", 4, 1), ("chunk", 1, 4)):
        tokenizer = KMeansConfig(centres=16, over=over).build(SPEC, 4).fit(rows)
        assert (tokenizer.num_tokens, tokenizer.tokens_per_action) == (
            tokens,
            1 if over == "action" else None,
        )
        assert tokenizer.centres.shape == (16, steps, 2)
        chunks = walk(seed=1)[chunk_rows([400], 4)]
        ids = tokenizer.encode(chunks)
        torch.testing.assert_close(tokenizer.decode(ids), tokenizer.centres[ids].reshape(-1, 4, 2))
        offsets = tokenizer.offsets(chunks, ids)
        torch.testing.assert_close(tokenizer.decode(ids) + offsets, chunks)
        assert offsets.abs().mean() < 0.5 * chunks.abs().mean()
        far = torch.full((1, 4, 2), 9.0)  # outside the range nothing is lost either
        torch.testing.assert_close(tokenizer.decode(ids[:1]) + tokenizer.offsets(far, ids[:1]), far)
        owner = torch.cdist(
            chunks.reshape(len(ids) * tokens, -1), tokenizer.centres.flatten(1)
        ).argmin(1)
        assert (
            owner.reshape(ids.shape) == ids
        ).float().mean() > 0.9  # nearest, in units of the range


@pytest.mark.parametrize("config", [RVQConfig(codes=8), KMeansConfig(centres=8)])
def test_damaged_codes(config, tmp_path):
    values = config.build(SPEC, 2).fit(walk(50)).to_dict()
    key = "codebooks" if config.type == "rvq" else "centres"
    for wrong in (values["state"][key][:-1], None):
        (tmp_path / "t.json").write_text(
            json.dumps({**values, "state": {**values["state"], key: wrong}})
        )
        with pytest.raises(TokenizerError, match=r"t\.json"):
            ActionTokenizer.load(tmp_path / "t.json")
