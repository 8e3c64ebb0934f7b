"""Where a vision-language model comes from: the Hugging Face hub, a folder, or its config alone;
and which one it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from vla.common.pretrained import (
    OwnCodeError,
    PretrainedError,
    load_config,
    load_model,
    load_text_tool,
    new_model,
)
from vla.models.layers.vision_language import VLMError

_LOADER = "AutoModelForImageTextToText"


def load_base(name: str, dtype: torch.dtype) -> nn.Module:
    """The model `name` of the Hugging Face hub, or in a folder of that name.

    Raises:
        VLMError: it is not within reach, no image-text-to-text model, or incomplete.
    """
    options = {"dtype": dtype, "attn_implementation": "sdpa"}
    try:
        model, missing = load_model(_LOADER, name, **options)
    except OwnCodeError:
        raise
    except PretrainedError as error:
        raise _cannot_load(name, error) from error
    # transformers only warns: tensors that are missing would be random numbers
    if missing:
        raise VLMError(
            f"policy.base: {name} lacks {len(missing)} tensors, first {missing[0]}; copy it again"
        )
    return cast(nn.Module, model)


def build_base(folder: str | Path, dtype: torch.dtype) -> nn.Module:
    """A model of the config in `folder`, with random weights. Raises VLMError."""
    try:
        config = load_config(folder)
        model = new_model(_LOADER, config, dtype=dtype, attn_implementation="sdpa")
    except OwnCodeError:
        raise
    except PretrainedError as error:
        raise _cannot_load(str(folder), error) from error
    return cast(nn.Module, model)


def load_processor(name: str | Path) -> Any:
    """The processor of the model `name`. Raises VLMError."""
    try:
        processor = load_text_tool("AutoProcessor", name)
    except OwnCodeError:
        raise
    except PretrainedError as error:
        raise _cannot_load(str(name), error) from error
    if not hasattr(processor, "tokenizer"):
        raise VLMError(
            f"policy.base: {name} has a {type(processor).__name__}, which makes no prompts of "
            "images and text"
        )
    return processor


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """A short identifier of a model's weights: names, shapes and a few values of each tensor.

    Values are rounded to bfloat16, so that it does not depend on the type in which the weights are
    kept.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        index = torch.linspace(0, len(flat) - 1, min(len(flat), 16), device=flat.device).long()
        values = flat[index].to(torch.bfloat16).float().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def _cannot_load(name: str, error: Exception) -> VLMError:
    return VLMError(
        f"policy.base: cannot load {name!r}: expected a folder or a model of the Hugging Face hub "
        f"with safetensors weights that takes images and text ({error})"
    )


__all__ = ["build_base", "fingerprint", "load_base", "load_processor"]
