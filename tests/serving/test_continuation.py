"""Chunks that go on from a robot's queue: what the server gives is what the method gives locally."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from served_robots import connected, lone, tiny_policy
from served_robots import observation as seen_with_pictures
from small_policies import TEXTS, mlp

from vla.common.errors import UserError
from vla.control import BatchedPolicy, ControlSettings, EpisodeState, RealtimeSettings
from vla.control.inference_mode import inference
from vla.control.realtime import CONTINUING, blended
from vla.control.realtime_methods import chooser
from vla.control.realtime_plan import Plan
from vla.types import Observation, Spec
from vla_client.client import Client
from vla_client.governor_config import GovernorConfig
from vla_client.runner import Runner

SPEC = Spec({}, ("x",), ("u", "v"), (-1.0, 2.0), (1.0, 4.0), 20)
CHUNK = 4
FLOW = {"type": "flow", "hidden": 16, "depth": 1, "integration_steps": 4}
QUEUE = np.array([[0.5, 2.5], [-0.25, 3.0], [0.125, 3.5]], np.float32)


def seen(x: float = 1.0, text: str = TEXTS[0], **options: Any) -> dict[str, Any]:
    named = {f"vla/{key}": value for key, value in options.items()}
    return {"observation/state": np.full(1, x, np.float32), "prompt": text, **named}


def evaluated(policy: Any, method: str, queue: np.ndarray, delay: int) -> np.ndarray:
    """The chunk (K, A) by which a robot with this queue goes on in `vla eval realtime`."""
    every = CHUNK - len(queue)
    realtime = RealtimeSettings(delay=delay, method=method)
    batched = BatchedPolicy(policy, ControlSettings(replan_every=every, realtime=realtime))
    plan = Plan(queue, (), queue[-1])
    episode = EpisodeState(np.ones(1, np.float32), TEXTS[0], plan=plan)
    with inference(policy, threads=1):
        now = batched.act([episode], {})[0]
    return np.concatenate([now, episode.plan.rest])


def local(policy: Any, method: str, queue: np.ndarray, delay: int, x: float = 1.0) -> np.ndarray:
    """The same by hand, and for delays that an evaluation does not have."""
    settings = RealtimeSettings(delay=delay, method=method)
    plan, every = Plan(queue, (), queue[-1]), CHUNK - len(queue)
    options = {}
    if method in CONTINUING:
        options["choose"] = chooser([plan], settings, SPEC, every=every, temperature=0.0)
    chunk = alone(policy, x, **options)
    behind = blended(queue, chunk) if method == "blend" else chunk
    return np.concatenate([queue[:delay], behind[delay:]])


def alone(policy: Any, x: float = 1.0, **options: Any) -> np.ndarray:
    """The chunk (K, A) of a robot without a queue."""
    with inference(policy, threads=1):
        observation = Observation.from_numpy({}, np.full((1, 1), x, np.float32), [TEXTS[0]])
        return policy.act(observation, **options)[0][0].numpy()


@pytest.mark.parametrize("method", ["prefix", "guidance", "bid", "blend", "switch"])
@pytest.mark.parametrize(("n", "delay"), [(3, 1), (2, 2), (1, 0)])
def test_the_server_gives_what_the_method_gives_locally(serve, method, n, delay) -> None:
    policy = mlp(SPEC, chunk=CHUNK, head={**FLOW, "prefix_max": 2})
    server = serve(policy, method=method)
    torch.manual_seed(3)
    expected = evaluated(policy, method, QUEUE[:n], delay)
    torch.manual_seed(3)
    assert np.array_equal(local(policy, method, QUEUE[:n], delay), expected)
    with connected(server) as robot:
        torch.manual_seed(3)
        given = robot.infer(seen(prefix=QUEUE[:n], delay=delay))["actions"]
    assert given.shape == (CHUNK, 2)
    assert np.array_equal(given, expected)
    assert np.array_equal(given[:delay], QUEUE[:delay])


def test_methods_differ_and_plain_requests_are_as_they_were(serve) -> None:
    policy = mlp(SPEC, chunk=CHUNK, head={**FLOW, "prefix_max": 2})
    found = {}
    for method in ("prefix", "guidance", "bid", "blend", "switch"):
        with connected(serve(policy, method=method)) as robot:
            assert np.array_equal(robot.infer(seen())["actions"], alone(policy))
            found[method] = robot.infer(seen(prefix=QUEUE, delay=1))["actions"].tobytes()
            # what is left of an observation's queue says nothing of the next one
            assert np.array_equal(robot.infer(seen())["actions"], alone(policy))
    assert len(set(found.values())) == 5


def test_auto_takes_the_best_for_as_many_as_are_under_way(serve) -> None:
    """One action: prefix, for which it was trained. Two: guidance."""
    policy = mlp(SPEC, chunk=CHUNK, head={**FLOW, "prefix_max": 1})
    with connected(serve(policy)) as robot:
        for delay, method in ((1, "prefix"), (2, "guidance")):
            given = robot.infer(seen(prefix=QUEUE, delay=delay))["actions"]
            assert np.array_equal(given, local(policy, method, QUEUE, delay))
    tokens = mlp(SPEC, chunk=CHUNK, head={"type": "autoregressive", "hidden": 16, "heads": 2})
    with connected(serve(tokens)) as robot:
        given = robot.infer(seen(prefix=QUEUE, delay=3))["actions"]
        assert np.array_equal(given, local(tokens, "prefix", QUEUE, 3))


def test_a_whole_queue_is_executed_whatever_comes(serve) -> None:
    policy = mlp(SPEC, chunk=CHUNK, head={"type": "autoregressive", "hidden": 16, "heads": 2})
    queue = np.concatenate([QUEUE, QUEUE[:1]])
    with connected(serve(policy)) as robot:
        assert np.array_equal(robot.infer(seen(prefix=queue, delay=4))["actions"], queue)


@pytest.mark.parametrize("method", ["guidance", "blend"])
def test_each_robot_of_a_message_has_its_own_queue(serve, method) -> None:
    policy = mlp(SPEC, chunk=CHUNK, head=FLOW)
    server = serve(policy, method=method)
    queues = [QUEUE, QUEUE[:0], QUEUE[:2]]
    delays = [1, 0, 2]
    states = np.array([[0.0], [1.0], [2.0]], np.float32)
    asked = {"observation/state": states, "prompt": TEXTS[0]}
    with connected(server) as robot:
        given = robot.infer({**asked, "vla/prefix": queues, "vla/delay": delays})["actions"]
        same = robot.infer({**asked, "vla/prefix": np.stack([QUEUE] * 3), "vla/delay": 1})
    expected = [
        local(policy, method, queue, delay, x) if len(queue) else alone(policy, x)
        for queue, delay, x in zip(queues, delays, states[:, 0], strict=True)
    ]
    # sums are rounded by the size of a batch
    np.testing.assert_allclose(given, expected, atol=1e-5)
    rows = [local(policy, method, QUEUE, 1, x) for x in states[:, 0]]
    np.testing.assert_allclose(same["actions"], rows, atol=1e-5)


def test_robots_with_and_without_queues_side_by_side(serve) -> None:
    policy = mlp(SPEC, chunk=CHUNK, head=FLOW)
    server = serve(policy, max_batch=8, max_wait_ms=20)

    def play(number: int) -> list[np.ndarray]:
        options = {"prefix": QUEUE, "delay": 1} if number % 2 else {}
        with connected(server) as robot:
            return [robot.infer(seen(x, **options))["actions"] for x in range(6)]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(play, range(6)))
    for number, chunks in enumerate(found):
        for x, chunk in enumerate(chunks):
            expected = local(policy, "guidance", QUEUE, 1, x) if number % 2 else alone(policy, x)
            np.testing.assert_allclose(chunk, expected, atol=1e-5)


def test_wrong_queues_are_one_line_and_the_connection_stays(serve) -> None:
    policy = mlp(SPEC, chunk=CHUNK, head={**FLOW, "prefix_max": 1})
    server = serve(policy, method="prefix")
    nan = np.where(np.arange(3)[:, None] == 1, np.nan, QUEUE)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"delay": 1}, "vla/delay: comes without vla/prefix"),
        ({"prefix": QUEUE[:, :1]}, r"vla/prefix: has shape \(3, 1\), expected \(n, 2\): u, v"),
        ({"prefix": QUEUE[0]}, r"vla/prefix: has shape \(2,\)"),
        ({"prefix": "left"}, "vla/prefix: is str, expected numbers"),
        ({"prefix": nan}, "vla/prefix: action 1 has u=nan, outside the policy's -1 to 1"),
        ({"prefix": QUEUE + 1}, "vla/prefix: action 0 has u=1.5, outside"),
        ({"prefix": np.full((1, 2), 1e300)}, "vla/prefix: action 0 has u=inf"),
        ({"prefix": np.tile(QUEUE, (2, 1))}, "vla/prefix: has 6 actions, an answer has 4"),
        ({"prefix": QUEUE, "delay": 4}, "vla/delay: is 4, and vla/prefix has 3 actions"),
        ({"prefix": QUEUE[:0], "delay": 1}, "vla/delay: is 1, and vla/prefix has 0 actions"),
        ({"prefix": QUEUE, "delay": -1}, "vla/delay: is -1"),
        ({"prefix": QUEUE, "delay": 1.5}, "vla/delay: expected a whole number"),
        ({"prefix": QUEUE, "delay": True}, "vla/delay: expected a whole number"),
        ({"prefix": QUEUE, "delay": [1, 1]}, "vla/delay: expected a whole number"),
        ({"prefix": QUEUE, "delay": 2}, "vla/delay: method is 'prefix'.*at most 1 actions"),
    ]
    with connected(server) as robot:
        for options, message in wrong:
            with pytest.raises(RuntimeError, match=message) as raised:
                robot.infer(seen(**options))
            assert "\n" not in str(raised.value)
        assert np.array_equal(robot.infer(seen())["actions"], alone(policy))
        both = {"observation/state": np.zeros((2, 1), np.float32), "prompt": TEXTS[0]}
        for prefix in (QUEUE, [QUEUE], [QUEUE, QUEUE[:, :1]]):
            with pytest.raises(RuntimeError, match=r"vla/prefix.*expected"):
                robot.infer({**both, "vla/prefix": prefix})


def test_where_no_chunk_is_continued_it_is_said(serve, policy) -> None:
    chunks = mlp(SPEC, chunk=CHUNK, head=FLOW)
    for actor, settings, reason in [
        (policy, {}, "must see every step"),
        (mlp(SPEC, chunk=1), {}, "one action at a time"),
        (chunks, {"ensemble": 0.1}, "ensemble gives one action"),
    ]:
        server = serve(actor, **settings)
        with connected(server) as robot:
            assert "prefix" not in robot.metadata["features"]
            plain = seen() if not actor.spec.cameras else seen_with_pictures(0)
            for key, value in (("vla/prefix", QUEUE), ("vla/delay", 1)):
                with pytest.raises(RuntimeError, match=f"{key}: no chunk is .*{reason}"):
                    robot.infer({**plain, key: value})
            assert len(robot.infer(plain)["actions"]) == 1
        with pytest.raises(UserError, match=f"method is 'blend', but .*{reason}.*: drop method"):
            serve(actor, method="blend", **settings)
    with connected(serve(chunks)) as robot:
        assert "prefix" in robot.metadata["features"]
    point = mlp(SPEC, chunk=CHUNK, head={"type": "regression"})
    with pytest.raises(UserError, match=r"cannot follow: choose from: blend, switch$"):
        serve(point, method="guidance")


def test_a_policy_with_pictures_goes_on_from_a_queue(serve) -> None:
    """Categorical tokens, as RT-1 has them: the nearest of several draws; none at delay 0."""
    policy = tiny_policy(chunk=4, history=1)
    queue = np.zeros((2, 3), np.float32)
    with connected(serve(policy)) as robot:
        assert np.array_equal(
            robot.infer(seen_with_pictures(0))["actions"], lone(policy, [seen_with_pictures(0)])[0]
        )
        asked = {**seen_with_pictures(0), "vla/prefix": queue, "vla/delay": 2}
        given = robot.infer(asked)["actions"]
        assert given.shape == (4, 3)
        assert np.array_equal(given[:2], queue)


class Arm:
    """A robot whose state is where it was sent."""

    def __init__(self) -> None:
        self.x = 0.0

    def read(self) -> dict[str, Any]:
        return {"state": np.array([self.x], np.float32)}

    def send(self, action: np.ndarray) -> None:
        self.x = float(action[0])


def test_the_runner_sends_its_queue_and_is_continued(serve) -> None:
    """The robot's side with the real server: what it still executes begins the answer."""
    spec = replace(SPEC, action_low=(-1.0, -1.0), action_high=(1.0, 1.0))
    server = serve(mlp(spec, chunk=16, head=FLOW))
    read = server.service.continuation.read
    asked: list[dict[str, Any]] = []

    def noted(options: Any, inputs: Any) -> Any:
        asked.append(dict(options))
        time.sleep(0.06)  # more than one control step of 20 Hz
        return read(options, inputs)

    server.service.continuation.read = noted
    config = GovernorConfig.of_spec(
        spec.to_dict(),
        {"kind": "velocity", "max_step": 10.0, "ramp_s": 0.0, "hold_after": 10, "stop_after_s": 2},
    )
    with Client(server.url, patience_s=0.0) as client:
        report = Runner(Arm(), client, config, instruction=TEXTS[0]).run(30)
    assert report.errors == ""
    assert report.executed >= 20
    later = [options for options in asked if "vla/prefix" in options]
    assert len(later) >= 2
    for options in later:
        assert 1 <= options["vla/delay"] <= len(options["vla/prefix"])
    assert later[-1]["vla/delay"] >= 2, "as many as an answer takes"
