"""Decision Transformer: equal to transformers' model, exact in control, conditioned on what it is asked for."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import DecisionTransformerConfig as TheirConfig
from transformers import DecisionTransformerModel

from vla.config import ConfigError, UserError
from vla.models import load_policy
from vla.models.policies.decision_transformer import DecisionMemory, DecisionTransformerConfig
from vla.models.policies.decision_transformer_parts.transformers_weights import from_transformers
from vla.tokenizers.layout import describe
from vla.types import Batch, Observation, Spec, SpecError

HOPPER = Spec({}, tuple(f"s{i}" for i in range(11)), ("a", "b", "c"), (-1.0,) * 3, (1.0,) * 3, 125)
SMALL = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "history": 4,
    "dropout": 0.0,
    "return_scale": 10.0,
    "target_return": 7.0,
}
SEEING = {
    "trunk": "test_efficientnet",
    "stride": 16,
    "language_dim": 24,
    "tokens_per_image": 3,
    "cameras": ["front"],
    "language": "minilm",
}


@pytest.fixture
def build(spec):
    def make(spec: Spec = HOPPER, *, seed: int = 0, **changes):
        torch.manual_seed(seed)
        policy = DecisionTransformerConfig(**{**SMALL, **changes}).build(spec)
        if policy.language.dim:
            policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
        return policy.eval()

    return make


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_equals_the_model_of_transformers(activation):
    torch.manual_seed(0)
    theirs = DecisionTransformerModel(
        TheirConfig(
            state_dim=11,
            act_dim=3,
            hidden_size=64,
            n_layer=3,
            n_head=2,
            activation_function=activation,
        )
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mean, std = torch.randn(11), torch.rand(11) + 0.5
    ours = from_transformers(theirs, HOPPER, state_mean=mean, state_std=std, return_scale=1000.0)
    batch = HOPPER.fake_batch(3, 20)
    batch = dataclasses.replace(
        batch, timesteps=batch.timesteps + 100, returns_to_go=batch.returns_to_go * 3000
    )
    with torch.no_grad():
        expected = theirs(
            states=(batch.state - mean) / std,
            actions=batch.actions[:, :, 0],
            returns_to_go=batch.returns_to_go[..., None] / 1000,
            timesteps=batch.timesteps,
        ).action_preds
        found = ours(batch).actions.mode()[:, :, 0]
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_models_without_an_equal_are_refused():
    theirs = DecisionTransformerModel(
        TheirConfig(state_dim=11, act_dim=3, hidden_size=16, n_layer=1, n_head=1)
    )
    with pytest.raises(SpecError, match="the model has 3 action dimensions, the spec 1"):
        from_transformers(
            theirs,
            dataclasses.replace(HOPPER, action_names=("a",), action_low=(0.0,), action_high=(1.0,)),
        )
    theirs.config.activation_function = "silu"
    with pytest.raises(UserError, match="silu"):
        from_transformers(theirs, HOPPER)
    with pytest.raises(UserError, match="no DecisionTransformerModel within reach"):
        from_transformers("/nowhere/to/be/found", HOPPER)


def rows(observation: Observation, index: list[int]) -> Observation:
    return Observation(
        images={c: x[index] for c, x in observation.images.items()},
        state=observation.state[index],
        instruction=[observation.instruction[i] for i in index],
        reward=None if observation.reward is None else observation.reward[index],
        target_return=None
        if observation.target_return is None
        else observation.target_return[index],
    )


def observed(episode: Batch, t: int, row: int, *, success: bool = False) -> Observation:
    """What robot `row` sees at step t of an episode whose returns to go count down to their end."""
    reward = episode.rewards[:, t - 1] if t else torch.zeros(episode.batch_size)
    target = episode.success[:, 0].float() if success else episode.returns_to_go[:, 0]
    whole = dataclasses.replace(episode.observation(t), reward=reward, target_return=target)
    return rows(whole, [row])


def consistent(episode: Batch) -> Batch:
    returns = episode.rewards.flip(1).cumsum(1).flip(1)
    return dataclasses.replace(episode, returns_to_go=returns)


def window(episode: Batch, row: int, t: int, history: int) -> Batch:
    """Row `row` up to step t as one batch of at most `history` steps, with no padding."""
    first = max(0, t - history + 1)
    part = episode.steps(first, t + 1)
    values = {
        f.name: getattr(part, f.name)[row : row + 1]
        for f in dataclasses.fields(part)
        if f.name not in ("images", "instruction", "extras") and getattr(part, f.name) is not None
    }
    values["images"] = {c: x[row : row + 1] for c, x in part.images.items()}
    values["extras"] = {name: x[row : row + 1] for name, x in part.extras.items()}
    return dataclasses.replace(part, instruction=[part.instruction[row]], **values)


CASES = [
    {},
    {"condition": "success", "actions": "tokens"},
    {"window": 3},
    {"window": 1},
    {"window": 2, "readouts": 2, "condition": "none", "target_return": None},
    {"history": 1},
    {**SEEING, "head": {"type": "categorical"}},
    {**SEEING, "window": 2, "head": {"type": "categorical"}, "actions": "tokens"},
]


@pytest.mark.parametrize("changes", CASES)
def test_control_equals_the_forward_pass_for_robots_of_different_age(build, spec, changes):
    policy = build(spec, **changes)
    steps = 9
    if "window" in changes:  # each layer looks back by itself: the whole episode counts
        policy.transformer.steps = steps
    episode = consistent(spec.fake_batch(2, steps, 1))
    history = steps if "window" in changes else policy.history
    memory: list[DecisionMemory | None] = [None, None]
    with torch.no_grad():
        for t in range(steps):
            for robot, delay in ((0, 0), (1, 3)):  # the second starts later
                if t - delay < 0:
                    continue
                seen = observed(
                    episode, t - delay, robot, success=policy.config.condition == "success"
                )
                output, memory[robot] = policy.step(seen, memory[robot])
                memory[robot] = policy.remember(
                    memory[robot], episode.actions[robot : robot + 1, t - delay]
                )
                expected = policy(window(episode, robot, t - delay, history))
                torch.testing.assert_close(
                    output.features[:, -1], expected.features[:, -1], rtol=0, atol=2e-5
                )
            if t == 6:  # both in one batch, and apart again
                both = DecisionMemory.stack([memory[1], memory[0]])
                memory = [both.select([1]), both.select([0])]


def test_robots_of_different_age_in_one_batch(build, spec):
    for changes in ({}, {"window": 3, **SEEING}, {**SEEING, "condition": "success"}):
        policy = build(spec, **changes)
        episode = consistent(spec.fake_batch(2, 6, 1))
        alone, joint = [None, None], None
        with torch.no_grad():
            for t in range(5):
                outputs = []
                for robot, at in ((0, t + 1), (1, t)):
                    if t == 0 and robot == 0:
                        _, alone[0] = policy.step(observed(episode, 0, 0), None)
                        alone[0] = policy.remember(alone[0], episode.actions[:1, 0])
                    out, alone[robot] = policy.step(observed(episode, at, robot), alone[robot])
                    alone[robot] = policy.remember(
                        alone[robot], episode.actions[robot : robot + 1, at]
                    )
                    outputs.append(out.features[:, -1])
                if joint is not None:
                    parts = [observed(episode, at, robot) for robot, at in ((0, t + 1), (1, t))]
                    both = Observation(
                        {c: torch.cat([p.images[c] for p in parts]) for c in parts[0].images},
                        torch.cat([p.state for p in parts]),
                        [p.instruction[0] for p in parts],
                        torch.cat([p.reward for p in parts]),
                    )
                    out, joint = policy.step(both, joint)
                    done = torch.stack([episode.actions[0, t + 1], episode.actions[1, t]])
                    joint = policy.remember(joint, done)
                    torch.testing.assert_close(
                        out.features[:, -1], torch.cat(outputs), rtol=0, atol=2e-5
                    )
                else:
                    joint = DecisionMemory.stack(alone)


@pytest.mark.parametrize("changes", [{}, {"window": 2}])
def test_a_new_instruction_starts_a_new_history_and_keeps_its_target(build, spec, changes):
    policy = build(spec, **{**SEEING, **changes})
    episode = consistent(spec.fake_batch(2, 4, 1))
    memory = None
    for t in range(3):
        reward = episode.rewards[:, t - 1] if t else torch.zeros(2)
        observation = dataclasses.replace(
            episode.observation(t), reward=reward, target_return=torch.full((2,), 5.0)
        )
        if t == 2:
            asked = dataclasses.replace(
                observation, instruction=["do task 3", observation.instruction[1]]
            )
            changed, _ = policy.step(asked, memory)
            plain, _ = policy.step(observation, memory)
        else:
            _, memory = policy.step(observation, memory)
            memory = policy.remember(memory, episode.actions[:, t])
    torch.testing.assert_close(changed.features[1], plain.features[1])
    assert (changed.features[0] - plain.features[0]).abs().max() > 1e-3
    left = 5.0 - episode.rewards[:, :2].sum(1)
    torch.testing.assert_close(policy.step(asked, memory)[1].target, left)


def test_features_see_no_action_of_their_step_and_padding_reaches_nobody(build):
    policy = build(history=6)
    batch = HOPPER.fake_batch(2, 6)
    batch.mask[0, :2] = False
    before = policy(batch).features
    actions = batch.actions.clone()
    actions[:, 3] += 0.5
    difference = (
        (policy(dataclasses.replace(batch, actions=actions)).features - before).abs().amax((0, 2))
    )
    assert (difference[:4] == 0).all()
    assert (difference[4:] > 1e-4).all()
    state, returns = batch.state.clone(), batch.returns_to_go.clone()
    state[0, :2], returns[0, :2] = 99.0, -99.0
    padded = policy(dataclasses.replace(batch, state=state, returns_to_go=returns)).features
    torch.testing.assert_close(padded[batch.mask], before[batch.mask])


def test_the_target_counts_down_and_success_does_not(build):
    for condition, expected in (("return", [7.0, 6.0, 3.5]), ("success", [1.0, 1.0, 1.0])):
        target = None if condition == "success" else 7.0
        policy, memory, seen = build(condition=condition, target_return=target), None, []
        for reward in (0.0, 1.0, 2.5):
            observation = dataclasses.replace(
                HOPPER.fake_observation(2), reward=torch.full((2,), reward)
            )
            observation = dataclasses.replace(observation, target_return=None)
            _, memory = policy.act(observation, memory)
            seen.append(memory.target[0].item())
        assert seen == pytest.approx(expected)


def test_bad_targets_are_refused():
    with pytest.raises(ValueError, match="finite"):
        DecisionTransformerConfig(target_return=float("nan"))
    policy = DecisionTransformerConfig(**{**SMALL, "target_return": None}).build(HOPPER).eval()
    plain = dataclasses.replace(HOPPER.fake_observation(1), target_return=None)
    with pytest.raises(UserError, match="target_return is not known"):
        policy.act(plain)
    _, memory = policy.act(HOPPER.fake_observation(1))
    with pytest.raises(UserError, match=r"observation\.reward is missing"):
        policy.act(dataclasses.replace(plain, reward=None), memory)
    with pytest.raises(SpecError, match="target_return: expected 1 finite"):
        policy.act(dataclasses.replace(plain, target_return=torch.tensor([float("nan")])))


def test_configs_that_do_not_fit(spec):
    with pytest.raises(ConfigError, match="the head reads 3 states"):
        DecisionTransformerConfig(**SMALL, head={"type": "categorical"}, readouts=2).build(HOPPER)
    with pytest.raises(SpecError, match="neither sees nor feels"):
        DecisionTransformerConfig(**SMALL, state_token=False).build(HOPPER)
    with pytest.raises(ValueError, match="does not divide width"):
        DecisionTransformerConfig(heads=3)
    with pytest.raises(ValueError, match="language_dropout"):
        DecisionTransformerConfig(language_dropout=0.1)
    with pytest.raises(ValueError, match="there is no instruction"):
        DecisionTransformerConfig(standardise_language=True)
    with pytest.raises(ValueError, match="there is no state to drop"):
        DecisionTransformerConfig(state_token=False, state_dropout=0.1)
    for asked in ({"target_return": 1.0}, {"condition_dropout": 0.1}):
        with pytest.raises(ValueError, match="nothing is asked for"):
            DecisionTransformerConfig(condition="none", **asked)


def test_layout_of_the_multi_modal_policy(build, spec):
    policy = build(spec, **SEEING, head={"type": "categorical"}, actions="tokens")
    text = describe(policy.transformer.layout)
    assert "prefix     language x1" in text
    assert (
        "condition x1 | image x3 | state x1 | readout x3 (readout) | action x3  (11 tokens)" in text
    )


def test_dropped_segments_can_be_left_out(build):
    policy = build(state_dropout=0.5, condition_dropout=0.5)
    batch = HOPPER.fake_batch(64, 4)
    assert torch.equal(policy(batch).features, policy(batch).features)  # not in evaluation
    policy.train()
    torch.manual_seed(0)
    spread = torch.stack([policy(batch).features for _ in range(8)])
    assert (spread.std(0).amax((1, 2)) > 1e-4).float().mean() > 0.9
    policy.eval()
    content = policy._step_content(batch.returns_to_go, batch.state) | policy._action_content(
        batch.actions[:, :, 0]
    )
    without = {name: x for name, x in content.items() if name != "condition"}
    read = policy._read
    full, bare = (
        policy.transformer(c, None, read=read, timesteps=batch.timesteps)
        for c in (content, without)
    )
    assert (full - bare).abs().max() > 1e-3


def test_round_trip_and_learning(build, spec, tmp_path):
    policy = build(spec, **SEEING, head={"type": "categorical"}, actions="tokens", history=2)
    batch = spec.fake_batch(4, 2, 1)
    policy.fit(
        np.asarray(batch.actions.flatten(0, 2)), batch.state.flatten(0, 1), batch.instruction
    )
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = policy(batch).actions.loss(batch.actions, batch.action_mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    policy.eval().save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    observation = spec.fake_observation(2)
    assert torch.equal(loaded.act(observation)[0], policy.act(observation)[0])
