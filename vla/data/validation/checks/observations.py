"""Is there anything to see?"""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined


@register("checks", "observations")
@check("whether a policy sees anything: a state or a camera")
def observations(examined: Examined) -> Iterator[Finding]:
    """There is a state or a camera."""
    dataset = examined.dataset
    if dataset is None or dataset.spec.state_names or dataset.spec.cameras:
        return
    message = (
        "neither a state nor a camera is read, so that a policy has nothing to see; name them by "
        "the keys `state` and `cameras`"
    )
    yield Finding("observations", "error", examined.root.name, message)
