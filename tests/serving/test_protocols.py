"""The two protocols as their own clients speak them: order, fields, numbers, errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
from served_robots import SPEC, connected, lone, observation, tiny_policy
from websockets.sync.client import ClientConnection, connect

from vla.common.registry import entries
from vla.serving import PolicyServer
from vla.types import Spec
from vla_client import vla_eval_codec


def test_metadata_and_timing_of_openpi(policy, serve) -> None:
    server = serve(policy, keys={"observation/image": "front"})
    with connected(server) as robot:
        said = robot.metadata
        assert said["protocol"] == "openpi-websocket"
        assert Spec.from_dict(said["spec"]) == SPEC
        assert (said["action_horizon"], said["history"], said["control_hz"]) == (1, 6, 10.0)
        assert said["every_step"] is True
        assert said["observation_keys"]["front"] == ["observation/image"]
        assert "do task 0" in said["instructions"]
        seen = observation(0)
        seen["observation/image"] = seen.pop("observation/front")
        first = robot.infer({**seen, "vla/step": 7, "vla/sent_ns": 123})
        assert first["actions"].dtype == np.float32
        assert first["actions"].shape == (1, 3)
        timing = first["server_timing"]
        assert timing["vla/step"] == 7
        assert timing["vla/sent_ns"] == 123
        assert timing["batch"] == 1
        assert timing["received_unix_s"] <= timing["sent_unix_s"]
        assert "prev_total_ms" not in timing
        second = robot.infer(seen)
        assert second["server_timing"]["prev_total_ms"] > 0
        assert second["policy_timing"]["infer_ms"] <= second["server_timing"]["infer_ms"]


def test_answers_on_the_wire(policy, serve) -> None:
    """An array is the map of four that openpi-client's decoder knows, with bytes keys in order."""
    server = serve(policy)
    with connect(server.url, compression=None) as socket:
        greeting = msgpack.unpackb(socket.recv())
        assert greeting["server"].startswith("vla ")
        arrays = {
            key: {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": list(value.shape),
            }
            for key, value in observation(0).items()
            if isinstance(value, np.ndarray)
        }
        socket.send(msgpack.packb({**arrays, "prompt": "do task 0"}))
        actions = msgpack.unpackb(socket.recv())["actions"]
        assert list(actions) == [b"__ndarray__", b"data", b"dtype", b"shape"]
        assert actions[b"dtype"] == "<f4"
        assert actions[b"shape"] == [1, 3]
        given = np.frombuffer(actions[b"data"], np.float32)
        assert np.array_equal(given, lone(policy, [observation(0)])[0][0])


def test_chunks_are_given_whole(serve) -> None:
    """The client decides how many of them it executes, also with a policy that looks back."""
    policy = tiny_policy(chunk=4)
    server = serve(policy, max_batch=1)
    with connected(server) as robot:
        assert robot.metadata["action_horizon"] == 4
        assert robot.infer(observation(0))["actions"].shape == (4, 3)


def test_chunks_can_be_averaged(serve) -> None:
    server = serve(tiny_policy(chunk=4), ensemble=0.01)
    with connected(server) as robot:
        assert robot.metadata["action_horizon"] == 1
        assert robot.infer(observation(0))["actions"].shape == (1, 3)


class Harness:
    """vla-eval's side of its protocol: numbered messages with str keys."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seq = 0

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        self.seq += 1
        message = {"type": kind, "payload": payload, "seq": self.seq, "timestamp": 0.0}
        self.socket.send(vla_eval_codec.pack(message))

    def ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        self.send(kind, payload)
        answer = vla_eval_codec.unpack(self.socket.recv(timeout=20))
        assert answer["seq"] == self.seq
        assert set(answer) == {"type", "payload", "seq", "timestamp"}
        return answer


@contextlib.contextmanager
def harness(server: PolicyServer) -> Iterator[Harness]:
    with connect(server.url + "/vla_eval", compression=None, max_size=None) as socket:
        yield Harness(socket)


def sight(step: int) -> dict[str, Any]:
    seen = observation(step)
    return {
        "images": {"front": seen["observation/front"]},
        "states": seen["observation/state"],
        "task_description": seen["prompt"],
    }


def test_vla_eval(policy, serve) -> None:
    server = serve(policy, max_batch=1)
    expected = lone(policy, [observation(step) for step in range(4)])
    with harness(server) as client:
        hello = client.ask("hello", {"harness_version": "0.8.0", "protocol_version": 1})
        assert hello["type"] == "hello"
        assert hello["payload"]["protocol_version"] == 1
        assert hello["payload"]["observation_params"] == {
            "send_wrist_image": False,
            "send_state": True,
        }
        for _ in range(2):  # two episodes in one connection, alike to the bit
            client.send("episode_start", {"task": {"name": "x"}})
            for step in range(4):
                answer = client.ask("observation", sight(step))
                assert answer["type"] == "action"
                assert np.array_equal(answer["payload"]["actions"], expected[step][0])
            client.send("episode_end", {"success": True})


def test_what_is_left_of_a_chunk_waits_in_the_session(serve) -> None:
    policy = tiny_policy(chunk=4, history=1)
    server = serve(policy, max_batch=1, replan_every=3)
    with harness(server) as client:
        client.send("episode_start", {})
        given = [client.ask("observation", sight(step))["payload"]["actions"] for step in range(5)]
        client.send("episode_start", {})  # what was left belongs to the episode before
        again = client.ask("observation", sight(0))["payload"]["actions"]
    first, second = (lone(policy, [observation(step)])[0] for step in (0, 3))
    assert np.array_equal(given, [*first[:3], *second[:2]])
    assert np.array_equal(again, first[0])


def test_errors_of_vla_eval(policy, serve) -> None:
    server = serve(policy, max_batch=1)
    with harness(server) as client:
        for kind, payload, message in [
            ("observation", {**sight(0), "states": np.zeros(5)}, "policy's state has 2 numbers"),
            ("dance", {}, "expected one of hello"),
            ("hello", {"protocol_version": 2}, "this server speaks 1"),
        ]:
            answer = client.ask(kind, payload)
            assert answer["type"] == "error"
            assert re.search(message, answer["payload"]["error"])
        client.send("episode_start", {})
        client.ask("observation", {**sight(0), "states": np.full(2, np.nan)})
        answer = client.ask("observation", sight(0))
        expected = lone(policy, [observation(0)])[0][0]
        assert np.array_equal(answer["payload"]["actions"], expected)
        client.socket.send(b"\xc1")
        broken = vla_eval_codec.unpack(client.socket.recv(timeout=10))
        assert (broken["type"], broken["seq"]) == ("error", 0)


def test_both_protocols_are_registered() -> None:
    assert [entry.name for entry in entries("protocols")] == ["openpi", "vla_eval"]
