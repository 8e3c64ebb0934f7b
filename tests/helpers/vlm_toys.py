"""Small real vision-language models with random weights, saved as folders that transformers loads like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vla.types import Spec

IMAGE_SIZE = 32
TEXTS = [
    "What should the robot do to open the drawer?",
    "pick up the red block and place it in the bowl",
    "go left right",
]
SPEC = Spec(
    cameras={"front": (32, 32), "wrist": (32, 32)},
    state_names=("x", "y"),
    action_names=("dx", "dy", "grip"),
    action_low=(-1.0, -2.0, 0.0),
    action_high=(1.0, 2.0, 1.0),
    control_hz=10,
)
CHAT = (
    "{% for m in messages %}{{ START }}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ IMAGE }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def chat_template(image: str, start: str = "") -> str:
    return CHAT.replace("{{ START }}", start).replace("{{ IMAGE }}", image)


def tokenizer(special: list[str], *, bos: str, eos: str, pad: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained here and now."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = list(dict.fromkeys([pad, bos, eos, *special]))
    core.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet)
    )
    extra = [name for name in names if name not in (bos, eos, pad)]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=extra,
    )


def _text(**changes: Any) -> dict[str, Any]:
    base = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return {**base, "num_key_value_heads": 2, "max_position_embeddings": 512, **changes}


def smolvlm(folder: Path, *, seed: int = 0, tied: bool = False, **text: Any) -> Path:
    """SmolVLM: SigLIP, pixel shuffle, Llama; 4 image tokens per image."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    image = [
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        "<end_of_utterance>",
        "<row_1_col_1>",
        "<video>",
    ]
    words = tokenizer(image, bos="<|im_start|>", eos="<|im_end|>", pad="<|pad|>")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = SmolVLMConfig(
        vision_config={**vision, "image_size": IMAGE_SIZE, "patch_size": 8},
        text_config={
            "model_type": "llama",
            **_text(vocab_size=len(words), tie_word_embeddings=tied, **text),
        },
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=tied,
    )
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(
            size={"longest_edge": IMAGE_SIZE},
            max_image_size={"longest_edge": IMAGE_SIZE},
            do_image_splitting=False,
        ),
        words,
        SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=chat_template("<image>", "<|im_start|>"),
    )
    return _save(folder, SmolVLMForConditionalGeneration, config, processor, seed)


def paligemma(folder: Path, *, seed: int = 0, **text: Any) -> Path:
    """PaliGemma: SigLIP, linear projector, Gemma; tied embeddings, no chat template; 4 image tokens per image."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

    words = tokenizer(["<image>"], bos="<bos>", eos="<eos>", pad="<pad>")
    images = SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(images, words)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            **vision,
            "image_size": IMAGE_SIZE,
            "patch_size": 16,
            "projection_dim": 64,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            **_text(vocab_size=len(words), head_dim=16, num_key_value_heads=1, **text),
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        pad_token_id=words.pad_token_id,
    )
    return _save(folder, PaliGemmaForConditionalGeneration, config, processor, seed)


def qwen(folder: Path, *, seed: int = 0, **text: Any) -> Path:
    """Qwen2.5-VL: windowed vision transformer, Qwen2 with rotary positions in time, height and width."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>"]
    words = tokenizer(marks, bos="<|endoftext|>", eos="<|im_end|>", pad="<|endoftext|>")
    sizes = {"shortest_edge": IMAGE_SIZE * IMAGE_SIZE, "longest_edge": IMAGE_SIZE * IMAGE_SIZE}
    options = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": sizes}
    template = chat_template("<|vision_start|><|image_pad|><|vision_end|>", "<|im_start|>")
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**options),
        words,
        Qwen2VLVideoProcessor(**options),
        chat_template=template,
    )
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config=_text(
            vocab_size=len(words),
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            **text,
        ),
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    return _save(folder, Qwen2_5_VLForConditionalGeneration, config, processor, seed)


def llama(*, seed: int = 0, **text: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """A causal language model of Llama's architecture and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer([], bos="<|im_start|>", eos="<|im_end|>", pad="<|pad|>")
    torch.manual_seed(seed)
    config = LlamaConfig(**_text(vocab_size=len(words), tie_word_embeddings=True, **text))
    return _enlarged(LlamaForCausalLM(config)).eval(), words


def composed(folder: Path, *, seed: int = 0, **text: Any) -> Path:
    """A convolutional network of timm, an MLP, Llama (FastVLM's architecture); 4 image tokens per image."""
    import timm

    from vla.models.layers.vision_language_parts.composed_base import compose, save_base

    language, words = llama(seed=seed, **text)
    network = timm.create_model("test_efficientnet", num_classes=0)
    model, processor = compose(language, words, network, "test_efficientnet", 2 * IMAGE_SIZE)
    save_base(folder, model, processor, {})
    return folder


FAMILIES = {"smolvlm": smolvlm, "paligemma": paligemma, "qwen": qwen, "composed": composed}


def _save(folder: Path, kind: Any, config: Any, processor: Any, seed: int) -> Path:
    torch.manual_seed(seed)
    model = _enlarged(kind(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def _enlarged(model: Any) -> Any:
    # initial weights of these sizes are so small that nothing depends on anything
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.mul_(3)
    return model
