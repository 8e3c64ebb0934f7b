"""Recording a server: what is in the dataset is what robots saw and were sent, and nobody waits."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served_robots import SPEC, Robot, connected, observation, tiny_policy
from training_toy import SPEC as TOY_SPEC
from training_toy import TASKS, file_size_limit, toy_config
from typer.testing import CliRunner
from websockets.sync.client import connect

from vla.cli import app
from vla.common.errors import UserError
from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
from vla.serving import ServeConfig, record, running_server
from vla.serving.ping import ping
from vla.training import train
from vla.types import Observation
from vla_client import vla_eval_codec


@contextlib.contextmanager
def recorded(actor: Any, folder: Path, **settings: Any) -> Iterator[Any]:
    """A server that records; its dataset is whole afterwards."""
    values = {"policy": "-", "port": 0, "threads": 1, "record": str(folder), **settings}
    with running_server(actor, ServeConfig(**values)) as server:
        yield server


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def written(folder: Path) -> int:
    """Episodes on disk; readers refuse datasets that have none yet."""
    info = json.loads((folder / "meta" / "info.json").read_text())
    return info["total_episodes"]


def check_episode(episode: Episode, seen: list[dict[str, Any]], sent: list[np.ndarray]) -> None:
    """The episode holds these observations, and the first action of each answer (K, A)."""
    assert len(episode) == len(seen)
    assert np.array_equal(episode.frames("front"), [each["observation/front"] for each in seen])
    assert np.array_equal(episode.state, [each["observation/state"] for each in seen])
    assert np.array_equal(episode.actions, [chunk[0] for chunk in sent])
    assert episode.step_instructions == [each["prompt"] for each in seen]


def test_what_was_seen_and_sent_is_in_the_dataset(policy, tmp_path) -> None:
    """Episodes end with a reset, a new instruction, and the connection; errors leave no trace."""
    seen = [observation(step) for step in range(9)]
    seen[3]["vla/reset"] = True
    seen[6]["prompt"] = seen[7]["prompt"] = seen[8]["prompt"] = "do task 1"
    sent = []
    with recorded(policy, tmp_path, policy="runs/p") as server, connected(server) as robot:
        for each in seen:
            with pytest.raises(RuntimeError, match="NaN"):
                robot.infer({**each, "observation/state": np.full(2, np.nan, np.float32)})
            sent.append(robot.infer(each)["actions"])
            with pytest.raises(RuntimeError, match="ms old"):
                robot.infer({**each, "vla/max_age_ms": 0.0, "vla/reset": False})
        assert server.service.metrics.value("vla_recorded_steps_total") == 9
    dataset = EpisodeDataset(tmp_path)
    assert dataset.num_episodes == 3
    for number in range(3):
        rows = slice(3 * number, 3 * number + 3)
        check_episode(dataset.episode(number), seen[rows], sent[rows])
    assert dataset.recorded == frozenset()
    episode = dataset.episode(0)
    assert episode.info["policy"] == "runs/p"
    assert abs(episode.info["began_unix_s"] - time.time()) < 600
    received = episode.extras[record.RECEIVED_S]
    assert received[0] == 0
    assert np.all(np.diff(received) > 0)
    # a policy of single actions needs no chunks beside them
    assert set(episode.extras) == {record.RECEIVED_S}


def test_its_own_frames_give_its_own_actions(policy, tmp_path) -> None:
    """Memories, sizes and units: a replay of the recording through the server differs by nothing."""
    folder = tmp_path / "data"
    with recorded(policy, folder, max_batch=1) as server, connected(server) as robot:
        for step in range(8):
            robot.infer(observation(step))
    with running_server(policy, ServeConfig(policy="-", port=0, threads=1, max_batch=1)) as server:
        replay = ping(server.url, count=1, dataset=EpisodeDataset(folder)).replay
    assert replay.frames == 8
    assert set(replay.errors.values()) == {0.0}


def test_frames_are_those_that_the_policy_saw(policy, tmp_path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    with recorded(policy, tmp_path, resize="pad") as server, connected(server) as robot:
        robot.infer({**observation(0), "observation/front": large})
    frames = EpisodeDataset(tmp_path).episode(0).frames("front")
    assert frames.shape == (1, 32, 48, 3)
    assert not frames[:, :, :8].any(), "black borders"
    assert frames[:, :, 8:40].any()


def test_several_robots_are_several_episodes(policy, tmp_path) -> None:
    rows = [[observation(step, robot) for step in range(3)] for robot in range(2)]
    sent = []
    with recorded(policy, tmp_path) as server, connected(server) as robot:
        for step in range(3):
            now = [each[step] for each in rows]
            joined = {
                key: np.stack([each[key] for each in now])
                for key in ("observation/front", "observation/state")
            }
            options = {"vla/session": "arms", "vla/reset": [step == 0, step != 1]}
            prompts = [each["prompt"] for each in now]
            sent.append(robot.infer({**joined, **options, "prompt": prompts})["actions"])
        alone = robot.infer({**observation(0, 7), "vla/session": "other"})["actions"]
    dataset = EpisodeDataset(tmp_path)
    episodes = [dataset.episode(number) for number in range(dataset.num_episodes)]
    found = {(e.info["session"], e.info["robot"], len(e)): e for e in episodes}
    assert set(found) == {("arms", 0, 3), ("arms", 1, 2), ("arms", 1, 1), ("other", 0, 1)}
    check_episode(found["arms", 0, 3], rows[0], [chunk[0] for chunk in sent])
    check_episode(found["arms", 1, 2], rows[1][:2], [chunk[1] for chunk in sent[:2]])
    check_episode(found["arms", 1, 1], rows[1][2:], [sent[2][1]])
    check_episode(found["other", 0, 1], [observation(0, 7)], [alone])


def test_chunks_stand_beside_the_frame_that_they_answer(tmp_path) -> None:
    """Played open loop; how many of each were executed is known where the client counts."""
    policy = tiny_policy(chunk=4, history=1)
    steps = [0, 3, 4, 9]
    with recorded(policy, tmp_path) as server, connected(server) as robot:
        sent = [robot.infer({**observation(step), "vla/step": step})["actions"] for step in steps]
        sent += [
            robot.infer({**observation(step), "vla/session": "uncounted"})["actions"]
            for step in steps
        ]
    dataset = EpisodeDataset(tmp_path)
    for number, valid in enumerate([[3, 1, 4, 4], [4, 4, 4, 4]]):
        episode = dataset.episode(number)
        chunks = sent[4 * number : 4 * number + 4]
        check_episode(episode, [observation(step) for step in steps], chunks)
        assert np.array_equal(episode.extras["action_chunk"].reshape(4, 4, 3), chunks)
        assert episode.extras["valid_actions"].tolist() == valid
    batch = Windows(dataset, history=1, chunk=4).batch(np.arange(4))
    assert np.array_equal(batch.actions[:, 0], sent[:4])
    assert batch.action_mask[:, 0].sum(-1).tolist() == [3, 1, 4, 4]


def test_actions_of_the_harness_and_the_frames_between(tmp_path) -> None:
    """vla-eval sends a frame for each action; the policy looks at every third."""
    policy = tiny_policy(chunk=4, history=1)
    given = []

    def send(socket: Any, kind: str, payload: dict[str, Any], seq: int) -> None:
        message = {"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0}
        socket.send(vla_eval_codec.pack(message))

    with (
        recorded(policy, tmp_path, replan_every=3) as server,
        connect(server.url + "/vla_eval", compression=None, max_size=None) as socket,
    ):
        for episode in range(2):
            send(socket, "episode_start", {}, 0)
            for step in range(5):
                seen = observation(step, episode)
                payload = {
                    "images": {"front": seen["observation/front"]},
                    "states": seen["observation/state"],
                    "task_description": seen["prompt"],
                }
                send(socket, "observation", payload, step)
                answer = vla_eval_codec.unpack(socket.recv(timeout=20))["payload"]
                given.append(answer["actions"][None])
            send(socket, "episode_end", {"success": True}, 0)
    dataset = EpisodeDataset(tmp_path)
    assert dataset.num_episodes == 2
    for number in range(2):
        seen_now = [observation(step, number) for step in range(5)]
        episode = dataset.episode(number)
        check_episode(episode, seen_now, given[5 * number : 5 * number + 5])
        assert episode.extras["valid_actions"].tolist() == [3, 2, 1, 3, 2]


def test_a_recording_is_shown_and_trained_on(tmp_path) -> None:
    policy = tiny_policy(spec=TOY_SPEC)
    policy.language.preload({task: torch.randn(384) / 20 for task in TASKS})
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    with recorded(policy, data) as server:
        for episode in range(4):
            with connected(server) as robot:
                for _ in range(6):
                    seen = {
                        "images": {"front": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)},
                        "state": rng.uniform(-1, 1, 2).astype(np.float32),
                        "prompt": TASKS[episode % 2],
                    }
                    robot.infer(seen)
    shown = CliRunner().invoke(app, ["data", "info", str(data)])
    assert shown.exit_code == 0, shown.output
    assert "4, 24 frames" in shown.output
    rows = EpisodeDataset(data).info()["tasks"]
    assert [row["success_rate"] for row in rows] == [None, None]
    run = train(toy_config(data, tmp_path / "run", steps=2, validate_every=2, save_every=2))
    assert run is not None
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()


# --- the folder --------------------------------------------------------------------------------


def test_a_server_goes_on_with_its_dataset_and_with_no_other(policy, tmp_path) -> None:
    folder = tmp_path / "data"
    for first in (0, 3):
        with recorded(policy, folder) as server, connected(server) as robot:
            for step in range(first, first + 3):
                robot.infer(observation(step))
    dataset = EpisodeDataset(folder)
    assert [len(dataset.episode(number)) for number in range(2)] == [3, 3]
    with (
        pytest.raises(UserError, match="answers of 1 actions, this policy gives 4"),
        recorded(tiny_policy(chunk=4), folder),
    ):
        pass
    with (
        recorded(policy, folder),
        pytest.raises(UserError, match="another process"),
        recorded(policy, folder),
    ):
        pass
    DatasetWriter(tmp_path / "own", SPEC).close()
    with (
        pytest.raises(UserError, match="that no server has recorded; name another folder"),
        recorded(policy, tmp_path / "own"),
    ):
        pass


# --- nobody waits ------------------------------------------------------------------------------


def test_a_full_disk_ends_the_recording_and_not_the_service(policy, tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING, "vla.serving")
    with recorded(policy, tmp_path) as server:
        with connected(server) as robot:
            first = robot.infer(observation(0))["actions"]
        until(lambda: written(tmp_path) == 1)
        with file_size_limit(2000):  # less than the files have already
            for _ in range(2):
                with connected(server) as robot:
                    robot.infer(observation(1))
                until(lambda: "record: ends" in caplog.text)
        with connected(server) as robot:
            assert robot.infer(observation(2))["actions"].shape == (1, 3)
        assert server.service.dispatcher.is_healthy()
    assert caplog.text.count("record: ends") == 1
    dataset = EpisodeDataset(tmp_path)
    assert dataset.num_episodes == 1
    check_episode(dataset.episode(0), [observation(0)], [first])


def test_a_slow_disk_keeps_nobody_waiting(policy, tmp_path, monkeypatch, caplog) -> None:
    """What finds no room is left out and counted, and the episode ends at the gap."""
    size = observation(0)["observation/front"].nbytes + 8
    monkeypatch.setattr(record, "WAITING_BYTES", 3 * size)
    monkeypatch.setattr(record, "SECONDS_PER_COMMIT", 0.05)
    waits, free = threading.Event(), threading.Event()
    add = DatasetWriter.add_episodes

    def blocked(self: DatasetWriter, episodes: Any) -> Any:
        waits.set()
        assert free.wait(30)
        return add(self, episodes)

    monkeypatch.setattr(DatasetWriter, "add_episodes", blocked)
    with recorded(policy, tmp_path) as server, connected(server) as robot:
        # the first commit, which has nothing to write yet
        assert waits.wait(30)
        start = time.monotonic()
        for step in range(10):
            robot.infer(observation(step))
        assert time.monotonic() - start < 10
        metrics = server.service.metrics
        assert metrics.value("vla_unrecorded_steps_total", reason="behind") == 7
        free.set()
        until(lambda: metrics.value("vla_recorded_steps_total") == 3)
        for step in range(10, 12):
            robot.infer(observation(step))
    assert caplog.text.count("faster than they are written") == 1
    dataset = EpisodeDataset(tmp_path)
    episodes = [dataset.episode(number) for number in range(dataset.num_episodes)]
    assert [episode.info["goes_on"] for episode in episodes] == [False, True]
    assert [len(episode) for episode in episodes] == [3, 2]
    last = [observation(step)["observation/state"] for step in (10, 11)]
    assert np.array_equal(episodes[1].state, last)


def test_a_long_episode_is_written_in_parts(policy, tmp_path, monkeypatch) -> None:
    """One connection without a reset: memory is bounded, and a kill loses one part at most."""
    monkeypatch.setattr(record, "HELD_BYTES", 20_000)
    with recorded(policy, tmp_path) as server, connected(server) as robot:
        seen = [observation(step) for step in range(20)]
        sent = [robot.infer(each)["actions"] for each in seen]
        until(lambda: server.service.metrics.value("vla_recorded_steps_total") == 20)
        assert written(tmp_path) >= 2, "while it still runs"
        monkeypatch.setattr(record, "LONGEST_S", 0.0)
        robot.infer(observation(20))
    dataset = EpisodeDataset(tmp_path)
    parts = [dataset.episode(number) for number in range(dataset.num_episodes)]
    assert [part.info["goes_on"] for part in parts] == [False] + [True] * (len(parts) - 1)
    states = np.concatenate([part.state for part in parts])
    assert np.array_equal(states[:20], [each["observation/state"] for each in seen])
    actions = np.concatenate([part.actions for part in parts])
    assert np.array_equal(actions[:20], [chunk[0] for chunk in sent])
    assert len(actions) == 21


class TooFar:
    """An actor beyond the limits of its own spec, which no dataset takes."""

    spec, history = SPEC, 1

    def act(self, observation: Observation, memory: Any = None) -> tuple[torch.Tensor, Any]:
        return torch.full((observation.batch_size, 1, 3), 9.0), None


def test_an_episode_that_fits_no_dataset_is_left_out(tmp_path, caplog) -> None:
    with recorded(TooFar(), tmp_path) as server, connected(server) as robot:
        assert robot.infer(observation(0))["actions"].max() == 9
    assert written(tmp_path) == 0
    assert re.search(r"record: .*'dx' is 9.0, outside", caplog.text)


@pytest.mark.slow  # starts a process
def test_a_kill_loses_the_episode_in_progress_alone(tmp_path) -> None:
    tiny_policy().save_pretrained(tmp_path / "policy")
    data = tmp_path / "data"
    command = [sys.executable, "-m", "vla.cli", "serve", str(tmp_path / "policy"), "port=0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    served = subprocess.Popen(
        [*command, "threads=1", f"record={data}"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        url = re.search(r"ws://[\d.:]+", served.stdout.readline())[0]
        for _ in range(2):
            with connect(url, compression=None) as socket:
                Robot(socket).infer(observation(0))
        until(lambda: written(data) == 2)
        with connect(url, compression=None) as socket:
            Robot(socket).infer(observation(1))
            served.kill()
            served.wait()
    finally:
        served.kill()
        served.communicate()
    assert EpisodeDataset(data).num_episodes == 2
    with recorded(tiny_policy(), data) as server, connected(server) as robot:
        robot.infer(observation(2))
    assert EpisodeDataset(data).num_episodes == 3
