"""TFRecord files without TensorFlow: framed records with checksums, and the `tf.train.Example` in
them.

A record is its length (uint64), a checksum of those eight bytes (uint32), the data, and a checksum
of the data. The checksums are CRC-32C, rotated and offset, all numbers little-endian. Source:
tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import check_plain

_HEADER = 12
_FOOTER = 4
Values = np.ndarray | list[bytes]


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecords store it."""
    import google_crc32c

    crc = google_crc32c.value(data)
    # masked, since a CRC of data that holds CRCs is weak (says the source)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def index_records(path: Path) -> list[tuple[int, int]]:
    """(place, length) of the data of every record, from the headers alone. Raises DataError naming
    file and record."""
    records: list[tuple[int, int]] = []
    check_plain(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            # from header to header: the data of most records are images
            file.seek(at)
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                raise DataError(
                    f"{path}: record {len(records)} ends within its header, at byte {size}; copy "
                    "it again"
                )
            length, crc = struct.unpack("<QI", header)
            if masked_crc(header[:8]) != crc:
                raise DataError(
                    f"{path}: record {len(records)}: its length at byte {at} is damaged; copy it "
                    "again"
                )
            # a million of these fit into a small file
            if not length:
                raise DataError(
                    f"{path}: record {len(records)} is empty, expected an episode; make the "
                    "dataset again"
                )
            end = at + _HEADER + length + _FOOTER
            # a record that was cut off has a whole header
            if end > size:
                raise DataError(
                    f"{path}: record {len(records)} goes to byte {end}, the file to {size}; copy "
                    "it again"
                )
            records.append((at + _HEADER, length))
            at = end
    return records


def read_record(file: BinaryIO, place: int, length: int, where: str) -> bytes:
    """The data of one record. Raises DataError beginning with `where` if it is not what was
    written."""
    file.seek(place)
    data = file.read(length + _FOOTER)
    whole = len(data) == length + _FOOTER
    if not whole or struct.unpack("<I", data[length:])[0] != masked_crc(data[:length]):
        raise DataError(
            f"{where}: its checksum is wrong, so its data is damaged; copy the file again"
        )
    return data[:length]


class Example:
    """A parsed `tf.train.Example`: names, and lists of numbers or bytes. Raises DataError if it is
    none."""

    def __init__(self, data: bytes, where: str) -> None:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        message = example_class()()
        try:
            message.ParseFromString(data)
        except (DecodeError, ValueError) as error:
            raise DataError(
                f"{where}: is no tf.train.Example: {error}; make the dataset again"
            ) from error
        self._where = where
        self._features = message.features.feature

    def get(self, name: str) -> Values | None:
        """float32 or int64 (n,), or n bytes; None if the example has no such feature or it is empty
        of any kind."""
        if name not in self._features:
            return None
        feature = self._features[name]
        kind = feature.WhichOneof("kind")  # a list of bytes, floats or integers
        if kind is None:
            return None
        values = getattr(feature, kind).value
        if kind == "bytes_list":
            return list(values)
        return np.array(values, np.float32 if kind == "float_list" else np.int64)

    def numbers(self, name: str) -> np.ndarray:
        """float32 or int64 (n,). Raises DataError if there are none."""
        values = self._needed(name)
        if isinstance(values, list):
            raise DataError(
                f"{self._where}: {name!r} holds bytes, expected numbers; choose another key"
            )
        return values

    def files(self, name: str) -> list[bytes]:
        """n strings of bytes. Raises DataError if there are none."""
        values = self._needed(name)
        if isinstance(values, np.ndarray):
            raise DataError(
                f"{self._where}: {name!r} holds numbers, expected bytes; choose another key"
            )
        return values

    def _needed(self, name: str) -> Values:
        values = self.get(name)
        if values is None:
            raise DataError(
                f"{self._where}: lacks {name!r}, which features.json lists; make the dataset again"
            )
        return values


@functools.cache
def example_class() -> Any:
    """The message type, from a description built here in a pool of its own, so that TensorFlow may
    be loaded too."""
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    Field = descriptor_pb2.FieldDescriptorProto
    package = "vla.tfrecord"
    file = descriptor_pb2.FileDescriptorProto(
        name="vla/tfrecord.proto", package=package, syntax="proto3"
    )

    def message(name: str) -> Any:
        return file.message_type.add(name=name)

    def field(
        owner: Any,
        name: str,
        number: int,
        kind: Any,
        *,
        repeated: bool = False,
        of: str = "",
    ) -> Any:
        made = owner.field.add(name=name, number=number, type=kind)
        made.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
        if of:
            made.type_name = f".{package}.{of}"
        return made

    lists = {
        "BytesList": Field.TYPE_BYTES,
        "FloatList": Field.TYPE_FLOAT,
        "Int64List": Field.TYPE_INT64,
    }
    for name, kind in lists.items():
        field(message(name), "value", 1, kind, repeated=True)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    # numbers of fields as in tensorflow/core/example/feature.proto: they are what is stored
    for number, name in enumerate(lists, start=1):
        field_name = name.replace("List", "_list").lower()
        choice = field(feature, field_name, number, Field.TYPE_MESSAGE, of=name)
        choice.oneof_index = 0
    # a map is stored as a list of entries with a key and a value
    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, Field.TYPE_STRING)
    field(entry, "value", 2, Field.TYPE_MESSAGE, of="Feature")
    field(features, "feature", 1, Field.TYPE_MESSAGE, repeated=True, of="Features.FeatureEntry")
    field(message("Example"), "features", 1, Field.TYPE_MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))
