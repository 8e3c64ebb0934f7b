"""What return-conditioned policies see: rewards since the last look, and the return that is asked for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from point_env import PointConfig
from seeker import Seeker, jobs

from vla.config import ConfigError, UserError, load_config
from vla.control.batched_inference import BatchedPolicy, EpisodeState
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.rollouts.scheduler import rollout
from vla.sim_eval.rollouts.settings import RolloutSettings

CONFIG = PointConfig()


class Listener(Seeker):
    """Writes down every reward and every target that it is given."""

    return_conditioned = True

    def __init__(self, spec, **options) -> None:
        super().__init__(spec, **options)
        self.rewards, self.targets, self.temperatures = [], [], []

    def act(self, observation, memory=None, *, temperature=0.0):
        self.rewards += observation.reward.tolist()
        self.targets += (
            [None] if observation.target_return is None else observation.target_return.tolist()
        )
        self.temperatures.append(temperature)
        return super().act(observation, memory)


def seen_rewards(config=CONFIG, **options) -> tuple[list[float], list]:
    listener = Listener(config.spec(), chunk=2)
    records = rollout(config, jobs(config), listener, replan_every=2, **options)
    return listener.rewards, records


def test_rewards_of_whole_chunks_are_passed_on():
    rewards, records = seen_rewards(workers=0, num_envs=1)
    starts = [i for i, reward in enumerate(rewards) if reward == 0.0]
    assert len(starts) == len(records) == 6  # nothing has been earned at the start
    for record, first, end in zip(records, starts, [*starts[1:], len(rewards)], strict=True):
        assert len(rewards[first:end]) == -(-record.steps // 2)
        left = record.return_ - sum(
            rewards[first:end]
        )  # of the last chunk, after which nobody is asked
        assert record.return_ < left < 0 or record.steps <= 2


@pytest.mark.parametrize("trouble", ["", "die"])
def test_rewards_are_the_same_with_workers_that_die(tmp_path: Path, trouble: str):
    expected, _ = seen_rewards(workers=0, num_envs=1)
    config = PointConfig(trouble=f"{trouble}:{tmp_path / 'happened'}") if trouble else CONFIG
    found, _ = seen_rewards(config, workers=2, num_envs=4, threads=1)
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-4)


def test_target_and_temperature_reach_the_policy():
    listener = Listener(CONFIG.spec())
    rollout(CONFIG, jobs(CONFIG, 1), listener, target_return=2.5, temperature=0.5)
    assert set(listener.targets) == {2.5}
    assert set(listener.temperatures) == {0.5}
    with pytest.raises(UserError, match="not conditioned on returns"):
        rollout(CONFIG, jobs(CONFIG, 1), Seeker(CONFIG.spec()), target_return=1.0)


def test_a_target_that_is_no_number_is_refused():
    for value in ("nan", ".inf", "much"):
        with pytest.raises(ConfigError, match="target_return"):
            load_config(EvalConfig, {"env": {"type": "point"}}, [f"target_return={value}"])


def test_a_decision_transformer_plays(tmp_path: Path):
    torch.manual_seed(0)
    config = DecisionTransformerConfig(cameras=[], width=16, depth=1, history=3)
    policy = config.build(CONFIG.spec()).eval()
    options = {
        "env": CONFIG,
        "episodes_per_task": 2,
        "workers": 0,
        "videos_per_task": 0,
        "out": str(tmp_path / "eval"),
    }
    with pytest.raises(UserError, match="target_return is not known"):
        evaluate(policy, EvalConfig(**options), progress=False)
    results = evaluate(policy, EvalConfig(**options, target_return=-1.0), progress=False)
    assert len(results.episodes) == 4


def test_what_is_remembered_is_what_was_done():
    torch.manual_seed(0)
    spec = dataclasses.replace(CONFIG.spec(), cameras={})
    policy = DecisionTransformerConfig(
        width=16, depth=1, history=4, chunk=3, target_return=1.0
    ).build(spec)
    batched = BatchedPolicy(policy.eval(), RolloutSettings(ensemble=0.1))
    state, rng = EpisodeState(), np.random.default_rng(0)
    for step in range(3):
        state.robot_state = rng.normal(size=spec.state_dim).astype(np.float32)
        (actions,) = batched.act([state], {})
        memory = state.memory_row.memory
        np.testing.assert_allclose(memory.actions[0, -1].numpy(), actions[0], atol=1e-6)
        assert memory.clock.tolist() == [step]


def test_chunks_are_refused_where_steps_are_counted():
    policy = DecisionTransformerConfig(cameras=[], width=16, depth=1, history=1, chunk=2).build(
        CONFIG.spec()
    )
    with pytest.raises(UserError, match="counts the steps"):
        BatchedPolicy(policy, RolloutSettings(replan_every=2))


def test_samples_need_an_actor_that_draws():
    with pytest.raises(UserError, match=r"act of Seeker takes no temperature"):
        BatchedPolicy(Seeker(CONFIG.spec()), RolloutSettings(temperature=1.0))
