"""Groups of episodes that act together, and how they are handed out."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vla.sim_eval.rollouts.env_worker import Job
from vla.sim_eval.rollouts.lockstep import GroupQueue, Member, make_groups


def _jobs(counts: dict[str, int], **options) -> list[Job]:
    return [
        Job(task, "", e, 100 + e, 10, **options) for task, n in counts.items() for e in range(n)
    ]


def _episodes(groups) -> list[tuple[str, list[int]]]:
    return [(group.task, [job.episode for job in group.jobs]) for group in groups]


def test_groups_are_consecutive_episodes_of_one_task() -> None:
    groups = make_groups(_jobs({"red": 5, "blue": 2}), 4)
    assert _episodes(groups) == [("red", [0, 1, 2, 3]), ("red", [4]), ("blue", [0, 1])]


def test_groups_of_a_task_do_not_depend_on_other_tasks_or_the_order_of_the_list() -> None:
    jobs = _jobs({"red": 6, "blue": 3})
    mixed = sorted(jobs, key=lambda job: (job.episode, job.task))
    assert sorted(_episodes(make_groups(mixed, 4))) == sorted(_episodes(make_groups(jobs, 4)))


def test_episodes_without_a_policy_are_alone() -> None:
    assert [len(group.jobs) for group in make_groups(_jobs({"red": 3}, driver="expert"), 4)] == [
        1,
        1,
        1,
    ]


def test_a_group_is_ready_when_all_that_run_wait() -> None:
    [group] = make_groups(_jobs({"red": 2}), 4)
    assert not group.ready
    for slot, job in enumerate(group.jobs):
        group.members[slot] = Member(job)
    group.members[0].robot.state = np.zeros(1)
    assert not group.ready
    del group.members[1]
    assert group.ready, "an episode that is over is not waited for"


def test_seeds_differ_from_call_to_call_and_repeat() -> None:
    first, again = (make_groups(_jobs({"red": 5}), 4) for _ in range(2))
    seeds = [[group.next_seed() for _ in range(3)] for group in first]
    assert seeds == [[group.next_seed() for _ in range(3)] for group in again]
    assert len({seed for row in seeds for seed in row}) == 6


def test_queue_keeps_tasks_together() -> None:
    queue = GroupQueue(make_groups(_jobs({"red": 3, "blue": 3}), 1))
    taken = [queue.next(None, Counter()), queue.next(None, Counter(["red"]))]
    assert _episodes(taken) == [("red", [0]), ("blue", [0])], (
        "the second place starts the other task"
    )
    assert _episodes(queue.next("red", Counter()) for _ in range(2)) == [("red", [1]), ("red", [2])]
    helped = queue.next("red", Counter(["blue"]))
    assert _episodes([helped]) == [("blue", [1])], "a place whose task is done helps another"
    assert queue.next("red", Counter(["blue", "blue"])) is None, "one group is not worth more envs"
    assert _episodes([queue.next("blue", Counter())]) == [("blue", [2])]
    assert queue.next("blue", Counter()) is None
