"""msgpack read within limits: depth, entries, sizes and kinds are checked beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Union

import msgpack

from vla_client.errors import WireError, shown

Key = Union[str, bytes]


@dataclass(frozen=True)
class Limits:
    """What one message may hold. A server takes them from its policy's cameras."""

    max_bytes: int = 64 * 2**20
    """Length of the message."""
    max_entries: int = 100_000
    """Entries of all lists and maps together."""
    max_depth: int = 8
    """Lists and maps inside each other."""
    max_text: int = 2**20
    """Bytes of one text."""
    max_pixels: int = 2**24
    """Pixels of all compressed images together (those of vla-eval)."""


def _kind(first: int) -> str:
    """What a value is by its first byte (the msgpack specification, section formats)."""
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return "map"
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return "list"
    if 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8:
        return "extension"
    return "plain"


class Reader(ABC):
    """Reads one message. A protocol derives from it and says by `finish_map` what maps mean.

    The values come one by one, since msgpack's own whole-message call builds lists and maps of any
    depth and number before it can be asked to stop.
    """

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.data = data
        self.limits = limits
        self.entries_left = limits.max_entries
        self._unpacker = msgpack.Unpacker(
            raw=False,
            max_buffer_size=limits.max_bytes,
            max_str_len=limits.max_text,
            max_bin_len=limits.max_bytes,
        )

    def message(self) -> Any:
        """The message's value; raises `WireError` for anything else than one whole message."""
        if not isinstance(self.data, (bytes, bytearray, memoryview)):
            raise WireError(f"the message is {type(self.data).__name__}, expected bytes")
        if len(self.data) > self.limits.max_bytes:
            raise WireError(
                f"the message has {len(self.data)} bytes, at most {self.limits.max_bytes} are read"
            )
        self._unpacker.feed(self.data)
        try:
            value = self._value("message", 0)
        except (msgpack.UnpackException, UnicodeDecodeError, IndexError, ValueError) as error:
            if isinstance(error, WireError):
                raise
            raise WireError(f"the message is no msgpack: {_reason(error)}") from error
        if self._unpacker.tell() != len(self.data):
            raise WireError(f"the message goes on after its end, at byte {self._unpacker.tell()}")
        return value

    @abstractmethod
    def finish_map(self, entries: dict[Key, Any], place: str) -> Any:
        """The value of a map whose keys and values have been read."""

    def _value(self, place: str, depth: int) -> Any:
        kind = _kind(self.data[self._unpacker.tell()])
        if kind == "plain":
            return self._unpacker.unpack()
        if kind == "extension":
            raise WireError(f"{place} is an extension type of msgpack, which is not accepted")
        if depth >= self.limits.max_depth:
            raise WireError(f"{place} is nested more than {self.limits.max_depth} deep")
        return self._map(place, depth) if kind == "map" else self._list(place, depth)

    def _list(self, place: str, depth: int) -> list[Any]:
        length = self._unpacker.read_array_header()
        self._count(length, place)
        return [self._value(f"{place}[{i}]", depth + 1) for i in range(length)]

    def _map(self, place: str, depth: int) -> Any:
        length = self._unpacker.read_map_header()
        self._count(length, place)
        entries: dict[Key, Any] = {}
        for _ in range(length):
            key, inner = self._key(place)
            if key in entries:
                raise WireError(f"{place} has the key {shown(key)} twice")
            entries[key] = self._value(inner, depth + 1)
        return self.finish_map(entries, place)

    def _key(self, place: str) -> tuple[Key, str]:
        """A key, and the place of its value as errors show it."""
        if _kind(self.data[self._unpacker.tell()]) != "plain":
            raise WireError(f"{place} has a list or a map as a key, expected text")
        key = self._unpacker.unpack()
        if isinstance(key, str):
            return key, shown(key)
        if isinstance(key, bytes):
            return key, place
        raise WireError(f"{place} has the key {shown(key)}, expected text")

    def _count(self, length: int, place: str) -> None:
        # counted before the entries are read: a header alone may announce four thousand million
        self.entries_left -= length
        if self.entries_left < 0:
            raise WireError(f"{place}: more than {self.limits.max_entries} entries in one message")


def _reason(error: Exception) -> str:
    if isinstance(error, (msgpack.OutOfData, IndexError)):
        return "it ends too early"
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    return shown(str(error) or type(error).__name__)
