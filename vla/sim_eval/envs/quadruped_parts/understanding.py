"""From an instruction in words to a command about a scene: the grammar, read backwards."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vla.common.errors import UserError
from vla.sim_eval.envs.quadruped_parts.language import Command, sentence, texts
from vla.sim_eval.envs.quadruped_parts.manner import Manner, read_manner
from vla.sim_eval.envs.quadruped_parts.scene import COLOURS, SHAPES

_NAMED = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join((*SHAPES, 'gate', 'bar', 'tray'))})\b")
_LETTER = re.compile(r"\bletter ([a-z])\b")


class InstructionError(UserError):
    """An instruction that asks for nothing in the scene."""


def understand(
    text: str, words: dict[str, str], commands: Sequence[Command]
) -> tuple[Command, Manner | None]:
    """What an instruction asks for, and how; the manner is None if it says no adverb.

    Args:
        text: in any wording of the grammar, held out or not.
        words: what the pieces of the scene are called (`Layout.words`).
        commands: what can be asked of the scene.

    Raises InstructionError if it names what is not there, or is no wording of the grammar;
    MannerError if its adverbs contradict each other.
    """
    rest, speed, gait = read_manner(text)
    said = " ".join(rest.lower().rstrip(" .!").split())
    manner = None
    if speed or gait:
        manner = Manner(speed or "normally", gait or "trotting")
    for command in commands:
        wordings = (*texts(command, words), *texts(command, words, held_out=True))
        if said in wordings:
            return command, manner
    there = [_called(body, name) for body, name in words.items() if body != "obstacle"]
    for name in _names(said):
        if name not in there:
            raise InstructionError(
                f"instruction: there is no {name} in this scene; there are: {', '.join(there)}"
            )
    example = sentence(texts(commands[0], words)[0])
    raise InstructionError(
        f"instruction: {text!r} is no wording of this family; say for example {example!r}"
    )


def _called(body: str, name: str) -> str:
    """What a piece is called in full: "red gate", "letter a"."""
    if body.startswith("thing"):
        return name
    kind = body.rstrip("0123456789")
    return f"letter {name}" if kind == "letter" else f"{name} {kind}"


def _names(text: str) -> list[str]:
    """Pieces that a text speaks of, in the scene or not."""
    found = [f"{colour} {kind}" for colour, kind in _NAMED.findall(text)]
    return found + [f"letter {letter}" for letter in _LETTER.findall(text)]


__all__ = ["InstructionError", "understand"]
