"""What `vla align` does: which parts of which model learn from which pairs, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from vla.config import PathText, RootConfig
from vla.config.numbers import BatchSize, Count, Seed
from vla.training.config import OptimConfig


class AlignConfig(RootConfig):
    """One alignment: the parts that join pictures and words learn, and the rest stays as it is."""

    base: PathText
    """Model of the Hugging Face hub, or a folder that holds one, as `policy.base`."""
    out: PathText
    """Run directory: config, metrics, and the aligned model, in `base/`."""
    pairs: PathText
    """Folder of pictures with metadata.jsonl, as `co_training.path`."""
    held_out: PathText | None = None
    """Such a folder of other scenes, on which answers are judged before and after; null judges
    nothing."""
    trained: tuple[str, ...] = Field(default=("*multi_modal_projector*",), min_length=1)
    """Patterns of the parameters that learn: by default the MLP between image network and words;
    SmolVLM's is `*connector*`."""
    chat: bool | None = None
    """Put the questions into the base's chat template; null: if it has one."""
    processor: dict[str, Any] = Field(default_factory=dict)
    """Further arguments for the base's processor."""
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0)
    """Optimiser and schedule."""
    steps: Count = 2000
    """Optimiser steps."""
    batch_size: BatchSize = 32
    """Pairs per optimiser step."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16 computes in bfloat16; auto does so on CUDA devices that can. What learns, and what is
    saved, is float32."""
    judged: PositiveInt = 1000
    """Most held-out pairs that are judged, evenly spread."""
    log_every: PositiveInt = 20
    """Steps between metrics lines; each holds means over these steps."""
    save_every: PositiveInt | None = 500
    """Steps between saved states, of which the last is kept; null saves at the end only."""
    seed: Seed = 0
    """Decides in which order pairs are learned."""

    @model_validator(mode="after")
    def _means_something(self) -> AlignConfig:
        if self.optim.project_gradients or self.optim.critic is not None:
            raise ValueError(
                "optim: project_gradients and critic are for robot data; leave them out"
            )
        return self


__all__ = ["AlignConfig"]
