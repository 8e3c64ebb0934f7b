"""Checks of instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vla.data.validation.examined import Examined
from vla.data.validation.registry import LEROBOT, Finding, check


@check("instructions", "instructions that are blank, or the same but for case and spaces")
def instructions(examined: Examined) -> Iterator[Finding]:
    if examined.dataset is None:
        return
    alike: dict[str, list[str]] = defaultdict(list)
    for text in examined.dataset.instructions:
        if not text.strip():
            yield Finding(
                "instructions",
                "error",
                "instructions",
                f"{text!r} is blank; write the task in words",
            )
        elif text != text.strip() or not text.isprintable():
            message = (
                f"{text!r} has spaces around it or characters that cannot be printed; write it "
                "plainly"
            )
            yield Finding("instructions", "warning", "instructions", message)
        alike[" ".join(text.casefold().split())].append(text)
    for texts in alike.values():
        if len(texts) > 1:
            listed = " and ".join(map(repr, texts))
            message = (
                f"{listed} differ in case or spaces alone, and count as {len(texts)} tasks; write "
                "them alike"
            )
            yield Finding("instructions", "warning", "instructions", message)


@check(
    "task_words",
    "instructions of the table of tasks, against those of the table of episodes",
    formats=LEROBOT,
)
def task_words(examined: Examined) -> Iterator[Finding]:
    dataset, parts = examined.dataset, examined.lerobot
    if (
        dataset is None
        or parts is None
        or parts.table is None
        or "tasks" not in parts.table
        or examined.keys is not None
    ):
        return
    episodes = dataset.reader.episodes
    if len(episodes) != len(parts.table):
        return
    places = zip(
        episodes["episode_index"].tolist(),
        episodes["task_index"].tolist(),
        parts.table["tasks"],
        strict=True,
    )
    for episode, task, said in places:
        text = dataset.instructions[task]
        listed = (
            [said] if isinstance(said, str) else list(said) if hasattr(said, "__iter__") else []
        )
        if listed and text not in listed:
            message = (
                f"{examined.root}: the table of tasks gives episode {episode} the instruction "
                f"{text!r}, the table of episodes {listed[0]!r}: one of them was changed"
            )
            yield Finding("task_words", "warning", f"episode {episode}", message)
