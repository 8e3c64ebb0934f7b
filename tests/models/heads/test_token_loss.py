"""Soft targets, weights of places and offsets of the heads over tokens."""

import json

import pytest
import torch

from vla.config import lookup
from vla.models.heads.autoregressive import AutoregressiveConfig
from vla.models.heads.base import Head, HeadError
from vla.models.heads.categorical import CategoricalActions, CategoricalConfig
from vla.models.heads.token_loss import TokenLoss, place_mean, soft_cross_entropy
from vla.models.policy import load_policy
from vla.tokenizers import BinsConfig, FastConfig, KMeansConfig, RVQConfig
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.bins import BinsTokenizer
from vla.types import Spec

K, A, WIDTH = 6, 2, 16
SPEC = Spec({}, (), ("x", "y"), (-1.0, -1.0), (1.0, 1.0), 10)
SMALL = {"hidden": 32, "depth": 1, "heads": 2}


def actions() -> torch.Tensor:
    time = torch.linspace(0, 60, 600)
    return torch.stack([time.sin(), (1.7 * time + 1).cos()], dim=-1)


@pytest.fixture(scope="module")
def rvq() -> ActionTokenizer:
    return RVQConfig(codes=8).build(SPEC, K).fit(actions())


@pytest.fixture(scope="module")
def fast() -> ActionTokenizer:
    return FastConfig(vocab_size=300, scale=5.0).build(SPEC, K).fit(actions())


def chunks(count: int) -> torch.Tensor:
    """(count, 1, K, A), spread over the data."""
    starts = torch.linspace(0, 590, count).long()
    return actions()[starts[:, None] + torch.arange(K)][:, None]


def build(config, tokenizer: ActionTokenizer) -> Head:
    torch.manual_seed(0)
    head = config.build(tokenizer, SPEC, width=WIDTH)
    head.fit(actions())
    return head


def test_soft_cross_entropy_and_weights_by_hand():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    log_p = torch.tensor([0.0, 1.0]).log_softmax(0)
    targets = torch.tensor([[0.3, 0.5, 0.2]])
    # what falls on the forbidden id is divided among the others: 3/8 and 5/8
    expected = -(0.375 * log_p[0] + 0.625 * log_p[1])
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(expected.item())

    values = torch.tensor([[1.0, 2.0, torch.inf]])
    weights = torch.tensor([[3.0, 1.0, 5.0]])
    counts = torch.tensor([[True, True, False]])
    assert place_mean(values, counts, weights).item() == pytest.approx(5 / 4)
    assert place_mean(values, counts & False, weights).item() == 0


def test_loss_of_both_heads_by_hand(rvq):
    """Sum over levels of weight * cross-entropy with the soft target, over the sum of weights."""
    chunk = chunks(3)
    ids = rvq.encode(chunk)
    soft = rvq.soft_targets(chunk, ids, smoothing=0.5)
    weights = rvq.place_weights(ids)
    rule = TokenLoss(0.5, "variance")

    logits = torch.randn(3, 1, 2, 8, generator=torch.Generator().manual_seed(1))
    each = -(soft * logits.log_softmax(-1)).sum(-1)
    expected = (weights * each).sum(-1) / weights.sum(-1)
    parallel = CategoricalActions(logits, rvq, token_loss=rule)
    torch.testing.assert_close(parallel.loss(chunk), expected)
    unmasked = torch.ones(3, 1, K, dtype=torch.bool)
    torch.testing.assert_close(parallel.loss(chunk, unmasked), expected)
    assert (parallel.loss(chunk, ~unmasked) == 0).all()

    options = {"code_smoothing": 0.5, "place_weights": "variance"}
    head = build(AutoregressiveConfig(**SMALL, **options), rvq)
    one_by_one = head(torch.randn(3, 1, 1, WIDTH))
    logits = head.logits(one_by_one.states.flatten(0, 1), ids.flatten(0, 1)).unflatten(0, (3, 1))
    each = -(soft * logits.log_softmax(-1)).sum(-1)
    expected = (weights * each).sum(-1) / weights.sum(-1)
    torch.testing.assert_close(one_by_one.loss(chunk), expected)


def test_label_smoothing_goes_with_soft_targets(rvq):
    chunk = chunks(2)
    soft = rvq.soft_targets(chunk, rvq.encode(chunk), smoothing=0.5)
    logits = torch.randn(2, 1, 2, 8, generator=torch.Generator().manual_seed(2))
    mixed = 0.9 * soft + 0.1 / 8
    expected = -(mixed * logits.log_softmax(-1)).sum(-1).mean(-1)
    found = CategoricalActions(logits, rvq, 0.1, token_loss=TokenLoss(0.5)).loss(chunk)
    torch.testing.assert_close(found, expected)


def test_bin_smoothing_and_code_smoothing_of_bins_agree():
    """Of equal bins the one is the other, but for the place of an action inside its bin."""
    tokenizer = BinsConfig(num_bins=16).build(SPEC, K)
    chunk = tokenizer.decode(tokenizer.encode(chunks(4)))  # in the middle of bins
    logits = torch.randn(4, 1, K * A, 16, generator=torch.Generator().manual_seed(3))
    by_bins = CategoricalActions(logits, tokenizer, bin_smoothing=2.0).loss(chunk)
    by_distance = CategoricalActions(logits, tokenizer, token_loss=TokenLoss(2.0)).loss(chunk)
    torch.testing.assert_close(by_bins, by_distance)


def test_wrong_combinations_are_refused(rvq):
    class Unordered(BinsTokenizer):
        has_soft_targets = False

    bins = BinsConfig().build(SPEC, K)
    kmeans = KMeansConfig(centres=4).build(SPEC, K)
    unordered = Unordered(BinsConfig(), SPEC, K)
    cases = [
        ({"code_smoothing": 1.0}, unordered, "code_smoothing: 1, but Unordered has no distances"),
        ({"place_weights": "variance"}, bins, "place_weights: variance, but BinsTokenizer"),
        ({"place_weights": "variance"}, kmeans, "place_weights: variance, but KMeansTokenizer"),
        ({"offset": True}, bins, "offset: true, but the tokens of BinsTokenizer stand for single"),
    ]
    for config in (CategoricalConfig, AutoregressiveConfig):
        for options, tokenizer, message in cases:
            with pytest.raises(HeadError, match=message):
                config(**options).build(tokenizer, SPEC, width=WIDTH)
    with pytest.raises(HeadError, match="both spread the target; set one of them to 0"):
        CategoricalConfig(bin_smoothing=2, code_smoothing=1).build(bins, SPEC, width=WIDTH)


@pytest.mark.parametrize("kind", ["autoregressive", "categorical"])
def test_an_offset_starts_as_none_and_overfits_below_the_codes(kind, rvq):
    """A few windows: codes alone cannot come closer than what they leave, with an offset they do."""
    small = SMALL if kind == "autoregressive" else {"offset_hidden": 32}
    head = build(
        lookup("heads", kind)(**small, code_smoothing=0.5, place_weights="variance", offset=True),
        rvq,
    )
    chunk = chunks(8)
    hidden = torch.randn(8, 1, head.num_readouts, WIDTH)
    left = (rvq.decode(rvq.encode(chunk)) - chunk).abs().mean().item()
    with torch.no_grad():
        untrained = head(hidden).mode()
        offset, head.offset = head.offset, None
        assert torch.equal(head(hidden).mode(), untrained)
        head.offset = offset
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        loss = head(hidden).loss(chunk).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        error = (head(hidden).mode() - chunk).abs().mean().item()
    assert left > 0.02
    assert error < 0.5 * left


def test_smoothed_fast_overfits(fast):
    head = build(AutoregressiveConfig(**SMALL, code_smoothing=0.5, place_weights="variance"), fast)
    chunk = chunks(6)
    hidden = torch.randn(6, 1, 1, WIDTH)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        loss = head(hidden).loss(chunk).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        error = (head(hidden).mode() - chunk).abs().amax().item()
    assert error < 0.3  # the error bound of the codes


def test_a_checkpoint_of_an_older_version_acts_as_it_did(make, spec, tmp_path):
    """Its config and tokenizer know nothing of smoothing, weights, offsets or new sizes."""
    policy = make(
        awake=False,
        chunk=3,
        history=2,
        head={"type": "autoregressive", "hidden": 32, "heads": 2},
        tokenizer={"type": "rvq", "codebooks": 4, "codes": 16},
    ).eval()
    data = spec.fake_batch(40, 1, seed=5)
    policy.fit(data.actions[:, 0, 0], data.state[:, 0], data.instruction, lengths=[20, 20])
    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    header = json.loads((folder / "config.json").read_text())
    for key in ("code_smoothing", "place_weights", "offset", "offset_weight"):
        del header["config"]["head"][key]
    (folder / "config.json").write_text(json.dumps(header))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for key in ("leaves", "place_weights"):
        del tokenizer["state"][key]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "checksums.json").unlink()

    again = load_policy(folder)
    assert set(again.state_dict()) == set(policy.state_dict())
    observation = spec.fake_observation(2)
    for temperature in (0.0, 1.0):
        first, second = (
            p.act(observation, generator=torch.Generator().manual_seed(0), temperature=temperature)
            for p in (policy, again)
        )
        assert torch.equal(first[0], second[0])
    batch = spec.fake_batch(2, 2, 3)
    losses = [p(batch).actions.loss(batch.actions, batch.action_mask) for p in (policy, again)]
    assert torch.equal(*losses)
