"""A server as a process: how it starts, what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_robots import SPEC, Robot, lone, observation, tiny_policy
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve as serve_sockets

from vla.cli import app
from vla.common.errors import UserError
from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.serving.ping import ping
from vla_client.codec import pack

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("policy")
    tiny_policy().save_pretrained(out)
    return out


@pytest.fixture
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`vla serve` and its address."""
    command = [sys.executable, "-m", "vla.cli", "serve", str(folder), "port=0", "max_batch=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    served = subprocess.Popen(
        [*command, "threads=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert served.stdout is not None
    line = served.stdout.readline()
    try:
        yield served, re.search(r"ws://[\d.:]+", line)[0]
    finally:
        served.kill()
        served.communicate()


def test_a_served_checkpoint_acts_as_alone_and_ends_politely(process, policy) -> None:
    served, url = process
    expected = lone(policy, [observation(step) for step in range(3)])
    with connect(url, compression=None) as socket:
        robot = Robot(socket)
        for step in range(3):
            assert np.array_equal(robot.infer(observation(step))["actions"], expected[step])
        robot.send(observation(3))
        served.send_signal(signal.SIGTERM)
        # what was asked is still answered, then the server says goodbye
        assert robot.receive()["actions"].shape == (1, 3)
        with pytest.raises(ConnectionClosed) as closed:
            robot.receive()
        assert closed.value.rcvd.code == 1001
    assert served.wait(20) == 0


@pytest.mark.slow  # starts a process
def test_a_server_that_is_killed_leaves_no_client_waiting(process) -> None:
    served, url = process
    with connect(url, compression=None) as socket:
        robot = Robot(socket)
        robot.infer(observation(0))
        served.kill()
        served.wait()
        start = time.monotonic()
        with pytest.raises(ConnectionClosed):
            robot.infer(observation(1))
        assert time.monotonic() - start < 5


def test_ping_and_replay(policy, serve, tmp_path) -> None:
    """What a policy did itself, recorded and replayed: no difference. Other actions: theirs."""
    steps = [observation(step) for step in range(5)]
    images = np.stack([seen["observation/front"] for seen in steps])
    states = np.stack([seen["observation/state"] for seen in steps])
    given = np.stack([chunk[0] for chunk in lone(policy, steps)])
    shifted = given.copy()
    shifted[:, 2] = np.where(given[:, 2] < 0.25, given[:, 2] + 0.1, given[:, 2] - 0.1)
    server = serve(policy, max_batch=1)
    for name, actions, difference in (("own", given, 0.0), ("other", shifted, 0.1)):
        writer = DatasetWriter(tmp_path / name, policy.spec)
        for _ in range(2):
            writer.add_episode(
                Episode(
                    images={"front": images},
                    state=states,
                    actions=actions,
                    rewards=np.zeros(5, np.float32),
                    success=np.zeros(5, bool),
                    terminated=False,
                    instruction="do task 0",
                )
            )
        report = ping(server.url, count=3, dataset=EpisodeDataset(tmp_path / name))
        assert report.differences == []
        assert report.replay.frames == 10
        assert report.replay.errors["dx"] == pytest.approx(0, abs=1e-6)
        assert report.replay.errors["grip"] == pytest.approx(difference, abs=1e-6)
        assert report.replay.shares["grip"] == pytest.approx(2 * difference, abs=1e-6)
    assert report.network.count == report.answers.count == 3
    assert abs(report.clock_offset_s) < 0.5
    shown = CliRunner().invoke(app, ["ping", server.url, "--data", str(tmp_path / "own")])
    assert shown.exit_code == 0, shown.output
    assert "replay: 10 frames" in shown.output


def test_ping_says_what_is_wrong(policy, serve) -> None:
    server = serve(policy)
    run = CliRunner().invoke
    for url, message in [
        ("http://x", "is no address; write ws://HOST:PORT"),
        ("ws://[2J:80", "is no address; write ws://HOST:PORT"),
        ("ws://a:99999", "is no address; write ws://HOST:PORT"),
        ("ws://a\x1b:80", "is no address; write ws://HOST:PORT"),
        ("ws://127.0.0.1:9", "is `vla serve` running there?"),
        (server.url + "/nothing", "refused with HTTP 404"),
    ]:
        result = run(app, ["ping", url])
        assert result.exit_code == 2
        assert message in result.stderr.replace("\n", " ")
    result = run(app, ["ping", server.url, "--format", "rlds"])
    assert "add --data PATH" in result.stderr


def test_wrong_settings_are_one_line(folder) -> None:
    for setting, message in [
        ("prot=1", "did you mean 'port'"),
        ("protocol=opnpi", "did you mean 'openpi'"),
        ("tls_cert=x", "tls_cert is set without tls_key"),
        ("keys.a=frnt", "did you mean 'front'"),
        ("host=192.0.2.1", "no API key"),
        ("replan_every=2", "must see every one of them"),
        ("threads=100000", "threads: input should be less than or equal to 1024"),
    ]:
        result = CliRunner().invoke(app, ["serve", str(folder), "port=0", "threads=1", setting])
        assert result.exit_code == 2, result.output
        assert message in result.stderr.replace("\n", " ")
        assert result.stderr.count("error:") == 1


def test_an_address_that_is_taken(policy, serve) -> None:
    server = serve(policy)
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port}.*choose another port"):
        serve(policy, port=port)


SAID = {"server": "x", "spec": SPEC.to_dict(), "instructions": ["go"]}
GOOD = {"actions": np.zeros((1, 3), np.float32)}


@pytest.mark.parametrize(
    ("greeting", "answer", "message"),
    [
        ([1], GOOD, "did not greet with metadata"),
        (SAID | {"spec": {"cameras": 7}}, GOOD, r"127\.0\.0\.1.*: spec lacks action_high"),
        (SAID, [1], r"answered without actions \(K, 3\)"),
        (SAID, {}, "answered without actions"),
        (SAID, {"actions": 7}, "answered without actions"),
        (SAID, {"actions": np.zeros((1, 2), np.float32)}, "answered without actions"),
        (SAID, {"actions": np.zeros((0, 3), np.float32)}, "answered without actions"),
        # what only shows is left out
        ({"spec": [1], "server": [], "action_horizon": {"a": 1}}, GOOD, ""),
        (SAID | {"instructions": 7, "spec": SPEC.to_dict()}, GOOD, ""),
        (SAID, GOOD | {"server_timing": [1]}, ""),
        (SAID, GOOD | {"server_timing": {"infer_ms": "a", "sent_unix_s": None}}, ""),
    ],
)
def test_ping_of_a_server_that_lies(greeting: Any, answer: Any, message: str) -> None:
    def talk(socket: Any) -> None:
        socket.send(pack(greeting))
        for _ in socket:
            socket.send(pack(answer))

    with serve_sockets(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        result = CliRunner().invoke(app, ["ping", url, "--count", "2"])
        server.shutdown()
        thread.join()
    assert result.exit_code == (2 if message else 0), result.output
    assert re.search(message, result.stderr.replace("\n", " "))
