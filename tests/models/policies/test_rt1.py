"""RT-1: the published sizes, what depends on what, the loss, and what it learns."""

import dataclasses

import pytest
import torch

from vla.models import RT1Config
from vla.models.layers.vision_encoder import random_shift
from vla.types import Batch, Spec, SpecError

GOLDEN_LOSS = 27.7140  # of test_golden_loss: a refactor keeps it


def logits(policy, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return policy(batch).actions.logits


def with_image(batch: Batch, t: int, camera: str = "front") -> Batch:
    """The batch with another image at step t."""
    image = batch.images[camera].clone()
    image[:, t] = 255 - image[:, t]
    return dataclasses.replace(batch, images={**batch.images, camera: image})


def test_published_parameter_counts():
    names = tuple(f"a{i}" for i in range(11))
    spec = Spec({"head": (300, 300)}, (), names, (-1.0,) * 11, (1.0,) * 11, 3)
    policy = RT1Config().build(spec)

    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for m in modules for p in m.parameters())

    trunk = policy.vision.trunk
    assert count(trunk.stem, trunk.blocks, trunk.head) == 10_696_232
    assert len(trunk.blocks) == 26
    assert (
        trunk.film.channels
        == (24,) * 2 + (32,) * 3 + (48,) * 3 + (96,) * 5 + (136,) * 5 + (232,) * 6 + (384,) * 2
    )
    assert count(trunk.film) == 3_701_808
    assert count(trunk.project) == 786_432
    assert count(trunk.film_out) == 525_312
    assert count(policy.vision.token_learner) == 34_376
    assert count(policy.transformer, policy.head) == 19_375_872
    # the published model is handed 512 numbers per instruction; MiniLM gives 384, which one more layer projects
    assert count(policy.vision.condition) == 384 * 512 + 512
    assert count(policy) - count(policy.vision.condition) == 35_120_032
    assert policy.transformer.layout.length(6) == 114
    assert trunk.map_size(300, 300) == (10, 10)


def test_nobody_attends_to_actions(make):
    layout = make(state_token=True).transformer.layout
    compiled = layout.compile(4)
    action = compiled.segment_ids == 2
    assert not compiled.mask[:, action].any()
    assert compiled.mask[action].any(1).all()
    future = compiled.step_ids[None, :] > compiled.step_ids[:, None]
    assert not (layout.reachable(4) & future).any()


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_logits_depend_on_past_and_present_frames_only(make, spec, positions):
    policy = make(state_token=True, positions=positions).eval()
    batch = spec.fake_batch(2, 4, 1)
    before = logits(policy, batch)
    other_actions = dataclasses.replace(batch, actions=batch.actions / 2)
    assert torch.equal(logits(policy, other_actions), before)
    for t in range(4):
        state = batch.state.clone()
        state[:, t] += 1
        for changed in (with_image(batch, t), dataclasses.replace(batch, state=state)):
            difference = (logits(policy, changed) - before).abs().amax((0, 2, 3))
            assert (difference[:t] < 1e-5).all()
            assert (difference[t:] > 1e-3).all()


def test_instruction_matters_and_is_looked_up_once(make, spec):
    policy = make().eval()
    batch = spec.fake_batch(4, 2, 1)
    before = logits(policy, batch)
    assert policy.embed_instructions(["do task 0", "do task 1", "do task 0"])[0].shape == (2, 384)
    changed = logits(
        policy, dataclasses.replace(batch, instruction=["do task 3", *batch.instruction[1:]])
    )
    assert (changed - before)[0].abs().max() > 1e-3
    assert torch.allclose(changed[1:], before[1:], atol=1e-4)


def test_padding_equals_a_shorter_window_and_stays_out_of_batch_norm(make, spec):
    batch = spec.fake_batch(2, 4, 1)
    batch.mask[0, :2] = False
    policy = make(positions="rotary", dropout=0.0, random_shift=(0, 0)).eval()
    short = dataclasses.replace(batch.steps(2, None))
    assert torch.allclose(logits(policy, batch)[0, 2:], logits(policy, short)[0], atol=1e-4)
    image = batch.images["front"].clone()
    image[0, :2] = 255
    policy.train()
    before = logits(policy, batch)
    after = logits(policy, dataclasses.replace(batch, images={**batch.images, "front": image}))
    assert torch.allclose(after[batch.mask], before[batch.mask], atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"cameras": None, "image_size": (24, 24), "chunk": 2, "norm": "group"},
        {"token_learner": False, "token_positions": True, "stride": 32},
        {"feed_forward": "swiglu", "positions": "rotary", "norm": "frozen_batch"},
        {
            "feed_forward": "gelu",
            "state_token": True,
            "state_noise": 0.1,
            "head": {"type": "categorical", "bin_smoothing": 1.5},
        },
    ],
)
def test_every_option_trains(make, spec, changes):
    policy = make(**changes).train()
    batch = spec.fake_batch(2, 4, policy.chunk)
    output = policy(batch)
    assert output.features.shape == (2, 4, 32)
    assert output.actions.mode().shape == batch.actions.shape
    loss = output.actions.loss(batch.actions, batch.action_mask)
    assert loss.shape == (2, 4)
    loss.mean().backward()
    assert [n for n, p in policy.named_parameters() if p.grad is None] == []


def test_every_camera_is_seen_and_known_from_the_others(make, spec):
    policy = make(cameras=None).eval()
    batch = spec.fake_batch(1, 2, 1)
    before = logits(policy, batch)
    assert not torch.allclose(logits(policy, with_image(batch, 1, "wrist")), before, atol=1e-3)
    swapped = dataclasses.replace(
        batch, images={"front": batch.images["wrist"], "wrist": batch.images["front"]}
    )
    assert not torch.allclose(logits(policy, swapped), before, atol=1e-3)


def test_token_positions_tell_left_from_right(make):
    """A map of equal tokens: without positions TokenLearner cannot know where it looks."""
    for positions in (False, True):
        policy = make(token_positions=positions).eval()
        left = torch.zeros(1, 2, 3, 32)
        left[:, 0, 0] = 1
        right = left.flip(2)
        offset = policy.vision.map_position.permute(1, 2, 0) if positions else 0
        tokens = [policy.vision.token_learner((m + offset).flatten(1, 2)) for m in (left, right)]
        assert torch.allclose(*tokens, atol=1e-5) is not positions


def test_golden_loss(make, spec):
    policy = make(state_token=True).eval()
    batch = spec.fake_batch(2, 4, 1)
    loss = policy(batch).actions.loss(batch.actions, batch.action_mask)
    assert loss.mean().item() == pytest.approx(GOLDEN_LOSS, abs=2e-3)


def test_runs_in_bfloat16(make, spec):
    policy = make(awake=False, state_token=True, token_positions=True, positions="rotary").train()
    batch = spec.fake_batch(2, 4, 1)
    batch.mask[0, 0] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = policy(batch)
    loss = output.actions.loss(batch.actions, batch.action_mask)
    assert output.actions.logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())


def test_overfits_one_batch(make, spec):
    policy = make(
        awake=False, state_token=True, dropout=0.0, random_shift=(0, 0), norm="group"
    ).train()
    batch = spec.fake_batch(2, 2, 1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0)
    for _ in range(80):
        loss = policy(batch).actions.loss(batch.actions, batch.action_mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    policy.eval()
    with torch.no_grad():
        error = (policy(batch).actions.mode() - batch.actions).abs().amax((0, 1, 2))
    assert (error <= policy.tokenizer.error_bound).all()


def test_starts_near_the_uniform_distribution(make, spec):
    policy = make(awake=False).eval()
    batch = spec.fake_batch(2, 4, 1)
    assert policy(batch).actions.loss(batch.actions).mean().item() == pytest.approx(5.545, abs=0.1)


def test_random_shift_moves_whole_windows():
    torch.manual_seed(0)
    images = torch.arange(8 * 10).view(1, 1, 8, 10, 1).expand(64, 3, -1, -1, 3).to(torch.uint8)
    shifted = random_shift(images, 2, 3)
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    moves = {(int(v) // 10 - 4, int(v) % 10 - 5) for v in shifted[:, 0, 4, 5, 0]}
    assert {dy for dy, _ in moves} == {-2, -1, 0, 1, 2}
    assert {dx for _, dx in moves} == {-3, -2, -1, 0, 1, 2, 3}
    assert int(shifted.max()) <= 79
    assert torch.equal(random_shift(images, 0, 0), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": ["top"]}, "no 'top' in the spec; it has: front, wrist"),
        ({"cameras": []}, "at least one camera"),
    ],
)
def test_wrong_cameras(make, changes, message):
    with pytest.raises(SpecError, match=message):
        make(**changes)


def test_spec_and_config_that_do_not_fit(spec):
    config = RT1Config(trunk="test_efficientnet", width=16, depth=1, heads=1, key_dim=8)
    two_sizes = dataclasses.replace(spec, cameras={"front": (32, 48), "wrist": (32, 32)})
    with pytest.raises(SpecError, match="different sizes; set image_size"):
        config.build(two_sizes)
    assert config.model_copy(update={"image_size": (32, 32)}).build(
        two_sizes
    ).vision.image_size == (32, 32)
    with pytest.raises(SpecError, match="the spec has no state"):
        config.model_copy(update={"state_token": True}).build(
            dataclasses.replace(spec, state_names=())
        )


def test_keyframe_loss_teaches_what_sees_and_nothing_else(make, spec):
    policy = make(keyframe_loss=0.5, state_token=True)
    policy.state_mean.fill_(0.3)
    policy.state_std.fill_(2.0)
    batch = spec.fake_batch(2, 3)
    (loss_BT,) = policy(batch).losses.values()
    loss_BT.sum().backward()
    grads = {
        name
        for name, p in policy.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert any(name.startswith("vision.trunk.blocks") for name in grads)
    assert any(name.startswith("vision.condition") for name in grads)
    assert not any(name.startswith(("transformer", "head", "state_embedding")) for name in grads)
    with torch.no_grad():
        policy.keyframe_head[-1].weight.zero_()
        policy.keyframe_head[-1].bias.copy_(torch.tensor([1.0, 2.0]))
        expected = 0.5 * (torch.tensor([1.0, 2.0]) - (batch.keyframe - 0.3) / 2.0).square().mean(-1)
        torch.testing.assert_close(policy(batch).losses["keyframe_loss"], expected)


def test_keyframe_loss_is_no_part_of_control(make, spec):
    policy = make(keyframe_loss=1.0).eval()
    before = policy.act(spec.fake_observation(2))[0]
    torch.nn.init.normal_(policy.keyframe_head[-1].weight, std=9.0)
    torch.testing.assert_close(policy.act(spec.fake_observation(2))[0], before, rtol=0, atol=0)
    assert not any("keyframe" in name for name in make().state_dict())


def test_keyframe_loss_needs_few_tokens_and_a_state(make, spec):
    with pytest.raises(ValueError, match="token_learner"):
        make(keyframe_loss=1.0, token_learner=False)
    with pytest.raises(SpecError, match="keyframe_loss: 0"):
        RT1Config(trunk="test_efficientnet", keyframe_loss=1.0).build(
            dataclasses.replace(spec, state_names=())
        )
