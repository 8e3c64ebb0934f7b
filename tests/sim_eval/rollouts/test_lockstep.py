"""Batches of episodes that act together, and how they are handed out."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.lockstep import BatchQueue, Episode, make_batches


def _jobs(counts: dict[str, int], **options) -> list[Job]:
    return [
        Job(task, "", e, 100 + e, 10, **options) for task, n in counts.items() for e in range(n)
    ]


def _episodes(batches) -> list[tuple[str, list[int]]]:
    return [(batch.task, [job.episode for job in batch.jobs]) for batch in batches]


def test_batches_are_consecutive_episodes_of_one_task() -> None:
    batches = make_batches(_jobs({"red": 5, "blue": 2}), 4)
    assert _episodes(batches) == [("red", [0, 1, 2, 3]), ("red", [4]), ("blue", [0, 1])]


def test_batches_of_a_task_do_not_depend_on_other_tasks_or_the_order_of_the_list() -> None:
    jobs = _jobs({"red": 6, "blue": 3})
    mixed = sorted(jobs, key=lambda job: (job.episode, job.task))
    assert sorted(_episodes(make_batches(mixed, 4))) == sorted(_episodes(make_batches(jobs, 4)))


def test_episodes_without_a_policy_are_alone() -> None:
    assert [len(batch.jobs) for batch in make_batches(_jobs({"red": 3}, driver="expert"), 4)] == [
        1,
        1,
        1,
    ]


def test_a_batch_is_ready_when_all_that_run_wait() -> None:
    [batch] = make_batches(_jobs({"red": 2}), 4)
    assert not batch.ready
    for slot, job in enumerate(batch.jobs):
        batch.running[slot] = Episode(job)
    batch.running[0].state.robot_state = np.zeros(1)
    assert not batch.ready
    del batch.running[1]
    assert batch.ready, "an episode that is over is not waited for"


def test_seeds_differ_from_call_to_call_and_repeat() -> None:
    first, again = (make_batches(_jobs({"red": 5}), 4) for _ in range(2))
    seeds = [[batch.next_seed() for _ in range(3)] for batch in first]
    assert seeds == [[batch.next_seed() for _ in range(3)] for batch in again]
    assert len({seed for row in seeds for seed in row}) == 6


def test_queue_keeps_tasks_together() -> None:
    queue = BatchQueue(make_batches(_jobs({"red": 3, "blue": 3}), 1))
    taken = [queue.next(None, Counter()), queue.next(None, Counter(["red"]))]
    assert _episodes(taken) == [("red", [0]), ("blue", [0])], (
        "the second slot starts the other task"
    )
    assert _episodes(queue.next("red", Counter()) for _ in range(2)) == [("red", [1]), ("red", [2])]
    helped = queue.next("red", Counter(["blue"]))
    assert _episodes([helped]) == [("blue", [1])], "envs whose task is done help another"
    assert queue.next("red", Counter(["blue", "blue"])) is None, "one batch is not worth more envs"
    assert _episodes([queue.next("blue", Counter())]) == [("blue", [2])]
    assert queue.next("blue", Counter()) is None
