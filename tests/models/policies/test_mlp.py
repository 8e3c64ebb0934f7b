"""The policy over states: what it sees, control equal to training, storage, and every head."""

import dataclasses

import pytest
import torch

from vla.config import ConfigError, registered, validate
from vla.models import load_policy
from vla.models.policies.mlp import MLPConfig, MLPMemory, MLPPolicy
from vla.training.objectives.bc import BCConfig
from vla.types import Observation, Spec, SpecError

HOPPER = Spec({}, tuple(f"s{i}" for i in range(11)), ("a", "b", "c"), (-1.0,) * 3, (1.0,) * 3, 125)
TEXTS = {
    f"do task {i}": torch.randn(384, generator=torch.Generator().manual_seed(i)) / 20
    for i in range(3)
}
TOKENIZERS = {
    "autoregressive": {"type": "fast", "vocab_size": 128, "scale": 4.0},
    "clusters": {"type": "kmeans", "centres": 6, "over": "chunk"},
}


def build(spec: Spec = HOPPER, *, seed: int = 0, **changes) -> MLPPolicy:
    torch.manual_seed(seed)
    policy = MLPConfig(**{"hidden": 16, **changes}).build(spec)
    if policy.language.dim:
        policy.language.preload(TEXTS)
    data = HOPPER.fake_batch(40, 1, seed=7)
    policy.fit(data.actions[:, 0, 0], data.state[:, 0], data.instruction, lengths=[15, 25])
    return policy.eval()


@pytest.mark.parametrize("language", [None, "minilm"])
def test_features_are_the_normalised_state_and_the_instruction(language):
    policy = build(language=language)
    batch = HOPPER.fake_batch(4, 3)
    output = policy(batch)
    assert output.features.shape == (4, 3, policy.feature_dim)
    assert torch.equal(output.features[..., :11], policy.normalised_state(batch.state))
    if language:
        assert torch.equal(output.features[1, 2, 11:], TEXTS["do task 1"])
    assert output.actions.mode().shape == (4, 3, 1, 3)


def test_layers_are_those_asked_for():
    policy = build(hidden=8, depth=3, activation="tanh")
    assert [tuple(p.shape) for p in policy.trunk.parameters()] == [
        (8, 11),
        (8,),
        (8, 8),
        (8,),
        (8, 8),
        (8,),
    ]
    state = torch.randn(2, 11)
    x = policy.normalised_state(state)
    for layer in (0, 2, 4):
        x = torch.tanh(policy.trunk[layer](x))
    expected = policy.head(x[:, None, None]).mode()
    batch = dataclasses.replace(HOPPER.fake_batch(2, 1), state=state[:, None])
    assert torch.allclose(policy(batch).actions.mode(), expected, atol=1e-6)


@pytest.mark.parametrize("language", [None, "minilm"])
def test_control_equals_training_for_robots_that_come_and_go(language):
    policy = build(language=language, chunk=2)
    batch = HOPPER.fake_batch(3, 4, 2)
    with torch.no_grad():
        expected = policy(batch).actions.mode().clamp(-1, 1)
    memory = None
    for t in range(3):
        actions, memory = policy.act(batch.observation(t), memory)
        assert torch.allclose(actions, expected[:, t], atol=1e-6)
    observation = batch.observation(3)
    some = Observation({}, observation.state[[2, 0]], [observation.instruction[i] for i in (2, 0)])
    actions, kept = policy.act(some, memory.select([2, 0]))
    assert torch.allclose(actions, expected[[2, 0], 3], atol=1e-6)
    newcomer = policy.act(Observation({}, observation.state[1:2], observation.instruction[1:2]))[1]
    joined = MLPMemory.stack([kept, newcomer])
    assert joined.batch_size == 3
    order = [2, 0, 1]
    again = Observation({}, observation.state[order], [observation.instruction[i] for i in order])
    assert torch.allclose(policy.act(again, joined)[0], expected[order, 3], atol=1e-6)


def test_a_new_instruction_is_heeded():
    policy = build(language="minilm")
    observation = HOPPER.fake_observation(1)
    _, memory = policy.act(observation)
    changed = dataclasses.replace(observation, instruction=["do task 2"])
    assert torch.equal(policy.act(changed, memory)[0], policy.act(changed)[0])
    assert not torch.equal(policy.act(changed, memory)[0], policy.act(observation, memory)[0])


@pytest.mark.parametrize("name", list(registered("heads")))
def test_every_head_learns_acts_and_is_stored(name, tmp_path):
    policy = build(
        chunk=3,
        head={"type": name},
        tokenizer=TOKENIZERS.get(name, {"type": "bins", "num_bins": 8}),
    )
    loss, _ = BCConfig().build(policy).loss(policy.train(), HOPPER.fake_batch(6, 1, 3))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in policy.parameters())
    policy.eval().save_pretrained(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    observation = HOPPER.fake_observation(2)
    for temperature in (0.0, 1.0):
        drawn = [
            p.act(observation, generator=torch.Generator().manual_seed(0), temperature=temperature)[
                0
            ]
            for p in (policy, again)
        ]
        assert drawn[0].shape == (2, 3, 3)
        assert torch.equal(*drawn)


def test_learns_a_function_of_the_state():
    policy = build(hidden=32, head={"type": "gaussian"}).train()
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    objective = BCConfig().build(policy)
    for step in range(150):
        batch = HOPPER.fake_batch(64, 1, seed=step)
        batch = dataclasses.replace(batch, actions=0.8 * batch.state[..., None, :3].sin())
        optimizer.zero_grad()
        objective.loss(policy, batch)[0].backward()
        optimizer.step()
    batch = HOPPER.fake_batch(200, 1, seed=999)
    with torch.no_grad():
        error = policy(batch).actions.mode()[:, :, 0] - 0.8 * batch.state[..., :3].sin()
    assert error.abs().mean().item() < 0.15


def test_cameras_are_neither_needed_nor_kept(spec):
    policy = MLPConfig(hidden=8).build(spec).eval()  # a robot with two cameras
    assert policy.spec.cameras == {}
    assert policy.spec.differences(spec) == []
    state = torch.zeros(1, spec.state_dim)
    assert policy.act(Observation({}, state, ["go"]))[0].shape == (1, 1, 3)


def test_misuse(spec):
    with pytest.raises(SpecError, match="sees the state alone, and the spec has none"):
        MLPConfig().build(dataclasses.replace(spec, state_names=()))
    with pytest.raises(ConfigError, match="history"):
        validate(MLPConfig, {"history": 4})
    with pytest.raises(ConfigError, match="language: minilm"):
        validate(MLPConfig, {"standardise_language": True})
