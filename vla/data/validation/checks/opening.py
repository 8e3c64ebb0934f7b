"""Does the dataset open?"""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined


@register("checks", "opens")
@check("whether a training could read the dataset: files, tables, numbers, words")
def opens(examined: Examined) -> Iterator[Finding]:
    """The dataset opens, and all that a training reads but images can be read."""
    if examined.dataset is None:
        yield Finding("opens", "error", examined.root.name, str(examined.error))
        return
    try:
        # opening reads little: damage in numbers and tables shows when they are asked for
        _ = examined.dataset.columns
        _ = examined.dataset.episodes
        examined.dataset.fingerprint()
    except DataError as error:
        yield Finding("opens", "error", examined.root.name, str(error))
