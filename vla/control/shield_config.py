"""How a shield chooses, as a config: the network itself is in `vla.control.shield`."""

from __future__ import annotations

from pydantic import Field

from vla.config import Config, PathText


class ShieldConfig(Config):
    """Choose among several chunks of the policy by a risk network (`vla reward`, model: {type:
    risk}): the policy's own choice if its risk is admissible, else the first drawn one that is,
    else the least risky."""

    path: PathText
    """Folder of the risk network, or of its run."""
    samples: int = Field(default=16, ge=1, le=1024)
    """Chunks that are drawn beside the policy's own choice."""
    sample_temperature: float = Field(default=1.0, gt=0, le=100)
    """Of these draws; above 1 they are further from what the policy would do."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Greatest admissible risk; null: the network's own, which held-out episodes have chosen. 0
    always takes the least risky."""


__all__ = ["ShieldConfig"]
