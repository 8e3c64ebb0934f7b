"""A writer may die at any instant: what it wrote before stays a whole dataset, and a new writer
goes on."""

from __future__ import annotations

import os

import pytest
from killed_writer import killed_writer

from vla.common import atomic
from vla.data import DatasetWriter, EpisodeDataset, Windows


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_random_moments_loses_at_most_the_episode_in_progress(
    tmp_path, episode, assert_holds, spec
):
    root, counts = tmp_path / "dataset", []
    for dataset in killed_writer(root, tmp_path / "log", times=5):
        for number in range(dataset.num_episodes):
            assert_holds(dataset, number, episode(number))
        counts.append(dataset.num_episodes)
    assert counts == sorted(set(counts))
    with DatasetWriter(root, spec, resume=True) as writer:
        assert writer.add_episode(episode(counts[-1])) == counts[-1]
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize("survived", range(5))
def test_a_full_disk_at_every_file_of_an_episode(
    tmp_path, episode, assert_holds, spec, monkeypatch, survived
):
    """Episode 1 brings a new task, so that all five files are written; the rename after `survived`
    of them fails."""
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


def test_the_same_writer_goes_on_after_a_full_disk(
    tmp_path, episode, assert_holds, spec, monkeypatch
):
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
