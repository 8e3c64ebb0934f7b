"""MCAP files whose messages are JSON or Protocol Buffers, as Foxglove and many loggers write them.

Source of the layouts: the MCAP specification's registry of well-known encodings
(https://mcap.dev/spec/registry).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import library_errors
from vla.data.formats.rosbag_parts.recording import LIBRARIES, Recording, opened_ros

Decoder = Callable[[bytes], Any]
_OTHERS = ("json", "protobuf")
"""Encodings that the library of ROS recordings does not know."""
_MAGIC = b"\x89MCAP0\r\n"
_WHOLE = "no MCAP file"


def _check_closed(path: Path) -> None:
    """Raises DataError for an MCAP file that has a beginning and no end: its writer was killed."""
    with path.open("rb") as stream:
        begins = stream.read(len(_MAGIC)) == _MAGIC
        stream.seek(-min(path.stat().st_size, len(_MAGIC)), 2)
        ends = stream.read() == _MAGIC
    if begins and not ends:
        raise DataError(
            f"{path}: was not closed by its writer, so its index is missing; mend it with "
            f"Foxglove's command: mcap recover {path} -o MENDED.mcap"
        )


def holds_other_messages(path: Path) -> bool:
    """Whether a file is an MCAP file with messages that are not of ROS. Raises DataError if it was
    not closed."""
    if path.suffix.lower() != ".mcap" or not path.is_file():
        return False
    _check_closed(path)
    try:
        from mcap.reader import make_reader
    except ImportError:  # it is then opened as a recording of ROS, which names what is missing
        return False
    # what is wrong with a damaged file is said by the one who opens it
    with contextlib.suppress(DataError), path.open("rb") as stream, library_errors(path, _WHOLE):
        summary = make_reader(stream).get_summary()
        channels = summary.channels.values() if summary is not None else ()
        return any(channel.message_encoding in _OTHERS for channel in channels)
    return False


class McapFile(Recording):
    """An open MCAP file. Messages of JSON and Protocol Buffers are dicts: their arrays of numbers
    are arrays, their bytes are bytes; messages of ROS 2 in the same file are dataclasses."""

    def __init__(self, path: Path, reader: Any) -> None:
        self._reader = reader
        self.topics = {}
        self.unread = {}
        self._decoders: dict[str, Decoder] = {}
        summary = reader.get_summary()
        statistics = summary.statistics
        if statistics is None:
            raise DataError(
                f"{path}: does not count its messages; mend it with Foxglove's command: mcap "
                f"recover {path} -o MENDED.mcap"
            )
        made: dict[tuple[int, str], Decoder] = {}
        layouts: dict[str, tuple[int, str]] = {}
        for channel in summary.channels.values():
            layout = (channel.schema_id, channel.message_encoding)
            if layouts.setdefault(channel.topic, layout) != layout:
                raise DataError(
                    f"{path}: {channel.topic} has messages of two layouts; write it with one"
                )
            schema = summary.schemas.get(channel.schema_id)
            if layout not in made:
                decoder = _decoder(path, channel.message_encoding, schema)
                if decoder is None:
                    self.unread[channel.topic] = _why_unread(channel.message_encoding, schema)
                    continue
                made[layout] = decoder
            self._decoders[channel.topic] = made[layout]
            # several publishers of one topic have a channel each
            _, before = self.topics.get(channel.topic, ("", 0))
            count = before + statistics.channel_message_counts.get(channel.id, 0)
            kind = channel.message_encoding if schema is None else schema.name
            self.topics[channel.topic] = (kind, count)
        self.seconds = (statistics.message_end_time - statistics.message_start_time) / 1e9

    def raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        # an empty list would mean all of them
        if topics:
            for _, channel, message in self._reader.iter_messages(list(topics)):
                yield channel.topic, message.log_time, message.data

    def message(self, topic: str, data: bytes) -> Any:
        return self._decoders[topic](data)


@contextlib.contextmanager
def opened_mcap(path: Path) -> Iterator[McapFile]:
    """Opens an MCAP file. What the library raises in the block becomes a DataError that names
    it."""
    from mcap.reader import make_reader

    with path.open("rb") as stream, library_errors(path, _WHOLE):
        yield McapFile(path, make_reader(stream))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Recording]:
    """Opens a recording of any kind. What a library raises in the block becomes a DataError that
    names it."""
    with opened_mcap(path) if holds_other_messages(path) else opened_ros(path) as recording:
        yield recording


def _decoder(path: Path, encoding: str, schema: Any) -> Decoder | None:
    """What reads the messages of a channel; None if nothing here does."""
    if encoding == "json":
        return lambda data: _of_json(json.loads(data))
    described = schema.encoding if schema is not None else ""
    if encoding == "protobuf" and described == "protobuf":
        return _protobuf_decoder(path, schema)
    if encoding == "cdr" and described == "ros2msg":
        return _ros_decoder(path, schema)
    return None


def _why_unread(encoding: str, schema: Any) -> str:
    described = "no schema" if schema is None else f"a schema of {schema.encoding!r}"
    return (
        f"its messages are {encoding!r} with {described}; known are json, protobuf, and cdr with "
        "ros2msg"
    )


def _of_json(value: Any) -> Any:
    """Lists of numbers, also nested evenly, become arrays; what is null is left out."""
    if isinstance(value, dict):
        return {name: _of_json(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return _numbers(value) if _is_numbers(value) else [_of_json(inner) for inner in value]
    return value


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_numbers(inner) for inner in value)
    return isinstance(value, bool | int | float)


def _numbers(value: list[Any]) -> Any:
    try:
        return np.asarray(value, np.float64)
    except ValueError:  # rows of different lengths
        return [_of_json(inner) for inner in value]


def _protobuf_decoder(path: Path, schema: Any) -> Decoder:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise DataError(f"{path}: needs the package protobuf: {LIBRARIES}") from error
    files = descriptor_pb2.FileDescriptorSet.FromString(schema.data)
    by_name = {file.name: file for file in files.file}
    # a pool of its own: two recordings may mean different things by one name
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(name: str) -> None:
        # every file after those it depends on, as the pool asks
        if name in added or name not in by_name:
            return
        added.add(name)
        for needed in by_name[name].dependency:
            add(needed)
        pool.Add(by_name[name])

    for name in by_name:
        add(name)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
    return lambda data: _of_protobuf(made.FromString(data))


def _of_protobuf(message: Any) -> dict[str, Any]:
    """Fields by their names in the schema. Numbers that are zero are not sent, so they are added;
    messages that are absent stay absent."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {str(key): _of_field(inner) for key, inner in value.items()}
        elif _is_repeated(field):
            found[field.name] = _of_repeated(list(value))
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _of_field(value)
    return found


def _is_repeated(field: Any) -> bool:
    repeated = getattr(field, "is_repeated", None)
    # older releases of the library have the label alone
    return field.label == field.LABEL_REPEATED if repeated is None else bool(repeated)


def _of_field(value: Any) -> Any:
    return _of_protobuf(value) if hasattr(value, "DESCRIPTOR") else value


def _of_repeated(values: list[Any]) -> Any:
    if values and isinstance(values[0], bool | int | float):
        return np.asarray(values, np.float64)
    return [_of_field(value) for value in values]


def _ros_decoder(path: Path, schema: Any) -> Decoder:
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise DataError(f"{path}: needs the package rosbags: {LIBRARIES}") from error
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(schema.data.decode(), schema.name))
    return lambda data: store.deserialize_cdr(data, schema.name)
