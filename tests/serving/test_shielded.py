"""A shield behind a server: each robot is judged by its own past, as in an evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from risk_toys import risk_network
from served_robots import connected
from small_policies import TEXTS, mlp

from vla.common.errors import UserError
from vla.control import BatchedPolicy, ControlSettings, EpisodeState
from vla.control.inference_mode import inference
from vla.control.shield_config import ShieldConfig
from vla.types import Spec

SPEC = Spec({}, ("x", "y"), ("vx", "vy"), (-1.0, -1.0), (1.0, 1.0), control_hz=10)
SHIELD = {"samples": 64, "sample_temperature": 3.0, "threshold": 0.5}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("risk")
    risk_network(SPEC, folder)
    return str(folder)


@pytest.fixture(scope="module")
def chunks() -> Any:
    return mlp(SPEC, chunk=2, head={"type": "gaussian"})


def states(robot: int, steps: int = 12) -> np.ndarray:
    return np.random.default_rng(robot).normal(3, 2, (steps, 2)).astype(np.float32)


def seen(state: np.ndarray, **options: Any) -> dict[str, Any]:
    named = {f"vla/{key}": value for key, value in options.items()}
    return {"state": state, "prompt": TEXTS[0], **named}


def local(actor: Any, network: str, robot: int, every: int) -> tuple[np.ndarray, int]:
    """What a robot is given in an evaluation with the same draws, (steps, every, A); and how often
    that is not the policy's own choice."""
    settings = ControlSettings(replan_every=every, shield=ShieldConfig(path=network, **SHIELD))
    batched = BatchedPolicy(actor, settings)
    episode = EpisodeState()
    found = []
    with inference(actor, threads=1):
        torch.manual_seed(robot)
        for state in states(robot):
            episode.robot_state, episode.instruction = state, TEXTS[0]
            found.append(batched.act([episode], {})[0])
    return np.stack(found), batched.shield.interventions


@pytest.mark.parametrize("every", [1, 2])
def test_a_shielded_server_acts_as_a_shielded_evaluation(serve, chunks, network, every) -> None:
    server = serve(chunks, shield={"path": network, **SHIELD}, replan_every=every)
    with connected(server) as robot:
        assert robot.metadata["action_horizon"] == every
        torch.manual_seed(3)
        given = np.stack([robot.infer(seen(state))["actions"] for state in states(3)])
    expected, refused = local(chunks, network, 3, every)
    assert np.array_equal(given, expected)
    assert (given[:, 0, 0] < 0.1).all(), "none begins in what the network calls dangerous"
    assert refused
    assert server.service.metrics.value("vla_shield_interventions_total") == refused


def test_robots_side_by_side_are_all_shielded(serve, chunks, network) -> None:
    server = serve(chunks, shield={"path": network, **SHIELD}, max_wait_ms=20)

    def play(number: int) -> np.ndarray:
        with connected(server) as robot:
            return np.stack([robot.infer(seen(state))["actions"][0] for state in states(number)])

    with ThreadPoolExecutor(4) as threads:
        found = np.stack(list(threads.map(play, range(4))))
    assert (found[..., 0] < 0.1).all()
    calls, robots = server.service.metrics.batch_sizes()
    assert robots == 48
    assert calls < 48


def test_what_a_shield_remembers_is_of_one_robot_and_one_episode(serve, chunks, network) -> None:
    """The past that it looks back at: a refused observation is no part of it, a reset ends it."""
    server = serve(chunks, shield={"path": network, **SHIELD})
    sessions: list[Any] = []
    new = server.service.new_session

    def noted(name: str = "") -> Any:
        sessions.append(new(name))
        return sessions[-1]

    server.service.new_session = noted
    with connected(server) as robot:
        for name in ("a", "b"):
            for state in states(0, 3):
                robot.infer(seen(state, session=name))
        with pytest.raises(RuntimeError, match="NaN"):
            robot.infer(seen(np.full(2, np.nan, np.float32), session="a"))
        past = [session.robots[0].running for session in sessions]
        assert past[0] is not past[1]
        assert [running.count for running in past] == [3, 3]
        last = robot.infer(seen(states(0)[3], session="a"))["actions"]
        assert np.array_equal(sessions[0].robots[0].running.steps[-1].action, last[0])
        assert sessions[0].robots[0].running.count == 4
        robot.infer(seen(states(0)[0], session="a", reset=True))
        robot.infer({**seen(states(0)[0], session="b"), "prompt": TEXTS[1]})
        assert [session.robots[0].running.count for session in sessions] == [1, 1]


class Fragile:
    """A shielded policy in which one robot's step fails now and then."""

    history = 1

    def __init__(self, inside: Any) -> None:
        self.inside = inside
        self.spec = inside.spec

    def act(self, observation: Any, memory: Any = None, *, choose: Any = None) -> Any:
        actions = self.inside.act(observation, memory, choose=choose)
        if (observation.state[:, 0] > 50).any():
            raise ValueError("a fault of the policy")
        return actions


def test_a_failed_call_is_no_step_of_anybodys_past(chunks, network) -> None:
    """The server asks again for each robot of a batch in which one failed."""
    shield = ShieldConfig(path=network, **SHIELD)
    batched = BatchedPolicy(Fragile(chunks), ControlSettings(shield=shield))
    episodes = [EpisodeState(np.full(2, x, np.float32), TEXTS[0]) for x in (1.0, 99.0)]
    with inference(chunks, threads=1):
        with pytest.raises(ValueError, match="a fault"):
            batched.act(episodes, {})
        assert episodes[0].running is None
        batched.act(episodes[:1], {})
        episodes[0].robot_state = np.ones(2, np.float32)
        with pytest.raises(ValueError, match="a fault"):
            batched.act(episodes, {})
    assert episodes[0].running.count == 1


def test_what_a_shield_cannot_go_with_is_refused(serve, chunks, network, policy) -> None:
    shield = {"path": network, **SHIELD}
    for actor, settings, message in [
        (chunks, {"ensemble": 0.1}, "ensemble executes others: drop one of the two"),
        (chunks, {"method": "bid"}, "method is 'bid', but shield judges .*: drop method"),
        (chunks, {"replan_every": 5}, "replan_every is 5, but the policy plans 2"),
        (policy, {}, r"shield\.path: .* take one of this robot"),
        (chunks, {"shield": {"path": network + "-none"}}, "-none"),
    ]:
        with pytest.raises(UserError, match=message):
            serve(actor, **{"shield": shield, **settings})
    with connected(serve(chunks, shield=shield, replan_every=2)) as robot:
        assert "prefix" not in robot.metadata["features"]
        with pytest.raises(RuntimeError, match=r"vla/prefix: .*shield judges"):
            robot.infer(seen(states(0)[0], prefix=np.zeros((1, 2), np.float32)))
