"""A writer may die at any instant: what it wrote before stays a whole dataset, and a new writer goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vla.data import DatasetWriter, EpisodeDataset, Windows, atomic

# Forks a fresh writing process for each line it reads, so that the imports are paid once. A child logs an
# episode only after add_episode has returned.
WRITER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from conftest import SPEC, make_episode
from vla.data import DatasetWriter
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
        continue
    log = open(sys.argv[3], "a")
    with DatasetWriter(sys.argv[2], SPEC, resume=True) as writer:
        while True:
            print(writer.add_episode(make_episode(writer.num_episodes)), file=log, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_random_moments_loses_at_most_the_episode_in_progress(tmp_path, episode, assert_holds, spec):
    root, log = tmp_path / "dataset", tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(root), str(log)]
    rng = np.random.default_rng(0)
    counts = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        for _ in range(5):
            acknowledged = len(log.read_text().splitlines())
            server.stdin.write("write\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            while len(log.read_text().splitlines()) == acknowledged:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            assert server.stdout.readline() == "dead\n"
            acknowledged = [int(line) for line in log.read_text().splitlines()]
            dataset = EpisodeDataset(root)
            # One more than acknowledged: it was committed, and the kill came before the log.
            assert dataset.num_episodes - len(acknowledged) in (0, 1)
            for number in range(dataset.num_episodes):
                assert_holds(dataset, number, episode(number))
            with open(log, "w") as file:
                file.writelines(f"{i}\n" for i in range(dataset.num_episodes))
            counts.append(dataset.num_episodes)
        server.stdin.close()
    assert counts == sorted(set(counts))
    with DatasetWriter(root, spec, resume=True) as writer:
        assert writer.add_episode(episode(counts[-1])) == counts[-1]
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize("survived", range(5))
def test_a_full_disk_at_every_file_of_an_episode(tmp_path, episode, assert_holds, spec, monkeypatch, survived):
    """Episode 1 brings a new task, so that all five files are written; the rename after `survived` of them fails."""
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) > survived:
            raise OSError(28, "No space left on device")
        replace(source, target)

    root = tmp_path / "dataset"
    with DatasetWriter(root, spec) as writer:
        writer.add_episode(episode(0))
        monkeypatch.setattr(atomic.os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            writer.add_episode(episode(1))
        monkeypatch.undo()
        dataset = EpisodeDataset(root)
        assert dataset.num_episodes == 1
        assert dataset.instructions == [episode(0).instruction]
        assert_holds(dataset, 0, episode(0))
        assert len(Windows(dataset, history=2, chunk=2)) == dataset.num_frames
    with DatasetWriter(root, spec, resume=True) as resumed:
        # Another episode than the one that was lost: nothing of that one may shine through.
        assert resumed.add_episode(episode(2)) == 1
    dataset = EpisodeDataset(root)
    assert dataset.num_episodes == 2
    assert_holds(dataset, 1, episode(2))


def test_the_same_writer_goes_on_after_a_full_disk(tmp_path, episode, assert_holds, spec, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.add_episode(episode(0))
        monkeypatch.setattr(atomic.os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            writer.add_episode(episode(1))
        monkeypatch.undo()
        assert writer.add_episode(episode(1)) == 1
    assert_holds(EpisodeDataset(tmp_path / "d"), 1, episode(1))
