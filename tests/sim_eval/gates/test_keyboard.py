"""A person at a terminal (a pseudo-terminal here) who decides when the expert acts."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest
import torch
from point_env import PointConfig

from vla.config import ConfigError, UserError, load_config
from vla.sim_eval.collection.recording import CollectConfig
from vla.sim_eval.gates.base import Proposal
from vla.sim_eval.gates.keyboard import KeyboardConfig, picture
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import RolloutError, RolloutStats, rollout
from vla.sim_eval.rollouts.takeover import TakeoverConfig

termios = pytest.importorskip("termios")
ENV = PointConfig(image_size=16, horizon=6)
SPEC = ENV.spec()


@pytest.fixture
def terminal(monkeypatch):
    """The person's end of a terminal that is the process's standard input."""
    person, process = os.openpty()
    with os.fdopen(process, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(process)
        yield person
        assert termios.tcgetattr(process) == before, "the terminal is given back"
    os.close(person)


def press(person: int, keys: str) -> None:
    os.write(person, keys.encode())
    time.sleep(0.02)  # until the kernel has carried them over


def proposal(image: np.ndarray | None = None) -> Proposal:
    images = {} if image is None else {"top": image}
    observation = {"images": images, "state": np.zeros(2, np.float32)}
    return Proposal(observation, np.zeros(2, np.float32), np.ones(2, np.float32))


def test_a_key_changes_who_acts(terminal, capsys):
    gate = KeyboardConfig(speed=1000).build(SPEC)
    acted = []
    for keys in ("", "x", " ", "", "  ", " ", "q"):
        press(terminal, keys)
        acted.append(gate.opens(proposal(np.full((16, 16, 3), 200, np.uint8))))
    gate.close()
    assert acted == [False, False, True, True, True, False, False]
    shown = capsys.readouterr().err
    assert "step 3: the expert acts, 1.00 half ranges apart; space: change" in shown
    assert "▀" in shown


def test_a_step_lasts_as_long_as_a_robots(terminal):
    gate = KeyboardConfig(speed=2.0).build(SPEC)  # a step of 0.1 s in half of that
    started = time.monotonic()
    for _ in range(4):
        gate.opens(proposal())
    gate.close()
    assert time.monotonic() - started >= 3 * 0.05 - 1e-3


def test_pictures_keep_colours_and_shape():
    image = np.zeros((64, 32, 3), np.uint8)
    image[:32] = (255, 0, 0)
    text = picture(image, 80, 10)
    lines = text.plain.splitlines()
    assert [len(line) for line in lines] == [10] * 10
    first, last = text.spans[0].style, text.spans[-1].style
    assert first.color.get_truecolor() == (255, 0, 0)
    assert last.bgcolor.get_truecolor() == (0, 0, 0)


class Idle:
    spec, history = SPEC, 1

    def act(self, observation, memory=None):
        return torch.zeros(observation.batch_size, 1, 2), None


class Watched(Idle):
    """Beside which somebody presses the key as soon as it acts."""

    def __init__(self, person: int) -> None:
        self.person, self.calls = person, 0

    def act(self, observation, memory=None):
        self.calls += 1
        if self.calls == 3:
            press(self.person, " ")
        return super().act(observation)


def jobs(task: str = "red") -> list[Job]:
    gate = KeyboardConfig(speed=1000)
    return [Job(task, "", 0, 8, 6, record=True, takeover=TakeoverConfig(gate=gate))]


def test_a_person_corrects_an_episode(terminal):
    stats = RolloutStats(episodes={})
    rollout(ENV, jobs(), Watched(terminal), workers=0, batch_size=1, stats=stats)
    intervention = stats.episodes["red", 0].extras["intervention"]
    assert intervention.tolist() == [False] * 2 + [True] * (len(intervention) - 2)
    assert intervention.any()


def test_the_terminal_is_given_back_after_an_error(terminal, monkeypatch):
    def broken(env, action):
        raise RuntimeError("the arm came off")

    monkeypatch.setattr("point_env.PointEnv.step", broken)
    with pytest.raises(RolloutError, match="the arm came off"):
        rollout(ENV, jobs(), Idle(), workers=0, batch_size=1)


def test_where_nobody_can_watch_it_is_refused(monkeypatch):
    with open(os.devnull) as nowhere:
        monkeypatch.setattr(sys, "stdin", nowhere)
        with pytest.raises(UserError, match="needs a terminal"):
            KeyboardConfig().build(SPEC)
    with pytest.raises(UserError, match="set workers=0 and batch_size=1"):
        rollout(ENV, jobs(), Idle(), workers=2, batch_size=1)
    with pytest.raises(UserError, match="no camera 'wrist'; the robot has: top"):
        KeyboardConfig(camera="wrist").build(SPEC)
    takeover = {"gate": {"type": "keyboard"}}
    values = {
        "env": {"type": "test_point"},
        "out": "d",
        "behaviours": {"policies": [{"path": "p", "share": 1.0, "takeover": takeover}]},
    }
    with pytest.raises(ConfigError, match="set workers=1"):
        load_config(CollectConfig, values)
    load_config(CollectConfig, values | {"workers": 1})
