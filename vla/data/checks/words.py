"""Checks of instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vla.data.checks.subject import Subject
from vla.data.checks.table import Finding, check


@check("instructions", "instructions that are blank, or the same but for case and spaces")
def instructions(subject: Subject) -> Iterator[Finding]:
    if subject.dataset is None:
        return
    alike: dict[str, list[str]] = defaultdict(list)
    for text in subject.dataset.instructions:
        if not text.strip():
            yield Finding("instructions", "error", "instructions", f"{text!r} is blank; write the task in words")
        elif text != text.strip() or not text.isprintable():
            message = f"{text!r} has spaces around it or characters that cannot be printed; write it plainly"
            yield Finding("instructions", "warning", "instructions", message)
        alike[" ".join(text.casefold().split())].append(text)
    for texts in alike.values():
        if len(texts) > 1:
            listed = " and ".join(map(repr, texts))
            message = f"{listed} differ in case or spaces alone, and count as {len(texts)} tasks; write them alike"
            yield Finding("instructions", "warning", "instructions", message)
