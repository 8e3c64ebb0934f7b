"""Reads the actions of RLDS episodes out of TFRecord files, without TensorFlow.

A TFRecord is a list of [length: uint64, checksum: uint32, data, checksum: uint32]. The data of RLDS episodes are
`tf.train.Example` messages: field 1 features, field 1 entries of a map (1 key, 2 value), the value's field 2 a list of
floats, which are packed in its field 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

KEY = b"steps/action"


def read_actions(path: Path, *, dims: int) -> list[np.ndarray]:
    """float32 (steps, dims) of each episode in the file."""
    return [_floats(record, KEY).reshape(-1, dims) for record in _records(path.read_bytes())]


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + length]
        at += 12 + length + 4


def _floats(example: bytes, key: bytes) -> np.ndarray:
    for features in _fields(example, 1):
        for entry in _fields(features, 1):
            if next(_fields(entry, 1)) == key:
                (value,) = _fields(entry, 2)
                (floats,) = _fields(value, 2)
                return np.frombuffer(b"".join(_fields(floats, 1)), "<f4")
    raise KeyError(key)


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """The bytes of every length-delimited field `number`; fields of other kinds are stepped over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 2:
            length, at = _varint(message, at)
            if tag >> 3 == number:
                yield message[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(message, at)
        else:
            at += {1: 8, 5: 4}[kind]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
