"""Checks of decoded frames that are kept beside the dataset."""

from __future__ import annotations

from collections.abc import Iterator

from vla.data.loading.frame_cache import kept_damage
from vla.data.validation.examined import Examined
from vla.data.validation.registry import Finding, check
from vla.data.validation.repair_names import REBUILD_CACHES


@check("caches", "every byte of the decoded frames that are kept on disk")
def caches(examined: Examined) -> Iterator[Finding]:
    if examined.dataset is None:
        return
    for sentence in kept_damage(examined.dataset):
        # Whoever opens a cache of another state of the dataset makes it again; unseen damage in a
        # present one is worse.
        stale = "of another dataset" in sentence
        yield Finding("caches", "note" if stale else "error", ".cache", sentence, REBUILD_CACHES)
