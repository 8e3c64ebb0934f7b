"""The governor's order, states and silence, on a clock of the test; and for any stream of actions."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vla_client.errors import GovernorError
from vla_client.governor import DISARMED, HOLDING, RUNNING, STOPPED, Governor
from vla_client.governor_config import GovernorConfig

HZ = 10.0
DT = 1 / HZ
NAMES = ("joint", "shift", "speed", "gripper")
KIND = {"joint": "absolute", "shift": "delta", "speed": "velocity", "gripper": "keep"}
VALUES: dict[str, Any] = {
    "names": NAMES,
    "kind": KIND,
    "low": (-1.0, -0.5, -1.0, 0.0),
    "high": (1.0, 0.5, 1.0, 1.0),
    "control_hz": HZ,
    "max_step": {"joint": 0.1, "shift": 0.2, "speed": 0.3},
    "ramp_s": 0.0,
}


class Bench:
    """A governor, a clock that the test moves, and what the robot received."""

    def __init__(self, **values: Any) -> None:
        self.now = 100.0
        self.sent: list[np.ndarray] = []
        self.stops: list[float] = []
        self.cleared = 0
        self.pressed = True
        self.governor = Governor(
            GovernorConfig(**{**VALUES, **values}),
            self.sent.append,
            stop=lambda: self.stops.append(self.now),
            enable=lambda: self.pressed,
            on_clear=self.clear,
            clock=lambda: self.now,
        )

    def clear(self) -> None:
        self.cleared += 1

    def arm(self, joint: float = 0.0) -> Bench:
        self.governor.arm([joint, np.nan, np.nan, np.nan])
        return self

    def command(self, *action: float, **options: Any) -> bool:
        return self.governor.command(np.array(action), **options)

    def wait(self, seconds: float, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.now += seconds / ticks
            self.governor.tick()

    @property
    def state(self) -> str:
        return self.governor.status().state

    @property
    def last(self) -> list[float]:
        return [round(float(value), 6) for value in self.sent[-1]]


# --- the order -----------------------------------------------------------------------------------


def test_a_good_action_is_sent_as_it_is() -> None:
    bench = Bench().arm()
    assert bench.command(0.05, 0.1, 0.2, 1.0)
    assert bench.last == [0.05, 0.1, 0.2, 1.0]
    assert bench.state == RUNNING
    assert bench.governor.counts == {}


@pytest.mark.parametrize(
    "action", [[0.0] * 3, [[0.0] * 4], [np.nan, 0, 0, 0], [0, np.inf, 0, 0], "xxxx", None]
)
def test_1_another_shape_or_an_infinite_number_holds(action: Any) -> None:
    bench = Bench().arm()
    bench.command(0.05, 0.1, 0.2, 1.0)
    assert not bench.governor.command(action)
    assert bench.last == [0.05, 0.0, 0.0, 1.0]
    assert bench.state == HOLDING
    assert bench.governor.counts == {"shape": 1, "hold": 1}


@pytest.mark.parametrize(("offset", "sent"), [(-0.06, 0), (-0.05, 1), (0.05, 1), (0.06, 0)])
def test_2_an_action_is_valid_half_a_period_around_its_time(offset: float, sent: int) -> None:
    bench = Bench().arm()
    bench.command(0.0, 0.0, 0.0, 0.0, due_s=bench.now + offset)
    assert len(bench.sent) == sent
    assert bench.state == RUNNING, "one late action is left out, and is no fault"


def test_2_an_answer_to_an_old_observation_is_left_out() -> None:
    bench = Bench().arm()
    assert bench.command(0, 0, 0, 0, age_s=3 * DT)
    assert not bench.command(0, 0, 0, 0, age_s=3.1 * DT)
    assert bench.governor.counts == {"old_observation": 1}


@pytest.mark.parametrize(
    "action", [(0.51, 0, 0, 0), (0, 1.01, 0, 0), (0, 0, 1.51, 0), (0, 0, -1.51, 0)]
)
def test_3_a_jump_is_rejected_and_holds(action: tuple[float, ...]) -> None:
    bench = Bench().arm()
    assert not bench.command(*action)
    assert bench.state == HOLDING
    assert bench.sent == [], "nothing was sent before, so there is nothing to hold by"


def test_4_and_5_limits_workspace_and_rate_are_clamped_and_counted() -> None:
    bench = Bench(workspace={"joint": (-0.5, 0.95)}).arm(0.9)
    assert bench.command(1.2, 0.6, 0.5, 1.5)
    assert bench.last == [0.95, 0.2, 0.3, 1.0]
    assert bench.governor.counts == {"limits": 1, "workspace": 1, "rate": 1}


def test_on_violation_refuse_holds_instead() -> None:
    bench = Bench(on_violation="refuse").arm(0.9)
    assert not bench.command(1.2, 0.0, 0.0, 0.0)
    assert bench.state == HOLDING
    assert bench.governor.counts["limits"] == 1
    assert bench.command(0.95, 0.0, 0.0, 0.0)


def test_the_distance_from_the_measured_position_is_bounded() -> None:
    bench = Bench(max_from_measured={"joint": 0.05}).arm(0.0)
    nan = np.nan
    assert bench.command(0.1, 0, 0, 0, measured_A=[0.0, nan, nan, nan])
    assert bench.last[0] == 0.05
    assert not bench.command(0.1, 0, 0, 0)
    assert bench.governor.counts == {"from_measured": 1, "no_measurement": 1, "hold": 1}


def test_the_rate_counts_from_what_was_sent_not_from_what_was_asked() -> None:
    bench = Bench().arm(0.0)
    for step in range(1, 4):
        bench.command(0.4, 0, 0, 0)
        assert bench.last[0] == pytest.approx(0.1 * step)


# --- the deadman's switch ------------------------------------------------------------------------


def test_6_a_released_switch_holds_and_needs_arming() -> None:
    bench = Bench().arm()
    bench.command(0.05, 0.1, 0.2, 1.0)
    bench.pressed = False
    assert not bench.command(0.1, 0.1, 0.2, 1.0)
    assert bench.last == [0.05, 0.0, 0.0, 1.0]
    assert (bench.state, bench.cleared) == (HOLDING, 1)
    with pytest.raises(GovernorError, match="not pressed"):
        bench.arm()
    bench.pressed = True
    assert not bench.command(0.05, 0.1, 0.2, 1.0), "pressing it alone moves nothing"
    bench.arm(0.05)
    assert bench.command(0.05, 0.1, 0.2, 1.0)


def test_6_the_watchdog_sees_the_switch_between_two_actions() -> None:
    bench = Bench().arm()
    bench.command(0, 0, 0.2, 0)
    bench.pressed = False
    bench.wait(DT / 4)
    assert bench.last == [0, 0, 0, 0]
    bench.wait(0.5, ticks=20)
    assert bench.state == STOPPED
    assert len(bench.stops) == 1


def test_a_switch_that_cannot_be_read_is_not_pressed(caplog: pytest.LogCaptureFixture) -> None:
    governor = Governor(GovernorConfig(**VALUES), print, enable=lambda: 1 / 0 > 0)
    with pytest.raises(GovernorError, match="not pressed"), caplog.at_level(logging.CRITICAL):
        governor.arm([0, 0, 0, 0])


# --- silence -------------------------------------------------------------------------------------


def test_7_silence_holds_and_then_stops_once() -> None:
    bench = Bench().arm()
    bench.command(0.05, 0.1, 0.2, 1.0)
    bench.wait(1.9 * DT, ticks=8)
    assert bench.state == RUNNING
    bench.wait(0.1 * DT + 1e-9)
    assert bench.state == HOLDING
    assert bench.last == [0.05, 0.0, 0.0, 1.0]
    sent = len(bench.sent)
    bench.wait(2 * DT, ticks=8)
    assert len(bench.sent) == sent + 2, "holding is repeated every period"
    bench.wait(5 * DT, ticks=20)
    assert bench.state == STOPPED
    assert bench.stops == [pytest.approx(100.5, abs=DT / 3)]
    assert not bench.command(0.05, 0.1, 0.2, 1.0)
    bench.arm(0.05)
    assert bench.command(0.05, 0.1, 0.2, 1.0)


def test_7_an_action_in_time_moves_on() -> None:
    bench = Bench().arm()
    bench.command(0.05, 0, 0, 0)
    bench.wait(3 * DT, ticks=12)
    assert bench.state == HOLDING
    assert bench.command(0.1, 0, 0, 0)
    assert bench.state == RUNNING


def test_rejected_actions_are_silence() -> None:
    bench = Bench().arm()
    bench.command(0, 0, 0, 0)
    for _ in range(6):
        assert not bench.command(0.9, 0, 0, 0)
        bench.wait(DT, ticks=4)
    assert bench.state == STOPPED


def test_a_clock_that_goes_back_holds_and_a_jump_ahead_stops() -> None:
    bench = Bench().arm()
    bench.command(0, 0, 0.2, 0)
    bench.now -= 50
    bench.governor.tick()
    assert bench.governor.status().reason == "the clock went back"
    assert bench.last == [0, 0, 0, 0]
    bench.command(0, 0, 0.2, 0)
    bench.now += 3600  # the computer slept
    bench.governor.tick()
    assert bench.state == STOPPED


def test_hold_and_stop_may_be_asked_for() -> None:
    bench = Bench().arm()
    bench.command(0, 0, 0.2, 0)
    bench.governor.hold("connection lost")
    assert (bench.state, bench.governor.status().reason) == (HOLDING, "connection lost")
    assert (bench.last, bench.cleared) == ([0, 0, 0, 0], 1)
    bench.governor.stop("enough")
    assert (bench.state, len(bench.stops)) == (STOPPED, 1)
    bench.governor.disarm()
    assert bench.state == DISARMED
    bench.governor.hold()
    bench.governor.stop()
    assert bench.state == DISARMED


# --- the start -----------------------------------------------------------------------------------


def test_8_the_first_positions_are_reached_by_a_ramp() -> None:
    bench = Bench(ramp_s=1.0).arm(-0.4)
    places = []
    for _ in range(12):
        assert bench.command(0.4, 0.0, 0.0, 0.0)
        places.append(bench.last[0])
        bench.wait(DT)
    np.testing.assert_allclose(places[:10], -0.4 + 0.08 * np.arange(1, 11), atol=1e-6)
    assert places[10:] == [0.4, 0.4]


def test_8_the_ramp_keeps_to_the_rate() -> None:
    bench = Bench(ramp_s=0.2).arm(-1.0)
    bench.command(1.0, 0, 0, 0)
    assert bench.last[0] == pytest.approx(-0.9)


def test_arming_needs_the_measured_position() -> None:
    bench = Bench()
    for measured in (None, [0.0], [np.nan] * 4):
        with pytest.raises(GovernorError, match="measured_A is needed"):
            bench.governor.arm(measured)
    with pytest.raises(GovernorError, match=r"joint stands at 1\.2, outside of"):
        bench.arm(1.2)
    bench.arm(1.05)
    with pytest.raises(GovernorError, match="armed already"):
        bench.arm()
    bench.command(1.0, 0, 0, 0)
    assert bench.last[0] == 1.0


def test_nothing_is_sent_before_arming() -> None:
    bench = Bench()
    assert not bench.command(0, 0, 0, 0)
    bench.wait(1.0, ticks=10)
    assert bench.sent == []
    assert bench.governor.counts == {"not_armed": 1}


# --- errors of the robot -------------------------------------------------------------------------


def test_a_robot_that_cannot_be_reached_is_stopped() -> None:
    stops = []

    def fail(_: np.ndarray) -> None:
        raise OSError("cable")

    governor = Governor(GovernorConfig(**VALUES), fail, stop=lambda: stops.append(1))
    governor.arm([0.0, 0, 0, 0])
    with pytest.raises(OSError, match="cable"):
        governor.command([0.0, 0, 0, 0])
    assert governor.status().state == STOPPED
    assert stops == [1]


def _move_and_raise(governor: Governor, error: type) -> None:
    governor.arm([0.0, 0, 0, 0])
    governor.command([0.05, 0.1, 0.2, 1.0])
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_holds_and_stops(error: type) -> None:
    sent, stops = [], []
    governor = Governor(GovernorConfig(**VALUES), sent.append, stop=lambda: stops.append(1))
    with pytest.raises(error), governor:
        _move_and_raise(governor, error)
    np.testing.assert_allclose(sent[-1], [0.05, 0, 0, 1])
    assert stops == [1]
    assert governor.status().state == DISARMED


def test_a_stop_that_fails_leaves_it_stopped(caplog: pytest.LogCaptureFixture) -> None:
    governor = Governor(GovernorConfig(**VALUES), lambda _: None, stop=lambda: 1 / 0)
    governor.arm([0.0, 0, 0, 0])
    governor.stop()
    assert governor.status().state == STOPPED
    assert "stop() failed" in caplog.text


def test_the_watchdog_holds_within_three_periods_of_real_time() -> None:
    times: list[tuple[float, float]] = []
    values = {**VALUES, "control_hz": 20.0, "stop_after_s": 0.4}
    record = lambda action: times.append((time.monotonic(), float(action[2])))  # noqa: E731
    stops: list[float] = []
    stop = lambda: stops.append(time.monotonic())  # noqa: E731
    with Governor(GovernorConfig(**values), record, stop=stop) as governor:
        governor.arm([0.0, 0, 0, 0])
        governor.command([0.0, 0, 0.3, 0])
        time.sleep(0.8)
    moved, held = times[0], times[1]
    assert (moved[1], held[1]) == (0.3, 0.0)
    assert 0.1 <= held[0] - moved[0] < 0.1 + 0.05 + 0.1, "two periods, one more, and a busy machine"
    assert len(stops) == 1
    assert stops[0] - moved[0] < 0.6


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": {"joint": "absolute"}}, "kind: shift is missing"),
        ({"kind": {**KIND, "joint": "position"}}, "kind of joint: 'position'"),
        ({"kind": {**KIND, "wrist": "delta"}}, "'wrist' is no dimension"),
        ({"max_step": {"joint": 0.1}}, "shift: max_step is missing"),
        ({"max_step": {**VALUES["max_step"], "joint": 0}}, "max_step of joint: 0"),
        ({"max_step": "fast"}, "max_step of joint: 'fast'"),
        ({"low": (0.0,)}, "expected 4 finite numbers"),
        ({"low": (-1.0, 0.1, -1.0, 0.0)}, "shift: delta holds by 0"),
        ({"low": (1.0, -0.5, -1.0, 0.0)}, "joint: low=1 is not below high=1"),
        ({"high": (1.0, 0.5, 1.0, np.nan)}, "expected 4 finite numbers"),
        ({"workspace": {"shift": (0, 1)}}, "it is delta, expected absolute"),
        ({"workspace": {"joint": (2, 3)}}, "leaves nothing of"),
        ({"workspace": {"joint": 1}}, "expected 2 finite numbers"),
        ({"control_hz": 0}, "control_hz=0"),
        ({"hold_after": -1}, "hold_after=-1"),
        ({"stop_after_s": True}, "stop_after_s=True"),
        ({"ramp_s": -1}, "ramp_s=-1"),
        ({"reject_factor": 0.5}, "reject_factor=0.5"),
        ({"on_violation": "ignore"}, "on_violation='ignore'"),
        ({"names": ()}, "names="),
        ({"names": ("a", "a")}, "names="),
    ],
)
def test_a_wrong_setting_is_named(values: dict, said: str) -> None:
    with pytest.raises(GovernorError, match=r"^[^\n]*$") as caught:
        GovernorConfig(**{**VALUES, **values})
    assert said in str(caught.value)


def test_a_spec_gives_limits_and_the_rest_is_asked_for() -> None:
    spec = {"action_names": ["x"], "action_low": [-1], "action_high": [1], "control_hz": 5}
    config = GovernorConfig.of_spec(spec, {"kind": "delta", "max_step": 0.1, "low": [-0.5]})
    assert (config.low, config.control_hz) == ((-0.5,), 5)
    with pytest.raises(GovernorError, match="kind is missing"):
        GovernorConfig.of_spec(spec, {"max_step": 0.1})
    with pytest.raises(GovernorError, match="max_step is missing"):
        GovernorConfig.of_spec(spec, {"kind": "delta"})
    with pytest.raises(GovernorError, match="unknown key 'kinds'"):
        GovernorConfig.of_spec(spec, {"kinds": "delta"})


# --- any stream of actions -----------------------------------------------------------------------

numbers = st.one_of(
    st.floats(-1.5, 1.5),
    st.floats(-0.1, 0.1),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0]),
)
events = st.one_of(
    st.tuples(st.just("command"), st.tuples(*[numbers] * 4)),
    st.tuples(st.just("wait"), st.floats(0.0, 8 * DT)),
    st.tuples(st.just("late"), st.floats(-2 * DT, 2 * DT)),
    st.tuples(st.sampled_from(["press", "release", "arm", "hold", "stop", "back"]), st.none()),
)


def play(bench: Bench, kind: str, value: Any) -> None:
    """One event; the watchdog ticks at least once a period."""
    if kind == "command":
        bench.command(*value)
    elif kind == "late":
        bench.command(0.0, 0.0, 0.0, 0.0, due_s=bench.now + value)
    elif kind == "wait":
        bench.wait(value, ticks=1 + int(value / DT))
    elif kind == "back":
        bench.now -= 3.0
    elif kind in ("press", "release"):
        bench.pressed = kind == "press"
    elif kind == "arm":
        try:
            bench.arm(0.0)
        except GovernorError:
            assert not bench.pressed or bench.state == RUNNING
    else:
        getattr(bench.governor, kind)()


@settings(max_examples=200, deadline=None)
@given(st.lists(events, max_size=40), st.sampled_from([0.0, 0.3]), st.booleans())
@example([("command", (0.05, 0.1, 0.2, 1.0)), ("wait", 0.8)], 0.0, True)
def test_whatever_comes_the_robot_gets_small_steps_within_limits(
    stream: list, ramp_s: float, clamp: bool
) -> None:
    bench = Bench(ramp_s=ramp_s, on_violation="clamp" if clamp else "refuse").arm()
    low, high = np.array(VALUES["low"]), np.array(VALUES["high"])
    speed, joint = 0.0, 0.0
    silent_since = bench.now
    for kind, value in stream:
        armed_at, before = len(bench.sent), bench.state
        was = bench.now
        play(bench, kind, value)
        if kind == "arm" and bench.state == RUNNING and before != RUNNING:
            joint, speed, silent_since = 0.0, 0.0, bench.now
        new = bench.sent[armed_at:]
        for action in new:
            assert np.isfinite(action).all()
            assert (action >= low - 1e-9).all()
            assert (action <= high + 1e-9).all()
            assert abs(action[0] - joint) <= 0.1 + 1e-9
            assert abs(action[1]) <= 0.2 + 1e-9
            # braking to 0 is the one change that may be larger
            assert abs(action[2] - speed) <= 0.3 + 1e-9 or action[2] == 0
            joint, speed = action[0], action[2]
        if kind not in ("command", "late") or bench.state != RUNNING:
            for action in new:  # holding: nothing moves
                assert action[1] == action[2] == 0
        if before in (DISARMED, STOPPED) and kind != "arm":
            assert not new
        if kind == "back" or bench.now < was:
            silent_since = bench.now
        if bench.governor.status().silence_s == 0:
            silent_since = bench.now
        if bench.now - silent_since > 3 * DT + 1e-9:
            assert bench.state != RUNNING, "silence of two periods and one tick holds"
