"""One writer for a dataset at a time: a second one is refused, and takes nothing from the first."""

import numpy as np
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset
from vla.types import Spec

pytest.importorskip("fcntl")
SPEC = Spec({}, ("x",), ("dx",), (-1.0,), (1.0,), 10.0)


def episode(value: float) -> Episode:
    numbers = np.full((3, 1), value, np.float32)
    zeros = np.zeros(3)
    return Episode({}, numbers, numbers, zeros, zeros > 0, False, "move")


def test_a_second_writer_is_refused_and_the_first_keeps_its_episodes(tmp_path):
    with DatasetWriter(tmp_path, SPEC) as first:
        first.add_episode(episode(0.1))
        with pytest.raises(DataError, match="another process writes to it"):
            DatasetWriter(tmp_path, SPEC, resume=True)
        first.add_episode(episode(0.2))
    with DatasetWriter(tmp_path, SPEC, resume=True) as second:
        second.add_episode(episode(0.3))
    assert len(EpisodeDataset(tmp_path)) == 3


def test_a_writer_that_was_forgotten_holds_nothing(tmp_path):
    writer = DatasetWriter(tmp_path, SPEC)
    writer.add_episode(episode(0.1))
    del writer
    with DatasetWriter(tmp_path, SPEC, resume=True) as second:
        assert second.num_episodes == 1
