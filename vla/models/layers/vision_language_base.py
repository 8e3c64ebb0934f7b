"""Where a vision-language model comes from: the Hugging Face hub, a folder, or its config alone;
and which one it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from vla.models.layers.vision_language import VLMError


def load_base(name: str, dtype: torch.dtype) -> nn.Module:
    """The model `name` of the Hugging Face hub, or in a folder of that name.

    Raises:
        VLMError: it is not within reach, no image-text-to-text model, or incomplete.
    """
    from transformers import AutoModelForImageTextToText

    try:
        loader = cast(Any, AutoModelForImageTextToText)
        model, report = loader.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,  # pickled weights can run code
            output_loading_info=True,
            # a folder that is complete needs no network, and must not wait for one
            local_files_only=Path(name).is_dir(),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _cannot_load(name, error) from error
    # transformers only warns: tensors that are missing would be random numbers
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise VLMError(
            f"policy.base: {name} lacks {len(missing)} tensors, first {missing[0]}; copy it again"
        )
    return cast(nn.Module, model)


def build_base(folder: str | Path, dtype: torch.dtype) -> nn.Module:
    """A model of the config in `folder`, with random weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(str(folder), error) from error
    return cast(nn.Module, model)


def load_processor(name: str | Path) -> Any:
    """The processor of the model `name`. Raises VLMError."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, ValueError, ImportError) as error:
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
    cause = " ".join(str(error).split())[:300]
    return VLMError(
        f"policy.base: cannot load {name!r}: expected a folder or a model of the Hugging Face hub "
        f"with safetensors weights that takes images and text ({type(error).__name__}: {cause})"
    )


__all__ = ["build_base", "fingerprint", "load_base", "load_processor"]
