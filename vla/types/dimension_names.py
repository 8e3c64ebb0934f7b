"""Whether names of state or action dimensions tell what the dimensions are.

Datasets often store a vector without names. Readers then make names up from the column's name and a
number: `action_0`, `state_3`, `robot0_eef_pos_1` (`dimension_names` in `vla/data/formats`). Two
robots may share such names and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_COLUMNS = frozenset(("action", "actions", "state", "states", "obs", "observations"))
"""Names of whole columns; readers give them to the only dimension of a column."""
_NUMBERED = re.compile(r"(?P<stem>.*)(?P<separator>[_.])(?P<number>\d+)")


def made_up_names(names: Sequence[str]) -> list[str]:
    """Those of `names` that only number their dimensions, or repeat the column's name.

    Readers count from 0 within a column (`action_0`, `action_1`), or over all dimensions if names
    repeat (`x.0`, `x.1`). Numbers that begin elsewhere (`joint_1` .. `joint_7`) were given by
    somebody who knows the robot.
    """
    matches = {name: _NUMBERED.fullmatch(name) for name in names}
    from_0 = {
        match["stem"] for match in matches.values() if match is not None and match["number"] == "0"
    }
    found = []
    for place, name in enumerate(names):
        match = matches[name]
        if match is None:
            made_up = name in _COLUMNS
        elif match["stem"] in from_0:
            made_up = True
        else:
            # `x.0`, `y.1`, `x.2`: numbered over all dimensions
            made_up = match["separator"] == "." and int(match["number"]) == place
        if made_up:
            found.append(name)
    return found


__all__ = ["made_up_names"]
