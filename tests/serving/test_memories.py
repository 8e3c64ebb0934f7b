"""Each session's actions are those of a lone robot, whoever else is served beside it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from served_robots import connected, lone, observation, tiny_policy

from vla.config import UserError
from vla.serving import ServeConfig
from vla.types import Observation


def played(server: Any, observations: list[dict[str, Any]], seed: int = 0) -> list[np.ndarray]:
    rng = random.Random(seed)
    chunks = []
    with connected(server) as robot:
        for seen in observations:
            chunks.append(robot.infer(seen)["actions"])
            if rng.random() < 0.3:
                # robots drift against each other, so that batches differ in size and age
                robot.socket.ping().wait()
    return chunks


def test_robots_side_by_side_act_as_alone(policy, serve):
    """RT-1 that looks back six steps; six robots at a time; to the bit with max_batch=1."""
    server = serve(policy, max_batch=1)
    episodes = [[observation(step, robot) for step in range(12)] for robot in range(6)]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(played, [server] * 6, episodes, range(6)))
    for episode, chunks in zip(episodes, found, strict=True):
        for ours, expected in zip(chunks, lone(policy, episode), strict=True):
            assert np.array_equal(ours, expected)
    # a lone robot without its past acts otherwise: memories do matter here
    assert not np.array_equal(found[0][-1], lone(policy, episodes[0][-1:])[0])


def test_batches_differ_by_no_token(policy, serve):
    server = serve(policy, max_batch=8, max_wait_ms=20)
    episodes = [[observation(step, robot) for step in range(8)] for robot in range(6)]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(played, [server] * 6, episodes, range(6)))
    expected = [lone(policy, episode) for episode in episodes]
    same = [
        np.array_equal(a, b)
        for x, y in zip(found, expected, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    assert np.mean(same) > 0.95
    calls, robots = server.service.metrics.batch_sizes()
    assert robots == 48
    assert robots / calls > 1.5, "robots shared calls of the policy"


def test_a_new_instruction_a_reset_and_a_new_connection_start_episodes(policy, serve):
    server = serve(policy, max_batch=1)
    episode = [observation(step) for step in range(4)]
    episode += [observation(step, instruction="do task 1") for step in range(4, 7)]
    episode += [{**observation(7, instruction="do task 1"), "vla/reset": True}]
    episode += [observation(step, instruction="do task 1") for step in range(8, 11)]
    expected = lone(policy, episode)
    for _ in range(2):  # the second connection remembers nothing of the first
        for ours, right in zip(played(server, episode), expected, strict=True):
            assert np.array_equal(ours, right)
    assert server.service.metrics.value("vla_resets_total", reason="instruction") == 2
    assert server.service.metrics.value("vla_resets_total", reason="reset") == 2
    assert server.service.metrics.value("vla_resets_total", reason="connection") == 2


def test_several_robots_in_one_message(policy, serve):
    """A leading axis of robots; each has a memory of its own, and one of them starts again."""
    server = serve(policy, max_batch=1)
    episodes = [[observation(step, robot) for step in range(5)] for robot in range(3)]
    episodes[1][3]["vla/reset"] = True
    expected = np.array([lone(policy, episode) for episode in episodes])
    with connected(server) as robot:
        for step in range(5):
            rows = [episode[step] for episode in episodes]
            joined: dict[str, Any] = {
                key: np.stack([row[key] for row in rows])
                for key in ("observation/front", "observation/state")
            }
            joined["prompt"] = [row["prompt"] for row in rows]
            if step == 3:
                joined["vla/reset"] = [False, True, False]
            actions = robot.infer(joined)["actions"]
            assert actions.shape == (3, 1, 3)
            assert np.array_equal(actions, expected[:, step])
        with pytest.raises(RuntimeError, match="of 2 robots, the last one was of 3"):
            robot.infer({key: value[:2] for key, value in joined.items() if "vla" not in key})


def test_sessions_in_one_connection(policy, serve):
    server = serve(policy, max_batch=1)
    episodes = [[observation(step, robot) for step in range(4)] for robot in range(2)]
    expected = [lone(policy, episode) for episode in episodes]
    with connected(server) as robot:
        for step in range(4):
            for name in (0, 1):
                seen = {**episodes[name][step], "vla/session": f"arm {name}"}
                assert np.array_equal(robot.infer(seen)["actions"], expected[name][step])


def test_an_observation_that_fails_leaves_no_trace(policy, serve):
    server = serve(policy, max_batch=1)
    episode = [observation(step) for step in range(6)]
    expected = lone(policy, episode)
    with connected(server) as robot:
        for step, seen in enumerate(episode):
            broken = {**seen, "observation/state": np.array([0, np.nan], np.float32)}
            with pytest.raises(RuntimeError, match="NaN or infinity in y"):
                robot.infer(broken)
            assert np.array_equal(robot.infer(seen)["actions"], expected[step])


def test_one_robot_with_broken_weights_for_its_picture_spares_the_others(serve):
    """A batch in which one row ends in NaN: the others get their actions."""
    policy = tiny_policy()
    step = policy.step

    def poisoned(seen: Observation, memory: Any) -> Any:
        output, memory = step(seen, memory)
        bad = seen.state[:, 0] > 100
        output.features[bad] = torch.nan
        return output, memory

    policy.step = poisoned  # type: ignore[method-assign]
    server = serve(policy, max_batch=4, max_wait_ms=200)
    episodes = [[observation(step, robot) for step in range(3)] for robot in range(4)]
    episodes[2][1]["observation/state"] = np.array([1000, 0], np.float32)

    def play(episode: list[dict[str, Any]]) -> list[Any]:
        found: list[Any] = []
        with connected(server) as robot:
            for seen in episode:
                try:
                    found.append(robot.infer(seen)["actions"])
                except RuntimeError as error:
                    found.append(str(error))
        return found

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(play, episodes))
    assert "NaN or infinity came out" in found[2][1]
    texts = [answer for answers in found for answer in answers if isinstance(answer, str)]
    assert len(texts) == 1


def test_an_exported_policy_is_served_with_its_memories(tmp_path, serve):
    pytest.importorskip("onnxruntime")
    from vla.export import export_onnx
    from vla.serving.server import load_actor

    policy = tiny_policy(history=3)
    export_onnx(policy, tmp_path / "out")
    config = ServeConfig(policy=str(tmp_path / "out"), threads=1)
    actor = load_actor(config)
    server = serve(actor, max_batch=1)
    episode = [observation(step) for step in range(5)]
    for ours, expected in zip(played(server, episode), lone(actor, episode), strict=True):
        assert np.array_equal(ours, expected)
    with connected(server) as robot:
        assert robot.metadata["instructions"] == [f"do task {i}" for i in range(4)]
    with pytest.raises(UserError, match="leave device out"):
        load_actor(config.model_copy(update={"device": "cuda"}))
