"""Entries of `KeyMap.state` and `KeyMap.action`: whole keys, parts of keys, single dimensions."""

import pytest

from vla.data import DataError
from vla.data.formats.common.dimensions import Part, part

KNOWN = {
    "qpos": ("shoulder", "elbow", "grip"),
    "qvel": ("qvel_0", "qvel_1"),
    "odd[0]": ("odd",),
}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("qpos", Part("qpos", (0, 1, 2), ("shoulder", "elbow", "grip"))),
        ("qpos[:2]", Part("qpos", (0, 1), ("shoulder", "elbow"))),
        ("qpos[2, 0:1]", Part("qpos", (2, 0), ("grip", "shoulder"))),
        ("grip", Part("qpos", (2,), ("grip",))),
        ("odd[0]", Part("odd[0]", (0,), ("odd",))),
        ("torque", None),
        ("torque[0]", None),
    ],
)
def test_an_entry_stands_for(entry: str, expected: Part | None):
    assert part(entry, KNOWN) == expected


@pytest.mark.parametrize("entry", ["qpos[3]", "qpos[0,0]", "qpos[2:2]", "qpos[1:2:3]", "qpos[,]"])
def test_dimensions_that_are_not_there_are_refused(entry: str):
    with pytest.raises(DataError, match="expected dimensions"):
        part(entry, KNOWN)


def test_a_name_of_two_dimensions_is_refused():
    with pytest.raises(DataError, match=r"a\[0\], b\[1\]"):
        part("x", {"a": ("x", "y"), "b": ("z", "x")})
