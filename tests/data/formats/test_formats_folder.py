"""Plain folders of frames and steps.csv: read as laid out, and every mistake named."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corruption import corrupt, read_all
from PIL import Image

from vla.data import EpisodeDataset, Windows
from vla.data.episode import encode_png
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.tools.conversion import convert
from vla.data.tools.filtering import Filter, filter_dataset
from vla.data.tools.relabelling import relabel_by_goal

L = 4
HEADER = "timestamp,state.x,state.y,action.dx,reward,success,terminated"


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (L, 6, 8, 3), dtype=np.uint8)


def rows(number: int) -> list[str]:
    """Written with times rounded to milliseconds."""
    ends = ["true" if t == L - 1 and number % 2 else "false" for t in range(L)]
    return [
        f"{round(t / 30, 3)},{t},{number}.5,{-t - number},{t / 2},{ends[t]},{int(ends[t] == 'true')}"
        for t in range(L)
    ]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Episodes 9 and 10."""
    root = tmp_path / "plain"
    for number in (9, 10):
        folder = root / f"episode_{number}"
        (folder / "front").mkdir(parents=True)
        (folder / "steps.csv").write_text("\n".join([HEADER, *rows(number)]) + "\n")
        for t, image in enumerate(pixels(number)):
            (folder / "front" / f"frame_{t}.png").write_bytes(encode_png(image))
    (root / "episode_9/instruction.txt").write_text("push the button\n")
    (root / "instruction.txt").write_text("open the drawer")
    return root


def test_reads_what_lies_there(plain: Path) -> None:
    dataset = EpisodeDataset(plain)
    assert (dataset.spec.cameras, dataset.spec.control_hz) == ({"front": (6, 8)}, 30.0)
    assert (dataset.spec.state_names, dataset.spec.action_names) == (("x", "y"), ("dx",))
    assert dataset.warnings == []
    for index, number in enumerate((9, 10)):
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.frames("front"), pixels(number))
        np.testing.assert_array_equal(episode.state, [[t, number + 0.5] for t in range(L)])
        np.testing.assert_array_equal(episode.actions[:, 0], [-t - number for t in range(L)])
        np.testing.assert_array_equal(episode.rewards, np.arange(L) / 2)
        assert episode.success.tolist() == [False] * 3 + [number == 9]
        assert episode.terminated == (number == 9)
        assert episode.instruction == ("push the button" if number == 9 else "open the drawer")


def test_trains_directly(plain: Path) -> None:
    batch = Windows(EpisodeDataset(plain), history=1, chunk=2).batch(np.array([L + 1]))
    np.testing.assert_array_equal(batch.images["front"][0, 0], pixels(10)[1])
    np.testing.assert_array_equal(batch.actions[0, 0, :, 0], [-11, -12])


def test_keys(plain: Path) -> None:
    (plain / "episode_9/goal.txt").write_text("press")
    keys = KeyMap(
        cameras={"main": "front"},
        state=["state.y"],
        action=["action.dx", "state.x"],
        reward="state.x",
        success="terminated",
        instruction="goal.txt",
        control_hz=7,
    )
    with pytest.raises(
        DataError, match=r"episode_10/goal.txt: no such file to read as instruction"
    ):
        EpisodeDataset(plain, keys=keys)
    (plain / "goal.txt").write_text("pull")
    dataset = EpisodeDataset(plain, keys=keys)
    assert (dataset.instructions, dataset.spec.control_hz) == (["press", "pull"], 7.0)
    assert (dataset.spec.state_names, dataset.spec.action_names) == (("y",), ("dx", "state.x"))
    assert list(dataset.spec.cameras) == ["main"]
    np.testing.assert_array_equal(dataset.columns.rewards[:L], np.arange(L))
    assert EpisodeDataset(plain, keys=KeyMap(task="tidy up")).instructions == ["tidy up"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"cameras": {"main": "side"}}, "no 'side' to read as camera 'main'; it has: front"),
        ({"state": ["z"]}, r"no 'z' to read as state; it has: timestamp, state\.x"),
        ({"action": []}, r"no column is named action\.NAME"),
        ({"reward": "r"}, "no 'r' to read as reward"),
        ({"split": "train"}, "plain folders have no splits"),
        ({"instruction": "../../secret"}, "leads out of the dataset's folder"),
        ({"cameras": {"main": "../front"}}, "no '../front' to read as camera"),
    ],
)
def test_keys_that_it_lacks(plain: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(plain, keys=KeyMap(**keys))


def line(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "episode_10/steps.csv"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: shutil.move(root / "episode_10" / old, root / "episode_10" / new)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (
            line("\n0.0,0,", "\n0.0,zero,"),
            r"episode_10/steps.csv: line 2, column 'state.x': 'zero' is no number",
        ),
        (line("\n0.0,0,", "\n0.0,,"), r"line 2, column 'state.x': the cell is empty"),
        (line("\n0.0,0,", "\n0.0,1_0,"), r"'1_0' is no number"),
        (line("\n0.0,0,", "\n0.0,0,7,"), "line 2 has 8 cells, the header 7"),
        (line("state.y", "state.z"), "column 'state.y' is not in this file and in episode_9 alike"),
        (line("state.y", "state.x"), "two columns are named 'state.x'"),
        (line("state.y", ""), "column 3 has no name"),
        (line("\n0.033,", "\n0.0,"), r"timestamp of step 1 is 0.0, after 0.0; times must rise"),
        (line("\n0.033,", "\nnan,"), r"timestamp of step 1 is nan"),
        (line("\n0.0,0,", '\n0.0,"0,'), r"steps.csv: line \d: unexpected end of data"),
        (lambda r: (r / "episode_10/steps.csv").write_bytes(b"a\xff"), r"steps.csv: is no UTF-8"),
        (
            lambda r: (r / "episode_10/steps.csv").write_text(""),
            r"is empty, .* leave the episode out \(`mv \S+steps.csv \S+steps.csv.empty`\)",
        ),
        (
            lambda r: (r / "episode_10/front/frame_2.png").unlink(),
            r"frame_3.png: frame 2 is missing;",
        ),
        (
            lambda r: (r / "episode_10/front/frame_3.png").unlink(),
            "front: has 3 frames, numbers 0 to 2; .* has 4 rows",
        ),
        (rename("front/frame_0.png", "front/first.png"), r"first.png: its name holds no number"),
        (rename("front/frame_0.png", "front/frame_00001.png"), "frame 1 is there twice"),
        (
            rename("front", "side"),
            "episode_9/side: expected a folder of frames or a video side.mp4",
        ),
        (
            lambda r: (r / "episode_10/front.mp4").write_bytes(b""),
            r"and one of them; found: front.mp4",
        ),
        (
            lambda r: (r / "episode_9/front/frame_0.png").write_bytes(b"GIF"),
            r"frame_0.png: not a readable image file \(3 bytes\)",
        ),
        (
            lambda r: (r / "episode_9/instruction.txt").write_bytes(b"\xff"),
            r"instruction.txt: is no UTF-8",
        ),
    ],
)
def test_mistakes_are_named(plain: Path, mistake: Callable[[Path], None], expected: str) -> None:
    mistake(plain)
    with pytest.raises(DataError, match=expected):
        read_all(plain)


def test_nan_names_episode_step_and_column(plain: Path) -> None:
    line("\n0.0,0,", "\n0.0,nan,")(plain)
    with pytest.raises(DataError, match=r"episode 1 \(episode_10\): state: step 0, 'x' is nan"):
        _ = EpisodeDataset(plain).columns


def test_a_rate_is_needed_and_gaps_are_reported(plain: Path) -> None:
    line("\n0.1,", "\n0.9,")(plain)
    assert any("1 of 6 steps do not take about" in w for w in EpisodeDataset(plain).warnings)
    for number in (9, 10):
        file = plain / f"episode_{number}/steps.csv"
        file.write_text("\n".join(row.partition(",")[2] for row in [HEADER, *rows(number)]))
    with pytest.raises(DataError, match="nothing says its control rate"):
        EpisodeDataset(plain)
    assert EpisodeDataset(plain, keys=KeyMap(control_hz=4)).spec.control_hz == 4.0


def test_jpeg_frames_from_one_and_no_cameras(plain: Path) -> None:
    for number in (9, 10):
        folder = plain / f"episode_{number}/front"
        for t in range(L):
            buffer = io.BytesIO()
            Image.fromarray(pixels(number)[t]).save(buffer, format="JPEG")
            (folder / f"{t + 1}.jpg").write_bytes(buffer.getvalue())
            (folder / f"frame_{t}.png").unlink()
    dataset = EpisodeDataset(plain)
    assert dataset.episode(0).frames("front").shape == (L, 6, 8, 3)
    for number in (9, 10):
        shutil.rmtree(plain / f"episode_{number}/front")
    assert EpisodeDataset(plain).spec.cameras == {}


def test_videos(plain: Path) -> None:
    from vla.data.storage.video import encode_video

    for number in (9, 10):
        still = [np.full((32, 48, 3), 40 * t, np.uint8) for t in range(L)]
        encode_video(plain / f"episode_{number}/wrist.mp4", still, 30)
    dataset = EpisodeDataset(plain)
    assert dataset.spec.cameras == {"front": (6, 8), "wrist": (32, 48)}
    found = dict(dataset.images("wrist", 2, 7))
    assert [round(float(image.mean()) / 40) for image in found.values()] == [2, 3, 0, 1, 2]
    assert list(found) == [2, 3, 4, 5, 6]
    assert Windows(dataset, history=2, chunk=1).batch(np.array([5])).images["wrist"].shape == (
        1,
        2,
        32,
        48,
        3,
    )
    assert any(
        "plays at 30 Hz" in w for w in EpisodeDataset(plain, keys=KeyMap(control_hz=10)).warnings
    )

    encode_video(plain / "episode_10/wrist.mp4", still[:3], 30)
    with pytest.raises(DataError, match=r"wrist.mp4: has 3 frames, steps.csv 4 rows"):
        read_all(plain)
    (plain / "episode_10/wrist.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"episode_10/wrist.mp4"):
        read_all(plain)


def test_links_that_leave_the_folder(plain: Path, tmp_path: Path) -> None:
    for place in (
        "episode_10/front/frame_1.png",
        "episode_10/steps.csv",
        "episode_10/front",
        "instruction.txt",
    ):
        outside = tmp_path / "outside"
        (plain / place).rename(outside)
        (plain / place).symlink_to(outside)
        with pytest.raises(DataError, match="leads out of the dataset's folder"):
            EpisodeDataset(plain)
        (plain / place).unlink()
        outside.rename(plain / place)
    EpisodeDataset(plain)


def test_random_damage_raises_nothing_else(plain: Path, tmp_path: Path) -> None:
    files = [
        "episode_10/steps.csv",
        "episode_9/front/frame_0.png",
        "episode_9/front/frame_2.png",
        "instruction.txt",
    ]
    assert corrupt(plain, files, tmp_path / "copies", times=80) > 25


def test_an_edited_number_makes_another_source(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path / "out")
    assert convert(plain, tmp_path / "out").resumed == 2
    line("\n0.0,0,", "\n0.0,7,")(plain)
    with pytest.raises(DataError, match="the source has changed since"):
        convert(plain, tmp_path / "out")


def test_one_episode_with_nan_can_be_left_out(plain: Path, tmp_path: Path) -> None:
    line("\n0.0,0,", "\n0.0,nan,")(plain)
    dataset = EpisodeDataset(plain)
    assert dataset.episode(0).state[0, 0] == 0
    with pytest.raises(DataError, match=r"episode 1 \(episode_10\): state: step 0, 'x' is nan"):
        dataset.episode(1)
    for call in (
        lambda: convert(plain, tmp_path / "all"),
        lambda: filter_dataset(plain, tmp_path / "all", Filter()),
    ):
        with pytest.raises(DataError, match="'x' is nan"):
            call()
        assert not (tmp_path / "all").exists()
    assert convert(plain, tmp_path / "converted", episodes="0").episodes == 1
    assert filter_dataset(plain, tmp_path / "filtered", Filter(drop="1")).episodes == 1


def test_a_camera_that_one_episode_lacks_is_reported(plain: Path) -> None:
    shutil.rmtree(plain / "episode_9/front")
    with pytest.raises(
        DataError, match=r"episode_9/front: expected a folder of frames or a video front\.mp4"
    ):
        EpisodeDataset(plain)
    assert EpisodeDataset(plain, keys=KeyMap(cameras={})).spec.cameras == {}


def test_other_pictures_are_read_or_reported(plain: Path, tmp_path: Path) -> None:
    for number in (9, 10):
        folder = plain / f"episode_{number}"
        for name, suffix in (("left", "webp"), ("right", "bmp")):
            (folder / name).mkdir()
            for t, image in enumerate(pixels(number)):
                Image.fromarray(image).save(folder / name / f"{t}.{suffix}", lossless=True)
        (folder / "side").mkdir()
        (folder / "side/0.gif").write_bytes(b"GIF")
        (folder / "old.avi").write_bytes(b"RIFF")
    dataset = EpisodeDataset(plain)
    assert list(dataset.spec.cameras) == ["front", "left", "right"]
    (warning,) = dataset.warnings
    assert warning.startswith(
        "in the episodes' folders old.avi, side/ are not read: frames are .png"
    )
    for camera in ("left", "right"):
        np.testing.assert_array_equal(dataset.episode(1).frames(camera), pixels(10))
    convert(plain, tmp_path / "out")
    np.testing.assert_array_equal(
        EpisodeDataset(tmp_path / "out").episode(0).frames("left"), pixels(9)
    )


@pytest.mark.parametrize("kind", ["gray", "rgb"])
def test_deep_pictures_are_refused(plain: Path, tmp_path: Path, kind: str) -> None:
    deep = (np.arange(48).reshape(6, 8) * 700).astype(np.uint16)
    for path in plain.glob("episode_*/front/*.png"):
        path.write_bytes(png16(np.stack([deep] * 3, -1) if kind == "rgb" else deep))
    dataset = EpisodeDataset(plain)
    with pytest.raises(DataError, match="more than 8 bits"):
        dataset.episode(0).frames("front")
    with pytest.raises(
        DataError, match="episode 0: camera 'front': step 0: a picture of more than 8 bits"
    ):
        convert(plain, tmp_path / "out")


def png16(pixels: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, gray or RGB, which Pillow cannot write of RGB."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_byte_order_mark_is_no_word(plain: Path) -> None:
    (plain / "episode_9/instruction.txt").write_text("open the drawer", encoding="utf-8-sig")
    assert EpisodeDataset(plain).instructions == ["open the drawer"]


def test_other_keys_are_reported_as_such(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path / "out")
    with pytest.raises(DataError, match=r"keys was \{\}, is \{'state': \[\]\}"):
        convert(plain, tmp_path / "out", keys=KeyMap(state=[]))


def test_hindsight_takes_any_format(plain: Path, tmp_path: Path) -> None:
    for path in list(plain.glob("episode_*/front/*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    made = relabel_by_goal(plain, tmp_path / "goals", per_episode=2)
    opened = EpisodeDataset(made.root)
    part = opened.episode(0)
    assert (part.info["source"], part.info["source_episode"], part.info["source_format"]) == (
        "plain",
        0,
        "folder",
    )
    source = EpisodeDataset(plain).episode(0).frames("front")
    goal = part.frames("goal_front")[0]
    assert any(np.array_equal(goal, frame) for frame in source[1:])


def test_lost_episodes_are_reported(plain: Path) -> None:
    shutil.copytree(plain / "episode_10", plain / "episode_12")
    (plain / "episode_11").mkdir()
    first, second = EpisodeDataset(plain).warnings
    assert first == "folders without steps.csv are left out: episode_11"
    assert (
        second
        == "episode numbers have holes: 1 between episode_9 and episode_12 are missing, first 11"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timestamp;state.x;action.dx\n0,0;0,1;0,2\n", "divided by semicolons, expected commas"),
        ("timestamp\tstate.x\taction.dx\n0.0\t0.1\t0.2\n", "divided by tabs, expected commas"),
        ('timestamp,action.dx\n0,"0,5"\n', "'0,5' has a decimal comma; write a point, 0.5"),
        ("timestamp,action.dx\n0,0,0,5\n", "decimals are written with a point, not a comma"),
    ],
)
def test_cells_of_spreadsheets(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "episode_0").mkdir()
    (tmp_path / "episode_0/steps.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["1700000000.95", "1700000001.05", "1700000001.2"],
        ["1700000000_950000000", "1700000001_50000000", "1700000001_200000000"],
        ["cam_999950000", "cam_1000050000", "cam_1000200000"],
    ],
)
def test_frames_named_by_time(tmp_path: Path, names: list[str]) -> None:
    """They are read in the order of their times, not of their names, and said to be."""
    folder = tmp_path / "episode_0/front"
    folder.mkdir(parents=True)
    (folder.parent / "steps.csv").write_text("timestamp,action.dx\n0,0\n0.1,1\n0.2,0\n")
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 4, 3), 50 * number, np.uint8)).save(folder / f"{name}.png")
    dataset = EpisodeDataset(tmp_path)
    assert dataset.episode(0).frames("front")[:, 0, 0, 0].tolist() == [0, 50, 100]
    assert any("front: frames are named by time" in line for line in dataset.warnings)
    (folder / f"{names[1]}.png").unlink()
    (folder / "1700000099.png").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"has 2 frames.*3 rows"):
        EpisodeDataset(tmp_path)


def test_parts_of_keys_and_what_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "episode_0").mkdir()
    text = "timestamp,state.x,state.y,action.x,action.y,reward\n0,1,2,3,4,0\n0.1,5,6,7,8,1\n"
    (tmp_path / "episode_0/steps.csv").write_text(text)
    keys = KeyMap(state=["y"], action=["x"], success="rewards")
    dataset = EpisodeDataset(tmp_path, keys=keys)
    assert (dataset.spec.state_names, dataset.spec.action_names) == (("y",), ("x",))
    assert dataset.columns.actions.tolist() == [[3], [7]]
    assert dataset.columns.success.tolist() == [False, True]
    assert dataset.reader.recorded == {"rewards", "success"}
    assert EpisodeDataset(tmp_path).reader.recorded == {"rewards"}


def test_a_column_of_instructions(plain: Path) -> None:
    for folder in plain.glob("episode_*"):
        header, *rows = (folder / "steps.csv").read_text().splitlines()
        texts = ["reach", *["lift it, slowly"] * (len(rows) - 1)]
        lines = [f'{row},"{text}"' for row, text in zip(rows, texts, strict=True)]
        (folder / "steps.csv").write_text("\n".join([f"{header},instruction", *lines]))
    dataset = EpisodeDataset(plain)
    assert dataset.instructions == ["reach", "lift it, slowly"]
    starts = dataset.episodes["first_frame"].to_numpy()
    expected = np.ones(dataset.num_frames, int)
    expected[starts] = 0
    assert dataset.task_of_frames.tolist() == expected.tolist()
    with pytest.raises(DataError, match="no 'instruction' to read as state"):
        EpisodeDataset(plain, keys=KeyMap(state=["instruction"]))
