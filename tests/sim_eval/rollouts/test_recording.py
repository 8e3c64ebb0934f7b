"""Rollouts that keep their episodes, and experts that correct a policy while it acts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from point_env import PointConfig
from restless import Killer, Restless

from vla.config import validate
from vla.data import DatasetWriter, EpisodeDataset
from vla.models.heads.categorical import CategoricalActions, CategoricalConfig
from vla.models.policies.mlp import MLPConfig
from vla.sim_eval.gates.base import Proposal
from vla.sim_eval.gates.expert_error import ExpertErrorConfig
from vla.sim_eval.gates.stuck import StuckConfig
from vla.sim_eval.gates.uncertain import UncertainConfig
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import RolloutError, RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.rollouts.takeover import TakeoverConfig
from vla.tokenizers.bins import BinsConfig
from vla.types import Observation

CONFIG = PointConfig(image_size=48, horizon=12)
SPEC = CONFIG.spec()


class Away:
    """Goes to one corner in chunks of three, whatever it sees; never a step of the expert's."""

    spec, history = SPEC, 1

    def act(self, observation: Observation, memory: object = None) -> tuple[torch.Tensor, None]:
        return torch.full((observation.batch_size, 3, 2), 0.9), None


def jobs(**options) -> list[Job]:
    return [
        Job(
            task.name,
            "",
            e,
            episode_seed("collect", 0, task.name, e),
            task.horizon,
            record=True,
            **options,
        )
        for task in CONFIG.suite().tasks
        for e in range(3)
    ]


def recorded(actor, played: list[Job], **options):
    stats = RolloutStats(episodes={}, actions={})
    records = rollout(CONFIG, played, actor, stats=stats, **options)
    return records, stats


def assert_equal(first, second) -> None:
    assert first.keys() == second.keys()
    for key, episode in first.items():
        other = second[key]
        assert episode.images == other.images
        for name in ("state", "actions", "rewards", "success"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(other, name))
        assert episode.extras.keys() == other.extras.keys()
        for name, column in episode.extras.items():
            np.testing.assert_array_equal(column, other.extras[name])
        assert (episode.terminated, episode.info) == (other.terminated, other.info)


def test_an_episode_is_what_was_played_and_can_be_saved(tmp_path) -> None:
    records, stats = recorded(Away(), jobs(), workers=0, replan_every=2)
    for record in records:
        episode = stats.episodes[record.task, record.episode]
        assert len(episode) == record.steps
        assert episode.rewards.sum() == pytest.approx(record.return_)
        np.testing.assert_array_equal(episode.actions, stats.actions[record.task, record.episode])
        # two of each chunk, and what the end left of the last
        steps = record.steps
        assert episode.extras["decision"].tolist() == ([2, 0] * 6)[: steps - steps % 2] + [1] * (
            steps % 2
        )
        assert episode.terminated == record.success_ever  # else time ran out
        frames = episode.frames("top")
        assert frames.shape == (steps, 48, 48, 3)
        assert (frames[0] != frames[-1]).any()
    with DatasetWriter(tmp_path / "kept", SPEC) as writer:
        writer.add_episodes(list(stats.episodes.values()))
    columns = EpisodeDataset(tmp_path / "kept").columns
    assert columns.extras["decision"].sum() == sum(record.steps for record in records)


def test_workers_and_kills_change_no_bit() -> None:
    _, alone = recorded(Restless(SPEC), jobs(), workers=0)
    _, spread = recorded(Restless(SPEC), jobs(), workers=2)
    killer = Killer(SPEC, {2, 9, 16})
    _, killed = recorded(killer, jobs(), workers=2)
    assert killer.killed == killed.lost_workers == 3
    assert_equal(alone.episodes, spread.episodes)
    assert_equal(alone.episodes, killed.episodes)


def test_draws_of_one_start_differ_and_the_first_is_what_it_was() -> None:
    first = jobs()[0]
    played = []
    for draw in (0, 1, 2):
        _, stats = recorded(Restless(SPEC), [replace(first, draw=draw)], workers=0)
        played.append(stats.episodes[first.task, 0])
    np.testing.assert_array_equal(played[0].state[0], played[1].state[0])
    assert not np.array_equal(played[0].actions, played[1].actions)
    assert not np.array_equal(played[1].actions, played[2].actions)
    plain = RolloutStats(actions={})
    rollout(CONFIG, [replace(first, record=False)], Restless(SPEC), workers=0, stats=plain)
    np.testing.assert_array_equal(plain.actions[first.task, 0], played[0].actions)


def test_labels_are_the_experts_answer_in_that_very_state() -> None:
    _, stats = recorded(Away(), jobs(label=True), workers=0)
    for (task, _), episode in stats.episodes.items():
        env = CONFIG.make(task)
        env.reset(seed=episode.info["seed"])
        for action, label in zip(episode.actions, episode.extras["expert_action"], strict=True):
            np.testing.assert_array_equal(env.expert_action(), label)
            env.step(action)
        env.close()
        assert not episode.extras["intervention"].any()


def test_beta_of_one_is_the_expert_and_shares_of_steps_are_mixed() -> None:
    records, stats = recorded(Away(), jobs(takeover=TakeoverConfig(beta=1.0)), workers=0)
    assert all(record.success_ever for record in records)
    assert all(e.extras["intervention"].all() for e in stats.episodes.values())
    half = TakeoverConfig(beta=0.5, per="step")
    _, mixed = recorded(Away(), jobs(takeover=half), workers=0)
    share = np.concatenate([e.extras["intervention"] for e in mixed.episodes.values()]).mean()
    assert 0.2 < share < 0.8
    for episode in mixed.episodes.values():
        acted = np.where(
            episode.extras["intervention"][:, None], episode.extras["expert_action"], 0.9
        )
        np.testing.assert_allclose(episode.actions, acted)
        # what the policy chose and what the expert did add up to the episode
        assert episode.extras["decision"].sum() + episode.extras["intervention"].sum() == len(
            episode
        )


def test_a_gate_lets_the_expert_solve_what_the_policy_spoils() -> None:
    gate = TakeoverConfig(gate=ExpertErrorConfig(threshold=0.3), hold=1)
    records, stats = recorded(Away(), jobs(takeover=gate), workers=2)
    plain, _ = recorded(Away(), jobs(), workers=2)
    assert sum(r.success_ever for r in records) > sum(r.success_ever for r in plain)
    _, alone = recorded(Away(), jobs(takeover=gate), workers=0)
    assert_equal(stats.episodes, alone.episodes)


def test_an_expert_that_remembers_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("point_env.PointEnv.expert_has_memory", True)
    with pytest.raises(RolloutError, match="depends on its own past"):
        recorded(Away(), jobs(label=True), workers=0)


def test_a_gate_of_stillness_opens_after_so_many_steps() -> None:
    gate = StuckConfig(steps=3, tolerance=0.01).build(SPEC)
    still = {"state": np.zeros(2, np.float32)}
    action = np.zeros(2, np.float32)
    unmoved = Proposal(still, action, action)
    assert [gate.opens(unmoved) for _ in range(5)] == [False] * 3 + [True] * 2
    assert not gate.opens(Proposal({"state": np.ones(2, np.float32)}, action, action))


def test_gates_are_named_in_configs() -> None:
    config = validate(TakeoverConfig, {"gate": {"type": "stuck", "steps": 4}, "hold": 2})
    assert config.gate == StuckConfig(steps=4)


def test_an_unsure_policy_asks_for_the_expert() -> None:
    torch.manual_seed(0)
    config = MLPConfig(
        hidden=8, chunk=2, tokenizer=BinsConfig(num_bins=16), head=CategoricalConfig()
    )
    policy = config.build(SPEC).eval()
    plain, _ = recorded(policy, jobs(), workers=0)
    shares = {}
    for measure, threshold in (("entropy", 0.5), ("entropy", 1.0), ("spread", 0.3)):
        gate = UncertainConfig(measure=measure, threshold=threshold)
        played = jobs(takeover=TakeoverConfig(gate=gate))
        records, stats = recorded(policy, played, workers=0)
        acted = np.concatenate([e.extras["intervention"] for e in stats.episodes.values()])
        shares[measure, threshold] = acted.mean()
        if threshold == 1.0:
            assert records == plain  # looking at the policy changes nothing
    # near-uniform tokens of an untrained policy
    assert shares == {("entropy", 0.5): 1.0, ("entropy", 1.0): 0.0, ("spread", 0.3): 1.0}


def test_gates_of_a_policys_own_see_the_same_after_a_kill() -> None:
    class Unsure(Killer):
        """Kills, and answers by a distribution whose certainty changes with what it draws."""

        def act(self, observation, memory=None, choose=None):
            actions, memory = super().act(observation, memory)
            tokenizer = BinsConfig(num_bins=8).build(SPEC, 1)
            scale = 6 * actions.abs().flatten(1).mean(1)
            logits = scale[:, None, None, None] * torch.eye(8)[:2].expand(len(scale), 1, 2, 8)
            return choose(CategoricalActions(logits, tokenizer))[:, -1], memory

    gate = TakeoverConfig(gate=UncertainConfig(threshold=0.55))
    _, alone = recorded(Unsure(SPEC, set()), jobs(takeover=gate), workers=0)
    killer = Unsure(SPEC, {3, 8})
    _, killed = recorded(killer, jobs(takeover=gate), workers=2)
    assert killer.killed == killed.lost_workers == 2
    assert_equal(alone.episodes, killed.episodes)
    acted = np.concatenate([e.extras["intervention"] for e in alone.episodes.values()])
    assert 0 < acted.mean() < 1


def test_an_episode_ends_where_nothing_moves() -> None:
    stuck = StuckConfig(steps=4, tolerance=9.0)
    records, stats = recorded(Away(), jobs(stop_if_stuck=stuck), workers=0)
    for record in records:
        assert record.steps == 4
        assert record.failure.endswith("came near")  # the simulator knows more than that
        assert not stats.episodes[record.task, record.episode].terminated
    moving = StuckConfig(steps=4, tolerance=0.01)
    records, _ = recorded(Away(), jobs(stop_if_stuck=moving), workers=0)
    assert max(record.steps for record in records) > 4
