"""Checks of instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from vla.common.registry import register
from vla.data.validation.check import LEROBOT, Finding, check
from vla.data.validation.examined import Examined

_EPISODES = 5
"""Fewer are a trial, of which nothing is expected."""


@register("checks", "instructions")
@check("instructions that are blank, or the same but for case and spaces")
def instructions(examined: Examined) -> Iterator[Finding]:
    """Instructions are words, and no two are the same words written in two ways."""
    if examined.dataset is None:
        return
    alike: dict[str, list[str]] = defaultdict(list)
    for text in examined.dataset.instructions:
        if not text.strip():
            message = f"{text!r} is blank; write the task in words"
            yield Finding("instructions", "error", "instructions", message)
        elif text != text.strip() or not text.isprintable():
            message = (
                f"{text!r} has spaces around it or characters that cannot be printed; write it "
                "plainly"
            )
            yield Finding("instructions", "warning", "instructions", message)
        # A policy would learn them as two tasks, each from a part of the data.
        alike[" ".join(text.casefold().split())].append(text)
    for texts in alike.values():
        if len(texts) > 1:
            listed = " and ".join(map(repr, texts))
            message = (
                f"{listed} differ in case or spaces alone, and count as {len(texts)} tasks; write "
                "them alike"
            )
            yield Finding("instructions", "warning", "instructions", message)


@register("checks", "one_instruction")
@check("whether instructions differ, so that a policy can learn to read them")
def one_instruction(examined: Examined) -> Iterator[Finding]:
    """There are several instructions: of one alone nothing can be learned from language."""
    dataset = examined.dataset
    if dataset is None:
        return
    tasks = dataset.task_of_frames  # int64 (N,)
    if len(dataset) < _EPISODES or len(np.unique(tasks)) > 1:
        return
    text = dataset.instructions[int(tasks[0])]
    message = (
        f"all {len(dataset)} episodes have the one instruction {text!r}: a policy cannot learn "
        "from them to read instructions, and does the same whatever it is asked; add other tasks, "
        "or set policy.language: null where there is such a key"
    )
    yield Finding("one_instruction", "note", "instructions", message)


@register("checks", "changing_instructions")
@check("whether the instruction changes within episodes")
def changing_instructions(examined: Examined) -> Iterator[Finding]:
    """How many episodes hold several instructions, and how many frames follow another one than
    the first of their episode."""
    dataset = examined.dataset
    if dataset is None or not dataset.num_changing:
        return
    table = dataset.reader.episodes
    first_N = np.repeat(table["task_index"].to_numpy(), table["length"].to_numpy())
    later = int((dataset.task_of_frames != first_N).sum())
    message = (
        f"the instruction changes within {dataset.num_changing} of {len(table)} episodes: {later} "
        f"of {len(first_N)} frames follow another one than the first of their episode; each "
        "window is trained with the instruction of its current step"
    )
    yield Finding("changing_instructions", "note", "instructions", message)


@register("checks", "task_words")
@check(
    "instructions of the table of tasks, against those of the table of episodes",
    formats=LEROBOT,
)
def task_words(examined: Examined) -> Iterator[Finding]:
    """An episode's instruction is the same in the table of tasks and in the table of episodes."""
    dataset = examined.dataset
    table = None if examined.lerobot is None else examined.lerobot.table
    # keys may choose another instruction than that of the tables
    if dataset is None or table is None or examined.keys is not None:
        return
    if "tasks" not in table:
        return
    place_of = {number: place for place, number in enumerate(dataset.episode_numbers.tolist())}
    for episode, stored in zip(table["episode_index"].astype(int), table["tasks"], strict=True):
        place = place_of.get(episode)
        if place is None:  # its files are missing
            continue
        listed = []
        if isinstance(stored, str):
            listed = [stored]
        elif isinstance(stored, Iterable):  # a list, or an array of pandas
            listed = list(stored)
        # where a table says nothing there is nothing to contradict
        listed = [text for text in listed if text is not None and str(text).strip()]
        texts = [text for _, text in dataset.instruction_starts(place)]
        missing = [text for text in texts if text not in listed]
        if listed and missing:
            message = (
                f"{examined.root}: the table of tasks gives episode {episode} the instruction "
                f"{missing[0]!r}, the table of episodes {listed[0]!r}: one of them was changed"
            )
            yield Finding("task_words", "warning", f"episode {episode}", message)
