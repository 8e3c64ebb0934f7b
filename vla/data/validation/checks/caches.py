"""Checks of decoded frames that are kept beside the dataset."""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.data.loading.frame_cache import kept_damage
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined
from vla.data.validation.repair_names import REBUILD_CACHES


@register("checks", "caches")
@check("every byte of the decoded frames that are kept on disk")
def caches(examined: Examined) -> Iterator[Finding]:
    """Decoded frames beside the dataset are those that were written, and of this dataset."""
    if examined.dataset is None:
        return
    for sentence in kept_damage(examined.dataset):
        # A cache of another state of the dataset is made again by whoever opens it: a note. Damage
        # in a present one would be trained on unseen.
        stale = "of another dataset" in sentence
        yield Finding("caches", "note" if stale else "error", ".cache", sentence, REBUILD_CACHES)
