"""The client against a server that follows openpi's source, over real sockets."""

from __future__ import annotations

import http
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_servers import openpi_handler, running

from vla_client.client import Client
from vla_client.codec import WireError
from vla_client.errors import ClientError, ConnectionLostError, ServerError

VLA = {"protocol": "openpi-websocket", "features": ["reset", "prefix"], "action_horizon": 2}
OBSERVATION = {"state": np.arange(3, dtype=np.float32), "prompt": "push"}


def echo(observation: dict) -> dict:
    """Actions that are the state; the other keys come back as a list."""
    actions = np.stack([observation["state"]] * 2)
    return {"actions": actions, "keys": sorted(observation)}


def client_of(port: int, **options: Any) -> Client:
    return Client(f"ws://127.0.0.1:{port}", **{"patience_s": 0.0, "timeout_s": 5.0, **options})


def test_an_observation_goes_out_and_actions_come_back() -> None:
    with running(openpi_handler(echo, {"reset_pose": [0.0, 1.0]})) as port:
        with client_of(port) as client:
            assert client.metadata == {"reset_pose": [0.0, 1.0]}
            for _ in range(3):
                result = client.infer(OBSERVATION)
                np.testing.assert_array_equal(result["actions"], [[0, 1, 2]] * 2)
                assert result["keys"] == ["prompt", "state"], "no additions to a server of others"
            assert 0 < client.ping() < 5


def test_additions_go_to_servers_that_name_them() -> None:
    with running(openpi_handler(echo, VLA)) as port, client_of(port) as client:
        client.reset()
        asked = client.infer(OBSERVATION, step=4, max_age_ms=50, prefix=np.zeros((1, 3)), delay=1)
        additions = {key for key in asked["keys"] if key.startswith("vla/")}
        named = {"reset", "step", "sent_ns", "max_age_ms", "prefix", "delay"}
        assert additions == {f"vla/{name}" for name in named}
        assert "vla/reset" not in client.infer(OBSERVATION)["keys"], "asked for once"


def test_a_reset_of_a_server_of_others_is_a_new_connection() -> None:
    connections = []

    def count(connection: Any) -> None:
        connections.append(connection)
        openpi_handler(echo, {})(connection)

    with running(count) as port, client_of(port) as client:
        client.infer(OBSERVATION)
        client.reset()
        client.infer(OBSERVATION)
        assert len(connections) == 2
        with pytest.raises(ClientError, match="does not continue chunks"):
            client.infer(OBSERVATION, delay=1)


def test_an_error_of_the_server_is_its_text_and_the_client_stays_usable() -> None:
    def refuse_once(observation: dict) -> dict:
        if observation["prompt"] == "bad":
            raise ValueError("stay: no such instruction\n\x1b[31m")
        return echo(observation)

    with running(openpi_handler(refuse_once, {})) as port, client_of(port) as client:
        with pytest.raises(ServerError, match="no such instruction") as caught:
            client.infer({**OBSERVATION, "prompt": "bad"})
        assert str(caught.value).isprintable()
        assert "actions" in client.infer(OBSERVATION)


def test_a_server_that_closes_after_its_error_is_reached_again() -> None:
    def refuse_once(observation: dict) -> dict:
        if observation["prompt"] == "bad":
            raise ValueError("out of memory")
        return echo(observation)

    lost = []
    with running(openpi_handler(refuse_once, {})) as port:
        with client_of(port, on_disconnect=lambda: lost.append(1)) as client:
            with pytest.raises(ServerError, match="out of memory"):
                client.infer({**OBSERVATION, "prompt": "bad"})
            time.sleep(0.1)  # the close arrives
            assert "actions" in client.infer(OBSERVATION)
    assert lost == [1]


@pytest.mark.parametrize("answer", [b"\xc1", b"\x01", b"", b"\x91" * 50])
def test_an_answer_that_is_no_message_is_named(answer: bytes) -> None:
    with running(openpi_handler(lambda _: answer, {})) as port, client_of(port) as client:
        with pytest.raises(WireError, match=f"ws://127.0.0.1:{port} answers with"):
            client.infer(OBSERVATION)


def test_an_observation_that_cannot_travel_leaves_the_connection() -> None:
    with running(openpi_handler(echo, {})) as port, client_of(port) as client:
        with pytest.raises(WireError, match="'state' is set"):
            client.infer({"state": {1}})
        assert "actions" in client.infer(OBSERVATION)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    slow = threading.Event()

    def late(observation: dict) -> dict:
        if observation["state"][0] == 1:
            slow.wait(0.5)
        return echo(observation)

    with running(openpi_handler(late, {})) as port, client_of(port, timeout_s=0.2) as client:
        with pytest.raises(ConnectionLostError, match=r"no answer within 0\.2 s"):
            client.infer({"state": np.ones(3, np.float32)})
        slow.set()
        result = client.infer({"state": np.zeros(3, np.float32)})
        np.testing.assert_array_equal(result["actions"], np.zeros((2, 3)))


def test_a_lost_server_is_named_and_found_again() -> None:
    lost = []
    with running(openpi_handler(echo, {})) as port:
        client = client_of(port, on_disconnect=lambda: lost.append(1), patience_s=5.0)
        client.infer(OBSERVATION)
    time.sleep(0.05)
    back = threading.Timer(0.3, lambda: restarted.__enter__())
    restarted = running(openpi_handler(echo, {}), port)
    back.start()
    start = time.monotonic()
    assert "actions" in client.infer(OBSERVATION)
    assert 0.2 < time.monotonic() - start < 4
    assert lost == [1]
    client.close()
    back.join()
    restarted.__exit__(None, None, None)


def test_a_server_that_dies_during_a_request_is_a_lost_connection() -> None:
    def die(connection: Any) -> None:
        connection.send(b"\x80")
        connection.recv()
        connection.socket.shutdown(socket.SHUT_RDWR)

    held = []
    with running(die) as port, client_of(port, on_disconnect=lambda: held.append(1)) as client:
        with pytest.raises(ConnectionLostError, match="is lost"):
            client.infer(OBSERVATION)
    assert held == [1]


def test_nobody_there_is_one_line_with_the_remedy() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionLostError, match="vla serve POLICY"):
            client_of(reserved.getsockname()[1])


def test_keys_are_sent_and_a_refusal_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(connection: Any, request: Any) -> Any:
        if request.headers.get("Authorization") != "Api-Key right":
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "no\n")
        return None

    with running(openpi_handler(echo, {}), process_request=check) as port:
        with pytest.raises(ServerError, match=r"HTTP 401.*VLA_API_KEY"):
            client_of(port, api_key="wrong", patience_s=60.0)
        client_of(port, api_key="right").close()
        monkeypatch.setenv("VLA_API_KEY", "right")
        client_of(port).close()


@pytest.mark.parametrize(
    "url", ["http://robot:8000", "robot:8000", "ws://", "ws://a b", "ws://x:99999999", 3]
)
def test_a_wrong_address_is_refused_at_once(url: Any) -> None:
    with pytest.raises(ClientError, match="expected ws://HOST:PORT"):
        Client(url, patience_s=0.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, and its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", str(path.with_suffix(".key")), "-out", str(path)],
        check=False,
        capture_output=True,
    )
    if made.returncode != 0:
        pytest.skip("no openssl here")
    return path


def test_tls_needs_a_certificate_that_is_known(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    with running(openpi_handler(echo, {}), ssl=context) as port:
        url = f"wss://localhost:{port}"
        with Client(url, ca_file=str(certificate), patience_s=0.0) as client:
            assert "actions" in client.infer(OBSERVATION)
        with pytest.raises(ClientError, match="ca_file=PATH"):
            Client(url, patience_s=60.0)
    with running(openpi_handler(echo, {})) as port:
        with pytest.raises(ClientError, match="speaks no TLS"):
            Client(f"wss://localhost:{port}", patience_s=60.0)
    with pytest.raises(ClientError, match="write wss://"):
        Client("ws://localhost:1", ca_file=str(certificate))
    with pytest.raises(ClientError, match="cannot be read"):
        Client("wss://localhost:1", ca_file="/nowhere.pem")
