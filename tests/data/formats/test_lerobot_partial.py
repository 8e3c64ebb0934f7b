"""LeRobot datasets of which files are missing, and films whose frames lie at odd times."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numbered_episodes import SPEC, make_episode
from small_lerobot import DATA, POINTER, VIDEO, values_of, vector, write_film, write_v2

from vla.data import DataError, DatasetWriter, EpisodeDataset
from vla.data.formats.lerobot_parts.missing import ranges
from vla.data.tools.conversion import convert
from vla.data.tools.filtering import Filter, filtered
from vla.data.tools.labels import read_labels
from vla.data.validation.report import validate

pytest.importorskip("av")

STATE = "observation.state"
FEATURES = {STATE: vector(3), "action": vector(2)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "d"
    return write_v2(root, FEATURES, lengths=(6,) * 6, cameras=["front", "wrist"])


@pytest.fixture
def partial(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    """partial(names of files that go) -> a copy without them."""

    def make(*names: str, pointers: bool = False) -> Path:
        root = tmp_path / "d"
        shutil.copytree(whole, root)
        for name in names:
            (root / name).write_text(POINTER) if pointers else (root / name).unlink()
        return root

    return make


def films(camera: str, *episodes: int) -> list[str]:
    return [VIDEO.format(camera, episode) for episode in episodes]


def tables(*episodes: int) -> list[str]:
    return [DATA.format(episode) for episode in episodes]


@pytest.mark.parametrize(
    ("lost", "kept", "sentences"),
    [
        (
            films("front", 2, 4),
            [0, 1, 3, 5],
            ["videos of episodes 2, 4 (camera front) are missing: these 2 of 6 episodes are left out"],
        ),
        (tables(1, 2, 3), [0, 4, 5], ["data files of episodes 1-3 are missing"]),
        (
            [*films("wrist", 0), *films("front", 5), *tables(3)],
            [1, 2, 4],
            [
                "data files of episode 3 are missing",
                "videos of episode 0 (camera wrist) are missing",
                "read all episodes without it: `cameras.front=observation.images.front`",
                "videos of episode 5 (camera front) are missing",
            ],
        ),
        (films("wrist", *range(6)), [0, 1, 2, 3, 4, 5], ["'observation.images.wrist', whose videos are all missing"]),
    ],
)  # fmt: skip
def test_what_is_whole_is_read_and_all_else_is_named(partial, lost, kept, sentences):
    root = partial(*lost)
    dataset = EpisodeDataset(root)
    assert dataset.episode_numbers.tolist() == kept
    for place, number in enumerate(kept):
        episode = dataset.episode(place)
        np.testing.assert_array_equal(episode.state, values_of(STATE, number, 6, 3))
        frames = episode.frames("front")[:, 0, 0, 0]
        assert abs(int(frames[3]) - (20 + 24 + number)) <= 3
    said = "\n".join(dataset.warnings)
    for sentence in sentences:
        assert sentence in said
    # each lost file is named by one finding per cause
    messages = "\n".join(f.message for f in validate(root).findings)
    assert all(name.rpartition("/")[2] in messages for name in lost) or "whose videos" in messages


def test_pointers_of_lfs_are_named_and_their_remedy(partial):
    root = partial(*films("front", 1, 2), *tables(4), pointers=True)
    dataset = EpisodeDataset(root)
    assert dataset.episode_numbers.tolist() == [0, 3, 5]
    assert sum(f"run `git lfs pull` in {root}" in w for w in dataset.warnings) == 2
    found = [f for f in validate(root, deep=False).of("error") if f.check == "files"]
    assert len(found) == 2


@pytest.mark.parametrize("pointers", [False, True])
def test_nothing_whole_names_everything(partial, pointers):
    lost = [*films("front", 0, 1, 2), *films("wrist", 3, 4, 5)]
    with pytest.raises(DataError) as caught:
        EpisodeDataset(partial(*lost, pointers=pointers))
    for part in ("0-2 (camera front)", "3-5 (camera wrist)", "`cameras={}`"):
        assert part in str(caught.value)
    assert ("git lfs pull" in str(caught.value)) == pointers


def test_episodes_go_by_the_datasets_own_numbers(partial, tmp_path):
    root = partial(*films("front", 2, 4))
    made = convert(root, tmp_path / "a", episodes="0,1,3,5")
    assert [e["source_episode"] for e in _infos(made.root)] == [0, 1, 3, 5]
    dataset = EpisodeDataset(root)
    assert filtered(dataset, Filter(drop="2,4,5")) == [0, 1, 2]
    assert filtered(dataset, Filter(episodes="1:5")) == [1, 2]
    with pytest.raises(DataError, match="episode 2: its files are missing; restore them"):
        filtered(dataset, Filter(episodes="2"))
    with pytest.raises(DataError, match="there are episodes 0 to 5, without 2 between them"):
        filtered(dataset, Filter(episodes="7"))
    labels = tmp_path / "labels.csv"
    labels.write_text("episode_index,reward\n2,1\n3,1\n")
    assert list(read_labels(labels, {0: 6, 3: 6}, missing=[2])) == [3]


def _infos(root: Path) -> list[dict[str, object]]:
    made = EpisodeDataset(root)
    return [made.episode(index, images=False).info for index in range(len(made))]


def test_rows_of_a_missing_file_of_version_3_move_the_later_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("vla.data.writer.OPEN_FILE_BYTES", 1)  # a file for each episode
    made = [make_episode(number, 4 + number) for number in range(4)]
    with DatasetWriter(tmp_path / "d", SPEC) as writer:
        for episode in made:
            writer.add_episode(episode)
    (tmp_path / "d/data/chunk-000/file-001.parquet").unlink()
    dataset = EpisodeDataset(tmp_path / "d")
    assert dataset.episode_numbers.tolist() == [0, 2, 3]
    for place, number in enumerate((0, 2, 3)):
        found = dataset.episode(place)
        np.testing.assert_array_equal(found.actions, made[number].actions)
        for camera in SPEC.cameras:
            np.testing.assert_array_equal(found.frames(camera), made[number].frames(camera))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([], ""), ([3], "3"), ([2, 4], "2, 4"), ([0, 1, 2, 7, 8], "0-2, 7-8")],
)
def test_ranges(numbers, expected):
    assert ranges(numbers) == expected


# --- times of frames ------------------------------------------------------------------------------

NTSC = Fraction(10_000, 1001)
UNEVEN = [0, 0.1, 0.2, 0.34, 0.4, 0.5, 0.6, 0.7]
FILMS = {
    "constant": ({}, ""),
    "b-frames": ({"options": {"bf": "3"}}, ""),
    "another constant rate": ({"rate": NTSC}, "have 9.99001 frames per second, info.json says 10"),
    "late": ({"start": 0.5}, "do not start at 0 s"),
    "late b-frames": ({"start": 0.5, "options": {"bf": "2"}}, "do not start at 0 s"),
}


@pytest.mark.parametrize("case", FILMS)
def test_frames_are_found_by_number(tmp_path, case):
    options, sentence = FILMS[case]
    film = functools.partial(write_film, **options)
    root = write_v2(tmp_path / "d", FEATURES, lengths=(8, 9), cameras=["front"], film=film)
    dataset = EpisodeDataset(root)
    found = [int(image[0, 0, 0]) for _, image in dataset.images("front")]
    expected = [20 + 8 * t + e for e, L in enumerate((8, 9)) for t in range(L)]
    assert np.abs(np.subtract(found, expected)).max() <= 3
    later = [int(image[0, 0, 0]) for _, image in dataset.images("front", 5, 7)]
    assert np.abs(np.subtract(later, expected[5:7])).max() <= 3
    # once for the camera, not for each file
    assert len(dataset.warnings) == bool(sentence)
    assert sentence in "".join(dataset.warnings)


def test_films_that_cannot_be_matched_say_what_they_are(tmp_path):
    uneven = functools.partial(write_film, times=UNEVEN)
    root = write_v2(tmp_path / "a", FEATURES, lengths=(8,), cameras=["front"], film=uneven)
    with pytest.raises(DataError, match=r"variable rate; encode it again.*`ffmpeg -i episode_"):
        list(EpisodeDataset(root).images("front"))
    other = functools.partial(write_film, rate=12)
    root = write_v2(tmp_path / "b", FEATURES, lengths=(8,), cameras=["front"], film=other)
    with pytest.raises(DataError, match=r"has 12 frames per second, expected 10; .*fps=10"):
        list(EpisodeDataset(root).images("front"))
