"""LeRobot v3.0 with videos: every frame is the one that was recorded, and every mistake names its
file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, KeyMap
from vla.data.storage.video import VideoConfig, encode_video
from vla.types import Spec

pytest.importorskip("av")

SIZE = (32, 48)
SPEC = Spec({"front": SIZE}, ("x", "y"), ("dx", "dy"), (-1, -1), (1, 1), 10.0)
LENGTHS = (4, 1, 6, 3)
TABLE = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
KEY = "videos/observation.images.front/"
TOLERANCE = 3.0


def level(frame: int) -> int:
    """The gray of a frame of the dataset: neighbours differ by more than twice what the codec may
    err."""
    return 15 + 16 * frame


def gray(frames: range) -> np.ndarray:
    values = np.asarray([level(frame) for frame in frames], np.uint8)
    return np.broadcast_to(values[:, None, None, None], (len(values), *SIZE, 3)).copy()


def frame_of(picture: np.ndarray) -> int:
    """The frame that a picture shows."""
    found = (float(picture.mean()) - 15) / 16
    assert abs(found - round(found)) * 16 < TOLERANCE
    return round(found)


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., Path]:
    """video(**options of the writer) -> a dataset with episodes of LENGTHS, whose gray tells the
    frame."""

    def make(name: str = "video", lengths: tuple[int, ...] = LENGTHS, gop: int = 2) -> Path:
        with DatasetWriter(tmp_path / name, SPEC, video=VideoConfig(crf=10, gop=gop)) as writer:
            first = 0
            for number, L in enumerate(lengths):
                rows = np.arange(first, first + L, dtype=np.float32)
                writer.add_episode(
                    Episode(
                        images={"front": gray(range(first, first + L))},
                        state=np.stack([rows, -rows], 1),
                        actions=np.stack([rows / 100, -rows / 100], 1),
                        rewards=rows,
                        success=np.arange(L) == L - 1,
                        terminated=True,
                        instruction=f"task {number % 2}",
                    )
                )
                first += L
        return tmp_path / name

    return make


def edit_table(root: Path, column: str, row: int, value: object) -> None:
    table = pq.read_table(root / TABLE)
    values = table.column(column).to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    kind = table.schema.field(column).type
    pq.write_table(table.set_column(place, column, pa.array(values, kind)), root / TABLE)


def edit_info(root: Path, **values: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_feature(root: Path, name: str, **values: object) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(root, features={**features, name: {**features[name], **values}})


def strip(root: Path, *columns: str) -> None:
    table = pq.read_table(root / TABLE)
    pq.write_table(
        table.drop([name for name in columns if name in table.column_names]), root / TABLE
    )


def make_foreign(root: Path) -> Path:
    """Without what only our own writer stores."""
    for name in ("vla_spec.json", "vla_metadata.json"):
        (root / "meta" / name).unlink()
    strip(root, "success", "return", "terminated", "info", "task_index", KEY + "crc32")
    return root


def everything(root: Path, **options: object) -> None:
    dataset = EpisodeDataset(root, **options)
    assert dataset.columns
    for camera in dataset.spec.cameras:
        for _ in dataset.images(camera):
            pass


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_file", [True, False])
@pytest.mark.parametrize("gop", [2, 30])
def test_every_range_holds_the_frames_that_were_recorded(video, monkeypatch, one_file, gop):
    if not one_file:
        monkeypatch.setattr("vla.data.writer.OPEN_VIDEO_BYTES", 1)
    root = video(gop=gop)
    assert len(list((root / "videos").rglob("*.mp4"))) == (1 if one_file else len(LENGTHS))
    dataset = EpisodeDataset(root)
    N = dataset.num_frames
    assert (N, dataset.spec, dataset.warnings) == (14, SPEC, [])
    for start, stop in [(0, N), (0, 1), (13, 14), (3, 6), (4, 5), (5, 5), (6, 12)]:
        found = [
            (frame, frame_of(picture)) for frame, picture in dataset.images("front", start, stop)
        ]
        assert found == [(frame, frame) for frame in range(start, stop)]
    episode = dataset.episode(2)
    assert [frame_of(picture) for picture in episode.frames("front")] == [5, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(episode.state[:, 0], np.arange(5, 11))


def test_threads_read_at_the_same_time(video):
    dataset = EpisodeDataset(video())
    ranges = [(start, start + 5) for start in range(10)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda r: [frame_of(p) for _, p in dataset.images("front", *r)], ranges)
        )
    assert found == [list(range(*r)) for r in ranges]


def test_frames_lie_where_the_episodes_table_says(video):
    """Episodes may lie in any order in a file, with frames of nobody between them."""
    root = make_foreign(video())
    order, place = (2, 0, 3, 1), 2
    firsts = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    frames = [gray(range(14, 16))]
    for episode in order:
        edit_table(root, KEY + "from_timestamp", episode, place / 10)
        frames += [
            gray(range(firsts[episode], firsts[episode] + LENGTHS[episode])),
            gray(range(15, 16)),
        ]
        place += LENGTHS[episode] + 1
    encode_video(root / VIDEO, np.concatenate(frames), 10, VideoConfig(crf=10))
    found = [frame_of(picture) for _, picture in EpisodeDataset(root).images("front")]
    assert found == list(range(14))


# --- mistakes -------------------------------------------------------------------------------------


def cut(root: Path) -> None:
    encode_video(root / VIDEO, gray(range(12)), 10)


def flip(root: Path) -> None:
    data = bytearray((root / VIDEO).read_bytes())
    place = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 2
    data[place] ^= 0x10
    (root / VIDEO).write_bytes(bytes(data))


VIDEO_MISTAKES = {
    "missing": (
        lambda r: (r / VIDEO).unlink(),
        r"no episode is whole: videos of episodes 0-3 \(camera front\) are missing "
        r"\(videos/.*file-000.mp4\): copy .*`cameras={}`",
    ),
    "shorter": (cut, "has 12 frames, episode 3 ends at frame 14; the video is cut off"),
    "another_rate": (
        lambda r: encode_video(r / VIDEO, gray(range(14)), 20),
        "has 20 frames per second, expected 10; correct the rate",
    ),
    "another_size": (
        lambda r: encode_video(r / VIDEO, gray(range(14))[:, :16], 10),
        r"is 16x48, info.json says 32x48 \(episode 0\)",
    ),
    "truncated": (
        lambda r: (r / VIDEO).write_bytes((r / VIDEO).read_bytes()[:-300]),
        "file-000.mp4: is damaged or no video",
    ),
    "flipped_bit": (flip, r"episode \d are not those that were written|file-000.mp4: .*damaged"),
    "text": (
        lambda r: (r / VIDEO).write_text("#EXTM3U\n/etc/hostname\n"),
        "file-000.mp4: is damaged or no video",
    ),
    "time_between_frames": (
        lambda r: edit_table(r, KEY + "from_timestamp", 2, 0.55),
        r"episode 2: from_timestamp of .* is 0.55, which is between two frames at 10 fps",
    ),
    "no_time": (
        lambda r: edit_table(r, KEY + "from_timestamp", 2, float("nan")),
        "is nan, expected seconds",
    ),
    "episodes_overlap": (
        lambda r: edit_table(r, KEY + "from_timestamp", 2, 0.3),
        r"of episode 0 \(4 frames from frame 0\) runs into episode 2 \(from frame 3\)",
    ),
    "no_file_number": (
        lambda r: edit_table(r, KEY + "file_index", 1, None),
        "file_index is .*, expected a whole number",
    ),
}


@pytest.mark.parametrize("case", VIDEO_MISTAKES)
def test_a_video_that_is_not_what_the_dataset_says(video, case):
    change, message = VIDEO_MISTAKES[case]
    root = video()
    if case != "flipped_bit":
        strip(root, KEY + "crc32")
    change(root)
    with pytest.raises(DataError, match=message):
        everything(root)


def test_a_camera_that_is_only_declared_is_left_out(video):
    root = make_foreign(video())
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(
        root, features={"observation.images.top": features["observation.images.front"], **features}
    )
    dataset = EpisodeDataset(root)
    assert list(dataset.spec.cameras) == ["front"]
    assert any(
        "declares the camera 'observation.images.top'" in warning for warning in dataset.warnings
    )
    with pytest.raises(
        DataError,
        match=r"declares the camera 'observation.images.top', of which the dataset has no images",
    ):
        EpisodeDataset(root, keys=KeyMap(cameras={"top": "observation.images.top"}))


def test_fewer_episodes_said_than_there_are(video):
    root = video()
    edit_info(root, total_episodes=3, total_frames=None)
    sentence = "total_episodes is 3, the episodes table has 4: the rest is left out"
    assert sentence not in "".join(
        EpisodeDataset(root).warnings
    )  # ours: what an interrupted writer did not commit
    make_foreign(root)
    assert sentence in "".join(EpisodeDataset(root).warnings)


METADATA_MISTAKES = {
    "fps_zero": (lambda r: edit_info(r, fps=0), "info.json: fps: .* found '0'; correct it"),
    "fps_nan": (lambda r: edit_info(r, fps=float("nan")), "info.json: fps"),
    "features_list": (lambda r: edit_info(r, features=[]), "info.json: features"),
    "shape_text": (lambda r: edit_feature(r, "action", shape=["two"]), "features.action.shape.0"),
    "shape_huge": (lambda r: edit_feature(r, "action", shape=[10**15]), "action"),
    "episodes_huge": (lambda r: edit_info(r, total_episodes=10**18), "the episodes table has 4"),
    "info_is_a_list": (
        lambda r: (r / "meta/info.json").write_text("[]"),
        "expected keys and values, found list",
    ),
    "info_is_deep": (lambda r: (r / "meta/info.json").write_text("[" * 100_000), "is no JSON"),
    "length_contradicts": (
        lambda r: edit_table(r, "length", 1, 5),
        "lengths and dataset_from_index .* contradict",
    ),
    "length_missing": (lambda r: strip(r, "length"), "lacks 'length'"),
    "episode_twice": (lambda r: edit_table(r, "episode_index", 1, 0), "episode 0 is there twice"),
    "spec_of_another_rate": (
        lambda r: edit_info(r, fps=20),
        "control_hz is 10, info.json says fps 20",
    ),
    "spec_is_damaged": (
        lambda r: (r / "meta/vla_spec.json").write_text('{"cameras": 3}'),
        "vla_spec.json: spec lacks",
    ),
    "tasks_lost": (
        lambda r: (r / "meta/tasks.parquet").unlink(),
        "tasks.parquet: no such file, so the instructions",
    ),
    "task_unknown": (
        lambda r: edit_table(r, "task_index", 1, 7),
        "episode 1: .* says task 7, the table of tasks has 0 to 1",
    ),
}


@pytest.mark.parametrize("case", METADATA_MISTAKES)
def test_metadata_that_contradicts_itself(video, case):
    change, message = METADATA_MISTAKES[case]
    root = video()
    change(root)
    with pytest.raises(DataError, match=message):
        everything(root)


def set_column(root: Path, name: str, values: pa.Array | None) -> None:
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    place = table.column_names.index(name)
    table = table.remove_column(place)
    pq.write_table(table if values is None else table.add_column(place, name, values), file)


def test_times_that_are_odd_are_reported_and_frames_read_by_place(video):
    steps = np.concatenate([np.arange(L) for L in LENGTHS])
    for name, times, message in (
        ("late", steps / 10 + 0.1, "episode 0: step 0 has timestamp 0.1 s, expected 0 s at 10 fps"),
        (
            "nan",
            np.where(np.arange(14) == 6, np.nan, steps / 10),
            "episode 2: step 1 has timestamp nan",
        ),
        (
            "back",
            np.where(np.arange(14) == 6, -1.0, steps / 10),
            "episode 2: step 1 has timestamp -1 after 0: time",
        ),
    ):
        root = video(name)
        set_column(root, "timestamp", pa.array(times.astype(np.float32)))
        dataset = EpisodeDataset(root)
        assert dataset.columns.state[:, 0].tolist() == list(range(14))
        assert len(dataset.warnings) == 1
        assert message in dataset.warnings[0]
        assert [frame_of(picture) for _, picture in dataset.images("front")] == list(range(14))
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(
        root, features={key: value for key, value in features.items() if key != "frame_index"}
    )
    with pytest.raises(DataError, match="without frame_index the order of the rows is unknown"):
        everything(root)


def test_rows_that_are_missing_or_have_no_number(video):
    root = video("order")
    set_column(root, "frame_index", pa.array([0, 1, 3, 2, *range(1), *range(6), *range(3)]))
    with pytest.raises(
        DataError, match="episode 0: step 2 has frame_index 3; rows are missing or out of order"
    ):
        everything(root)
    root = video("empty")
    set_column(root, "episode_index", pa.array([0, None, *[0] * 2, 1, *[2] * 6, *[3] * 3]))
    with pytest.raises(DataError, match="'episode_index' has rows without a whole number"):
        everything(root)
    root = make_foreign(video("ragged"))
    set_column(
        root,
        "action",
        pa.array([[0.1], [0.1, 0.2, 0.3], *[[0.1, 0.2]] * 12], pa.list_(pa.float32())),
    )
    with pytest.raises(DataError, match="'action' has rows of different lengths"):
        everything(root)


def test_numbers_of_another_precision_are_read_as_float32(video):
    root = make_foreign(video())
    actions = EpisodeDataset(root).columns.actions
    wide = pa.FixedSizeListArray.from_arrays(pa.array(actions.astype(np.float64).ravel()), 2)
    set_column(root, "action", wide)
    dataset = EpisodeDataset(root)
    assert dataset.columns.actions.dtype == np.float32
    np.testing.assert_array_equal(dataset.columns.actions, actions)
    assert any(
        "column 'action' holds float64[2], meta/info.json says float32[2]" in w
        for w in dataset.warnings
    )


# --- keys -----------------------------------------------------------------------------------------


def test_keys_choose_rename_and_join(video):
    root = video()
    keys = KeyMap(
        cameras={"head": "observation.images.front"},
        state=["observation.state", "next.reward"],
        action=["action", "observation.state"],
        reward="frame_index",
        success="next.done",
        task="tidy up",
        control_hz=5,
    )
    dataset = EpisodeDataset(root, keys=keys)
    assert dataset.spec.cameras == {"head": SIZE}
    assert dataset.spec.state_names == ("x", "y", "reward_0")
    assert dataset.spec.action_names == ("dx", "dy", "x", "y")
    assert dataset.spec.action_high == pytest.approx((0.13, 0, 13, 0), abs=1e-6)
    assert dataset.spec.control_hz == 5
    assert dataset.instructions == ["tidy up"]
    episode = dataset.episode(2)
    np.testing.assert_array_equal(episode.state[:, 2], np.arange(5, 11))
    np.testing.assert_array_equal(episode.actions[:, 2], np.arange(5, 11))
    np.testing.assert_array_equal(episode.rewards, np.arange(6))
    assert dataset.episodes["return"].tolist() == [6, 0, 15, 3]
    assert [frame_of(picture) for picture in episode.frames("head")] == list(range(5, 11))
    assert dataset.fingerprint() != EpisodeDataset(root).fingerprint()
    assert EpisodeDataset(root, keys=KeyMap(cameras={}, state=[])).spec.state_names == ()
    twice = EpisodeDataset(
        root, keys=KeyMap(state=["observation.state", "observation.state"])
    ).spec.state_names
    assert len(set(twice)) == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            KeyMap(cameras={"a": "action"}),
            "cameras: no feature 'action'; there are: observation.images.front",
        ),
        (
            KeyMap(state=["position"]),
            "state: no feature 'position'; there are: observation.state, action",
        ),
        (KeyMap(action=[]), "features lack 'action'"),
        (
            KeyMap(reward="observation.state"),
            r"reward: 'observation.state' has shape \[2\], expected one number",
        ),
        (KeyMap(instruction="language"), "instruction: no feature 'language'"),
        (KeyMap(instruction="next.reward"), "says task .*, the table of tasks has 0 to 1"),
        (KeyMap(split="test"), "no split 'test'; there are: train"),
    ],
)
def test_keys_that_the_dataset_lacks(video, keys, message):
    with pytest.raises(DataError, match=message):
        EpisodeDataset(video(), keys=keys)


def test_a_split_is_read_alone(video):
    root = video()
    edit_info(root, splits={"train": "0:2", "val": "2:3", "none": "4:4", "odd": "all"})
    dataset = EpisodeDataset(root, keys=KeyMap(split="val"))
    assert (dataset.num_episodes, dataset.num_frames) == (1, 6)
    np.testing.assert_array_equal(dataset.episode(0).state[:, 0], np.arange(5, 11))
    assert [frame_of(picture) for _, picture in dataset.images("front", 1, 4)] == [6, 7, 8]
    assert any(
        "split 'odd' is 'all', expected START:STOP" in warning for warning in dataset.warnings
    )
    with pytest.raises(DataError, match=r"split 'none' .* has no episodes"):
        EpisodeDataset(root, keys=KeyMap(split="none"))


def test_instructions_in_a_column_of_text(video):
    root = make_foreign(video())
    set_column(root, "next.reward", pa.array(["open it"] * 5 + ["close it"] * 9))
    edit_feature(root, "next.reward", dtype="string")
    dataset = EpisodeDataset(root, keys=KeyMap(instruction="next.reward", reward="timestamp"))
    assert dataset.instructions == ["open it", "close it"]
    assert dataset.episodes["task_index"].tolist() == [0, 0, 1, 1]


# --- paths that leave the folder ------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "../{video_key}.mp4",
        "/etc/{video_key}",
        "C:\\{video_key}",
        "videos/../../{file_index}",
        "videos\\..\\..\\x",
    ],
)
def test_videos_outside_the_folder(video, template):
    root = video()
    edit_info(root, video_path=template)
    with pytest.raises(
        DataError,
        match=r"video_path of info.json names .*, which is no path within the dataset's folder",
    ):
        everything(root)


@pytest.mark.parametrize(
    "template", ["{video_key.__class__}", "{file_index:09999999d}", "{other}", "{", "{0}"]
)
def test_templates_that_ask_for_more_than_numbers(video, template):
    root = video()
    edit_info(root, video_path=template)
    with pytest.raises(DataError, match=r"video_path is .* which cannot be filled in"):
        everything(root)


@pytest.mark.parametrize(
    "inner",
    [VIDEO, "data/chunk-000/file-000.parquet", "meta/info.json", "meta/tasks.parquet", TABLE],
)
def test_links_out_of_the_folder(video, tmp_path, inner):
    root = video()
    shutil.move(root / inner, tmp_path / "outside")
    (root / inner).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leads out of the dataset's folder"):
        everything(root)


def test_links_of_a_download_cache_are_inside(video, tmp_path):
    root = tmp_path / "datasets--me--mine" / "snapshots" / "0123"
    shutil.copytree(video(), root)
    (root.parent.parent / "blobs").mkdir()
    for number, file in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        blob = root.parent.parent / "blobs" / str(number)
        shutil.move(file, blob)
        file.symlink_to(blob)
    everything(root)


def test_images_outside_the_folder(write, tmp_path):
    root = write([3])
    (tmp_path / "secret.png").write_bytes(b"secret")
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    name = "observation.images.front"
    rows = table.column(name).to_pylist()
    for path, message in (
        ("../secret.png", "no path within"),
        (str(tmp_path / "secret.png"), "no path within"),
    ):
        rows[1] = {"bytes": None, "path": path}
        column = pa.array(rows, table.schema.field(name).type)
        pq.write_table(table.set_column(table.column_names.index(name), name, column), file)
        with pytest.raises(DataError, match=rf"frame 1 of file-000.parquet, column .*{message}"):
            everything(root)


# --- damage ---------------------------------------------------------------------------------------


def contents(root: Path) -> list[object]:
    """All that a training sees."""
    dataset = EpisodeDataset(root)
    found: list[object] = [dataset.spec.to_dict(), dataset.episodes.to_json(), dataset.instructions]
    columns = dict(vars(dataset.columns))
    arrays = [*columns.pop("extras").values(), *columns.values()]
    found += [value.tobytes() for value in arrays]
    return found + [picture.tobytes() for _, picture in dataset.images("front")]


def test_damage_is_reported_or_harmless(video):
    """A flipped bit or a cut anywhere in any file: one clear error, or the same data."""
    root = video(lengths=(3, 2))
    expected = contents(root)
    rng = np.random.default_rng(0)
    files = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "vla_metadata.json"
    ]
    messages = []
    for path in files * 4:
        whole = path.read_bytes()
        damaged = bytearray(whole)
        place = int(rng.integers(len(damaged)))
        if rng.random() < 0.3:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = contents(root)
        except DataError as error:
            messages.append(str(error))
        else:
            if path.suffix == ".mp4":
                assert found == expected
        path.write_bytes(whole)
    assert len(messages) > len(files)
    assert all(str(root) in message for message in messages)
    assert contents(root) == expected
