"""One recording of ROS: an `.mcap` file, a rosbag2 folder, an `.mcap` or `.db3` file of one, or a
`.bag` file of ROS 1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vla.data.errors import DataError
from vla.data.formats.common.files import library_errors
from vla.data.formats.common.names import natural

SUFFIXES = (".mcap", ".db3", ".bag")
_METADATA = "metadata.yaml"


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


class Recording:
    """An open recording.

    Attributes:
        topics: topic -> (type of its messages, their number).
        seconds: from the first message to the last.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self._path = path
        self._reader = reader
        self.topics: dict[str, tuple[str, int]] = {}
        for topic, info in reader.topics.items():
            self.topics[topic] = (str(info.msgtype), int(info.msgcount))
        self.seconds = reader.duration / 1e9 if reader.message_count else 0.0

    def raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, str, bytes]]:
        """(topic, time in ns, type, data) of messages, by time."""
        connections = [each for each in self._reader.connections if each.topic in topics]
        # no connections would mean all of them
        if connections:
            for connection, time, data in self._reader.messages(connections):
                yield connection.topic, time, connection.msgtype, data

    def message(self, data: bytes, kind: str) -> Any:
        """A message from its bytes."""
        return self._reader.deserialize(data, kind)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Recording]:
    """Opens a recording. What the library raises in the block becomes a DataError that names
    it."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise DataError(f"{path}: needs the package rosbags: pip install 'vla[formats]'") from error
    # older recordings do not say how their messages are laid out
    store = Stores.ROS1_NOETIC if path.suffix == ".bag" else Stores.ROS2_HUMBLE
    with (
        library_errors(path, "no recording of ROS messages"),
        AnyReader([path], default_typestore=get_typestore(store)) as reader,
    ):
        yield Recording(path, reader)
