"""Checkpoints whose JSON files hold odd values, deep nesting, doubled keys and foreign letters."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from attacks._case import Case
from attacks._checkpoints import KINDS, ODD, answer, edit, fresh
from attacks._checkpoints import warm as warm

COUNT = 400
FILES = ("config.json", "spec.json", "tokenizer.json", "language.json", "checksums.json")


def case(rng: random.Random, folder: Path) -> Case:
    policy = fresh(rng.choice(KINDS), folder)
    file = policy / rng.choice(FILES)
    if file.name != "checksums.json" and rng.random() < 0.8:
        (policy / "checksums.json").unlink()
    damage = rng.choice(
        ["value", "value", "value", "added", "nested", "letters", "doubled", "root"]
    )
    what = damage
    if damage in ("value", "added"):
        odd = rng.choice(ODD)

        def change(values: Any) -> None:
            nonlocal what
            place, keys = _place(rng, values)
            key = keys[-1] if damage == "value" else f"{keys[-1]}x"
            if isinstance(place, dict) or damage == "value":
                place[key] = odd
            what = f"{damage} {'.'.join(map(str, keys))} = {str(odd)[:40]!r}"

        edit(file, change)
    elif damage == "nested":
        depth = rng.choice([60, 200, 900, 5000, 100_000])
        file.write_text(_nested(rng, file, depth))
        what = f"nested {depth} deep"
    elif damage == "letters":
        file.write_bytes(file.read_text().encode(rng.choice(["utf-16", "utf-7", "utf-8-sig"])))
    elif damage == "doubled":
        text = file.read_text()
        key = next(iter(json.loads(text)))
        file.write_text(text.replace("{", f'{{"{key}": 1, ', 1))
    else:
        file.write_text(json.dumps(rng.choice(ODD)))
    # without sums such a file is another checkpoint, so nothing is known of what comes out
    return Case(f"{file.name}: {what}", lambda: answer(policy), check=_finite)


def _place(rng: random.Random, values: Any) -> tuple[Any, list[Any]]:
    """Some dict or list within the values, and the way to one of its items."""
    way: list[Any] = []
    while True:
        keys = list(values) if isinstance(values, dict) else list(range(len(values)))
        way.append(rng.choice(keys))
        inner = values[way[-1]]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            return values, way
        values = inner


def _nested(rng: random.Random, file: Path, depth: int) -> str:
    if file.name == "config.json" and depth <= 900:
        values = json.loads(file.read_text())
        for _ in range(depth // 2):
            values["config"] = {"type": "guided", "policy": values["config"]}
        return json.dumps(values | {"type": "guided"})
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    return opening * depth + "1" + closing * depth


def _finite(found: Any) -> str:
    numbers = [x for robot in found for step in robot for x in step]
    return "" if all(math.isfinite(x) for x in numbers) else f"actions are {numbers}"
