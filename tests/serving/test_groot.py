"""GR00T's ZeroMQ protocol as its own clients speak it: groups, axes, sessions, errors."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from served_robots import connected, lone, observation, tiny_policy

zmq = pytest.importorskip("zmq")

from vla.common.errors import UserError  # noqa: E402
from vla.data import EpisodeDataset  # noqa: E402
from vla.serving.groot_codec import pack, unpack  # noqa: E402
from vla_client.codec import Limits, WireError  # noqa: E402

TASK = "annotation.human.task_description"


def encoded(value: Any) -> Any:
    """An array as GR00T's clients send it."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decoded(value: Any) -> Any:
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


class Gr00t:
    """A client of theirs, written from the protocol's description alone."""

    def __init__(self, context: Any, server: Any, token: str | None = None) -> None:
        self.token = token
        self.socket = context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(server.groot.url)

    def call(self, endpoint: str, data: Any = None) -> Any:
        request = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self.token is not None:
            request["api_token"] = self.token
        self.socket.send(msgpack.packb(request, default=encoded))
        answer = msgpack.unpackb(self.socket.recv(), object_hook=decoded)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def act(self, *robots: dict[str, Any]) -> np.ndarray:
        """(B, K, A) as N1.6 asks for it."""
        answer, info = self.call("get_action", {"observation": grouped(*robots), "options": None})
        assert info == {}
        return np.concatenate(list(answer.values()), axis=-1)


@contextlib.contextmanager
def clients(server: Any, count: int = 1, **options: Any) -> Iterator[list[Gr00t]]:
    with zmq.Context() as context:
        found = [Gr00t(context, server, **options) for _ in range(count)]
        try:
            yield found
        finally:
            for client in found:
                client.socket.close()


def grouped(*robots: dict[str, Any]) -> dict[str, Any]:
    """N1.6: B robots, one step."""
    pictures = np.stack([seen["observation/front"] for seen in robots])[:, None]
    states = np.stack([seen["observation/state"] for seen in robots])[:, None]
    return {
        "video": {"front": pictures},
        "state": {"arm": states},
        "language": {TASK: [[seen["prompt"]] for seen in robots]},
    }


def flat(seen: dict[str, Any]) -> dict[str, Any]:
    """N1.5: no axis of robots."""
    return {
        "video.front": seen["observation/front"][None],
        "state.arm": seen["observation/state"][None],
        TASK: [seen["prompt"]],
    }


def test_its_clients_act_as_alone(policy, serve) -> None:
    """Two of them at a time, each with its own past, beside a client of openpi's protocol."""
    server = serve(policy, groot_port=0, max_batch=1)
    episodes = [[observation(step, robot) for step in range(4)] for robot in range(3)]
    expected = [lone(policy, episode) for episode in episodes]
    with clients(server, 2) as (first, second), connected(server) as robot:
        assert first.call("ping") == {"status": "ok", "message": "Server is running"}
        for episode in range(2):
            for step in range(4):
                assert np.array_equal(first.act(episodes[0][step])[0], expected[0][step])
                given = second.call("get_action", flat(episodes[1][step]))
                assert np.array_equal(given["action.action"], expected[1][step])
                ours = robot.infer({**episodes[2][step], "vla/reset": step == 0})["actions"]
                assert np.array_equal(ours, expected[2][step])
            if episode == 0:
                assert first.call("reset", {"options": None}) == {}
                assert second.call("reset", {}) == {}
    metrics = server.service.metrics
    assert metrics.value("vla_requests_total", protocol="groot") == 2 * 2 * 4 + 3


def test_several_robots_and_groups_of_actions(policy, serve) -> None:
    groups = {"gripper": ["grip"], "arm": ["dy", "dx"]}
    server = serve(policy, groot_port=0, max_batch=1, groot_actions=groups)
    rows = [observation(0, robot) for robot in range(3)]
    expected = np.array([lone(policy, [row])[0] for row in rows])
    with clients(server) as (client,):
        answer, _ = client.call("get_action", {"observation": grouped(*rows)})
        assert np.array_equal(answer["gripper"], expected[..., 2:])
        assert np.array_equal(answer["arm"], expected[..., [1, 0]])
        said = client.call("get_modality_config")
        assert said["action"]["as_json"] == {
            "delta_indices": [0],
            "modality_keys": ["gripper", "arm"],
        }
        assert said["video"]["as_json"]["modality_keys"] == ["front"]


def test_keys_name_what_is_what(policy, serve) -> None:
    keys = {"video.ego_view": "front", "state.y": "state", "state.x": "state"}
    server = serve(policy, groot_port=0, max_batch=1, keys=keys)
    seen = observation(0)
    groups = grouped(seen)
    groups["video"] = {"ego_view": groups["video"]["front"]}
    state = groups["state"].pop("arm")
    groups["state"] = {"x": state[..., 1:], "y": state[..., :1], "unused": state}
    with clients(server) as (client,):
        answer, _ = client.call("get_action", {"observation": groups})
        assert np.array_equal(answer["action"][0], lone(policy, [seen])[0])


def test_errors_are_one_line_and_the_client_stays(policy, serve) -> None:
    server = serve(policy, groot_port=0, max_batch=1)
    good = grouped(observation(0))
    wrong: list[tuple[str, Any, str]] = [
        ("kill", None, "endpoint: 'kill' is not served"),
        ("get_action", None, "data: is NoneType"),
        ("get_action", {"observation": 3}, "observation: is int"),
        ("get_action", {"observation": {**good, "video": {}}}, "no picture of camera 'front'"),
        (
            "get_action",
            {
                "observation": {
                    **good,
                    "state": {"a": np.zeros((1, 1, 1)), "b": np.zeros((1, 1, 1))},
                }
            },
            r"state\.b: one of 2 keys of the state; start the server with keys=\{state\.a: state",
        ),
        (
            "get_action",
            {"observation": {**good, "state": {"arm": np.zeros((1, 2, 2))}}},
            r"state\.arm: has 2 steps",
        ),
        (
            "get_action",
            {"observation": {**good, "state": {"arm": np.full((1, 1, 2), np.nan)}}},
            "NaN or infinity in x, y",
        ),
        (
            "get_action",
            {"observation": {**good, "state": {"arm": np.zeros(2)}}},
            r"state\.arm: has shape \(2,\)",
        ),
    ]
    with clients(server) as (client,):
        for endpoint, data, message in wrong:
            with pytest.raises(RuntimeError, match=message) as raised:
                client.call(endpoint, data)
            assert "\n" not in str(raised.value)
        expected = lone(policy, [observation(0)])[0]
        assert np.array_equal(client.act(observation(0))[0], expected)
        client.socket.send(b"\xc1")
        assert "error" in msgpack.unpackb(client.socket.recv())
        # frames of no client of theirs are dropped, and nobody else notices
        with zmq.Context() as context:
            stranger = context.socket(zmq.DEALER)
            stranger.connect(server.groot.url)
            stranger.send_multipart([b"a", b"b", b"c", b"d"])
            stranger.close(linger=1000)
        assert client.call("ping")["status"] == "ok"


def test_keys_and_places_are_limited(policy, serve, monkeypatch) -> None:
    key = "a-key-of-enough-letters"
    monkeypatch.setenv("VLA_API_KEY", key)
    server = serve(policy, groot_port=0, max_clients=1)
    for token in (None, "wrong", ""):
        with (
            clients(server, token=token) as (client,),
            pytest.raises(RuntimeError, match="api_token: is missing or wrong"),
        ):
            client.call("ping")
    with clients(server, 2, token=key) as (first, second):
        first.act(observation(0))
        with pytest.raises(RuntimeError, match="all 1 places are taken"):
            second.act(observation(0))
        for client in server.groot._clients.values():
            client.asked -= 1000  # silent for longer than idle_timeout_s
        assert second.act(observation(0)).shape == (1, 1, 3)


def test_what_it_is_sent_is_recorded(policy, serve, tmp_path) -> None:
    from vla.serving import ServeConfig, running_server

    config = ServeConfig(policy="-", port=0, groot_port=0, threads=1, record=str(tmp_path))
    with running_server(policy, config) as server, clients(server) as (client,):
        sent = [client.act(observation(step))[0, 0] for step in range(3)]
        client.call("reset", {})
        client.act(observation(0))
    dataset = EpisodeDataset(tmp_path)
    assert [len(dataset.episode(number)) for number in range(dataset.num_episodes)] == [3, 1]
    assert np.array_equal(dataset.episode(0).actions, sent)


def test_wrong_settings(policy, serve) -> None:
    for settings, message in [
        ({"groot_actions": {"arm": ["dx", "dz"]}}, "'dz'"),
        ({"groot_actions": {"arm": ["dx", "dy"]}}, "'grip' is in no group"),
        ({"groot_actions": {"arm": ["dx", "dy", "grip"], "again": ["dx"]}}, "once"),
    ]:
        with pytest.raises(UserError, match=message):
            serve(policy, groot_port=0, **settings)
    server = serve(tiny_policy(), groot_port=0)
    port = int(server.groot.url.rpartition(":")[2])
    with pytest.raises(UserError, match=r"groot_port: cannot listen at .*choose another"):
        serve(policy, groot_port=port)


# --- the wire ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", "<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 2, 3, 4, 1)])
def test_arrays_there_and_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    for value in (array, array.T):
        theirs = msgpack.unpackb(pack({"a": value}), object_hook=decoded)["a"]
        ours = unpack(msgpack.packb({"a": value}, default=encoded), Limits())["a"]
        for found in (theirs, ours):
            assert found.dtype == value.dtype
            assert np.array_equal(found, value)


def test_files_that_are_none_are_refused() -> None:
    good = encoded(np.zeros((2, 3), np.float32))["as_npy"]
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    broken = [
        b"",
        good[:9],
        good[:-1],
        good + b"x",
        good.replace(b"(2, 3)", b"(9, 3)"),
        good.replace(b"(2, 3)", b"(-2, -3)"),
        good.replace(b"'<f4'", b"'|O'"),
        good.replace(b"'<f4'", b"'<U4'"),
        good.replace(b"NUMPY\x01", b"NUMPY\x03"),
        good.replace(b"(2, 3)", b"__import__('os')"),
        objects.getvalue(),
        "text",
    ]
    for file in broken:
        message = msgpack.packb({"a": {"__ndarray_class__": True, "as_npy": file}})
        with pytest.raises(WireError, match=r"a'?:"):
            unpack(message, Limits())
    with pytest.raises(WireError, match="marks an array"):
        unpack(msgpack.packb({"a": {"__ndarray_class__": True, "more": 1}}), Limits())


def test_damaged_messages_are_refused() -> None:
    rng = np.random.default_rng(0)
    whole = msgpack.packb(
        {"endpoint": "get_action", "data": grouped(observation(0))}, default=encoded
    )
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.integers(0, 300, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(WireError):
            unpack(bytes(damaged), Limits())
