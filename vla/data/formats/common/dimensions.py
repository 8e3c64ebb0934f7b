"""Which numbers an entry of `KeyMap.state` or `KeyMap.action` stands for: a key, some dimensions of
a key, or one dimension by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vla.data.errors import DataError

_CHOSEN = re.compile(r"(?P<key>.+)\[(?P<dims>[0-9:,\s]+)\]")
"""`qpos[:6]`, `action[0,3:5]`."""


@dataclass(frozen=True)
class Part:
    """Dimensions of one key.

    Attributes:
        key: of the dataset.
        dims: which of its dimensions, in order.
        names: of these dimensions.
    """

    key: str
    dims: tuple[int, ...]
    names: tuple[str, ...]


def part(entry: str, known: Mapping[str, Sequence[str]]) -> Part | None:
    """What `entry` stands for; None if it is neither a key nor a dimension.

    Args:
        entry: `KEY`, `KEY[:2]`, `KEY[0,3:5]`, or the name of a dimension.
        known: key -> names of its dimensions.

    Raises:
        DataError: the key has no such dimensions, or several keys have one of that name.
    """
    # A key may hold brackets itself, so the whole entry is tried first.
    if entry in known:
        names = tuple(known[entry])
        return Part(entry, tuple(range(len(names))), names)
    found = _CHOSEN.fullmatch(entry)
    if found is not None and found["key"] in known:
        names = tuple(known[found["key"]])
        dims = _numbers(entry, found["dims"], len(names))
        return Part(found["key"], dims, tuple(names[dim] for dim in dims))
    places = [(key, names.index(entry)) for key, names in known.items() if entry in names]
    if len(places) > 1:
        choices = ", ".join(f"{key}[{dim}]" for key, dim in places)
        raise DataError(f"{entry!r} is a dimension of several keys; name one of: {choices}")
    if not places:
        return None
    key, dim = places[0]
    return Part(key, (dim,), (entry,))


def _numbers(entry: str, text: str, width: int) -> tuple[int, ...]:
    """`0,3:5` -> (0, 3, 4), as Python slices."""
    dims: list[int] = []
    for piece in text.split(","):
        bounds = [bound.strip() for bound in piece.split(":")]
        if len(bounds) > 2 or (len(bounds) == 1 and not bounds[0]):
            raise DataError(f"{entry!r}: expected dimensions such as [0,3:5]")
        if len(bounds) == 1:
            chosen = [int(bounds[0])]
        else:
            chosen = list(range(int(bounds[0] or 0), int(bounds[1] or width)))
        dims += chosen
    beyond = [dim for dim in dims if dim >= width]
    if beyond or not dims or len(set(dims)) < len(dims):
        raise DataError(
            f"{entry!r}: expected dimensions from 0 to {width - 1}, at least one, each once"
        )
    return tuple(dims)
