"""Heads that give values of tokens: against every chunk tried out, grammars, float32, and what is executed."""

import itertools

import pytest
import torch

from vla.models.heads.ilql import ILQLActions, ILQLHeadConfig
from vla.models.heads.q_values import QValues, QValuesConfig
from vla.tokenizers import BinsConfig, FastConfig
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec

SPEC = Spec({}, (), ("x", "grip"), (-1.0, 0.0), (1.0, 1.0), 10)
BINS = BinsConfig(num_bins=3, binary=("grip",)).build(SPEC, 2)
WIDTH = 8
SMALL = {"hidden": 16, "heads": 2, "depth": 1}


def fast(chunk: int = 2) -> ActionTokenizer:
    time = torch.linspace(0, 20, 200)
    actions = torch.stack([time.sin(), (time.cos() + 1) / 2], dim=-1)
    return FastConfig(vocab_size=7, scale=1.0, quantiles=(0.0, 1.0)).build(SPEC, chunk).fit(actions)


def q_values(
    tokenizer: ActionTokenizer, rows: int = 1, *, steps: int = 1, seed: int = 0
) -> QValues:
    """Of a head that tells ids apart."""
    torch.manual_seed(seed)
    head = QValuesConfig(**SMALL).build(tokenizer, SPEC, width=WIDTH)
    torch.nn.init.normal_(head.out.weight, std=0.5)
    return head(torch.randn(rows, steps, head.num_readouts, WIDTH))


def ilql(tokenizer: ActionTokenizer, rows: int = 1, *, seed: int = 0, **options) -> ILQLActions:
    torch.manual_seed(seed)
    head = ILQLHeadConfig(**{**SMALL, **options}).build(tokenizer, SPEC, width=WIDTH)
    for layer in (head.out.policy, *(q.out for q in head.out.q), head.out.v.out):
        torch.nn.init.normal_(layer.weight, std=0.5)
    head.update_slow(head)
    return head(torch.randn(rows, 1, head.num_readouts, WIDTH))


def greedy(actions: QValues) -> torch.Tensor:
    """The ids that the mode should have, by looking at all chunks that begin alike, place by place: (D,)."""
    tokenizer, ids = actions.tokenizer, []
    for place in range(tokenizer.num_tokens):
        chunk = torch.zeros(1, 1, tokenizer.num_tokens, dtype=torch.long)
        chunk[0, 0, :place] = torch.tensor(ids, dtype=torch.long)
        ids.append(int(actions.values(chunk)[0, 0, place].argmax()))
    return torch.tensor(ids)


def test_values_before_training_are_low_everywhere():
    actions = QValuesConfig(**SMALL, initial_value=0.1).build(BINS, SPEC, width=WIDTH)(
        torch.randn(4, 2, 1, WIDTH)
    )
    values = actions.values(BINS.encode(torch.rand(4, 2, 2, 2)))
    allowed = torch.isfinite(values)
    assert torch.allclose(values[allowed], torch.tensor(0.1), atol=0.03)
    assert (~allowed).sum() == 4 * 2 * 2  # the third id of the gripper, in two actions


def test_values_lie_in_the_unit_interval_and_first_is_the_first_place():
    actions = q_values(BINS, 3, steps=2)
    ids = BINS.encode(torch.rand(3, 2, 2, 2))
    values = actions.values(ids)
    assert values.shape == (3, 2, 4, 3)
    inside = values[torch.isfinite(values)]
    assert ((inside > 0) & (inside < 1)).all()
    assert torch.allclose(actions.first(), values[:, :, 0], atol=1e-6)


def test_a_value_depends_on_the_tokens_before_alone():
    actions = q_values(BINS)
    one, other = (actions.values(torch.tensor([[ids]])) for ids in ([0, 1, 2, 0], [0, 1, 0, 1]))
    assert torch.allclose(one[..., :3, :], other[..., :3, :], atol=1e-6)
    assert not torch.allclose(one[..., 3, :2], other[..., 3, :2], atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_mode_is_greedy_and_decodes_to_the_middle_of_the_very_bins(seed):
    actions = q_values(BINS, seed=seed)
    expected = greedy(actions)
    chunk = actions.mode()
    assert torch.equal(BINS.encode(chunk)[0, 0], expected)
    assert torch.equal(chunk[0, 0], BINS.decode(expected))
    assert all(torch.equal(actions.mode(), chunk) for _ in range(10))  # never a random one


def test_samples_follow_the_softmax_of_values():
    tokenizer = BinsConfig(num_bins=4).build(Spec({}, (), ("x",), (-1.0,), (1.0,), 10), 1)
    one = q_values(tokenizer)
    many = one.head(one.hidden.expand(6000, -1, -1, -1))
    for temperature in (1.0, 0.1):
        drawn = many.sample(torch.Generator().manual_seed(0), temperature=temperature)
        shares = torch.bincount(tokenizer.encode(drawn).flatten(), minlength=4) / 6000
        assert torch.allclose(shares, (one.first()[0, 0] / temperature).softmax(-1), atol=0.025)


@pytest.mark.parametrize("make", [q_values, ilql])
@pytest.mark.parametrize("tokenizer", [BINS, fast()], ids=["bins", "fast"])
def test_whatever_is_drawn_decodes(make, tokenizer):
    """Also by a head that prefers what may not stand there."""
    actions = make(tokenizer, 200)
    out = actions.head.out if make is q_values else actions.head.out.policy
    torch.nn.init.normal_(out.bias, std=5)
    assert torch.isfinite(actions.sample(temperature=0.3)).all()
    assert torch.isfinite(actions.mode()).all()


@pytest.mark.parametrize("make", [q_values, ilql])
def test_values_of_a_grammar_end_with_the_chunk(make):
    tokenizer = fast()
    actions = make(tokenizer, 5)
    ids = tokenizer.encode(actions.mode())
    places = actions.places(ids)
    counted = actions.counted(places, torch.ones(5, 1, 2, dtype=torch.bool))
    assert torch.equal(counted.sum(-1), (ids != tokenizer.pad_id).sum(-1))
    outputs = actions.values(ids, places)
    values = outputs if make is q_values else outputs.logits
    assert values.shape[:3] == counted.shape
    assert torch.isfinite(values.gather(-1, places.ids.view(5, 1, -1, 1))[..., 0][counted]).all()


def test_counted_tokens_are_those_of_valid_actions():
    actions = q_values(BINS, 2)
    places = actions.places(torch.zeros(2, 1, 4, dtype=torch.long))
    mask = torch.tensor([[[True, True]], [[True, False]]])
    assert actions.counted(places).all()
    assert actions.counted(places, mask)[:, 0].tolist() == [[True] * 4, [True, True, False, False]]


def test_float32_under_autocast():
    actions = q_values(BINS, 4)
    ids = torch.zeros(4, 1, 4, dtype=torch.long)
    exact, first, mode = actions.values(ids), actions.first(), actions.mode()
    with torch.autocast("cpu", torch.bfloat16):
        again = actions.head(actions.hidden)
        assert torch.equal(again.values(ids), exact)
        assert torch.equal(again.first(), first)
        assert torch.equal(again.mode(), mode)


def test_ilql_probabilities_are_those_of_all_chunks():
    actions = ilql(BINS, beta=1.5)
    chunks = torch.stack(
        [BINS.decode(torch.tensor(i)) for i in itertools.product(*[range(3), range(2)] * 2)]
    )
    many = actions.head(actions.hidden.expand(len(chunks), -1, -1, -1))
    log_probs = many.log_prob(chunks[:, None])
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    likeliest = actions.head(actions.hidden.expand(4000, -1, -1, -1)).sample(
        torch.Generator().manual_seed(0)
    )
    shares = (likeliest == chunks[:, None, None]).all(-1).all(-1).all(-1).float().mean(-1)
    assert torch.allclose(shares, log_probs[:, 0].exp(), atol=0.03)


def test_ilql_scores_are_the_formula():
    actions = ilql(BINS, beta=2.0, ensemble=3)
    ids = torch.tensor([[[2, 1, 0, 0]]])
    outputs = actions.values(ids)
    assert outputs.q.shape == (3, 1, 1, 4, 3)
    expected = outputs.logits + 2.0 * (outputs.q.amin(0) - outputs.v[..., None])
    assert torch.allclose(outputs.scores(2.0), expected)
    chunk = BINS.decode(ids)
    each = expected.log_softmax(-1).gather(-1, ids[..., None]).sum()
    assert actions.log_prob(chunk).item() == pytest.approx(each.item(), abs=1e-5)
    imitation = -outputs.logits.log_softmax(-1).gather(-1, ids[..., None]).mean()
    assert actions.loss(chunk).item() == pytest.approx(imitation.item(), abs=1e-5)
    assert torch.allclose(actions.state_value(), outputs.v[..., 0], atol=1e-6)


def test_ilql_beta_leans_from_the_likely_to_the_good():
    """Id 0 is likely in the data, id 2 is good: which is chosen is beta's choice."""
    tokenizer = BinsConfig(num_bins=3).build(Spec({}, (), ("x",), (-1.0,), (1.0,), 10), 1)
    chosen = {}
    for beta in (0.0, 10.0):
        actions = ilql(tokenizer, beta=beta)
        for layer, bias in (
            (actions.head.out.policy, [2.0, 0.0, 0.0]),
            (actions.head.out.q[0].out, [0.0, 0.0, 1.0]),
        ):
            torch.nn.init.zeros_(layer.weight)
            layer.bias.data = torch.tensor(bias)
        torch.nn.init.zeros_(actions.head.out.q[1].out.weight)
        actions.head.out.q[1].out.bias.data = torch.tensor(
            [0.5, 0.0, 1.0]
        )  # the least of both counts
        actions.head.update_slow(actions.head)
        chosen[beta] = int(tokenizer.encode(actions.mode()))
    assert chosen == {0.0: 0, 10.0: 2}


@pytest.mark.parametrize("tokenizer", [BINS, fast()], ids=["bins", "fast"])
def test_ilql_decodes_by_q_of_its_slow_copy(tokenizer):
    actions = ilql(tokenizer, beta=3.0)
    head = actions.head
    other = ilql(tokenizer, seed=7).head
    with torch.no_grad():
        # the logits decide little: beta times the advantage of the copy decides
        head.out.policy.weight.mul_(0.01)
    before = actions.mode()
    head.update_slow(other)
    chunk = actions.mode()
    ids = tokenizer.encode(chunk)
    places = actions.places(ids)
    outputs = actions.values(ids, places)
    slow_q = other(actions.hidden).values(ids, places).q
    scores = outputs.logits + 3.0 * (slow_q.amin(0) - outputs.v[..., None])
    counted = actions.counted(places)
    assert torch.equal(scores.argmax(-1)[counted], places.ids.view(counted.shape)[counted])
    assert not torch.equal(chunk, before)
    each = scores.log_softmax(-1).gather(-1, places.ids.view(counted.shape)[..., None])[..., 0]
    log_prob = each.where(counted, 0.0).sum()
    assert actions.log_prob(chunk).item() == pytest.approx(log_prob.item(), abs=1e-4)
    assert not any(name.startswith("slow.") for name, _ in head.named_parameters())
