"""Low-rank adapters of transformers' linear layers (Hu et al. 2021), by peft, and merging them into
the base."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vla.config import Config, ConfigError

ADAPTER = "default"


class LoraSettings(Config):
    """Low-rank adapters. The defaults are those with which OpenVLA is fine-tuned."""

    rank: int = Field(default=32, ge=1, le=65536)
    """Rank of each adapter."""
    alpha: int = Field(default=16, ge=1)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before each adapter."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which layers: all linear ones but the output layer, or the ends of module names."""


def add_lora(model: nn.Module, settings: LoraSettings) -> None:
    """Freezes `model`, a model of transformers, and adds adapters to its layers; at first they
    change nothing.

    Raises:
        ConfigError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            ["policy.lora: needs the package peft: pip install 'vla[vlm]'"]
        ) from error
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    options = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        bias="none",
    )
    model.requires_grad_(False)
    try:
        inject_adapter_in_model(options, model, ADAPTER)
    except ValueError as error:
        raise ConfigError([f"policy.lora.targets: {error}"]) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            # adapters learn in float32, whatever the base is kept in: small steps vanish in
            # bfloat16
            parameter.data = parameter.data.float()


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """State of the model without adapters that computes the same: base weights plus the adapters'
    products."""
    from peft.tuners.lora import LoraLayer

    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight = state[f"{name}.base_layer.weight"]
            delta = cast(Any, module).get_delta_weight(ADAPTER)
            state[f"{name}.base_layer.weight"] = (weight.float() + delta.float()).to(weight.dtype)
    return {
        key.replace(".base_layer.", "."): value
        for key, value in state.items()
        if ".lora_" not in key
    }


__all__ = ["LoraSettings", "add_lora", "merged_weights"]
