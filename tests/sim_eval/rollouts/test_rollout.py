"""Rollouts of a policy that really looks at the pictures, in this process and in workers, with every mishap."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from point_env import PointConfig
from seeker import Memory, Seeker, jobs

from vla.common.renamed import RenamedWarning
from vla.config import UserError
from vla.control.temporal_ensemble import TemporalEnsemble
from vla.sim_eval.rollouts.env_host import EnvHost, Failed, Start
from vla.sim_eval.rollouts.env_workers import shared_views
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import (
    ActionError,
    RolloutError,
    RolloutStats,
    default_workers,
    rollout,
)
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.types import Observation, Spec, SpecError

CONFIG = PointConfig()


@pytest.fixture(scope="module")
def reference() -> list[EpisodeRecord]:
    return rollout(CONFIG, jobs(CONFIG), Seeker(CONFIG.spec()), workers=0, num_envs=1)


def same(records: list[EpisodeRecord], others: list[EpisodeRecord]) -> bool:
    """Equal but for the rounding of returns, which the size of a batch decides."""
    returns = np.allclose([r.return_ for r in records], [r.return_ for r in others], atol=1e-4)
    return returns and [replace(r, return_=0) for r in records] == [
        replace(r, return_=0) for r in others
    ]


def test_a_policy_that_looks_solves_the_tasks(reference: list[EpisodeRecord]) -> None:
    assert all(r.success_ever and r.success_at_end and not r.failure for r in reference)
    assert all(4 <= r.steps < 30 and r.return_ < 0 for r in reference)
    assert [(r.task, r.episode) for r in reference] == [(j.task, j.episode) for j in jobs(CONFIG)]
    assert {r.instruction for r in reference} == {"Go to the red square", "Go to the blue square"}
    assert len({r.seed for r in reference}) == len(reference)


@pytest.mark.parametrize(("workers", "num_envs"), [(0, 5), (2, 6), (3, 4)])
def test_workers_and_order_change_nothing(
    reference: list[EpisodeRecord], workers: int, num_envs: int
) -> None:
    seeker, seen = Seeker(CONFIG.spec()), []
    records = rollout(
        CONFIG, jobs(CONFIG), seeker, workers=workers, num_envs=num_envs, on_done=seen.append
    )
    assert same(records, reference)
    assert Counter(r.task for r in seen) == Counter(r.task for r in reference)
    assert max(seeker.batches) > 1
    assert not multiprocessing.active_children()


def test_baselines_meet_the_same_starts() -> None:
    expert = rollout(CONFIG, jobs(CONFIG, driver="expert"), workers=2)
    random = rollout(CONFIG, jobs(CONFIG, driver="random"), workers=2)
    assert [r.seed for r in expert] == [r.seed for r in random]
    assert all(r.success_ever for r in expert)
    assert not any(r.success_ever for r in random)
    assert {r.steps for r in random} == {CONFIG.horizon}
    assert {r.failure for r in random} <= {"came near", "never came near"}
    assert same(random, rollout(CONFIG, jobs(CONFIG, driver="random"), workers=0))


def test_the_former_name_of_the_driver_works_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.common.renamed._announced", set())
    with pytest.warns(
        RenamedWarning, match=r'driver="parent"\) is now called Job\(driver="policy"'
    ):
        former = Job("red", "", 0, 0, 5, "parent")  # type: ignore[arg-type]
    assert former == Job("red", "", 0, 0, 5)


def test_play_goes_on_after_success() -> None:
    [record] = rollout(CONFIG, jobs(CONFIG, 1, driver="expert", after_success_steps=6)[:1])
    [short] = rollout(CONFIG, jobs(CONFIG, 1, driver="expert")[:1])
    assert record.steps == short.steps + 6
    assert record.success_at_end


def test_chunks_are_executed_without_looking(reference: list[EpisodeRecord]) -> None:
    every, third = Seeker(CONFIG.spec(), chunk=3), Seeker(CONFIG.spec(), chunk=3)
    assert same(rollout(CONFIG, jobs(CONFIG), every, num_envs=1), reference)
    records = rollout(CONFIG, jobs(CONFIG), third, num_envs=1, replan_every=3)
    assert all(r.success_ever for r in records)
    assert len(third.batches) == sum(-(-r.steps // 3) for r in records)


def test_ensemble_averages_overlapping_chunks() -> None:
    ensemble = TemporalEnsemble(decay=np.log(2))
    assert ensemble.add(np.array([[1.0], [2.0]])) == pytest.approx(1.0)
    # the older chunk says 2 with weight 1, the newer says 5 with weight 1/2
    assert ensemble.add(np.array([[5.0], [8.0]])) == pytest.approx((2 + 2.5) / 1.5)
    # the first chunk has run out; 8 with weight 1, 2 with weight 1/2
    assert ensemble.add(np.array([[2.0], [0.0]])) == pytest.approx((8 + 1) / 1.5)
    seeker = Seeker(CONFIG.spec(), history=4, chunk=3)
    assert all(r.success_ever for r in rollout(CONFIG, jobs(CONFIG, 1), seeker, ensemble=0.1))


def test_contradicting_options() -> None:
    with pytest.raises(UserError, match=r"replan_every is 2.*looks back over 6 steps"):
        rollout(CONFIG, jobs(CONFIG), Seeker(CONFIG.spec(), history=6, chunk=2), replan_every=2)
    with pytest.raises(UserError, match=r"replan_every is 4, but the policy plans 2 steps"):
        rollout(CONFIG, jobs(CONFIG), Seeker(CONFIG.spec(), chunk=2), replan_every=4)
    with pytest.raises(UserError, match="ensembling needs a chunk for every step"):
        rollout(CONFIG, jobs(CONFIG), Seeker(CONFIG.spec(), chunk=2), replan_every=2, ensemble=0.0)
    with pytest.raises(UserError, match="no episodes to play"):
        rollout(CONFIG, [], Seeker(CONFIG.spec()))
    with pytest.raises(ValueError, match="need an actor"):
        rollout(CONFIG, jobs(CONFIG))


def test_an_env_that_does_not_fit_is_told_in_one_go() -> None:
    spec = Spec(
        {"top": (64, 64), "wrist": (32, 32)}, ("x",), ("vx", "vy"), (-2.0, -2.0), (2.0, 2.0), 10
    )
    with pytest.raises(SpecError) as error:
        rollout(CONFIG, jobs(CONFIG), Seeker(spec), workers=2)
    for part in (
        "camera 'top' is 32x32, expected 64x64",
        "'wrist' is missing",
        "state_names",
        "action_low",
        "action_high",
    ):
        assert part in str(error.value)


class Broken(Seeker):
    """Fails in some way at its third call."""

    def __init__(self, result: object) -> None:
        super().__init__(CONFIG.spec())
        self.result = result

    def act(
        self, observation: Observation, memory: Memory | None = None
    ) -> tuple[torch.Tensor, Memory]:
        actions, memory = super().act(observation, memory)
        if len(self.batches) < 3:
            return actions, memory
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result, memory  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (ZeroDivisionError("in the policy"), ZeroDivisionError, "in the policy"),
        (KeyboardInterrupt("pressed"), KeyboardInterrupt, "pressed"),
        (torch.full((1, 1, 2), torch.nan), ActionError, "not finite"),
        (torch.zeros(1, 2), ActionError, r"expected \(1, K, 2\)"),
    ],
)
def test_what_the_policy_does_wrong_ends_the_workers(
    result: object, kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        rollout(CONFIG, jobs(CONFIG, 1), Broken(result), workers=1, num_envs=1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("trouble", "message"), [("die", "died with exit code 17"), ("hang", "gave no answer")]
)
def test_a_dead_or_hung_worker_is_replaced(
    tmp_path: Path, reference: list[EpisodeRecord], trouble: str, message: str
) -> None:
    config, stats = PointConfig(trouble=f"{trouble}:{tmp_path / 'happened'}"), RolloutStats()
    records = rollout(
        config,
        jobs(config),
        Seeker(config.spec()),
        workers=2,
        num_envs=4,
        timeout=5.0,
        stats=stats,
        threads=1,
    )
    assert (tmp_path / "happened").exists()
    assert same(records, reference)
    assert stats.lost_workers in (1, 2), (
        "both workers may meet the trouble before one has marked it"
    )
    assert "task " in stats.lost[0]
    assert message in stats.lost[0]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [("die always", "died with exit code 17"), ("hang always", "gave no answer for 1 seconds")],
)
def test_an_episode_that_loses_worker_after_worker_is_named(trouble: str, message: str) -> None:
    config = PointConfig(trouble=trouble)
    timeout = 1.0 if "hang" in trouble else 300.0
    with pytest.raises(
        RolloutError, match=rf"task 'red', seed \d+: .*{message}.*the second that this episode"
    ):
        rollout(
            config,
            jobs(config, 1),
            Seeker(config.spec()),
            workers=1,
            num_envs=1,
            timeout=timeout,
            retries=1,
        )
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_env_that_raises_is_named(workers: int) -> None:
    config = PointConfig(trouble="raise")
    with pytest.raises(RolloutError, match=r"task 'red', seed \d+: the env raised") as error:
        rollout(config, jobs(config, 1), Seeker(config.spec()), workers=workers)
    assert "the simulator exploded" in str(error.value)
    assert "point_env.py" in str(error.value)


def test_host_answers_a_failure_and_lives_on() -> None:
    config = PointConfig(tasks=("red",))
    host = EnvHost(config, shared_views(config, {"top": bytearray(32 * 32 * 3)}, 1))
    assert isinstance(host.handle(Start(0, Job("green", "", 0, 0, 5))), Failed)
    assert not isinstance(host.handle(Start(0, jobs(config)[0])), Failed)
    host.close()


def test_training_mode_and_threads_are_given_back() -> None:
    class Net(torch.nn.Module, Seeker):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            Seeker.__init__(self, CONFIG.spec())
            self.layer = torch.nn.Linear(2, 2)

        def act(
            self, observation: Observation, memory: Memory | None = None
        ) -> tuple[torch.Tensor, Memory]:
            assert not self.training
            assert not torch.is_grad_enabled()
            return Seeker.act(self, observation, memory)

    net, threads = Net().train(), torch.get_num_threads()
    rollout(CONFIG, jobs(CONFIG, 1), net, workers=1)
    assert net.training
    assert torch.get_num_threads() == threads


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = torch.nn.Linear(2, 2)
    for count, with_policy in [(1, 1), (2, 2), (8, 4)]:
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid, count=count: set(range(count)), raising=False
        )
        assert default_workers(policy) == with_policy
        assert default_workers("expert") == count


def test_settings_are_one_value_and_single_ones_take_their_place(
    reference: list[EpisodeRecord],
) -> None:
    settings = RolloutSettings(workers=2, num_envs=1)
    assert same(rollout(CONFIG, jobs(CONFIG), Seeker(CONFIG.spec()), settings), reference)
    third = Seeker(CONFIG.spec(), chunk=3)
    rollout(CONFIG, jobs(CONFIG, 1), third, settings, workers=0, replan_every=3)
    assert len(third.batches) < 20, "two episodes, of which every third step is looked at"
    with pytest.raises(TypeError, match="worker"):
        rollout(CONFIG, jobs(CONFIG), third, worker=2)
    with pytest.raises(FrozenInstanceError):
        settings.workers = 3  # type: ignore[misc]
