"""Control: one new frame per step gives what the whole window gives, for robots of any age."""

import pytest
import torch

from vla.models.policies.rt1 import RT1Memory
from vla.types import Batch, Observation, SpecError

OPTIONS = [
    {},
    {"positions": "rotary", "state_token": True},
    {"cameras": None, "chunk": 2, "state_token": True},
    {"history": 1},
    {"token_learner": False, "stride": 32, "history": 2},
]


def window(episode: Batch, row: int, t: int, history: int) -> Batch:
    """Row `row` at step t as the data loader gives it: `history` steps, padded on the left."""
    steps = [max(0, i) for i in range(t - history + 1, t + 1)]
    batch = Batch(
        images={c: x[row : row + 1, steps] for c, x in episode.images.items()},
        state=episode.state[row : row + 1, steps],
        keyframe=episode.keyframe[row : row + 1, steps],
        instruction=[episode.instruction[row]],
        actions=episode.actions[row : row + 1, steps],
        action_mask=episode.action_mask[row : row + 1, steps],
        rewards=episode.rewards[row : row + 1, steps],
        terminals=episode.terminals[row : row + 1, steps],
        returns_to_go=episode.returns_to_go[row : row + 1, steps],
        success=episode.success[row : row + 1, steps],
        timesteps=episode.timesteps[row : row + 1, steps],
        mask=torch.tensor([[i >= 0 for i in range(t - history + 1, t + 1)]]),
        task_index=episode.task_index[row : row + 1],
    )
    return batch


def rows(observation: Observation, index: list[int]) -> Observation:
    return Observation(
        images={c: x[index] for c, x in observation.images.items()},
        state=observation.state[index],
        instruction=[observation.instruction[i] for i in index],
    )


@pytest.mark.parametrize("changes", OPTIONS)
def test_cached_equals_uncached_for_two_robots_interleaved(make, spec, changes):
    policy = make(**changes).eval()
    episode = spec.fake_batch(2, 20, policy.chunk)
    memory: list[RT1Memory | None] = [None, None]
    with torch.no_grad():
        for t in range(20):
            for robot in (0, 1):
                observation = rows(episode.observation(t), [robot])
                output, memory[robot] = policy.step(observation, memory[robot])
                expected = policy(window(episode, robot, t, policy.history)).actions.logits[:, -1:]
                assert torch.allclose(output.actions.logits, expected, atol=1e-4)


@pytest.mark.parametrize("changes", OPTIONS[:3])
def test_robots_of_different_age_in_one_batch(make, spec, changes):
    """Robot 1 joins three steps late, robot 0 leaves: each gets what it would get alone."""
    policy = make(**changes).eval()
    episode = spec.fake_batch(2, 9, policy.chunk)
    alone = []
    for robot, start in ((0, 0), (1, 3)):
        memory, actions = None, {}
        for t in range(start, 9):
            actions[t], memory = policy.act(rows(episode.observation(t), [robot]), memory)
        alone.append(actions)

    memory = None
    for t in range(3):
        actions, memory = policy.act(rows(episode.observation(t), [0]), memory)
        assert torch.equal(actions, alone[0][t])
    for t in range(3, 7):
        if t == 3:
            actions, newcomer = policy.act(rows(episode.observation(t), [1]))
            assert torch.equal(actions, alone[1][t])
            actions, memory = policy.act(rows(episode.observation(t), [0]), memory)
            memory = RT1Memory.stack([newcomer, memory])
        else:
            actions, memory = policy.act(rows(episode.observation(t), [1, 0]), memory)
            assert torch.equal(actions[:1], alone[1][t])
            assert torch.equal(actions[1:], alone[0][t])
    memory = memory.select([0])
    for t in range(7, 9):
        actions, memory = policy.act(rows(episode.observation(t), [1]), memory)
        assert torch.equal(actions, alone[1][t])


def test_memory_is_a_value(make, spec):
    policy = make().eval()
    first, second = spec.fake_observation(2, seed=0), spec.fake_observation(2, seed=1)
    _, memory = policy.act(first)
    kept = memory.content["image"].clone()
    once, _ = policy.act(second, memory)
    again, _ = policy.act(second, memory)
    assert torch.equal(once, again)
    assert torch.equal(memory.content["image"], kept)


def test_a_new_instruction_starts_a_new_history(make, spec):
    policy = make().eval()
    observations = [spec.fake_observation(2, seed=s) for s in range(4)]
    memory = None
    for observation in observations[:3]:
        _, memory = policy.act(observation, memory)
    changed = Observation(
        observations[3].images, observations[3].state, ["do task 3", observations[3].instruction[1]]
    )
    with torch.no_grad():
        mixed, _ = policy.step(changed, memory)
        fresh, _ = policy.step(changed, None)
        continued, _ = policy.step(observations[3], memory)
    assert torch.allclose(mixed.actions.logits[0], fresh.actions.logits[0], atol=1e-5)
    assert torch.allclose(mixed.actions.logits[1], continued.actions.logits[1], atol=1e-5)


def test_temperature_and_generator(make, spec):
    policy = make(awake=False).eval()
    observation = spec.fake_observation(2)

    def draw(temperature: float, seed: int = 0) -> torch.Tensor:
        return policy.act(
            observation, generator=torch.Generator().manual_seed(seed), temperature=temperature
        )[0]

    assert torch.equal(draw(0.0), policy.act(observation)[0])
    assert torch.equal(draw(1.0), draw(1.0))
    assert not torch.equal(draw(1.0), draw(1.0, seed=1))
    with pytest.raises(ValueError, match="temperature"):
        draw(-1.0)


def test_actions_lie_inside_the_spec(make, spec):
    policy = make().eval()
    wide = torch.randn(500, 3) * 10
    policy.tokenizer = policy.config.tokenizer.model_copy(update={"scheme": "quantile"}).build(
        spec, 1
    )
    policy.tokenizer.fit(wide)
    observation = spec.fake_observation(2)
    for seed in range(5):
        actions, _ = policy.act(
            observation, generator=torch.Generator().manual_seed(seed), temperature=100.0
        )
        assert (actions >= torch.tensor(spec.action_low)).all()
        assert (actions <= torch.tensor(spec.action_high)).all()
    assert actions.shape == (2, 1, 3)
    assert actions.dtype == torch.float32


def test_misuse(make, spec):
    policy = make()
    observation = spec.fake_observation(2)
    with pytest.raises(RuntimeError, match=r"policy.eval\(\)"):
        policy.act(observation)
    policy.eval()
    _, memory = policy.act(observation)
    with pytest.raises(ValueError, match="memory of 2 robots with an observation of 1"):
        policy.act(rows(observation, [0]), memory)
    with pytest.raises(SpecError, match="lacks camera 'wrist'"):
        policy.act(
            Observation(
                {"front": observation.images["front"]}, observation.state, observation.instruction
            )
        )
    small = {c: x[:, :16] for c, x in observation.images.items()}
    with pytest.raises(SpecError, match="render at the policy's size"):
        policy.act(Observation(small, observation.state, observation.instruction))
