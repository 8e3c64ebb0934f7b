"""Whether a dataset shows anything to act on."""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined


@register("checks", "observations")
@check("whether there is a camera or a state: something that a policy could act on")
def observations(examined: Examined) -> Iterator[Finding]:
    """A policy has something to act on."""
    if examined.dataset is None:
        return
    spec = examined.dataset.spec
    if spec.state_dim or spec.cameras:
        return
    message = (
        f"{examined.root}: neither state nor camera is read, so no policy can be trained on it; "
        "name what holds them by the key state=[KEY] or cameras.NAME=KEY"
    )
    yield Finding("observations", "error", "observations", message)
