"""Does the dataset open?"""

from __future__ import annotations

from collections.abc import Iterator

from vla.data.errors import DataError
from vla.data.validation.examined import Subject
from vla.data.validation.registry import Finding, check


@check("opens", "whether a training could read the dataset: files, tables, numbers, words")
def opens(subject: Subject) -> Iterator[Finding]:
    if subject.dataset is None:
        yield Finding("opens", "error", subject.root.name, str(subject.error))
        return
    try:
        _ = subject.dataset.columns
        _ = subject.dataset.episodes
        subject.dataset.fingerprint()
    except DataError as error:
        yield Finding("opens", "error", subject.root.name, str(error))
