"""Most jobs are functions of the standard library, which every spawned process can import."""

import functools
import operator
import os
import time

import pytest

from vla.sim_eval.workers.job_pool import WorkerError, run_ordered


class Mortal:
    """Ends its process at the first sight of a job, which it marks by a folder of that name."""

    def __call__(self, job):
        if not os.path.exists(job):
            os.mkdir(job)
            os._exit(3)
        return job


power_of_two = functools.partial(functools.partial, pow, 2)
sleep = functools.partial(functools.partial, time.sleep)
exit_with = functools.partial(functools.partial, os._exit)
divide_one_by = functools.partial(functools.partial, operator.truediv, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    assert list(run_ordered(power_of_two, range(30), workers=workers)) == [2**i for i in range(30)]


def test_jobs_may_end_just_when_all_are_done():
    """Once nothing runs and the jobs turn out to have ended, there is nothing to wait for."""
    assert list(run_ordered(power_of_two, [], workers=2)) == []


def test_jobs_may_be_fewer_than_workers():
    assert list(run_ordered(power_of_two, [3], workers=2)) == [8]


def test_jobs_are_taken_as_needed():
    taken = []
    results = run_ordered(power_of_two, (taken.append(i) or i for i in range(1000)), workers=1)
    assert [next(results), next(results)] == [1, 2]
    results.close()
    assert len(taken) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_raises_is_named(workers):
    results = run_ordered(
        divide_one_by, [1, 2, 0, 4], workers=workers, describe=lambda job: f"division by {job}"
    )
    with pytest.raises(WorkerError, match=r"division by 0[\s\S]*ZeroDivisionError"):
        list(results)


def test_a_worker_that_dies_is_told_with_its_job():
    with pytest.raises(WorkerError, match="job 17: the worker process ended with exit code 17"):
        list(run_ordered(exit_with, [17], workers=2, describe=lambda job: f"job {job}"))


def test_a_job_whose_worker_dies_is_done_again(tmp_path):
    marks = [str(tmp_path / str(i)) for i in range(3)]
    assert list(run_ordered(Mortal, marks, workers=2)) == marks


def test_closing_ends_the_workers_at_once():
    results = run_ordered(sleep, [0.0, 100.0, 100.0], workers=2)
    assert next(results) is None
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 30


def test_no_workers():
    with pytest.raises(ValueError, match="at least 1"):
        list(run_ordered(power_of_two, [1], workers=0))
