"""Does the dataset open?"""

from __future__ import annotations

from collections.abc import Iterator

from vla.data.errors import DataError
from vla.data.validation.examined import Examined
from vla.data.validation.registry import Finding, check


@check("opens", "whether a training could read the dataset: files, tables, numbers, words")
def opens(examined: Examined) -> Iterator[Finding]:
    if examined.dataset is None:
        yield Finding("opens", "error", examined.root.name, str(examined.error))
        return
    try:
        _ = examined.dataset.columns
        _ = examined.dataset.episodes
        examined.dataset.fingerprint()
    except DataError as error:
        yield Finding("opens", "error", examined.root.name, str(error))
