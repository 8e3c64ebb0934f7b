"""What holds for every registered head, over the tokenizers that it can use."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load, save

from vla.config import lookup, registered
from vla.models.heads.base import Head, HeadConfig, HeadError
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec

B, T, K, A, WIDTH = 2, 3, 4, 3, 16
SPEC = Spec({}, (), ("x", "y", "grip"), (-1.0, 0.0, 0.0), (1.0, 4.0, 1.0), 10)
TOKENIZERS = {
    "bins": {"num_bins": 8, "binary": ["grip"]},
    "rvq": {},
    "fast": {"vocab_size": 64, "scale": 4.0},
    "kmeans": {"centres": 5},
    "kmeans over chunks": {"centres": 5, "over": "chunk"},
}
CHUNK_CODES = ("rvq", "fast", "kmeans over chunks")
USES = {
    "autoregressive": list(TOKENIZERS),
    "categorical": ["bins", "rvq", "kmeans", "kmeans over chunks"],
    "clusters": ["kmeans", "kmeans over chunks"],
    "ilql": ["bins", "fast"],
    "q_values": list(TOKENIZERS),
}
NOT_IMITATED = {"ilql": ("out.q.", "out.v.")}
"""Parameters that imitation gives a gradient of zeros: objectives of their own teach them."""
VARIANTS = {
    "autoregressive": [{"read_states": 2}, {"code_smoothing": 1.0}, {"offset": True}],
    "categorical": [{"code_smoothing": 1.0}, {"offset": True}],
    "cvae": [{"read_states": 2}],
    "flow": [{"read_states": 2, "times": "beta", "samples": 1}, {"prefix_max": 2}],
    "gaussian_mixture": [{"over": "action"}],
    "regression": [{"error": "l2"}],
}
CASES = [
    (head, options, tokenizer)
    for head in registered("heads")
    for options in [{}, *VARIANTS.get(head, [])]
    for tokenizer in USES.get(head, ["bins"])
    if tokenizer in CHUNK_CODES or "offset" not in options
]


def episodes() -> torch.Tensor:
    """Two smooth episodes of 40 steps; the gripper only opens or closes."""
    time = torch.linspace(0, 12, 80)
    return torch.stack([time.sin(), 2 + 1.5 * (1.3 * time).cos(), (time % 3 > 1).float()], dim=-1)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, ActionTokenizer]:
    return {
        name: lookup("tokenizers", name.split()[0])(**options)
        .build(SPEC, K)
        .fit(episodes(), lengths=[40, 40])
        for name, options in TOKENIZERS.items()
    }


def build(config: HeadConfig, tokenizer: ActionTokenizer, *, seed: int = 0) -> Head:
    torch.manual_seed(seed)
    head = config.build(tokenizer, SPEC, width=WIDTH)
    head.fit(episodes(), lengths=[40, 40])
    for parameter in head.parameters():  # what is zero at initialisation could hide a mistake
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head


@dataclasses.dataclass
class Case:
    head: Head
    hidden: torch.Tensor
    actions: torch.Tensor

    def distribution(self):
        return self.head(self.hidden)

    def loss(self, actions=None, mask=None):
        torch.manual_seed(1)  # flow and cvae draw noise
        return self.distribution().loss(self.actions if actions is None else actions, mask)


@pytest.fixture(
    params=CASES, ids=lambda c: "-".join([c[0], *map(str, c[1].values()), c[2].replace(" ", "_")])
)
def case(request, tokenizers) -> Case:
    name, options, tokenizer = request.param
    config = registered("heads")[name](**options)
    head = build(config, tokenizers[tokenizer])
    assert head.num_readouts == config.num_readouts(tokenizers[tokenizer])
    rows = torch.randint(
        0, 36, (B, T, 1), generator=torch.Generator().manual_seed(3)
    ) + torch.arange(K)
    hidden = torch.randn(B, T, head.num_readouts, WIDTH, generator=torch.Generator().manual_seed(4))
    return Case(head, hidden, episodes()[rows])


def test_shapes_types_and_gradients(case):
    loss = case.loss()
    assert loss.shape == (B, T)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    loss.mean().backward()
    for name, parameter in case.head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        imitated = not name.startswith(NOT_IMITATED.get(case.head.config.type, "none"))
        assert (parameter.grad.abs().sum() > 0) == imitated, name
    distribution = case.distribution()
    for chunk in (distribution.mode(), distribution.sample()):
        assert chunk.shape == (B, T, K, A)
        assert chunk.dtype == torch.float32
        assert torch.isfinite(chunk).all()


def test_bfloat16(case):
    """As in training under autocast."""
    exact = case.loss()
    case.hidden = case.hidden.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss()
        assert torch.isfinite(case.distribution().sample()).all()
        loss.mean().backward()
    assert torch.isfinite(loss).all()
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=0.15, atol=0.15)
    assert all(torch.isfinite(p.grad).all() for p in case.head.parameters())


def test_hidden_states_of_another_type(case):
    """Where the trunk alone is in bfloat16, without autocast."""
    case.hidden = case.hidden.bfloat16()
    assert torch.isfinite(case.loss()).all()


def test_masked_actions_do_not_count(case):
    assert torch.equal(case.loss(mask=torch.ones(B, T, K, dtype=torch.bool)), case.loss())
    mask = torch.ones(B, T, K, dtype=torch.bool)
    mask[0, 1] = False
    mask[1, 2, 2:] = False
    loss = case.loss(mask=mask)
    assert loss[0, 1] == 0
    assert (loss[mask.all(-1)] == case.loss()[mask.all(-1)]).all()
    changed = case.actions.clone()
    changed[0, 1] = torch.tensor([0.3, 2.0, 1.0])
    assert torch.equal(case.loss(changed, mask), loss)
    tokens_stand_alone = getattr(case.head.tokenizer, "tokens_per_action", None) is not None
    if tokens_stand_alone or not hasattr(case.distribution(), "tokens"):
        changed[1, 2, 2:] = torch.tensor([0.3, 2.0, 1.0])
        assert torch.equal(case.loss(changed, mask), loss)
    case.loss(mask=mask).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in case.head.parameters())
    distribution = case.distribution()
    for name in ("log_prob", "token_accuracy"):
        if hasattr(distribution, name):
            values = getattr(distribution, name)(case.actions, mask)
            assert values.shape == (B, T)
            assert values[0, 1] == 0
            assert torch.isfinite(values).all()


def test_mode_and_samples(case):
    distribution = case.distribution()
    mode = distribution.mode()
    assert torch.equal(mode, case.distribution().mode())
    assert torch.equal(distribution.sample(temperature=0.0), mode)
    drawn = [distribution.sample(torch.Generator().manual_seed(seed)) for seed in (5, 5)]
    assert torch.equal(*drawn)
    others = [distribution.sample(torch.Generator().manual_seed(seed)) for seed in range(6, 12)]
    is_a_point = case.head.config.type in ("regression", "squashed")
    assert all(torch.equal(other, drawn[0]) for other in others) == is_a_point
    with pytest.raises(ValueError, match="temperature"):
        distribution.sample(temperature=-1.0)


def test_rows_do_not_see_each_other(case):
    alone = Case(case.head, case.hidden[1:, 2:], case.actions[1:, 2:]).distribution().mode()
    assert torch.allclose(case.distribution().mode()[1:, 2:], alone, atol=1e-5)


def test_low_temperature_is_near_the_mode(case):
    distribution = case.distribution()
    near = distribution.sample(torch.Generator().manual_seed(0), temperature=1e-6)
    assert torch.allclose(near, distribution.mode(), atol=0.02)


def test_state_dict_round_trip(case):
    other = build(case.head.config, case.head.tokenizer, seed=9)
    other.load_state_dict(load(save(copy.deepcopy(case.head).state_dict())))
    again = Case(other, case.hidden, case.actions)
    assert torch.equal(again.distribution().mode(), case.distribution().mode())
    assert torch.equal(again.loss(), case.loss())


def test_tokens(case):
    distribution = case.distribution()
    if not hasattr(distribution, "tokens"):
        pytest.skip("a head without tokens")
    tokenizer = case.head.tokenizer
    assert distribution.tokenizer is tokenizer
    assert torch.equal(distribution.tokens(case.actions), tokenizer.encode(case.actions))
    accuracy = distribution.token_accuracy(case.actions)
    assert accuracy.shape == (B, T)
    assert ((accuracy >= 0) & (accuracy <= 1)).all()


@pytest.mark.parametrize(("head", "tokenizer"), [("categorical", "fast"), ("clusters", "bins")])
def test_head_and_tokenizer_must_go_together(tokenizers, head, tokenizer):
    with pytest.raises(HeadError, match=r"policy\.head"):
        registered("heads")[head]().build(tokenizers[tokenizer], SPEC, width=WIDTH)


@pytest.mark.parametrize("head", ["gaussian_mixture", "flow", "cvae", "regression", "clusters"])
def test_wrong_actions_in_fit_are_named(tokenizers, head):
    built = registered("heads")[head]().build(tokenizers["kmeans"], SPEC, width=WIDTH)
    wrong = episodes()
    wrong[3, 1] = torch.nan
    with pytest.raises(HeadError, match="infinity in y"):
        built.fit(wrong)
    with pytest.raises(HeadError, match="x, y, grip"):
        built.fit(episodes()[:, :2])
