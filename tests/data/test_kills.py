"""Recording, converting and decoding survive SIGKILL at any moment; `benchmarks/kill_soak.py` does
this at length."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from vla.data import EpisodeDataset, FrameCache

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_soak.py"
EPISODES, STEPS, KILLS = 5, 6, 2

pytestmark = pytest.mark.timeout(
    900
)  # processes start again and again, which takes long on a busy machine


@pytest.fixture(scope="module")
def kill_soak():
    found = importlib.util.spec_from_file_location("kill_soak", SCRIPT)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(kill_soak):
    made = kill_soak.Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def source(kill_soak, tmp_path_factory) -> Path:
    recording = kill_soak.Recording(tmp_path_factory.mktemp("source"), Path(), EPISODES, STEPS)
    recording.run()
    return recording.folder / "dataset"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["recording", "conversion", "decoding"])
def test_nothing_finished_is_lost_and_the_same_call_goes_on(
    kill_soak, server, source, tmp_path, kind
):
    work = kill_soak.KINDS[kind](tmp_path / kind, source, EPISODES, STEPS)
    found = kill_soak.soak(work, server, KILLS, np.random.default_rng(0))
    assert found["kills"] == len(found["kept"]) == KILLS
    assert found["ended"] >= 1


def test_what_is_lost_would_be_seen(kill_soak, source, tmp_path):
    """The checks themselves: an episode too few, another episode, a block that is not what was
    written."""
    recording = kill_soak.Recording(tmp_path / "recording", source, EPISODES, STEPS)
    recording.folder.mkdir()
    recording.run()
    assert recording.kept() == EPISODES
    with open(recording.folder / "log", "a") as log:
        log.write(f"{EPISODES}\n")
    with pytest.raises(AssertionError, match="6 episodes were written, 5 are there"):
        recording.kept()
    other = kill_soak.Conversion(tmp_path / "other", source, EPISODES, STEPS + 1)
    other.folder.mkdir()
    (other.folder / "dataset").symlink_to(source)
    with pytest.raises(AssertionError, match="episode 0 is another"):
        other.kept()
    decoding = kill_soak.Decoding(tmp_path / "decoding", source, EPISODES, STEPS)
    FrameCache(EpisodeDataset(source), "disk", folder=decoding.folder / "cache")
    assert decoding.kept() == decoding.total
    frames = next((decoding.folder / "cache").glob("*/frames.bin"))
    content = bytearray(frames.read_bytes())
    content[5] ^= 1
    frames.write_bytes(content)
    with pytest.raises(AssertionError, match="are not what was written"):
        decoding.kept()
