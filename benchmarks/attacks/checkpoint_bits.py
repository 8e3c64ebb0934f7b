"""Checkpoints with flipped bits, missing ends, and pieces of other files."""

from __future__ import annotations

import random
from pathlib import Path

from attacks._case import Case
from attacks._checkpoints import KINDS, answer, clean_answer, fresh
from attacks._checkpoints import warm as warm

COUNT = 300


def case(rng: random.Random, folder: Path) -> Case:
    kind = rng.choice(KINDS)
    policy = fresh(kind, folder)
    file = rng.choice(sorted(p for p in policy.iterdir() if p.name != "README.md"))
    content = bytearray(file.read_bytes())
    damage = rng.choice(["bit", "byte", "cut", "zeros", "twice", "other"])
    place = rng.randrange(len(content))
    if damage == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif damage == "byte":
        content[place] = rng.randrange(256)
    elif damage == "cut":
        del content[place:]
    elif damage == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif damage == "twice":
        content *= 2
    else:
        content = bytearray(rng.choice(sorted(policy.iterdir())).read_bytes())
    file.write_bytes(content)
    what = f"{kind}: {file.name}, {damage} at {place}"
    return Case(what, lambda: answer(policy), clean_answer(kind))
