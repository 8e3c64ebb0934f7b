"""One trunk: kept keys, trunks of transformers, block-sparse attention, and what cannot go together."""

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModel

from vla.models import load_policy
from vla.models.layers.backbone import BackboneConfig, BackboneError
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.models.policies.rt1 import rt1_layout
from vla.models.trajectory_transformer import TrajectoryTransformer
from vla.tokenizers.layout import AttentionRule, Layout, LayoutError, Segment
from vla.types import Spec

NAMES = ("return", "state", "action")
B, W = 3, 16
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}


def plain(*, window: int | None = None, readouts: int = 0) -> Layout:
    """language x2, then per step return, state, action and readouts; causal."""
    names = ("language", *NAMES)
    segments = [
        Segment(name, 2 if name == "language" else 1, per_step=name != "language") for name in names
    ]
    rules = [
        AttentionRule(q, k, "causal")
        for q in names
        for k in names
        if q != "language" or k == "language"
    ]
    if readouts:
        segments.append(Segment("readout", readouts, content=False, readout=True))
        rules += [
            AttentionRule("readout", name, "all" if name == "language" else "up_to")
            for name in names
        ]
    return Layout(tuple(segments), tuple(rules), window)


def trunk(layout: Layout, **changes) -> TrajectoryTransformer:
    torch.manual_seed(0)
    sizes = {
        "steps": 9,
        "width": W,
        "depth": 3,
        "heads": 2,
        "key_dim": 8,
        "feed_forward": "gelu",
        "positions": "rotary",
    }
    return TrajectoryTransformer(
        layout, **{**sizes, "max_timestep": 20, "normalise": True, **changes}
    ).eval()


def content(T: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps = {name: torch.randn(B, T, 1, W, generator=generator) for name in NAMES}
    return {"language": torch.randn(B, 2, W, generator=generator), **steps}


@pytest.mark.parametrize("positions", ["rotary", "timestep"])
@pytest.mark.parametrize(("window", "readouts"), [(1, 0), (3, 0), (3, 2), (20, 1)])
def test_kept_keys_give_the_forward_pass(positions, window, readouts):
    model, T = trunk(plain(window=window, readouts=readouts), positions=positions), 9
    whole, times = content(T), torch.arange(T).expand(B, T)
    read = [1, 3] if readouts else [1]
    with torch.no_grad():
        expected, cache = model(whole, None, read=read, timesteps=times), None
        for t in range(T):
            step = {name: x if name == "language" else x[:, t : t + 1] for name, x in whole.items()}
            hidden, cache = model.advance(step, cache, read=read, timesteps=times[:, t : t + 1])
            torch.testing.assert_close(hidden[:, 0], expected[:, t], rtol=0, atol=1e-5)
            kept = min(t + 1, window - 1)
            assert cache.steps[0][0].shape == (
                B,
                2,
                3 * kept,
                8,
            )  # no more than what is in sight, and no readouts


def test_kept_keys_need_a_window():
    for model in (trunk(plain()), trunk(plain(window=2), positions="absolute")):
        with pytest.raises(LayoutError, match="layout has a window"):
            model.advance(content(1), None, read=[1])


@pytest.mark.parametrize(
    ("architecture", "options"), [("gpt2", GPT2), ("llama", LLAMA), ("mamba", MAMBA)]
)
def test_trunks_of_transformers_see_the_past_and_no_padding(architecture, options):
    layout = plain()
    backbone = BackboneConfig(architecture=architecture, options=options).build(
        layout, steps=8, width=W
    )
    model, T = trunk(layout, positions="timestep", backbone=backbone), 8
    times = torch.arange(T).expand(B, T)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, :3] = False
    before = content(T)
    after = {name: x.clone() for name, x in before.items()}
    for name in NAMES:
        after[name][0, :3] += 5
        after[name][:, 6:] += 1
    with torch.no_grad():
        hidden = [model(x, mask, read=[1], timesteps=times) for x in (before, after)]
    difference = (hidden[1] - hidden[0]).abs().amax((-1, -2))
    assert (difference[:, 3:6] < 1e-5).all()
    assert (difference[:, 6:] > 1e-3).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_trunks_of_transformers_follow_masks_that_are_not_causal(architecture):
    layout = rt1_layout(3, 2)
    options = GPT2 if architecture == "gpt2" else LLAMA
    backbone = BackboneConfig(architecture=architecture, options=options).build(
        layout, steps=4, width=W
    )
    model = trunk(layout, steps=4, positions="absolute", backbone=backbone)
    image = torch.randn(B, 4, 3, W)
    with torch.no_grad():
        plainly = model({"image": image}, None, read=[3, 4])
        alone = model({"image": image}, None, read=[3, 4], last_step_only=True)
    torch.testing.assert_close(
        alone[:, 0], plainly[:, -1], rtol=0, atol=1e-5
    )  # nobody reads the empty slots


def test_mamba_needs_a_plainly_causal_layout():
    config = BackboneConfig(architecture="mamba", options=MAMBA)
    for layout in (rt1_layout(3, 2), plain(readouts=1), plain(window=2)):
        with pytest.raises(BackboneError, match="mamba reads its tokens in order"):
            config.build(layout, steps=4, width=W)


def test_contexts_longer_than_the_trunk_and_unknown_trunks():
    with pytest.raises(
        BackboneError, match=r"takes 65 positions .65 steps, 197 tokens., gpt2 has 64"
    ):
        BackboneConfig(architecture="gpt2", options=GPT2).build(plain(), steps=65, width=W)
    with pytest.raises(BackboneError, match=r"takes 65 positions .21 steps"):
        BackboneConfig(architecture="gpt2", options=GPT2, positions="token").build(
            plain(), steps=21, width=W
        )
    with pytest.raises(BackboneError, match="no model 'gpt22'"):
        BackboneConfig(architecture="gpt22").build(plain(), steps=4, width=W)


def test_block_sparse_attention_is_the_same(monkeypatch):
    layout, mask = plain(readouts=2), torch.ones(B, 9, dtype=torch.bool)
    mask[1, :4] = False
    dense, sparse = trunk(layout), trunk(layout, attention="flex")
    with torch.no_grad():
        for valid in (None, mask):
            expected = dense(content(9), valid, read=[1, 3])
            torch.testing.assert_close(
                sparse(content(9), valid, read=[1, 3]), expected, rtol=0, atol=1e-5
            )
    with pytest.raises(LayoutError, match="flex has no dropout"):
        trunk(layout, attention="flex", dropout=0.1)


def test_missing_content_and_timesteps_are_named():
    model = trunk(plain(), positions="timestep")
    parts = content(2)
    with pytest.raises(LayoutError, match="needs the timesteps"):
        model(parts, None, read=[1])
    del parts["state"]
    with pytest.raises(
        LayoutError,
        match="no content for segment 'state'; there is content for: language, return, action",
    ):
        model(parts, None, read=[1], timesteps=torch.zeros(B, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("segments", "rules", "window", "message"),
    [
        ((Segment("r", 1, readout=True),), (), None, "made of empty slots"),
        ((Segment("a", 1, dropout=1.0),), (), None, "dropout must be in"),
        ((Segment("a", 1, content=False, dropout=0.1),), (), None, "nothing to drop"),
        ((Segment("a", 1),), (AttentionRule("a", "a", "causal"),), 0, "window must be at least 1"),
        (
            (Segment("a", 1), Segment("r", 1, content=False, readout=True)),
            (
                AttentionRule("a", "a", "causal"),
                AttentionRule("a", "r", "up_to"),
                AttentionRule("r", "a", "up_to"),
            ),
            None,
            "a readout reads and is not read",
        ),
    ],
)
def test_layouts_that_contradict_themselves(segments, rules, window, message):
    with pytest.raises(LayoutError, match=message):
        Layout(segments, rules, window)


@torch.no_grad()
def test_a_window_on_another_trunk_acts_as_forward_says():
    spec = Spec({}, ("x", "y"), ("dx", "dy"), (-1.0,) * 2, (1.0,) * 2, 10)
    options = {"architecture": "llama", "options": LLAMA}
    torch.manual_seed(0)
    policy = DecisionTransformerConfig(
        history=4, width=24, condition="none", window=2, backbone=options
    ).build(spec)
    policy, batch, memory = policy.eval(), spec.fake_batch(2, 4), None
    for t in range(4):
        done, memory = policy.act(batch.observation(t), memory)
        memory = policy.remember(memory, batch.actions[:, t])
    torch.testing.assert_close(done, policy(batch).actions.mode()[:, -1], atol=1e-5, rtol=1e-4)


def test_policy_on_another_trunk_trains_and_acts():
    spec = Spec({}, ("x", "y"), ("dx", "dy"), (-1.0,) * 2, (1.0,) * 2, 10)
    options = {"architecture": "llama", "options": LLAMA}
    policy = (
        DecisionTransformerConfig(history=4, width=24, target_return=1.0, backbone=options)
        .build(spec)
        .train()
    )
    batch = spec.fake_batch(2, 4)
    policy(batch).actions.loss(batch.actions).mean().backward()
    silent = {name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None}
    assert not silent
    assert policy.eval().act(spec.fake_observation(2))[0].shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("architecture", "options"), [("gpt2", GPT2), ("llama", LLAMA), ("mamba", MAMBA)]
)
def test_a_pretrained_trunk_is_fetched_once(tmp_path, architecture, options):
    torch.manual_seed(0)
    base = AutoModel.from_config(
        AutoConfig.for_model(architecture, **{"vocab_size": 50, **options})
    )
    base.save_pretrained(tmp_path / "base")
    spec = Spec({}, ("x", "y"), ("dx", "dy"), (-1.0,) * 2, (1.0,) * 2, 10)
    config = DecisionTransformerConfig(
        history=4, width=24, target_return=1.0, backbone={"pretrained": str(tmp_path / "base")}
    )
    policy = config.build(spec).eval()
    name = next(name for name, _ in base.named_parameters() if "layers.0" in name or "h.0" in name)
    assert torch.equal(
        policy.transformer.backbone.model.state_dict()[name], base.state_dict()[name]
    )
    policy.save_pretrained(tmp_path / "policy")
    shutil.rmtree(tmp_path / "base")
    loaded = load_policy(tmp_path / "policy")
    observation = spec.fake_observation(2)
    assert torch.equal(loaded.act(observation)[0], policy.act(observation)[0])
    assert (
        loaded.transformer.backbone.model.get_input_embeddings().weight.shape[0] == 1
    )  # no words are kept
