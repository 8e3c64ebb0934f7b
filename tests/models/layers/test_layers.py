"""TokenLearner, transformer layers and the transformer over a layout."""

import pytest
import torch

from vla.models.layers.token_learner import TokenLearner
from vla.models.layers.transformer import Block, rotate, rotation
from vla.models.policies.rt1 import rt1_layout
from vla.models.trajectory_transformer import TrajectoryTransformer
from vla.tokenizers.layout import AttentionRule, Layout, Segment


def test_token_learner_takes_weighted_means():
    learner = TokenLearner(12, tokens=5)
    x = torch.randn(2, 9, 12)
    tokens = learner(x)
    assert tokens.shape == (2, 5, 12)
    assert torch.allclose(learner(x[:, torch.randperm(9)]), tokens, atol=1e-6)
    assert torch.allclose(
        learner(x[:, :1].expand(-1, 9, -1)), x[:, :1].expand(-1, 5, -1), atol=1e-6
    )
    learner.score.weight.data.zero_()
    learner.score.bias.data.zero_()
    assert torch.allclose(learner(x), x.mean(1, keepdim=True).expand(-1, 5, -1), atol=1e-6)


@pytest.mark.parametrize("feed_forward", ["linear", "swiglu", "gelu"])
def test_rows_equal_those_of_the_whole(feed_forward):
    block = Block(8, 2, 6, feed_forward=feed_forward).eval()
    x, mask, rows = torch.randn(2, 5, 8), torch.ones(5, 5).tril().bool(), torch.tensor([1, 4])
    turn = rotation(torch.arange(5), 6)
    assert torch.allclose(
        block(x, mask[rows], rows, turn), block(x, mask, None, turn)[:, rows], atol=1e-6
    )


def test_rotary_knows_only_differences():
    q, k = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def score(q_step: int, k_step: int) -> float:
        q_turned, k_turned = (
            rotate(x, *rotation(torch.tensor([step]), 16)) for x, step in ((q, q_step), (k, k_step))
        )
        return float((q_turned * k_turned).sum())

    assert score(3, 1) == pytest.approx(score(7, 5), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def transformer(layout: Layout, **changes) -> TrajectoryTransformer:
    options = {"steps": 4, "width": 16, "depth": 3, "heads": 2, "key_dim": 8, **changes}
    torch.manual_seed(0)
    return TrajectoryTransformer(layout, **options).eval()


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_last_step_alone_and_padding_are_exact(positions):
    model = transformer(rt1_layout(3, 4), positions=positions)
    images, read = torch.randn(2, 4, 3, 16), range(2, 6)
    valid = torch.tensor([[False, False, True, True], [True] * 4])
    whole = model({"image": images}, valid, read=read)
    last = model({"image": images}, valid, read=read, last_step_only=True)
    assert torch.allclose(last, whole[:, -1:], atol=1e-5)
    short = model({"image": images[:1, 2:]}, None, read=read)
    assert torch.allclose(short, whole[:1, 2:], atol=1e-5)


def test_slots_that_attend_to_each_other_are_kept_together():
    layout = rt1_layout(3, 4)
    model = transformer(
        Layout(layout.segments, (*layout.rules, AttentionRule("action", "action", "same_step")))
    )
    images = torch.randn(2, 4, 3, 16)
    whole = model({"image": images}, None, read=[3])
    last = model({"image": images}, None, read=[3], last_step_only=True)
    assert torch.allclose(last, whole[:, -1:], atol=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_prefix_and_tokens_with_content(positions):
    names = ("return", "state", "action")
    layout = Layout(
        (Segment("text", 2, per_step=False), *(Segment(n, 1) for n in names)),
        (
            AttentionRule("text", "text", "all"),
            *(AttentionRule(q, "text", "all") for q in names),
            *(AttentionRule(q, k, "causal") for q in names for k in names),
        ),
    )
    model = transformer(layout, positions=positions)
    content = {n: torch.randn(1, 3, 1, 16) for n in names} | {"text": torch.randn(1, 2, 16)}
    before = model(content, None, read=[1])
    after = {name: model({**content, name: content[name] + 1}, None, read=[1]) for name in content}
    assert not torch.allclose(after["text"], before, atol=1e-3)
    assert torch.equal(after["action"][:, 0], before[:, 0])
    assert not torch.allclose(after["action"][:, 1:], before[:, 1:], atol=1e-3)
    last = model(content, None, read=[1], last_step_only=True)
    assert torch.allclose(last, before[:, -1:], atol=1e-5)


def test_too_many_steps():
    with pytest.raises(ValueError, match="got 5 steps, the policy's history is 4"):
        transformer(rt1_layout(3, 4))({"image": torch.randn(1, 5, 3, 16)}, None, read=[2])
