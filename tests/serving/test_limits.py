"""Strangers, broken messages, slow and dying clients: each gets one line, nobody else notices."""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from served_robots import SPEC, connected, observation
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vla.common.errors import UserError
from vla.serving import PolicyServer, ServeConfig, running_server
from vla.serving.auth import ApiKeys, is_loopback, load_keys
from vla.types import Observation
from vla_client.codec import pack, unpack

KEY = "a-key-of-enough-letters"


class Lazy:
    """An actor that thinks for a while; its action says how many observations it has seen."""

    spec = SPEC
    history = 1

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls = 0

    def act(self, observation: Observation, memory: Any = None) -> tuple[torch.Tensor, Any]:
        if self.calls >= 2:  # the first two warm up
            time.sleep(self.seconds)
        self.calls += 1
        return torch.zeros(observation.batch_size, 4, 3), None


def fetched(server: Any, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    url = server.url.replace("ws", "http", 1) + path
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {})) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# --- who may connect ---------------------------------------------------------------------------


def test_keys(serve, tmp_path, monkeypatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# robots\nlab {KEY}\n")
    file.chmod(0o600)
    monkeypatch.setenv("VLA_API_KEY", KEY + "-env")
    server = serve(Lazy(), api_keys_file=str(file))
    for header in (f"Api-Key {KEY}", f"Api-Key {KEY}-env", f"Bearer {KEY}"):
        with connected(server, additional_headers={"Authorization": header}) as robot:
            assert robot.infer(observation(0))["actions"].shape == (4, 3)
    wrong = ["Api-Key wrong", "Api-Key ", KEY, f"Basic {KEY}", f"Api-Key {KEY}x", "Api-Key \xff"]
    for header in [None, *wrong, "Api-Key " + "x" * 7000]:
        headers = {} if header is None else {"Authorization": header}
        with (
            pytest.raises(InvalidStatus, match="401"),
            connected(server, additional_headers=headers),
        ):
            pass
    endless = {"Authorization": "x" * 100_000}
    with (
        pytest.raises((InvalidStatus, ConnectionClosed, OSError, EOFError)),
        connected(server, additional_headers=endless),
    ):
        pass
    # everything of this machine may be watched without a key, and nothing is changed by it
    assert fetched(server, "/healthz") == (200, "OK\n")
    assert 'vla_refused_total{reason="key"}' in fetched(server, "/metrics")[1]


def test_key_files_that_are_refused(tmp_path) -> None:
    file = tmp_path / "keys"
    for text, mode, message in [
        (f"lab {KEY}", 0o644, "chmod 600"),
        ("lab short", 0o600, "expected at least 16"),
        (f"lab {KEY} more", 0o600, "line 1 is no `NAME KEY`"),
        (f"lab {KEY}\nlab {KEY}2", 0o600, "line 2 names 'lab' again"),
        ("# none\n", 0o600, "holds no key"),
    ]:
        file.write_text(text)
        file.chmod(mode)
        with pytest.raises(UserError, match=message) as raised:
            load_keys(str(file), {})
        assert KEY not in str(raised.value)
    with pytest.raises(UserError, match="No such file"):
        load_keys(str(tmp_path / "none"), {})
    assert ApiKeys({"lab": KEY}).owner(f"api-key {KEY}") == "lab"
    assert load_keys(None, {}).owner("Api-Key ") is None


def test_other_machines_need_a_key(monkeypatch) -> None:
    monkeypatch.delenv("VLA_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        assert not is_loopback(host)
    open_to_all = ServeConfig(policy="-", host="0.0.0.0", port=0)
    with pytest.raises(UserError, match="no API key: give api_keys_file=FILE"):
        PolicyServer(Lazy(), open_to_all)


def test_pages_of_browsers_are_refused(serve) -> None:
    server = serve(Lazy(), origins=["http://localhost:5173"])
    with (
        pytest.raises(InvalidStatus, match="403"),
        connected(server, origin="https://evil.example"),
    ):
        pass
    with connected(server, origin="http://localhost:5173"):
        pass


def test_tls(serve, tmp_path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    server = serve(Lazy(), tls_cert=str(cert), tls_key=str(key))
    assert server.url.startswith("wss://")
    trust = ssl.create_default_context(cafile=str(cert))
    with connected(server, ssl=trust) as robot:
        assert robot.infer(observation(0))["actions"].shape == (4, 3)
    with pytest.raises(ssl.SSLError), connected(server):  # nobody vouches for it
        pass
    with pytest.raises(UserError, match="no certificate with its key"):
        serve(Lazy(), tls_cert=str(key), tls_key=str(cert))


def test_paths_and_places(serve) -> None:
    server = serve(Lazy(), max_clients=3)
    with pytest.raises(InvalidStatus, match="404"), connected(server, "/opnpi"):
        pass
    with (
        connected(server),
        connected(server, "/openpi"),
        connected(server),
        pytest.raises(InvalidStatus, match="503"),
        connected(server),
    ):
        pass
    with connected(server):  # places become free again
        pass
    assert fetched(server, "/nothing")[0] == 404


# --- what is sent ------------------------------------------------------------------------------


def with_dtype(dtype: str, data: bytes, shape: list[int]) -> bytes:
    array = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    return msgpack.packb({"prompt": "x", "observation/front": array})


def robots(count: int) -> dict[str, Any]:
    """The observation of several robots, with tiny pictures."""
    found = {}
    for key, value in observation(0).items():
        if not isinstance(value, np.ndarray):
            found[key] = value
        else:
            found[key] = np.zeros(
                (count, *(value.shape if value.ndim == 1 else (1, 1, 3))), value.dtype
            )
    return found


BROKEN = [
    b"",
    b"\xc1",
    b"\x81",
    msgpack.packb([1, 2]),
    msgpack.packb("text"),
    msgpack.packb({1: 2}),
    msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
    msgpack.packb({"a": msgpack.Timestamp(1)}),
    # an array of objects over the sender's bytes: touching it ends a process
    with_dtype("|O", b"\x41" * 64, [8]),
    with_dtype("<U2", b"\x41" * 16, [2]),
    with_dtype("|V8", b"\x41" * 16, [2]),
    with_dtype("<f4", b"\x41" * 16, [2**62, 4]),
    with_dtype("<f4", b"\x41" * 16, [-4]),
    with_dtype("<f4", b"\x41" * 15, [4]),
    with_dtype("|u1", b"", [0, 32, 3]),
    b"\x91" * 2000 + b"\xc0",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    pack({**observation(0), "vla/reset": 1}),
    pack({**observation(0), "vla/reset": [True, False]}),
    pack({**observation(0), "vla/step": "x"}),
    pack({**observation(0), "vla/prefix": np.zeros((5, 3), np.float32)}),
    pack({**observation(0), "vla/prefxi": np.zeros((2, 3), np.float32)}),
    pack({**observation(0), "vla/session": "x" * 101}),
    pack({**observation(0), "prompt": "x" * 5000}),
    pack({**observation(0), "vla/max_age_ms": float("nan")}),
    pack({**observation(0), "vla/max_age_ms": float("inf")}),
    pack({**observation(0), "vla/sent_ns": np.zeros(1000)}),
    pack({**observation(0), "vla/st\x1b[2Jep": 1}),
    pack(robots(0)),
    pack(robots(1000)),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_broken_messages_get_one_line_and_the_connection_goes_on(lazy_server, number) -> None:
    with connected(lazy_server) as robot:
        robot.infer(observation(0))
        robot.socket.send(BROKEN[number])
        answer = robot.socket.recv(timeout=10)
        assert isinstance(answer, str)
        assert answer
        assert "\n" not in answer
        assert "Traceback" not in answer
        # of its own, not by a fault of the server, and fit for a terminal
        assert "the server failed" not in answer
        assert answer.isprintable()
        assert "/" not in answer.replace("vla/", "").replace("observation/", "").replace(
            "images/", ""
        )
        assert robot.infer(observation(1))["actions"].shape == (4, 3)


@pytest.fixture(scope="module")
def lazy_server():
    with running_server(Lazy(), ServeConfig(policy="-", port=0, threads=1)) as server:
        yield server


def test_text_and_size_close_the_connection(lazy_server) -> None:
    for message, code in (("hello", 1003), (bytes(3 * 2**20), 1009)):
        with connected(lazy_server) as robot:
            robot.socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                robot.socket.recv(timeout=10)
            assert closed.value.rcvd.code == code


def test_a_gigabyte_that_is_announced_is_not_waited_for(lazy_server) -> None:
    with connected(lazy_server) as robot:
        # the header of a masked binary frame of 2**30 bytes
        robot.socket.socket.sendall(b"\x82\xff" + struct.pack("!Q", 2**30) + b"mask")
        with pytest.raises(ConnectionClosed) as closed:
            robot.socket.recv(timeout=10)
        assert closed.value.rcvd.code == 1009


# --- how it is sent ----------------------------------------------------------------------------


def test_the_newest_observation_of_a_session_wins(serve) -> None:
    """Sent without waiting: one is worked on, of those behind it the last; resets are not lost."""
    server = serve(Lazy(0.3))
    with connected(server) as robot:
        robot.send({**observation(0), "vla/step": 0})
        time.sleep(0.1)  # the policy is busy with it
        robot.send({**observation(1), "vla/step": 5, "vla/reset": True})
        robot.send({**observation(2), "vla/step": 2})
        assert robot.receive()["server_timing"]["vla/step"] == 0
        with pytest.raises(RuntimeError, match="superseded"):
            robot.receive()
        assert robot.receive()["server_timing"]["vla/step"] == 2
    assert server.service.metrics.value("vla_resets_total", reason="reset") == 1


def test_steps_go_on(serve) -> None:
    server = serve(Lazy())
    with connected(server) as robot:
        for step in (0, 1, 4):
            robot.infer({**observation(step), "vla/step": step})
        with pytest.raises(RuntimeError, match="vla/step: is 0 after 4"):
            robot.infer({**observation(0), "vla/step": 0})
        robot.infer({**observation(0), "vla/step": 0, "vla/reset": True})
    assert server.service.metrics.value("vla_missed_steps_total") == 2


def test_answers_that_are_too_old(serve) -> None:
    server = serve(Lazy(0.2))
    with connected(server) as robot:
        with pytest.raises(RuntimeError, match="vla/max_age_ms allows 50"):
            robot.infer({**observation(0), "vla/max_age_ms": 50})
        assert robot.infer({**observation(1), "vla/max_age_ms": 5000})
    assert server.service.metrics.value("vla_deadline_misses_total") == 2


def test_who_does_not_wait_is_held_to_a_rate(serve) -> None:
    server = serve(Lazy(), max_rate=5)
    with connected(server) as robot:
        for step in range(30):  # waiting for answers, as fast as it likes
            robot.infer(observation(step))
        for step in range(30):
            robot.send(observation(step))
        refused = 0
        for _ in range(30):
            try:
                robot.receive()
            except RuntimeError as error:
                refused += "more than 5 observations a second" in str(error)
        assert 15 <= refused <= 28


def test_sockets_answer_while_the_policy_thinks(serve) -> None:
    server = serve(Lazy(1.0))
    with connected(server) as robot:
        robot.send(observation(0))
        time.sleep(0.1)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert fetched(server, "/healthz")[0] == 200
            times.append(time.perf_counter() - start)
        assert sorted(times)[2] < 0.2
        with connected(server) as other:
            assert other.metadata["protocol"] == "openpi-websocket"
        assert robot.receive()["server_timing"]["infer_ms"] > 900


def test_silent_clients_are_sent_away(serve) -> None:
    server = serve(Lazy(), idle_timeout_s=0.3)
    with connected(server) as robot:
        with pytest.raises(ConnectionClosed) as closed:
            robot.socket.recv(timeout=10)
        assert closed.value.rcvd.code == 1008


def test_clients_that_never_read_are_cut_off(serve, monkeypatch) -> None:
    monkeypatch.setattr("vla.serving.connection.SEND_TIMEOUT", 0.3)
    server = serve(Lazy(), max_rate=1e6)
    host, port = server.url.removeprefix("ws://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.connect((host, int(port)))
    raw.sendall(
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    # unmasked would be an error of its own; the mask is zero, so the bytes stay as they are
    message = b"\x82\x81\x00\x00\x00\x00\xc1"
    raw.settimeout(5)
    was_cut_off = False
    deadline = time.monotonic() + 60
    while not was_cut_off and time.monotonic() < deadline:
        try:
            raw.sendall(message * 1000)
        except ConnectionError:
            was_cut_off = True
        except TimeoutError:
            pass  # the server reads no further; that it hangs up is seen at the next try
    raw.close()
    assert was_cut_off
    with connected(server) as robot:
        assert robot.infer(observation(0))["actions"].shape == (4, 3)


def test_clients_that_die_are_forgotten(serve) -> None:
    """In the handshake, within a message, and while the policy thinks about them."""
    server = serve(Lazy(0.2))
    host, port = server.url.removeprefix("ws://").split(":")
    for text in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        raw = socket.create_connection((host, int(port)))
        raw.sendall(text)
        raw.close()
    for cut in (10, 1000):
        with connect(server.url, compression=None, max_size=None) as client:
            unpack(client.recv(timeout=10))
            message = pack(observation(0))
            header = b"\x82\xfe" + struct.pack("!H", len(message)) + bytes(4)
            client.socket.sendall(header + message[:cut])
            client.socket.shutdown(socket.SHUT_RDWR)
    with connected(server) as robot:
        robot.send(observation(0))
        robot.socket.socket.shutdown(socket.SHUT_RDWR)
    with connected(server) as robot:
        assert robot.infer(observation(0))["actions"].shape == (4, 3)
        for _ in range(100):
            if server.service.metrics.value("vla_connections") == 1:
                break
            time.sleep(0.05)
        assert server.service.metrics.value("vla_connections") == 1
        assert server.service.dispatcher.waiting == 0


def test_many_connect_and_leave(serve) -> None:
    server = serve(Lazy(), max_clients=8)
    places = itertools.count()
    refusals: set[int] = set()

    def visit() -> None:
        for _ in range(20):
            try:
                with connected(server) as robot:
                    robot.infer(observation(0))
                    next(places)
            except InvalidStatus as error:
                refusals.add(error.response.status_code)

    threads = [threading.Thread(target=visit) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert next(places) > 50
    assert refusals <= {503}
    with connected(server) as robot:
        robot.infer(observation(0))


def test_errors_of_the_server_say_nothing_of_it(serve, caplog) -> None:
    class Failing(Lazy):
        def act(self, observation: Observation, memory: Any = None) -> tuple[torch.Tensor, Any]:
            if self.calls >= 2:
                raise KeyError("/secret/path")
            return super().act(observation, memory)

    server = serve(Failing())
    with connected(server) as robot:
        with pytest.raises(RuntimeError, match=r"its log has it as [0-9a-f]{8}") as raised:
            robot.infer(observation(0))
        assert "secret" not in str(raised.value)
        number = str(raised.value).split()[-1].strip(")")
        assert number in caplog.text
        assert "/secret/path" in caplog.text
        with pytest.raises(RuntimeError, match="its log"):  # it goes on
            robot.infer(observation(0))
