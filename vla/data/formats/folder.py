"""Plain folders, the simple way in: a folder for each episode, with `steps.csv` and a folder of
frames per camera.

    data/
      instruction.txt            the task in words, for episodes that have no file of their own
      episode_0/
        instruction.txt
        steps.csv                columns state.NAME, action.NAME; if known also reward, success,
                                 terminated, timestamp; instruction where it changes
        front/000000.png ...     a camera's frames, numbered from 0 or 1 without a gap: PNG, JPEG,
                                 WebP or BMP
        wrist.mp4                or its video, with a frame for each row

L: steps of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.format import Image, KeyMap
from vla.data.formats.common.episodic_reader import EpisodeNumbers, EpisodicReader
from vla.data.formats.common.files import fingerprint, inside, read_text
from vla.data.formats.common.names import natural
from vla.data.formats.common.rates import check_rising, differing, timed
from vla.data.formats.common.steps_csv import read_steps
from vla.data.formats.common.unread import COUNTS, unread_numbers
from vla.data.storage.image_files import file_image_size

_STEPS = "steps.csv"
_INSTRUCTION = "instruction.txt"
_INSTRUCTIONS = "instruction"
"""The column of steps.csv that gives each step's own."""
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_VIDEOS = (".mp4", ".mkv", ".webm", ".mov")
_LISTED = 5  # names that a warning mentions
_UNEVEN = 0.5
"""A frame that comes this much later than the median, relative to it, is worth a warning."""

_KNOWN = (*COUNTS, "timestamp", "success", "terminated", "reward")
"""Columns that are no state."""
_CLOCK = 10**6
"""Fewer frames than this are counted, more are ticks of a clock."""


@dataclass
class _Folder:
    """An episode's files.

    Attributes:
        path: its folder.
        frames: camera -> its images in order, or its video.
    """

    path: Path
    frames: dict[str, list[Path] | Path] = field(default_factory=dict)


@register("formats", "folder")
class FolderReader(EpisodicReader):
    """Reads a folder with a sub-folder per episode. Opening reads the numbers, and the header of
    one image per camera."""

    @classmethod
    def matches(cls, root: Path) -> bool:
        return root.is_dir() and next(root.glob(f"*/{_STEPS}"), None) is not None

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
        if self.keys.split is not None:
            raise DataError(
                f"{root}: plain folders have no splits; leave out the key `split` "
                f"({self.keys.split!r})"
            )
        folders = [file.parent for file in root.glob(f"*/{_STEPS}")]
        folders.sort(key=lambda folder: natural(folder.name))
        if not folders:
            raise DataError(
                f"{root}: no folder in it has a {_STEPS}; expected one folder per episode"
            )
        self._warn_of_lost([folder.name for folder in folders])
        self._words = self.keys.instruction or _INSTRUCTIONS
        whole = [read_steps(root, folder / _STEPS, [self._words]) for folder in folders]
        # a recorder that was stopped at once leaves a header without rows: nothing is lost
        lengths = [len(next(iter(table.values()))) for table in whole]
        empty = [folder.name for folder, L in zip(folders, lengths, strict=True) if not L]
        self._warn_of_empty(empty, len(folders))
        folders = [folder for folder in folders if folder.name not in empty]
        tables = [table for table, L in zip(whole, lengths, strict=True) if L]
        lengths = [L for L in lengths if L]
        self._folders = [_Folder(inside(root, folder)) for folder in folders]
        self._check_columns(tables)
        self._states = self._numeric("state", self.keys.state, tables[0])
        self._actions = self._numeric("action", self.keys.action, tables[0])
        reward = self.keys.reward or ("reward" if "reward" in tables[0] else None)
        self._success = self._success_key(reward, tables[0])
        self.recorded = self._recorded(tables[0])
        if not self._actions:
            numeric = [name for name in tables[0] if name not in (self._words, "timestamp")]
            raise DataError(
                f"{folders[0] / _STEPS}: no column is named action.NAME; it has: "
                f"{', '.join(tables[0])}; name what is read, for example "
                f"`action=[{','.join(numeric[-1:])}]`"
            )
        self._warn_of_columns(tables[0], reward)
        self._hz = self._rate(tables)
        cameras = self._find_cameras(lengths)
        episodes = []
        for folder, table in zip(folders, tables, strict=True):
            episodes.append(self._episode(folder, table))
        self._assemble(
            episodes,
            cameras=cameras,
            state_names=[name.removeprefix("state.") for name in self._states],
            action_names=[name.removeprefix("action.") for name in self._actions],
            control_hz=self._hz,
            unnamed_task=root.resolve().name,
        )

    def _warn_of_lost(self, names: list[str]) -> None:
        """An episode that lost its numbers, or that is missing from a row of numbered ones, was
        there once."""
        folders = [path.name for path in self.root.iterdir() if path.is_dir()]
        others = {name for name in folders if not name.startswith(".")}
        left_out = sorted(others - set(names), key=natural)
        if left_out:
            self.warnings.append(f"folders without {_STEPS} are left out: {', '.join(left_out)}")
        parts = [re.fullmatch(r"(.*?)(\d{1,9})", name) for name in names]
        stems = {part[1] for part in parts if part}
        if not all(parts) or len(stems) != 1:
            return
        numbers = sorted({int(part[2]) for part in parts if part})
        missing = numbers[-1] - numbers[0] + 1 - len(numbers)
        if 0 < missing <= len(numbers):  # names that are dates have more holes than days
            first = next(n for n, following in pairwise(numbers) if following != n + 1) + 1
            self.warnings.append(
                f"episode numbers have holes: {missing} between {names[0]} and {names[-1]} are "
                f"missing, first {first}"
            )

    # --- numbers ----------------------------------------------------------------------------------

    def _check_columns(self, tables: list[dict[str, np.ndarray]]) -> None:
        # a column that one episode lacks would have to be invented there
        for folder, table in zip(self._folders, tables, strict=True):
            if set(table) != set(tables[0]):
                odd = sorted(set(table) ^ set(tables[0]))
                raise DataError(
                    f"{folder.path / _STEPS}: column {odd[0]!r} is not in this file and in "
                    f"{self._folders[0].path.name} alike; give all episodes the same columns"
                )

    def _warn_of_columns(self, table: dict[str, np.ndarray], reward: str | None) -> None:
        """What is named neither state.NAME nor action.NAME."""
        read = {*self._states, *self._actions, reward, self._success, self._words, *_KNOWN}
        unread = {name: column.shape for name, column in table.items() if name not in read}
        if self.keys.state is None:
            self.warnings += unread_numbers(unread, self._states, self._actions)

    def _numeric(
        self,
        what: str,
        keys: list[str] | None,
        table: dict[str, np.ndarray],
    ) -> list[str]:
        if keys is None:
            return [name for name in table if name.startswith(f"{what}.")]
        # x stands for state.x in the key `state` and for action.x in the key `action`
        known = {}
        for name in (column for column in table if column != self._words):
            known[name] = [name.removeprefix(f"{what}.")]
        parts = self._chosen(what, keys, known)
        return [one.key for one in parts]

    def _recorded(self, table: dict[str, np.ndarray]) -> frozenset[str]:
        columns = {
            "rewards": self.keys.reward or "reward",
            "success": self._success or "success",
            "terminated": "terminated",
        }
        return frozenset(name for name, column in columns.items() if column in table)

    def _column(
        self,
        what: str,
        key: str | None,
        table: dict[str, np.ndarray],
    ) -> np.ndarray:
        """The column `key`, or the one named as `what`; zeros if there is none."""
        numeric = [name for name in table if name != self._words]
        if key is not None and key not in numeric:
            raise self._lacking(what, key, numeric)
        return table.get(key or what, np.zeros(len(next(iter(table.values())))))

    def _episode(self, folder: Path, table: dict[str, np.ndarray]) -> EpisodeNumbers:
        actions = np.stack([table[name] for name in self._actions], axis=1)
        state = [table[name] for name in self._states]
        return EpisodeNumbers(
            name=folder.name,
            state=np.stack(state, axis=1) if state else np.zeros((len(actions), 0)),
            actions=actions,
            rewards=self._column("reward", self.keys.reward, table),
            success=self._column("success", self._success, table) > 0,
            # of the last row alone: an episode ends once
            terminated=bool(self._column("terminated", None, table)[-1] > 0),
            instruction="" if self._words in table else self._instruction(folder),
            info={"folder": folder.name},
            instructions=[str(text) for text in table.get(self._words, ())],
        )

    def _instruction(self, folder: Path) -> str:
        """Of the episode, or else of the dataset."""
        name = self.keys.instruction or _INSTRUCTION
        for path in (folder / name, self.root / name):
            # `inside` first: the key may be a path such as ../../secret
            if inside(self.root, path).is_file():
                return read_text(self.root, path).strip()
        if self.keys.instruction is not None:
            raise DataError(
                f"{folder / name}: no such file to read as instruction; add it, there or in "
                f"{self.root}"
            )
        return ""

    def _rate(self, tables: list[dict[str, np.ndarray]]) -> float:
        """Of the keys, or of the timestamps."""
        times = [table["timestamp"] for table in tables if "timestamp" in table]
        given = self.keys.control_hz
        found = timed(times) if times else None
        if given is not None:
            # who gives a rate need not mend the times
            if times and found is None:
                self.warnings.append(
                    f"timestamps do not rise from step to step: each row is a step at {given:g} Hz"
                )
            return float(given)
        if found is None:
            for folder, own in zip(self._folders, times, strict=False):
                check_rising(f"{folder.path / _STEPS}", own)
            raise DataError(
                f"{self.root}: nothing says its control rate; add a column `timestamp`, or give "
                "the rate itself (`control_hz=5`)"
            )
        self.warnings += found.warnings
        differs = differing(found.of_episodes, found.hz, self.root)
        if differs:
            self.warnings.append(differs)
        return found.hz

    # --- images -----------------------------------------------------------------------------------

    def _find_cameras(self, lengths: list[int]) -> dict[str, tuple[int, int]]:
        """Camera -> (height, width); notes each episode's files. A camera of any episode is one of
        all."""
        found: set[str] = set()
        unread: set[str] = set()
        read = (_STEPS, _INSTRUCTION, self.keys.instruction)
        for folder in self._folders:
            for path in folder.path.iterdir():
                if _is_camera(path):
                    found.add(path.stem if path.is_file() else path.name)
                elif path.name not in read and not path.name.startswith("."):
                    unread.add(path.name + ("/" if path.is_dir() else ""))
        if unread:
            listed = ", ".join(sorted(unread)[:_LISTED])
            if len(unread) > _LISTED:
                listed += ", ..."
            self.warnings.append(
                f"in the episodes' folders {listed} are not read: frames are "
                f"{', '.join(_IMAGES)}, videos {', '.join(_VIDEOS)}"
            )
        there = sorted(found)
        names = {camera: camera for camera in there}
        if self.keys.cameras is not None:
            names = {camera: key or camera for camera, key in self.keys.cameras.items()}
        for camera, key in names.items():
            if key not in there:
                raise self._lacking(f"camera {camera!r}", key, there)
        for folder, L in zip(self._folders, lengths, strict=True):
            for camera, key in names.items():
                folder.frames[camera] = self._frames(folder.path, key, L)
        return {camera: self._size(self._folders[0].frames[camera]) for camera in names}

    def _frames(
        self,
        folder: Path,
        key: str,
        L: int,
    ) -> list[Path] | Path:
        """A camera's files in an episode: as many images as steps, or a video."""
        videos = [folder / f"{key}{suffix}" for suffix in _VIDEOS]
        videos = [path for path in videos if path.is_file()]
        place = inside(self.root, folder / key)
        if len(videos) + place.is_dir() != 1:
            found = ", ".join(path.name for path in videos) or "none"
            raise DataError(
                f"{place}: expected a folder of frames or a video {key}.mp4, and one of them; "
                f"found: {found}"
            )
        if videos:
            return inside(self.root, videos[0])
        images = [path for path in place.iterdir() if path.suffix.lower() in _IMAGES]
        # by number, not by name: frame_10 is after frame_9
        images.sort(key=_frame_number)
        numbers = [_frame_number(path) for path in images]
        if _are_times(numbers):
            return self._named_by_time(place, images, numbers, L)
        for path, before, number in zip(images[1:], numbers, numbers[1:], strict=False):
            if number == before:
                problem = f"frame {int(number)} is there twice"
            elif number > before + 1:
                problem = f"frame {int(before) + 1} is missing"
            else:
                continue
            raise DataError(f"{path}: {problem}; restore the frames or drop the episode")
        for path in images:
            inside(self.root, path)
        # numbered from 0 or from 1: both are usual; a later start means that frames were lost
        if len(images) != L or (numbers and numbers[0] > 1):
            spread = f", numbers {numbers[0]} to {numbers[-1]}" if numbers else ""
            raise DataError(
                f"{place}: has {len(images)} frames{spread}; {_STEPS} has {L} rows: give one "
                "frame per row"
            )
        return images

    def _named_by_time(
        self,
        place: Path,
        images: list[Path],
        times: list[float],
        L: int,
    ) -> list[Path]:
        """Frames whose names are clock times, in their order, one for each row."""
        if len(images) != L:
            raise DataError(
                f"{place}: has {len(images)} frames named by time, {times[0]} to {times[-1]}; "
                f"{_STEPS} has {L} rows: give one frame per row"
            )
        for path in images:
            inside(self.root, path)
        steps = np.diff(times)
        note = f"{place.name}: frames are named by time and read in its order, one for each row"
        slow = int(steps.argmax())
        if steps.max() > (1 + _UNEVEN) * np.median(steps):
            note += (
                f"; in {place.parent.name} {images[slow + 1].name} comes late, "
                f"{steps[slow]:g} after {images[slow].name} and not {np.median(steps):g}"
            )
        if not any(warning.startswith(note) for warning in self.warnings):
            self.warnings.append(note)
        return images

    def _size(self, frames: list[Path] | Path) -> tuple[int, int]:
        if isinstance(frames, Path):
            from vla.data.storage.video import VideoReader

            with VideoReader(frames) as video:
                # no error: frames are found by number, and the rows say when they were seen
                if abs(video.fps - self._hz) > 0.01 * self._hz:
                    self.warnings.append(
                        f"{frames.name} plays at {video.fps:g} Hz, its rows follow at "
                        f"{self._hz:g} Hz"
                    )
                return video.size
        return file_image_size(_bytes(frames[0]), str(frames[0]))

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        for episode, first, lower, upper in self._step_ranges(start, stop):
            frames = self._folders[episode].frames[camera]
            if isinstance(frames, Path):
                L = int(self.episodes["length"][episode])
                images = self._video(frames, lower, upper, L)
            else:
                images = (_bytes(path) for path in frames[lower:upper])
            for step, image in enumerate(images, start=lower):
                yield first + step, image

    def _video(
        self,
        path: Path,
        lower: int,
        upper: int,
        L: int,
    ) -> Iterator[Image]:
        from vla.data.storage.video import VideoReader

        with VideoReader(path) as video:
            if video.num_frames != L:
                raise DataError(
                    f"{path}: has {video.num_frames} frames, {_STEPS} {L} rows; give one frame "
                    "per row"
                )
            yield from video.frames(lower, upper)

    def fingerprint(self) -> str:
        # of the images alone: numbers are read whenever the dataset is opened
        files = []
        for folder in self._folders:
            for frames in folder.frames.values():
                files += [frames] if isinstance(frames, Path) else frames
        return fingerprint(self.root, files, self.keys.cameras)


def _is_camera(path: Path) -> bool:
    """Whether it is a video, or a folder with frames."""
    if path.is_dir():
        return any(file.suffix.lower() in _IMAGES for file in path.iterdir())
    return path.suffix.lower() in _VIDEOS


def _are_times(numbers: list[float]) -> bool:
    """Whether numbers of frames are clock times: fractions, or numbers that rise by far more than
    one."""
    if len(numbers) < 2 or (len(numbers) == 2 and numbers[0] < _CLOCK):
        return False
    if any(number != int(number) for number in numbers):
        return True
    steps = np.diff(numbers)
    # a frame that was lost leaves one hole, and most steps are still of one
    return bool(steps.min() > 1) and numbers[-1] - numbers[0] > 5 * len(numbers)


def _frame_number(path: Path) -> float:
    """The last number in a file's name; of seconds with a fraction, or of seconds and nanoseconds,
    the time."""
    time = re.search(r"(^\d+|\d{9,})\.\d+$", path.stem)
    if time:
        return float(time[0])
    time = re.search(r"(\d{9,10})_(\d{1,9})$", path.stem)
    if time:
        return int(time[1]) + int(time[2]) / 1e9
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise DataError(
            f"{path}: its name holds no number; number the frames from 0, for example 000000.png"
        )
    return int(numbers[-1])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; restore the file") from error
