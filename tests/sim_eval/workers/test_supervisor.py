"""Workers that answer, raise, die and hang. What they do are functions of the standard library, which every process can
import."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from typing import Any

import pytest

from vla.config import ConfigError
from vla.sim_eval.workers.launchers import open_supervisor
from vla.sim_eval.workers.processes import ProcessLauncher
from vla.sim_eval.workers.supervisor import (
    START_SECONDS,
    Answered,
    Assignment,
    Lost,
    Raised,
    Supervisor,
)
from vla.sim_eval.workers.worker import ErrorText, Worker

sleep = functools.partial(functools.partial, time.sleep)
exit_with = functools.partial(functools.partial, os._exit)


def received(supervisor: Supervisor, count: int) -> list[Any]:
    events: list[Any] = []
    while len(events) < count:
        events += supervisor.receive()
    return events


def test_requests_are_answered_in_their_order_by_the_worker_that_was_asked() -> None:
    with open_supervisor("local", functools.partial(functools.partial, pow, 2), workers=2) as two:
        for worker, request in [(0, 3), (1, 5), (0, 4)]:
            two.send(worker, request)
        events = received(two, 3)
        assert [e for e in events if e.worker == 0] == [Answered(0, 3, 8), Answered(0, 4, 16)]
        assert [e for e in events if e.worker == 1] == [Answered(1, 5, 32)]
        assert two.receive() == [], "nobody is busy, so there is nothing to wait for"
    assert not multiprocessing.active_children()


def test_what_a_request_raises_comes_back_and_the_worker_lives_on() -> None:
    with open_supervisor(
        "local", functools.partial(functools.partial, divmod, 7), workers=1
    ) as one:
        one.send(0, 0)
        one.send(0, 2)
        raised, answered = received(one, 2)
        assert isinstance(raised, Raised)
        assert raised.request == 0
        assert "ZeroDivisionError" in raised.error
        assert answered == Answered(0, 2, (3, 1))


def test_work_that_cannot_be_made_is_told_to_the_first_request() -> None:
    with open_supervisor("local", functools.partial(int, "no number"), workers=1) as one:
        one.send(0, 1)
        [raised] = one.receive()
        assert isinstance(raised, Raised)
        assert "invalid literal" in raised.error


def test_a_worker_that_dies_is_replaced_and_its_requests_are_named() -> None:
    with open_supervisor("local", exit_with, workers=2) as two:
        two.send(1, 17)
        two.send(1, 18)
        [lost] = two.receive()
        assert isinstance(lost, Lost)
        assert (lost.worker, lost.requests) == (1, (17, 18))
        assert lost.death.exit_code == 17
        assert not lost.death.from_outside
        assert lost.death.reason == "died with exit code 17"
        two.send(1, 19)
        [again] = two.receive()
        assert again.death.exit_code == 19, "there is a worker in its place"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_comes_from_outside(sent: signal.Signals) -> None:
    with open_supervisor("local", sleep, workers=1) as one:
        one.send(0, 100.0)
        [child] = multiprocessing.active_children()
        os.kill(child.pid, sent)
        [lost] = one.receive()
        assert lost.death.from_outside
        assert lost.death.exit_code == -sent


def test_a_worker_that_dies_while_idle_is_replaced_at_its_next_request() -> None:
    with open_supervisor("local", sleep, workers=1) as one:
        one.send(0, 0.0)
        assert one.receive() == [Answered(0, 0.0, None)]
        [child] = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        one.send(0, 0.0)
        [lost] = one.receive()
        assert lost.requests == (0.0,)
        one.send(0, 0.0)
        assert one.receive() == [Answered(0, 0.0, None)]


def test_a_worker_that_hangs_is_replaced() -> None:
    with open_supervisor("local", sleep, workers=1, timeout=1.0) as one:
        one.send(0, 0.0)
        assert one.receive() == [Answered(0, 0.0, None)]
        one.send(0, 100.0)
        [lost] = one.receive()
        assert lost.death.reason == "gave no answer for 1 seconds"
        assert lost.death.exit_code is None
        assert not lost.death.from_outside
        one.send(0, 0.0)
        assert one.receive() == [Answered(0, 0.0, None)]
    assert not multiprocessing.active_children()


def test_a_worker_may_take_long_to_start_and_any_time_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assignment = Assignment()
    assert assignment.overdue(10.0) is None, "it has nothing to do"
    assignment.sent(0, "request")
    now += START_SECONDS
    assert assignment.overdue(10.0) is None, "it is starting"
    assert assignment.overdue(None) is None, "there is no limit"
    now += 1
    assert assignment.overdue(10.0) is not None
    assert assignment.answered(None) is None, "it has started"
    now += 10
    assert assignment.overdue(10.0) is None
    assignment.sent(1, "another")
    now += 1
    assert assignment.overdue(10.0) is not None, "the older request is still waited for"
    assert assignment.answered(0) == "request"
    assert list(assignment.pending.values()) == ["another"]


def test_what_was_started_is_ended_if_a_later_worker_cannot_be() -> None:
    class Third(ProcessLauncher):
        started = 0

        def start(self) -> Any:
            self.started += 1
            if self.started == 3:
                raise KeyboardInterrupt
            return super().start()

    with pytest.raises(KeyboardInterrupt):
        Supervisor(Third(sleep), 3)
    assert not multiprocessing.active_children()


def test_closing_does_not_wait_for_what_workers_are_doing() -> None:
    started = time.monotonic()
    with open_supervisor("local", sleep, workers=2) as two:
        two.send(0, 100.0)
    assert time.monotonic() - started < 30
    assert not multiprocessing.active_children()


def test_errors_of_configs_say_all_without_a_traceback() -> None:
    def refuse(request: int) -> None:
        raise ConfigError(["env.tasks: no such task"])

    assert Worker(lambda: refuse).handle(1) == ErrorText("ConfigError: env.tasks: no such task")
