"""LeRobot v2.0 and v2.1: one parquet and one mp4 per episode, lines of JSON, and metadata as real
ones are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.data import DataError, DatasetWriter, EpisodeDataset, KeyMap, encode_png
from vla.data.storage.video import VideoConfig, VideoReader, encode_video

pytest.importorskip("av")

SIZE = (32, 48)
TASKS = ("pick the pear", "pick the meat", "open the door")
FEATURES: dict[str, dict[str, Any]] = {
    "observation.images.top": {
        "dtype": "video",
        "shape": [*SIZE, 3],
        "names": ["height", "width", "channel"],
    },
    "observation.images.hand": {
        "dtype": "image",
        "shape": [3, 8, 12],
        "names": ["channels", "height", "width"],
    },
    "observation.state": {"dtype": "float64", "shape": [3], "names": {"motors": ["x", "y", "z"]}},
    "action": {"dtype": "float64", "shape": [2], "names": None},
    "next.reward": {"dtype": "float64", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    **{
        name: {"dtype": "int64", "shape": [1], "names": None}
        for name in ("episode_index", "index", "task_index")
    },
    "frame_index": {"dtype": "int64", "shape": [1]},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}
DATA = "data/chunk-{:03d}/episode_{:06d}.parquet"
VIDEO = "videos/chunk-{:03d}/observation.images.top/episode_{:06d}.mp4"


def number(episode: int, step: int) -> float:
    """A value that tells where it belongs."""
    return episode + step / 100


def gray(episode: int, L: int) -> np.ndarray:
    levels = np.asarray([20 + 8 * (episode * 5 + t) for t in range(L)], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (L, *SIZE, 3)).copy()


def hand(episode: int, step: int) -> np.ndarray:
    return np.full((8, 12, 3), 10 * episode + step, np.uint8)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def v2(tmp_path: Path) -> Callable[..., Path]:
    """v2(episodes={index: length}) -> a dataset; episode i follows TASKS[i % 3], whose rows are out
    of order."""

    def make(
        name: str = "v2",
        episodes: dict[int, int] | None = None,
        chunks_size: int = 3,
        drop: Sequence[str] = (),
    ) -> Path:
        episodes = {0: 3, 1: 2, 4: 4} if episodes is None else episodes
        root = tmp_path / name
        (root / "meta").mkdir(parents=True)
        first = 0
        for episode, L in episodes.items():
            pictures = [
                {"bytes": encode_png(hand(episode, t)), "path": f"frame_{t:06d}.png"}
                for t in range(L)
            ]
            state = [[number(episode, t), 1.0, 2.0] for t in range(L)]
            columns = {
                "observation.images.hand": pa.array(pictures),
                "observation.state": pa.array(state, pa.list_(pa.float64())),
                "action": pa.array(
                    [[number(episode, t), -1.0] for t in range(L)], pa.list_(pa.float64())
                ),
                "next.reward": pa.array([float(t == L - 1) for t in range(L)]),
                "next.done": pa.array([t == L - 1 for t in range(L)]),
                "timestamp": pa.array(np.arange(L, dtype=np.float32) / np.float32(20)),
                "frame_index": pa.array(range(L)),
                "episode_index": pa.array([episode] * L),
                "index": pa.array(range(first, first + L)),
                "task_index": pa.array([episode % 3] * L),
            }
            path = root / DATA.format(episode // chunks_size, episode)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({k: v for k, v in columns.items() if k not in drop}), path)
            encode_video(
                root / VIDEO.format(episode // chunks_size, episode),
                gray(episode, L),
                20,
                VideoConfig(crf=8),
            )
            first += L
        info = {
            "codebase_version": "v2.1",
            "robot_type": "arm",
            "fps": 20,
            "total_episodes": len(episodes),
            "total_frames": first,
            "total_tasks": 3,
            "chunks_size": chunks_size,
            "splits": {"train": f"0:{len(episodes)}"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": (
                "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
            ),
            "features": {k: v for k, v in FEATURES.items() if k not in drop},
        }
        (root / "meta/info.json").write_text(json.dumps(info))
        lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": TASKS[i]} for i in (2, 0, 1)])
        rows = [
            {"episode_index": i, "tasks": [TASKS[i % 3]], "length": L} for i, L in episodes.items()
        ]
        lines(root / "meta/episodes.jsonl", rows[::-1])
        return root

    return make


def edit_info(root: Path, **values: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def everything(root: Path, **options: Any) -> None:
    dataset = EpisodeDataset(root, **options)
    assert dataset.columns
    for camera in dataset.spec.cameras:
        for _ in dataset.images(camera):
            pass


def test_images_videos_numbers_and_tasks(v2):
    root = v2()
    dataset = EpisodeDataset(root)
    assert dataset.spec.cameras == {"top": SIZE, "hand": (8, 12)}
    assert dataset.spec.state_names == ("x", "y", "z")
    assert dataset.spec.action_names == ("action_0", "action_1")
    assert dataset.spec.action_low == pytest.approx((0.0, -2.0))
    assert dataset.spec.action_high == pytest.approx((4.03, 0.0))
    assert dataset.spec.control_hz == 20
    assert dataset.metadata == {"robot_type": "arm"}
    assert dataset.instructions == list(TASKS)
    assert dataset.episodes["episode_index"].tolist() == [0, 1, 2]
    assert dataset.episodes["length"].tolist() == [3, 2, 4]
    for place, (index, L) in enumerate({0: 3, 1: 2, 4: 4}.items()):
        episode = dataset.episode(place)
        assert episode.instruction == TASKS[index % 3]
        assert episode.state.dtype == np.float32
        np.testing.assert_array_equal(
            episode.state[:, 0], np.asarray([number(index, t) for t in range(L)], np.float32)
        )
        assert episode.rewards.tolist() == [0.0] * (L - 1) + [1.0]
        assert not episode.success.any()
        np.testing.assert_array_equal(episode.frames("hand"), [hand(index, t) for t in range(L)])
        assert np.abs(episode.frames("top").astype(int) - gray(index, L)).max() <= 3
        with VideoReader(root / VIDEO.format(index // 3, index)) as reader:
            np.testing.assert_array_equal(episode.frames("top"), np.stack(list(reader.frames())))
    found = [(frame, picture[0, 0, 0]) for frame, picture in dataset.images("top", 2, 7)]
    expected = [gray(0, 3)[2], *gray(1, 2), *gray(4, 4)[:2]]
    assert [frame for frame, _ in found] == [2, 3, 4, 5, 6]
    assert all(
        abs(int(value) - int(e[0, 0, 0])) <= 3
        for (_, value), e in zip(found, expected, strict=True)
    )


def test_episode_indices_with_holes_are_reported_and_remembered(v2):
    dataset = EpisodeDataset(v2())
    assert any(
        "episode indices have holes (3 episodes, the last is number 4)" in w
        for w in dataset.warnings
    )
    assert dataset.episode(2).info == {"original_episode": 4}
    assert EpisodeDataset(v2("whole", {0: 2, 1: 1})).warnings == []


def test_what_contradicts_without_harm_is_reported(v2):
    root = v2(episodes={0: 3, 1: 2})
    features = json.loads((root / "meta/info.json").read_text())["features"]
    declared = {"observation.images.ghost": features["observation.images.top"]}
    edit_info(
        root,
        total_episodes=7,
        total_frames=9,
        splits={"train": "0:100"},
        features={**features, **declared},
    )
    encode_video(root / VIDEO.format(0, 0), gray(0, 5), 20)
    lines(
        root / "meta/tasks.jsonl",
        [{"task_index": i, "task": TASKS[i]} for i in (1, 0)] + [{"task_index": 9, "task": "x"}],
    )
    dataset = EpisodeDataset(root)
    assert len(list(dataset.images("top"))) == 5
    everything_told = "\n".join(dataset.warnings)
    for sentence in (
        "total_episodes is 7, meta/episodes.jsonl has 2",
        "total_frames is 9, the episodes have 5",
        "split 'train' is '0:100', the dataset has 2 episodes",
        "declares the camera 'observation.images.ghost', of which the dataset has no images; it "
        "is left out",
        "task indices have holes",
        "episode_000000.mp4: has 5 frames, episode 0 has 3 steps; the first frames are taken",
    ):
        assert sentence in everything_told
    assert dataset.episode(1).instruction == TASKS[1]
    assert dataset.instructions == [TASKS[0], TASKS[1], "x"]


def test_the_column_says_the_task(v2):
    """Lists of tasks in the table of episodes may hold labels of other kinds, in any order."""
    root = v2(episodes={0: 2, 1: 2})
    rows = [{"episode_index": i, "tasks": ["valid", TASKS[2]], "length": 2} for i in range(2)]
    lines(root / "meta/episodes.jsonl", rows)
    assert EpisodeDataset(root).episodes["task_index"].tolist() == [0, 1]
    assert EpisodeDataset(root, keys=KeyMap(instruction="frame_index")).episodes[
        "task_index"
    ].tolist() == [0, 0]


def test_without_task_index_an_annotation_or_the_table_says_it(v2):
    root = v2(episodes={0: 2, 1: 2}, drop=["task_index"])
    assert EpisodeDataset(root).episode(1).instruction == TASKS[1]
    features = json.loads((root / "meta/info.json").read_text())["features"]
    name = "annotation.human.action.task_description"
    edit_info(root, features={**features, name: {"dtype": "int64", "shape": [1], "names": None}})
    for episode in range(2):
        file = root / DATA.format(0, episode)
        pq.write_table(pq.read_table(file).append_column(name, pa.array([2 - episode] * 2)), file)
    dataset = EpisodeDataset(root)
    assert [dataset.episode(i).instruction for i in range(2)] == [TASKS[2], TASKS[1]]


def test_a_split_reads_its_own_files(v2):
    root = v2()
    edit_info(root, splits={"train": "0:1", "val": "1:3"})
    dataset = EpisodeDataset(root, keys=KeyMap(split="val"))
    assert dataset.episodes["length"].tolist() == [2, 4]
    assert dataset.episode(1).state[0, 0] == np.float32(number(4, 0))
    np.testing.assert_array_equal(dataset.episode(1).frames("hand")[3], hand(4, 3))
    assert abs(int(dataset.episode(0).frames("top")[1, 0, 0, 0]) - int(gray(1, 2)[1, 0, 0, 0])) <= 3


def test_keys_rename_and_join(v2):
    keys = KeyMap(
        cameras={"wrist": "observation.images.hand"},
        state=["timestamp", "observation.state"],
        reward="index",
    )
    dataset = EpisodeDataset(v2(), keys=keys)
    assert list(dataset.spec.cameras) == ["wrist"]
    assert dataset.spec.state_names == ("timestamp_0", "x", "y", "z")
    np.testing.assert_array_equal(dataset.episode(1).rewards, [3, 4])
    np.testing.assert_array_equal(dataset.episode(1).frames("wrist")[1], hand(1, 1))
    with pytest.raises(
        DataError, match=r"success: no feature 'next.success'; there are: observation.state"
    ):
        EpisodeDataset(v2("other"), keys=KeyMap(success="next.success"))


def test_images_as_files_of_their_own(v2):
    root = v2(episodes={0: 2})
    file = root / DATA.format(0, 0)
    table = pq.read_table(file)
    (root / "images").mkdir()
    for t in range(2):
        (root / f"images/{t}.png").write_bytes(encode_png(hand(0, t)))

    def point(paths: Sequence[str]) -> None:
        rows = pa.array(
            [{"bytes": None, "path": path} for path in paths],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        )
        pq.write_table(table.set_column(0, "observation.images.hand", rows), file)

    point(["images/0.png", "images/1.png"])
    np.testing.assert_array_equal(
        EpisodeDataset(root).episode(0).frames("hand"), [hand(0, 0), hand(0, 1)]
    )
    point(["images/0.png", "images/2.png"])
    with pytest.raises(
        DataError, match=r"frame 1: 'observation.images.hand' has no image; .*'images/2.png'"
    ):
        everything(root)
    point(["images/0.png", "../../x.png"])
    with pytest.raises(
        DataError, match=r"names '../../x.png', which is no path within the dataset's folder"
    ):
        everything(root)


def swap(root: Path) -> None:
    first, second = (root / DATA.format(0, episode) for episode in (0, 1))
    shutil.move(first, root / "kept")
    shutil.move(second, first)
    shutil.move(root / "kept", second)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "data_truncated": (
        (lambda r: (r / DATA.format(0, 1)).write_bytes((r / DATA.format(0, 1)).read_bytes()[:-9])),
        r"episode_000001.parquet: parquet without footer .* the other 1 of 2 are readable",
    ),
    "data_swapped": (swap, r"frame 0 belongs to episode 1, the episodes table says 0"),
    "video_shorter": (
        (lambda r: encode_video(r / VIDEO.format(0, 1), gray(1, 2), 20)),
        r"episode_000001.mp4: has 2 frames, episode 1 ends at frame 3",
    ),
    "video_of_another_rate": (
        (lambda r: encode_video(r / VIDEO.format(0, 1), gray(1, 3), 25)),
        r"episode_000001.mp4: has 25 frames per second, expected 20",
    ),
    "length_contradicts": (
        (
            lambda r: lines(
                r / "meta/episodes.jsonl",
                [{"episode_index": i, "length": 2, "tasks": []} for i in range(2)],
            )
        ),
        r"episode_000000.parquet: has 3 rows, meta/episodes.jsonl says 2 for episode 0",
    ),
    "no_episodes": (
        (lambda r: (r / "meta/episodes.jsonl").write_text("\n")),
        r"episodes.jsonl: has no episodes",
    ),
    "half_a_line": (
        (lambda r: (r / "meta/episodes.jsonl").write_text('{"episode_index": 0, "len')),
        r"episodes.jsonl: line 1: is no JSON",
    ),
    "a_line_of_numbers": (
        (lambda r: (r / "meta/episodes.jsonl").write_text("3\n")),
        r"line 1: expected keys and values",
    ),
    "length_is_text": (
        (lambda r: lines(r / "meta/episodes.jsonl", [{"episode_index": 0, "length": "long"}])),
        r"row 0: length is 'long', expected a whole number",
    ),
    "tasks_missing": (
        (lambda r: (r / "meta/tasks.jsonl").unlink()),
        r"tasks.jsonl: no such file; it holds the instructions",
    ),
    "task_unknown": (
        (lambda r: lines(r / "meta/tasks.jsonl", [{"task_index": 0, "task": "a"}])),
        r"episode 1: column 'task_index' says task 1, the table of tasks has 0 to 0",
    ),
    "task_twice": (
        (lambda r: lines(r / "meta/tasks.jsonl", [{"task_index": 0, "task": t} for t in "ab"])),
        r"task_index 0 is 'a' and 'b'",
    ),
    "width": (
        (
            lambda r: edit_info(
                r, features={**FEATURES, "action": {"dtype": "float64", "shape": [3]}}
            )
        ),
        r"column 'action' has 2 numbers per row, meta/info.json says 3",
    ),
    "data_path": (
        (lambda r: edit_info(r, data_path="../{episode_index}")),
        r"data_path of info.json names '../0'",
    ),
    "version": (
        (lambda r: edit_info(r, codebase_version="v1.6")),
        r"codebase_version is 'v1.6', expected v2.0, v2.1 or v3.0",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_their_file(v2, case):
    change, message = MISTAKES[case]
    root = v2(episodes={0: 3, 1: 3})
    change(root)
    with pytest.raises(DataError, match=message):
        everything(root)


def test_a_real_dataset_opens(real_data):
    """Its info.json declares a camera without files and 100 episodes; its timestamps begin one step
    late."""
    dataset = EpisodeDataset(real_data / "lerobot_v2_picknplace")
    assert (dataset.num_episodes, dataset.num_frames) == (5, 2096)
    assert dataset.spec.cameras == {"ego_view": (256, 256)}
    assert (dataset.spec.state_dim, dataset.spec.action_dim, dataset.spec.control_hz) == (
        44,
        44,
        20,
    )
    assert dataset.columns.rewards.sum() == 5
    assert [dataset.instructions[i].split()[2] for i in dataset.episodes["task_index"]][:2] == [
        "pear",
        "sweet",
    ]
    warnings = "\n".join(dataset.warnings)
    assert len(dataset.warnings) == 3
    for sentence in (
        "observation.images.egoview",
        "'0:100'",
        "step 0 has timestamp 0.05 s, expected 0 s",
    ):
        assert sentence in warnings
    pictures = dict(dataset.images("ego_view", 414, 418))
    assert sorted(pictures) == [414, 415, 416, 417]
    assert pictures[416].shape == (256, 256, 3)
    file = "videos/chunk-000/observation.images.ego_view/episode_000001.mp4"
    with VideoReader(real_data / "lerobot_v2_picknplace" / file) as reader:
        np.testing.assert_array_equal(
            np.stack(list(reader.frames(0, 2))), [pictures[416], pictures[417]]
        )
    named = KeyMap(instruction="annotation.human.action.task_description")
    again = EpisodeDataset(real_data / "lerobot_v2_picknplace", keys=named)
    assert again.episodes["task_index"].tolist() == dataset.episodes["task_index"].tolist()


def test_what_is_read_can_be_written_natively(v2, tmp_path):
    source = EpisodeDataset(
        v2(episodes={0: 3, 1: 2}), keys=KeyMap(cameras={"top": "observation.images.top"})
    )
    with DatasetWriter(tmp_path / "native", source.spec) as writer:
        for index in range(2):
            writer.add_episode(source.episode(index))
    native = EpisodeDataset(tmp_path / "native")
    assert native.spec == source.spec
    for index in range(2):
        np.testing.assert_array_equal(
            native.episode(index).frames("top"), source.episode(index).frames("top")
        )
        np.testing.assert_array_equal(native.episode(index).actions, source.episode(index).actions)
        assert native.episode(index).instruction == source.episode(index).instruction


def set_tasks(root: Path, tasks: dict[int, list[Any]], column: str = "task_index") -> None:
    """Gives each step of an episode its own task."""
    for episode, of_steps in tasks.items():
        path = root / DATA.format(episode // 3, episode)
        table = pq.read_table(path)
        values = pa.array(of_steps)
        if column in table.column_names:
            table = table.set_column(table.column_names.index(column), column, values)
        else:
            table = table.append_column(column, values)
        pq.write_table(table, path)


def test_a_task_for_each_step(v2):
    root = v2()
    set_tasks(root, {0: [0, 2, 2], 4: [1, 1, 0, 0]})
    dataset = EpisodeDataset(root)
    assert dataset.task_of_frames.tolist() == [0, 2, 2, 1, 1, 1, 1, 0, 0]
    assert dataset.episodes["task_index"].tolist() == [0, 1, 1]
    assert dataset.episode(0, images=False).instructions == [TASKS[0], TASKS[2], TASKS[2]]
    assert dataset.episode(1, images=False).instructions is None
    edit_info(root, splits={"last": "2:3"})
    part = EpisodeDataset(root, keys=KeyMap(split="last"))
    assert part.task_of_frames.tolist() == [1, 1, 0, 0]


def test_a_step_whose_task_is_unknown_is_named(v2):
    root = v2()
    set_tasks(root, {4: [1, 1, 7, 0]})
    message = "episode 2, step 2: column 'task_index' says task 7, the table of tasks has 0 to 2"
    with pytest.raises(DataError, match=message):
        EpisodeDataset(root)
    assert EpisodeDataset(root, keys=KeyMap(task="tidy up")).instructions == ["tidy up"]


def test_a_column_of_texts_for_each_step(v2):
    root = v2()
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["subtask"] = {"dtype": "string", "shape": [1], "names": None}
    edit_info(root, features=info["features"])
    set_tasks(root, {0: ["a", None, "b"], 1: ["b", "b"], 4: ["", "c", "c", "a"]}, "subtask")
    dataset = EpisodeDataset(root, keys=KeyMap(instruction="subtask"))
    assert dataset.instructions == ["a", "b", "c"]
    assert dataset.task_of_frames.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 0]
    assert any("is empty at 2 steps" in warning for warning in dataset.warnings)


def test_tasks_that_are_listed_without_their_steps_are_named(v2):
    root = v2(drop=["task_index"])
    rows = [
        {"episode_index": i, "tasks": list(TASKS[:2]), "length": L} for i, L in ((0, 3), (1, 2))
    ]
    rows.append({"episode_index": 4, "tasks": [TASKS[2]], "length": 4})
    lines(root / "meta/episodes.jsonl", rows)
    dataset = EpisodeDataset(root)
    assert dataset.episodes["task_index"].tolist() == [0, 0, 1]
    assert any("2 of 3 episodes list several tasks" in warning for warning in dataset.warnings)
