"""JSON files of others: whatever they hold, reading ends with a value or one line that names the
file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vla.common.errors import UserError

MAX_BYTES = 256 * 2**20
"""Of one file. Tokenizers of large vocabularies have some tens of MB."""
MAX_DEPTH = 100
"""Of lists and objects within each other; the deepest file that is written here has about ten."""


class JsonError(UserError):
    """A file holds no JSON, or JSON that says a thing twice, or is nested too deep.

    Attributes:
        reason: what is wrong, without the file's name.
    """

    def __init__(self, name: object, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{name}: {reason}")


def read_json(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON file in UTF-8.

    Raises:
        JsonError: the file is no plain file or too large, not UTF-8, no JSON, nested more than
            `MAX_DEPTH` deep, or an object in it has a key twice.
        OSError: there is no such file, or it may not be read.
    """
    path = Path(path)
    # opening a pipe would wait for ever, so it is looked at first
    size = path.stat().st_size
    if not path.is_file():
        raise JsonError(path, "is no plain file")
    if size > max_bytes:
        raise JsonError(path, f"has {size} bytes, expected at most {max_bytes}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(path, f"is not UTF-8 (byte {error.start}); copy it again") from error
    return parse_json(text, path)


def parse_json(text: str, name: object) -> Any:
    """The value of a JSON text; `name` stands for it in errors.

    Raises JsonError as `read_json` does.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise JsonError(name, "is nested too deep to be read") from error
    except ValueError as error:
        raise JsonError(name, f"not valid JSON: {error}") from error
    # most texts have not even as many brackets
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise JsonError(name, f"is nested more than {MAX_DEPTH} deep")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Python's own reader lets the last of two equal keys win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {double[:100]!r} stands in it twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)
"""Made once: files of a line for each episode are read line by line."""


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects lie within each other more than `depth` times."""
    level = [value]
    for _ in range(depth):
        # level by level: a function that calls itself would meet the same limit as the reader
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


__all__ = ["JsonError", "parse_json", "read_json"]
