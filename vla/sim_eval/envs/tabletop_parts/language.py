"""What the tabletop is asked to do: goals, the grammar that puts them into words, and
what is held out of training.

A `Command` is a list of goals about the things on the table. Every family of commands has
several wordings; some of them, some pairs of colour and shape, and some compositions of two
goals never occur in the split "seen".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
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

# Every colour and every shape occurs in training, only not together: what is measured is
# whether a policy composes them.
HELD_OUT_PAIRS = (
    ("red", "ball"),
    ("green", "cube"),
    ("blue", "cylinder"),
    ("purple", "ball"),
)
"""Never on the table in the splits "seen", "paraphrase" and "long"; what "unseen_pairs" asks
for."""
TRAIN_PAIRS = tuple(
    (colour, shape)
    for colour in COLOURS
    for shape in SHAPES
    if (colour, shape) not in HELD_OUT_PAIRS
)
# Unit vectors along the table's axes (x, y); "closer" is towards the front camera.
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "away": (0.0, 1.0),
    "closer": (0.0, -1.0),
}
# Every kind of step occurs in training, also second, only not in these compositions.
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
GoalName = Literal["put", "touch", "lift", "open", "close"]
"""What the goals of a composition are called."""


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
    """What an episode asks for: `goals` in their order, or at the same time
    where `ordered` is False."""

    family: Family
    goals: tuple[Goal, ...]
    ordered: bool = True


# For each goal the wordings of training, then those of the split "paraphrase" alone. The first of
# each is the primary one. Texts are drawn by their number: a change is a new TABLETOP_VERSION.
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
# Of whole commands, in the same order: training, then held out.
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
# "you" is the robot, which stands where the front camera is.
_WAYS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "left"),
    "right": ("to the right", "right"),
    "away": ("away from you", "to the back"),
    "closer": ("towards you", "to the front"),
}


def texts(
    command: Command,
    things: Sequence[Thing],
    *,
    held_out: bool = False,
) -> tuple[str, ...]:
    """All wordings of a command, the primary one first.

    Args:
        command: what is asked.
        things: the objects by slot.
        held_out: the wordings that training never shows, instead of those it does.
    """
    side = int(held_out)
    if command.family == "other-one":
        thing = things[command.goals[0].thing]
        # named by the one that is not meant: a policy that only looks for the
        # words takes the wrong object
        named = next(t for t in things if t.shape == thing.shape and t != thing)
        words: dict[str, object] = {"shape": thing.shape, "colour": named.colour}
        return _sentences(pattern.format(**words) for pattern in _OTHER[side])
    if command.family == "sort":
        a, b = command.goals
        words = {
            "a": things[a.thing],
            "to_a": a.to,
            "b": things[b.thing],
            "to_b": b.to,
        }
        return _sentences(pattern.format(**words) for pattern in _SORT[side])
    if len(command.goals) == 2:
        return _sentences(_two_steps(command, things, side))
    return _sentences(_phrases(command.goals[0], things, side))


def _two_steps(
    command: Command,
    things: Sequence[Thing],
    side: int,
) -> Iterator[str]:
    """Each wording of both goals at least once; all combinations would be
    hundreds that hardly differ."""
    first, second = (_phrases(goal, things, side) for goal in command.goals)
    joins = _JOIN[side]
    for i in range(max(len(first), len(second))):
        # the shorter lists begin again
        join = joins[i % len(joins)]
        a, b = first[i % len(first)], second[i % len(second)]
        yield join.format(first=a, second=b)


def _phrases(
    goal: Goal,
    things: Sequence[Thing],
    side: int,
) -> list[str]:
    words: dict[str, object] = {"thing": things[goal.thing] if goal.thing >= 0 else ""}
    # a slot is an object to stack on, a text names a receptacle or a direction
    words["to"] = things[goal.to] if isinstance(goal.to, int) else goal.to
    ways = _WAYS[str(goal.to)] if goal.kind == "push" else ("",)
    patterns = _PHRASES[goal.kind][side]
    return [pattern.format(way=way, **words) for way in ways for pattern in patterns]


def _sentences(phrases: Iterable[str]) -> tuple[str, ...]:
    # capitalize() would also make the rest small
    return tuple(phrase[0].upper() + phrase[1:] for phrase in phrases)


# --- drawing a command ----------------------------------------------------------------------------


def draw_things(
    rng: np.random.Generator, family: Family, split: Split, slots: int
) -> tuple[Thing, ...]:
    """The objects of an episode: different pairs; the first is the one that the command is about.

    In the split "unseen_pairs" the first is a held-out pair and the others are pairs
    of training. Two objects of one shape are there where "other-one" needs them;
    stacking needs a flat one below.
    """
    first_pairs = HELD_OUT_PAIRS if split == "unseen_pairs" else TRAIN_PAIRS
    if family == "stack":
        # a ball would roll off
        first_pairs = tuple(pair for pair in first_pairs if pair[1] != "ball")
    first = Thing(*first_pairs[rng.integers(len(first_pairs))])
    things = [first]
    while len(things) < slots:
        thing = Thing(*TRAIN_PAIRS[rng.integers(len(TRAIN_PAIRS))])
        second = len(things) == 1
        wanted = thing not in things
        if family == "other-one":
            # exactly two of one shape, or "the other cube" would be ambiguous
            wanted &= (thing.shape == first.shape) == second
        if family == "stack" and second:
            wanted &= thing.shape != "ball"
        if wanted:
            things.append(thing)
    return tuple(things)


def draw_command(
    rng: np.random.Generator,
    family: Family,
    split: Split,
    *,
    drawer_open: bool,
    steps: Sequence[tuple[str, str]] | None = None,
) -> Command:
    """A command about the first object (and the second, if two are needed).

    Args:
        drawer_open: whether it is; what is fulfilled already is not asked for.
        steps: compositions of "two-step" (see `check_compositions`); by default those of the
            split.
    """
    # drawn for every family, so that what is drawn later does not depend on it
    receptacles = ("bowl", "tray") if rng.random() < 0.5 else ("tray", "bowl")
    if family == "reach":
        return Command(family, (Goal("touch", 0),))
    if family == "push":
        direction = tuple(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
        return Command(family, (Goal("push", 0, direction),))
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
        goals = tuple(Goal("put", slot, place) for slot, place in enumerate(receptacles))
        return Command(family, goals, ordered=False)
    if steps is None:
        steps = HELD_OUT_STEPS if split == "long" else TRAIN_STEPS
    # an open drawer cannot be opened: the goal would be fulfilled before anything is done
    fulfilled = "open" if drawer_open else "close"
    possible = [kinds for kinds in steps if fulfilled not in kinds]
    first, second = possible[rng.integers(len(possible))]
    # after "put" the second goal is about another object: the first one lies in its receptacle
    second_thing = 1 if first == "put" else 0
    first_goal = _goal(first, 0, receptacles[0])
    second_goal = _goal(second, second_thing, receptacles[1])
    return Command(family, (first_goal, second_goal))


def check_compositions(pairs: Sequence[tuple[str, str]]) -> None:
    """Raises ValueError if a pair is none of "two-step", or if nothing can be asked in some scene.

    Whether the drawer is open is drawn before the command, and what is fulfilled is not asked for.
    """
    known = (*TRAIN_STEPS, *HELD_OUT_STEPS)
    listed = ", ".join(f"[{first}, {second}]" for first, second in known)
    for pair in pairs:
        if pair not in known:
            raise ValueError(f"two_step: [{', '.join(pair)}] is no composition; there are {listed}")
    for drawer, fulfilled in (("open", "open"), ("closed", "close")):
        if not any(fulfilled not in pair for pair in pairs):
            raise ValueError(
                f"two_step: nothing can be asked while the drawer is {drawer}; add a composition "
                f"without {fulfilled}, of {listed}"
            )


def _goal(kind: str, thing: int, receptacle: str) -> Goal:
    if kind == "put":
        return Goal("put", thing, receptacle)
    if kind == "touch":
        return Goal("touch", thing)
    if kind == "lift":
        return Goal("lift", thing)
    return Goal("open") if kind == "open" else Goal("close")


def other_commands(command: Command, things: Sequence[Thing]) -> tuple[Command, ...]:
    """Commands that ask something else of the same scene: of another object if there
    is one to take its place."""
    goal, slots = command.goals[0], range(len(things))
    others: list[Goal] = []
    if goal.kind in ("open", "close"):
        # there is one drawer, so something else is done altogether
        others += [Goal("touch", slot) for slot in slots]
        others += [Goal("lift", slot) for slot in slots]
    elif goal.kind == "push":
        others = [Goal("push", slot, goal.to) for slot in slots if slot != goal.thing]
    elif goal.kind == "stack":
        others = [Goal("lift", slot) for slot in slots if slot not in (goal.thing, goal.to)]
    else:
        others = [Goal(goal.kind, slot, goal.to) for slot in slots if slot != goal.thing]
    names: dict[str, Family] = {
        "touch": "reach",
        "push": "push",
        "lift": "pick",
        "put": "place",
    }
    return tuple(Command(names[other.kind], (other,)) for other in others)


def scene_commands(things: Sequence[Thing]) -> tuple[Command, ...]:
    """All commands of one goal that can be said about a scene of these things."""
    slots = range(len(things))
    flat = [slot for slot in slots if things[slot].shape != "ball"]
    # the order is part of the results: `TabletopEnv.mistake` draws from this list by number
    goals: list[tuple[Family, Goal]] = [
        ("open-drawer", Goal("open")),
        ("close-drawer", Goal("close")),
    ]
    for slot in slots:
        goals.append(("reach", Goal("touch", slot)))
        goals.append(("pick", Goal("lift", slot)))
        goals += [("push", Goal("push", slot, way)) for way in DIRECTIONS]
        goals += [("place", Goal("put", slot, receptacle)) for receptacle in RECEPTACLES]
    for above, below in itertools.permutations(flat, 2):
        goals.append(("stack", Goal("stack", above, below)))
    return tuple(Command(family, (goal,)) for family, goal in goals)
