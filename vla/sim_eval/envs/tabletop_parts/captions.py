"""What a picture of the tabletop shows, as questions with one right answer each.

A question is only asked where its answer cannot be argued with: colours and shapes that stand for
one object, sides that differ by more than the objects' sizes, a drawer that is plainly open or
shut. Whether the hand hides an object from a camera is not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from vla.sim_eval.env import Caption
from vla.sim_eval.envs.tabletop_parts.goals import (
    DRAWER_CLOSED_METRES,
    DRAWER_OPEN_METRES,
    Table,
)
from vla.sim_eval.envs.tabletop_parts.language import TRAIN_PAIRS, Thing
from vla.sim_eval.envs.tabletop_parts.scene import RECEPTACLES, SHAPES

ASIDE_METRES = 0.06
"""Least distance along x at which something stands left or right of something else."""


def scene_captions(table: Table, rng: np.random.Generator) -> tuple[Caption, ...]:
    """Questions about the present state, in a fixed order of kinds.

    Args:
        rng: draws which object's presence, place and company are asked for.
    """
    things = table.things
    return (
        *_colours(things),
        *_shapes(things),
        _presence(things, rng),
        *_sides(table),
        _in_order(table),
        *_contents(table),
        *_drawer(table),
    )


def _colours(things: Sequence[Thing]) -> Iterator[Caption]:
    count = Counter(thing.shape for thing in things)
    for thing in things:
        if count[thing.shape] == 1:
            question = f"What colour is the {thing.shape}?"
            yield Caption("colour", question, f"The {thing.shape} is {thing.colour}.")


def _shapes(things: Sequence[Thing]) -> Iterator[Caption]:
    count = Counter(thing.colour for thing in things)
    for thing in things:
        if count[thing.colour] == 1:
            question = f"What shape is the {thing.colour} object?"
            yield Caption("shape", question, f"The {thing.colour} object is a {thing.shape}.")


def _presence(things: Sequence[Thing], rng: np.random.Generator) -> Caption:
    """As often of an object that is there as of one that is not."""
    if rng.random() < 0.5:
        asked = things[int(rng.integers(len(things)))]
        return Caption("presence", f"Is there a {asked}?", f"Yes, there is a {asked}.")
    # of the pairs of training alone: that a pair is held out must not give the answer away
    absent = [Thing(*pair) for pair in TRAIN_PAIRS if Thing(*pair) not in things]
    asked = absent[int(rng.integers(len(absent)))]
    return Caption("presence", f"Is there a {asked}?", f"No, there is no {asked}.")


def _sides(table: Table) -> Iterator[Caption]:
    for slot, thing in enumerate(table.things):
        for name in RECEPTACLES:
            offset = float(table.position(slot)[0] - table.fixture(name)[0])
            if abs(offset) < ASIDE_METRES or not _on_the_table(table, slot):
                continue
            side = "left" if offset < 0 else "right"
            question = f"Is the {thing} left or right of the {name}?"
            yield Caption("side", question, f"The {thing} stands {side} of the {name}.")


def _in_order(table: Table) -> Caption:
    slots = sorted(range(len(table.things)), key=lambda slot: table.position(slot)[0])
    first, second, third = (f"a {table.things[slot]}" for slot in slots)
    answer = f"{first}, {second} and {third}.".capitalize()
    return Caption("order", "Which objects are there, from left to right?", answer)


def _contents(table: Table) -> Iterator[Caption]:
    for name in RECEPTACLES:
        inside = [thing for slot, thing in enumerate(table.things) if _rests_in(table, slot, name)]
        if len(inside) > 1:
            continue  # in which order would they be named?
        answer = f"A {inside[0]} is in the {name}." if inside else f"The {name} is empty."
        yield Caption("contents", f"What is in the {name}?", answer)


def _drawer(table: Table) -> Iterator[Caption]:
    if table.drawer > DRAWER_OPEN_METRES:
        yield Caption("drawer", "Is the drawer open or closed?", "The drawer is open.")
    elif table.drawer < DRAWER_CLOSED_METRES:
        yield Caption("drawer", "Is the drawer open or closed?", "The drawer is closed.")


def _on_the_table(table: Table, slot: int) -> bool:
    """Neither held up nor on or in something."""
    height = SHAPES[table.things[slot].shape].half_height
    low = table.position(slot)[2] < height + 0.01
    return bool(low) and not any(table.inside(slot, name) for name in RECEPTACLES)


def _rests_in(table: Table, slot: int, name: str) -> bool:
    return table.inside(slot, name) and not table.held(slot)


__all__ = ["ASIDE_METRES", "scene_captions"]
