"""One recording of ROS: an `.mcap` file, a rosbag2 folder, an `.mcap` or `.db3` file of one, or a
`.bag` file of ROS 1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

from vla.data.errors import DataError
from vla.data.formats.common.files import library_errors
from vla.data.formats.common.names import natural

SUFFIXES = (".mcap", ".db3", ".bag")
_METADATA = "metadata.yaml"
LIBRARIES = "pip install 'vla[formats]'"


def recording_paths(root: Path) -> Iterator[Path]:
    """Paths of all recordings at or below `root`; hidden folders are left out."""
    if root.is_file():
        if root.suffix.lower() in SUFFIXES:
            yield root
        return
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        bags = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
        if _METADATA in files and bags:
            folders.clear()
            yield here
            continue
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for name in sorted(bags, key=natural):
            yield here / name


def files_of(path: Path) -> list[Path]:
    """The files of a recording."""
    if path.is_file():
        return [path]
    return [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]


class Recording(Protocol):
    """An open recording.

    Attributes:
        topics: topic -> (type of its messages, their number).
        unread: topic whose messages cannot be read -> why.
        seconds: from the first message to the last.
    """

    topics: dict[str, tuple[str, int]]
    unread: dict[str, str]
    seconds: float

    def raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, time in ns, data) of messages, by time."""

    def message(self, topic: str, data: bytes) -> Any:
        """A message of a topic from its bytes."""


class RosRecording(Recording):
    """An open recording of ROS messages alone; they are dataclasses."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.topics = {}
        self.unread = {}
        for topic, info in reader.topics.items():
            self.topics[topic] = (str(info.msgtype), int(info.msgcount))
        self.seconds = reader.duration / 1e9 if reader.message_count else 0.0

    def raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        connections = [each for each in self._reader.connections if each.topic in topics]
        # no connections would mean all of them
        if connections:
            for connection, time, data in self._reader.messages(connections):
                yield connection.topic, time, data

    def message(self, topic: str, data: bytes) -> Any:
        return self._reader.deserialize(data, self.topics[topic][0])


@contextlib.contextmanager
def opened_ros(path: Path) -> Iterator[RosRecording]:
    """Opens a recording of ROS. What the library raises in the block becomes a DataError that names
    it."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise DataError(f"{path}: needs the package rosbags: {LIBRARIES}") from error
    # older recordings do not say how their messages are laid out
    store = Stores.ROS1_NOETIC if path.suffix == ".bag" else Stores.ROS2_HUMBLE
    with (
        library_errors(path, "no recording of ROS messages"),
        AnyReader([path], default_typestore=get_typestore(store)) as reader,
    ):
        yield RosRecording(reader)
