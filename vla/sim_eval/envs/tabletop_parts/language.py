"""What the tabletop is asked to do: goals, the grammar that puts them into words, and what is held out of training.

A `Command` is a list of goals about the things on the table. Every family of commands has several wordings; some
of them, some pairs of colour and shape, and some compositions of two goals never occur in the split "seen".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vla.sim_eval.envs.tabletop_parts.scene import COLOURS, RECEPTACLES, SHAPES

Split = Literal["seen", "unseen_pairs", "paraphrase", "long"]
SPLITS: tuple[str, ...] = get_args(Split)
Family = Literal[
    "reach",
    "push",
    "pick",
    "place",
    "stack",
    "open-drawer",
    "close-drawer",
    "sort",
    "other-one",
    "two-step",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
GoalKind = Literal["touch", "push", "lift", "put", "stack", "open", "close"]

HELD_OUT_PAIRS = (("red", "ball"), ("green", "cube"), ("blue", "cylinder"), ("purple", "ball"))
"""Never on the table in the splits "seen", "paraphrase" and "long"; what "unseen_pairs" asks for."""
TRAIN_PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT_PAIRS)
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "away": (0.0, 1.0),
    "closer": (0.0, -1.0),
}
TRAIN_STEPS = (
    ("put", "open"),
    ("put", "close"),
    ("open", "lift"),
    ("close", "touch"),
    ("put", "touch"),
)
"""Kinds of the two goals of "two-step" in training."""
HELD_OUT_STEPS = (
    ("close", "lift"),
    ("open", "touch"),
    ("put", "lift"),
    ("open", "put"),
    ("close", "put"),
)
"""Those of the split "long"."""


@dataclass(frozen=True)
class Thing:
    """An object on the table."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Goal:
    """One thing to bring about.

    Attributes:
        kind: what.
        thing: slot of the object, -1 for the drawer's goals.
        to: a direction ("push"), a receptacle ("put"), or the slot below ("stack").
    """

    kind: GoalKind
    thing: int = -1
    to: str | int = ""


@dataclass(frozen=True)
class Command:
    """What an episode asks for: `goals` in their order, or at the same time where `ordered` is False."""

    family: Family
    goals: tuple[Goal, ...]
    ordered: bool = True


# The first text of each goal is the primary one. `held_out` belongs to the split "paraphrase" alone.
_PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "touch": (
        (
            "touch the {thing}",
            "reach for the {thing}",
            "move the hand to the {thing}",
            "put a finger on the {thing}",
        ),
        ("go to the {thing}", "bring the gripper to the {thing}", "make contact with the {thing}"),
    ),
    "push": (
        ("push the {thing} {way}", "slide the {thing} {way}", "shove the {thing} {way}"),
        ("nudge the {thing} {way}", "move the {thing} {way} along the table"),
    ),
    "lift": (
        (
            "pick up the {thing}",
            "lift the {thing}",
            "grasp the {thing} and raise it",
            "take the {thing}",
        ),
        ("grab the {thing}", "hold the {thing} up in the air", "raise the {thing} off the table"),
    ),
    "put": (
        (
            "put the {thing} in the {to}",
            "place the {thing} in the {to}",
            "drop the {thing} into the {to}",
        ),
        (
            "move the {thing} into the {to}",
            "the {thing} belongs in the {to}",
            "set the {thing} down in the {to}",
        ),
    ),
    "stack": (
        (
            "stack the {thing} on the {to}",
            "put the {thing} on top of the {to}",
            "place the {thing} onto the {to}",
        ),
        ("set the {thing} on the {to}", "build a tower with the {thing} above the {to}"),
    ),
    "open": (
        ("open the drawer", "pull the drawer open", "pull the drawer out"),
        ("slide the drawer out", "get the drawer open"),
    ),
    "close": (
        ("close the drawer", "push the drawer shut", "shut the drawer"),
        ("slide the drawer in", "make sure that the drawer is closed"),
    ),
}
_OTHER: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "pick up the {shape} that is not {colour}",
        "pick up the other {shape}, not the {colour} one",
        "lift the {shape} which is not {colour}",
    ),
    (
        "leave the {colour} {shape} and take the other {shape}",
        "not the {colour} {shape}: grab the other one",
    ),
)
_SORT: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "sort: the {a} in the {to_a}, the {b} in the {to_b}",
        "put the {a} in the {to_a} and the {b} in the {to_b}",
        "tidy up: the {a} goes in the {to_a} and the {b} in the {to_b}",
    ),
    (
        "separate them, the {a} into the {to_a} and the {b} into the {to_b}",
        "clear the table: {a} to the {to_a}, {b} to the {to_b}",
    ),
)
_JOIN: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "{first}, then {second}",
        "first {first} and then {second}",
        "{first} and after that {second}",
    ),
    ("{first}; once that is done, {second}", "start here: {first}. Next, {second}"),
)
_WAYS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "left"),
    "right": ("to the right", "right"),
    "away": ("away from you", "to the back"),
    "closer": ("towards you", "to the front"),
}


def texts(command: Command, things: Sequence[Thing], *, held_out: bool = False) -> tuple[str, ...]:
    """All wordings of a command, the primary one first.

    Args:
        command: what is asked.
        things: the objects by slot.
        held_out: the wordings that training never shows, instead of those it does.
    """
    side = int(held_out)
    if command.family == "other-one":
        thing = things[command.goals[0].thing]
        named = next(t for t in things if t.shape == thing.shape and t != thing)
        return _sentences(p.format(shape=thing.shape, colour=named.colour) for p in _OTHER[side])
    if command.family == "sort":
        a, b = command.goals
        words = {"a": things[a.thing], "to_a": a.to, "b": things[b.thing], "to_b": b.to}
        return _sentences(p.format(**words) for p in _SORT[side])
    if len(command.goals) == 2:
        first, second = (_phrases(goal, things, side) for goal in command.goals)
        pairs = [
            (first[i % len(first)], second[i % len(second)])
            for i in range(max(len(first), len(second)))
        ]
        return _sentences(
            _JOIN[side][i % len(_JOIN[side])].format(first=a, second=b)
            for i, (a, b) in enumerate(pairs)
        )
    return _sentences(_phrases(command.goals[0], things, side))


def _phrases(goal: Goal, things: Sequence[Thing], side: int) -> list[str]:
    words: dict[str, object] = {"thing": things[goal.thing] if goal.thing >= 0 else ""}
    words["to"] = things[goal.to] if isinstance(goal.to, int) else goal.to
    ways = _WAYS[str(goal.to)] if goal.kind == "push" else ("",)
    return [phrase.format(way=way, **words) for way in ways for phrase in _PHRASES[goal.kind][side]]


def _sentences(phrases: object) -> tuple[str, ...]:
    return tuple(phrase[0].upper() + phrase[1:] for phrase in phrases)  # type: ignore[attr-defined]


# --- drawing a command ------------------------------------------------------------------------------


def draw_things(
    rng: np.random.Generator, family: Family, split: Split, slots: int
) -> tuple[Thing, ...]:
    """The objects of an episode: different pairs; the first is the one that the command is about.

    In the split "unseen_pairs" the first is a held-out pair and the others are pairs of training. Two objects of
    one shape are there where "other-one" needs them; stacking needs a flat one below.
    """
    first_pairs = HELD_OUT_PAIRS if split == "unseen_pairs" else TRAIN_PAIRS
    if family == "stack":
        first_pairs = tuple(p for p in first_pairs if p[1] != "ball")
    first = Thing(*first_pairs[rng.integers(len(first_pairs))])
    things = [first]
    while len(things) < slots:
        thing = Thing(*TRAIN_PAIRS[rng.integers(len(TRAIN_PAIRS))])
        wanted = thing not in things
        if len(things) == 1 and family == "other-one":
            wanted &= thing.shape == first.shape
        elif family == "other-one":
            wanted &= thing.shape != first.shape
        if len(things) == 1 and family == "stack":
            wanted &= thing.shape != "ball"
        if wanted:
            things.append(thing)
    return tuple(things)


def draw_command(
    rng: np.random.Generator, family: Family, split: Split, *, drawer_open: bool
) -> Command:
    """A command about the first object (and the second, where two are needed)."""
    receptacles = ("bowl", "tray") if rng.random() < 0.5 else ("tray", "bowl")
    if family == "reach":
        return Command(family, (Goal("touch", 0),))
    if family == "push":
        return Command(family, (Goal("push", 0, tuple(DIRECTIONS)[rng.integers(len(DIRECTIONS))]),))
    if family in ("pick", "other-one"):
        return Command(family, (Goal("lift", 0),))
    if family == "place":
        return Command(family, (Goal("put", 0, receptacles[0]),))
    if family == "stack":
        return Command(family, (Goal("stack", 0, 1),))
    if family == "open-drawer":
        return Command(family, (Goal("open"),))
    if family == "close-drawer":
        return Command(family, (Goal("close"),))
    if family == "sort":
        return Command(
            family, (Goal("put", 0, receptacles[0]), Goal("put", 1, receptacles[1])), ordered=False
        )
    steps = HELD_OUT_STEPS if split == "long" else TRAIN_STEPS
    possible = [kinds for kinds in steps if ("open" if drawer_open else "close") not in kinds]
    first, second = possible[rng.integers(len(possible))]
    goals = (
        _goal(first, 0, receptacles[0]),
        _goal(second, 1 if first == "put" else 0, receptacles[1]),
    )
    return Command(family, goals)


def _goal(kind: str, thing: int, receptacle: str) -> Goal:
    if kind == "put":
        return Goal("put", thing, receptacle)
    if kind == "touch":
        return Goal("touch", thing)
    if kind == "lift":
        return Goal("lift", thing)
    return Goal("open") if kind == "open" else Goal("close")


def other_commands(command: Command, things: Sequence[Thing]) -> tuple[Command, ...]:
    """Commands that ask something else of the same scene: of another object or place where there is one."""
    goal, slots = command.goals[0], range(len(things))
    others: list[Goal] = []
    if goal.kind in ("open", "close"):
        others = [Goal(kind, slot) for kind in ("touch", "lift") for slot in slots]  # type: ignore[arg-type]
    elif goal.kind == "push":
        others = [Goal("push", slot, goal.to) for slot in slots if slot != goal.thing]
    elif goal.kind == "stack":
        others = [Goal("lift", slot) for slot in slots if slot not in (goal.thing, goal.to)]
    else:
        others = [Goal(goal.kind, slot, goal.to) for slot in slots if slot != goal.thing]
    names: dict[str, Family] = {"touch": "reach", "push": "push", "lift": "pick", "put": "place"}
    return tuple(Command(names[other.kind], (other,)) for other in others)


def scene_commands(things: Sequence[Thing]) -> tuple[Command, ...]:
    """All commands of one goal that can be said about a scene of these things."""
    slots = range(len(things))
    flat = [slot for slot in slots if things[slot].shape != "ball"]
    goals: list[tuple[Family, Goal]] = [
        ("open-drawer", Goal("open")),
        ("close-drawer", Goal("close")),
    ]
    for slot in slots:
        goals += [("reach", Goal("touch", slot)), ("pick", Goal("lift", slot))]
        goals += [("push", Goal("push", slot, way)) for way in DIRECTIONS]
        goals += [("place", Goal("put", slot, receptacle)) for receptacle in RECEPTACLES]
    goals += [
        ("stack", Goal("stack", above, below)) for above in flat for below in flat if above != below
    ]
    return tuple(Command(family, (goal,)) for family, goal in goals)
