"""What the quadruped is asked to do: goals, the words for them, and what is held out of training.

A `Command` is one goal, or two in their order. Families, splits and wordings follow QUARD (Ding et
al. 2023, arXiv 2312.14457), which has go to, go avoid, go through, crawl, distinguish, unload and
stop; two steps and a side to go around are additions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vla.sim_eval.envs.quadruped_parts.scene import COLOURS, LETTERS, SHAPES, SLOTS, Piece

Family = Literal[
    "go-to",
    "go-avoid",
    "around",
    "crawl",
    "go-through",
    "distinguish",
    "unload",
    "stop",
    "two-step",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
Split = Literal["seen", "unseen_pairs", "paraphrase", "long"]
GoalKind = Literal["go", "avoid", "around", "crawl", "through", "distinguish", "unload", "stop"]
SIDES = ("left", "right")

# Every colour and every shape occurs in training, only not together: what is measured is whether a
# policy composes them.
HELD_OUT_PAIRS = (
    ("red", "ball"),
    ("green", "cube"),
    ("blue", "cylinder"),
    ("purple", "ball"),
    ("orange", "cylinder"),
)
"""Never in a scene of "seen", "paraphrase" and "long"; what "unseen_pairs" asks for."""
TRAIN_PAIRS = tuple(
    (colour, shape)
    for colour in COLOURS
    for shape in SHAPES
    if (colour, shape) not in HELD_OUT_PAIRS
)
FAMILY_OF: dict[GoalKind, Family] = {
    "go": "go-to",
    "avoid": "go-avoid",
    "around": "around",
    "crawl": "crawl",
    "through": "go-through",
    "distinguish": "distinguish",
    "unload": "unload",
    "stop": "stop",
}
"""The family that asks for such a goal alone."""


@dataclass(frozen=True)
class Goal:
    """One thing to do.

    Attributes:
        kind: what.
        body: which piece of the scene (`scene.PIECES`).
        side: on which side of the obstacle, for "around".
    """

    kind: GoalKind
    body: str
    side: str = ""


@dataclass(frozen=True)
class Command:
    """What an episode asks for: one goal, or two in their order."""

    family: Family
    goals: tuple[Goal, ...]


# For each goal the wordings of training, then those of the split "paraphrase" alone. The first of
# each is the primary one. Texts are drawn by their number: a change is a new QUADRUPED_VERSION.
_PHRASES: dict[GoalKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "go": (
        ("go to the {thing}", "walk to the {thing}", "approach the {thing}"),
        ("navigate to the {thing}", "move over to the {thing}"),
    ),
    "avoid": (
        (
            "go to the {thing} and avoid the obstacle",
            "walk to the {thing} without touching the obstacle",
        ),
        ("navigate to the {thing} while avoiding the obstacle",),
    ),
    "around": (
        (
            "go around the obstacle on the {side} to the {thing}",
            "pass the obstacle on its {side} and go to the {thing}",
            "walk to the {thing}, keeping {side} of the obstacle",
        ),
        (
            "navigate to the {thing} from the {side} side of the obstacle",
            "take the way {side} of the obstacle to the {thing}",
        ),
    ),
    "crawl": (
        ("crawl under the {thing} bar", "creep under the {thing} bar"),
        ("move under the {thing} bar", "duck under the {thing} bar"),
    ),
    "through": (
        ("go through the {thing} gate", "walk through the {thing} gate"),
        ("pass the {thing} gate", "traverse the {thing} gate"),
    ),
    "distinguish": (
        ("distinguish the letter {thing}", "go to the letter {thing}"),
        ("identify the letter {thing}", "find the letter {thing}"),
    ),
    "unload": (
        (
            "unload the ball into the {thing} tray",
            "drop the ball into the {thing} tray",
            "tip the ball into the {thing} tray",
        ),
        ("deposit the ball into the {thing} tray", "deliver the ball to the {thing} tray"),
    ),
    "stop": (
        ("stop the {thing}", "stop the rolling {thing}"),
        ("block the {thing}", "halt the rolling {thing}"),
    ),
}
_JOIN: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("{first}, then {second}", "first {first} and then {second}"),
    ("{first}; once that is done, {second}",),
)


def texts(command: Command, words: dict[str, str], *, held_out: bool = False) -> tuple[str, ...]:
    """All wordings of a command, the primary one first; small letters, no manner.

    Args:
        command: what is asked.
        words: body -> what it is called (`Layout.words`).
        held_out: the wordings that training never shows, instead of those it does.
    """
    side = int(held_out)
    phrases = [_phrases(goal, words, side) for goal in command.goals]
    if len(phrases) == 1:
        return tuple(phrases[0])
    first, second = phrases
    found = []
    # each wording of both goals at least once; all combinations would hardly differ
    for i in range(max(len(first), len(second))):
        join = _JOIN[side][i % len(_JOIN[side])]
        a, b = first[i % len(first)], second[i % len(second)]
        found.append(join.format(first=a, second=b))
    return tuple(found)


def _phrases(goal: Goal, words: dict[str, str], side: int) -> list[str]:
    patterns = _PHRASES[goal.kind][side]
    return [pattern.format(thing=words[goal.body], side=goal.side) for pattern in patterns]


def sentence(text: str) -> str:
    """The text with a capital in front."""
    # capitalize() would also make the rest small
    return text[:1].upper() + text[1:]


def pieces_of(family: Family, split: Split) -> tuple[Piece, ...]:
    """The kinds of pieces that stand in the scenes of a family."""
    if family == "two-step":
        # the composition that training never shows
        return ("bars" if split == "long" else "gates", "things")
    of_family: dict[str, tuple[Piece, ...]] = {
        "go-to": ("things",),
        "go-avoid": ("things", "obstacle"),
        "around": ("things", "obstacle"),
        "crawl": ("bars",),
        "go-through": ("gates",),
        "distinguish": ("letters",),
        "unload": ("trays",),
        "stop": ("things",),
    }
    return of_family[family]


def families_of(split: Split) -> tuple[Family, ...]:
    """The families of which a split can ask something that is its own."""
    if split == "long":
        return ("two-step",)
    if split == "unseen_pairs":
        return ("go-to", "go-avoid", "around", "stop", "two-step")
    return FAMILIES


# --- drawing a command ----------------------------------------------------------------------------


def draw_words(rng: np.random.Generator, family: Family, split: Split) -> dict[str, str]:
    """What the bodies of a scene are called; the first of each kind is the one asked for."""
    words: dict[str, str] = {}
    pieces = pieces_of(family, split)
    for kind, name in (("bars", "bar"), ("gates", "gate"), ("trays", "tray")):
        if kind in pieces:
            drawn = rng.permutation(list(COLOURS))[:2]
            words |= {f"{name}{i}": str(colour) for i, colour in enumerate(drawn)}
    if "letters" in pieces:
        drawn = rng.permutation(list(LETTERS))[:SLOTS]
        words |= {f"letter{i}": str(letter) for i, letter in enumerate(drawn)}
    if "things" in pieces:
        # behind a gate or a bar there is room for two that are 2 m apart
        number = 2 if family == "two-step" else SLOTS
        pairs = _draw_pairs(rng, number, split, balls=family == "stop")
        words |= {f"thing{i}": " ".join(pair) for i, pair in enumerate(pairs)}
    if "obstacle" in pieces:
        words["obstacle"] = "obstacle"
    return words


def _draw_pairs(
    rng: np.random.Generator, number: int, split: Split, *, balls: bool
) -> list[tuple[str, str]]:
    """Different pairs of colour and shape, the first a held-out one in "unseen_pairs"."""
    first = HELD_OUT_PAIRS if split == "unseen_pairs" else TRAIN_PAIRS
    possible = [
        [pair for pair in pairs if pair[1] == "ball" or not balls] for pairs in (first, TRAIN_PAIRS)
    ]
    pairs = [possible[0][rng.integers(len(possible[0]))]]
    while len(pairs) < number:
        pair = possible[1][rng.integers(len(possible[1]))]
        if pair not in pairs:
            pairs.append(pair)
    return pairs


def draw_command(rng: np.random.Generator, family: Family, words: dict[str, str]) -> Command:
    """A command about the first pieces of a scene."""
    if family == "two-step":
        first = Goal("crawl", "bar0") if "bar0" in words else Goal("through", "gate0")
        return Command(family, (first, Goal("go", "thing0")))
    if family == "around":
        return Command(family, (Goal("around", "thing0", SIDES[rng.integers(2)]),))
    bodies: dict[str, Goal] = {
        "go-to": Goal("go", "thing0"),
        "go-avoid": Goal("avoid", "thing0"),
        "crawl": Goal("crawl", "bar0"),
        "go-through": Goal("through", "gate0"),
        "distinguish": Goal("distinguish", "letter0"),
        "unload": Goal("unload", "tray0"),
        "stop": Goal("stop", "thing0"),
    }
    return Command(family, (bodies[family],))


def other_commands(command: Command, words: dict[str, str]) -> tuple[Command, ...]:
    """Commands of the same family that ask something else of the same scene."""
    others: list[tuple[Goal, ...]] = []
    *before, last = command.goals
    for body in alike(last.body, words):
        others.append((*before, Goal(last.kind, body, last.side)))
    if last.kind == "around":
        [other_side] = set(SIDES) - {last.side}
        others.append((Goal("around", last.body, other_side),))
    for first in before:
        for body in alike(first.body, words):
            others.append((Goal(first.kind, body), last))
    return tuple(Command(command.family, goals) for goals in others)


def scene_commands(command: Command, words: dict[str, str]) -> tuple[Command, ...]:
    """All commands of one goal that can be said about the scene of a command."""
    found: dict[Goal, None] = {}
    for goal in command.goals:
        for body in (goal.body, *alike(goal.body, words)):
            sides: Iterable[str] = SIDES if goal.kind == "around" else ("",)
            for side in sides:
                found[Goal(goal.kind, body, side)] = None
    return tuple(Command(FAMILY_OF[goal.kind], (goal,)) for goal in found)


def alike(body: str, words: dict[str, str]) -> list[str]:
    """The other bodies of the same kind in a scene."""
    kind = body.rstrip("0123456789")
    return [other for other in words if other.rstrip("0123456789") == kind and other != body]


__all__ = [
    "FAMILIES",
    "FAMILY_OF",
    "HELD_OUT_PAIRS",
    "TRAIN_PAIRS",
    "Command",
    "Family",
    "Goal",
    "Split",
    "draw_command",
    "draw_words",
    "families_of",
    "other_commands",
    "pieces_of",
    "scene_commands",
    "sentence",
    "texts",
]
