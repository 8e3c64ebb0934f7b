"""Checks of episodes as such."""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.data.formats.lerobot_parts.missing import ranges
from vla.data.select import how_to_delete
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined


@register("checks", "single_steps")
@check("episodes of one step, in which nothing follows from anything")
def single_steps(examined: Examined) -> Iterator[Finding]:
    """Episodes have more than one step."""
    if examined.dataset is None:
        return
    lengths = examined.dataset.reader.episodes["length"].to_numpy()
    short = examined.dataset.episode_numbers[lengths == 1].tolist()
    if not short:
        return
    remedy = "record longer ones"
    if len(short) < len(lengths):
        remedy = f"leave them out (`{how_to_delete(examined.root, short)}`)"
    message = (
        f"{len(short)} of {len(lengths)} episodes have one step ({ranges(short)}): no action in "
        f"them has an effect that is seen; {remedy}"
    )
    yield Finding("single_steps", "warning", f"episode {short[0]}", message)
