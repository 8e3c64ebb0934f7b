"""The loop with a real server on loopback: playing chunks, losing the server, going home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_servers import openpi_handler, running

from vla_client.client import Client
from vla_client.errors import ClientError, WireError
from vla_client.governor_config import GovernorConfig
from vla_client.runner import Runner, RunReport, actions_of

HZ = 50.0
SPEC = {
    "action_names": ["joint", "speed"],
    "action_low": [-10.0, -1.0],
    "action_high": [10.0, 1.0],
    "control_hz": HZ,
}
VALUES: dict[str, Any] = {
    "kind": {"joint": "absolute", "speed": "velocity"},
    "max_step": {"joint": 0.2, "speed": 1.0},
    "ramp_s": 0.0,
    # a busy machine is no fault here; the exact times are tested on a clock of their own
    "hold_after": 10,
    "stop_after_s": 1.0,
    "max_observation_age": 30,
}


class Robot:
    """A joint that goes where it is sent at once."""

    def __init__(self, joint: float = 0.0) -> None:
        self.joint = joint
        self.sent: list[tuple[float, float, float]] = []

    def read(self) -> dict[str, Any]:
        return {"state": np.array([self.joint], np.float32)}

    def send(self, action: np.ndarray) -> None:
        self.joint = float(action[0])
        self.sent.append((time.monotonic(), float(action[0]), float(action[1])))

    @property
    def joints(self) -> np.ndarray:
        return np.array([joint for _, joint, _ in self.sent])


def ahead(length: int, seconds: float = 0.0) -> Any:
    """A policy that moves the joint by 0.1 per step, from where it is."""

    def answer(observation: dict) -> dict:
        time.sleep(seconds)
        joints = observation["state"][0] + 0.1 * np.arange(1, length + 1)
        return {"actions": np.stack([joints, np.full(length, 0.5)], 1).astype(np.float32)}

    return answer


def runner_of(client: Client, robot: Robot, values: dict | None = None, **options: Any) -> Runner:
    config = GovernorConfig.of_spec(SPEC, {**VALUES, **(values or {})})
    measured = lambda observation: [observation["state"][0], np.nan]  # noqa: E731
    return Runner(robot, client, config, measured=measured, **options)


def client_of(port: int) -> Client:
    return Client(f"ws://127.0.0.1:{port}", patience_s=0.0)


def play(metadata: dict, answer: Any, steps: int, **options: Any) -> tuple[Robot, RunReport]:
    robot = Robot()
    with running(openpi_handler(answer, metadata)) as port, client_of(port) as client:
        report = runner_of(client, robot, instruction="push", **options).run(steps)
    return robot, report


def test_a_policy_of_single_actions_is_waited_for() -> None:
    robot, report = play({"action_horizon": 1, "spec": SPEC}, ahead(1), 10)
    assert report.executed >= 9
    np.testing.assert_allclose(np.diff(robot.joints[: report.executed]), 0.1, atol=1e-5)
    assert report.ended == "10 steps"
    assert robot.sent[-1][2] == 0, "the end holds"


def test_a_policy_that_sees_every_step_gives_one_action_of_each_chunk() -> None:
    seen = []

    def answer(observation: dict) -> dict:
        seen.append(observation["prompt"])
        return ahead(8)(observation)

    _, report = play({"every_step": True}, answer, 6)
    assert report.executed >= 5
    assert seen == ["push"] * 7, "the first answer before arming, then one per step"


def test_chunks_are_played_while_the_next_one_is_asked_for() -> None:
    robot, report = play({}, ahead(16, seconds=0.06), 40)
    moved = robot.joints[: report.executed]
    assert report.executed >= 36, report
    # Each plan says 0.1 per step from its own observation: where a seam was wrong, a step differs.
    assert np.abs(np.diff(moved) - 0.1).max() < 0.11
    assert report.counts.get("jump", 0) == 0
    assert 0.05 < report.latency_s < 1


def test_a_continuation_is_offered_to_servers_that_use_it() -> None:
    asked = []

    def answer(observation: dict) -> dict:
        asked.append({key: observation.get(key) for key in ("vla/prefix", "vla/delay")})
        return ahead(8)(observation)

    play({"features": ["prefix"], "protocol": "openpi-websocket"}, answer, 20)
    later = [question for question in asked if question["vla/prefix"] is not None]
    assert later
    assert all(question["vla/prefix"].shape[1] == 2 for question in later)
    assert all(question["vla/delay"] >= 0 for question in later)


def test_the_robot_goes_home_at_the_end() -> None:
    robot = Robot(1.0)
    with running(openpi_handler(ahead(4), {})) as port, client_of(port) as client:
        runner_of(client, robot).run(10, return_home_s=0.1)
    assert robot.joints.max() > 1.5
    assert robot.joint == pytest.approx(1.0)
    assert np.abs(np.diff(robot.joints)).max() <= 0.2 + 1e-6


def test_a_run_ends_when_it_is_asked_to_or_the_switch_is_released() -> None:
    robot = Robot()
    with running(openpi_handler(ahead(4), {})) as port, client_of(port) as client:
        assert runner_of(client, robot).run(until=lambda: len(robot.sent) > 5).ended == (
            "asked to end"
        )
        released = Robot()
        stops: list[int] = []
        runner = runner_of(
            client,
            released,
            {"stop_after_s": 0.2},
            enable=lambda: len(released.sent) < 5,
            stop=lambda: stops.append(1),
        )
        report = runner.run()
    assert report.ended.startswith("stopped")
    assert stops == [1]
    assert report.counts["deadman"] == 1
    assert {speed for _, _, speed in released.sent[5:]} == {0.0}


def test_a_server_that_refuses_is_silence_and_its_text_is_kept() -> None:
    asked = []

    def answer(observation: dict) -> dict:
        asked.append(1)
        if len(asked) > 3:
            raise ValueError("stay: too old")
        return ahead(1)(observation)

    _, report = play({"action_horizon": 1}, answer, 500, wait=True)
    assert report.ended == "stopped: no valid action for 1 s"
    assert "too old" in report.errors


def test_actions_of_another_width_are_refused_before_arming() -> None:
    robot = Robot()
    wide = {"actions": np.zeros((2, 3), np.float32)}
    with running(openpi_handler(lambda _: wide, {})) as port, client_of(port) as client:
        with pytest.raises(WireError, match=r"\[2, 3\], expected \(K, 2\)"):
            runner_of(client, robot).run(5)
    assert robot.sent == []
    with running(openpi_handler(ahead(1), {"spec": {"action_names": ["a", "b"]}})) as port:
        with client_of(port) as client, pytest.raises(ClientError, match="in the policy's order"):
            runner_of(client, robot)


@pytest.mark.parametrize("result", [{}, {"actions": [1.0]}, {"actions": np.zeros((2, 1), int)}])
def test_a_result_without_actions_is_named(result: dict) -> None:
    with pytest.raises(WireError, match="'actions'"):
        actions_of(result, 1)
    assert actions_of({"actions": np.zeros(3)}, 3).shape == (1, 3)


SERVER = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "helpers")]!r}
import numpy as np
from policy_servers import openpi_handler, running
def answer(observation):
    joints = observation["state"][0] + 0.01 * np.arange(1, 51)
    return {{"actions": np.stack([joints, np.full(50, 0.5)], 1).astype(np.float32)}}
with running(openpi_handler(answer, {{}})) as port:
    print(port, flush=True)
    time.sleep(60)
"""


def hammer(port: int, ended: threading.Event) -> None:
    """Another client of the same server, as fast as it goes, until the server dies."""
    observation = {"state": np.zeros(1, np.float32), "image": np.zeros((96, 96, 3), np.uint8)}
    try:
        with client_of(port) as client:
            while not ended.wait(0.002):
                client.infer(observation)
    except ClientError:
        pass


def test_the_robot_holds_within_two_periods_of_a_killed_server() -> None:
    """kill -9 while other clients keep the server busy; half a second of actions is still queued."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    ended = threading.Event()
    others = [threading.Thread(target=hammer, args=(port, ended)) for _ in range(2)]
    robot, killed = Robot(), []

    def kill_at(count: int) -> bool:
        if len(robot.sent) >= count and not killed:
            os.kill(server.pid, signal.SIGKILL)
            killed.append(time.monotonic())
        return False

    hz = 10.0
    with client_of(port) as client:
        for other in others:
            other.start()
        values = {"control_hz": hz, "hold_after": 2, "stop_after_s": 0.5, "max_observation_age": 9}
        report = runner_of(client, robot, values).run(until=lambda: kill_at(8))
    ended.set()
    for other in others:
        other.join()
    server.wait()
    server.stdout.close()
    held = next(at for at, _, speed in robot.sent if at > killed[0] and speed == 0)
    print(f"held {1000 * (held - killed[0]):.0f} ms after the kill, period {1000 / hz:.0f} ms")
    assert held - killed[0] < 2 / hz
    assert report.ended.startswith("stopped")
    moved_after = [speed for at, _, speed in robot.sent if at > held]
    assert set(moved_after) <= {0.0}
