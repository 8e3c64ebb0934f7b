"""The language encoder: the bundled MiniLM, any other encoder, the cache and its storage."""

import copy
import pickle
import threading

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    T5Config,
    T5Model,
)

from vla.tokenizers import (
    LanguageEncoder,
    LanguageError,
    language,
    load_embeddings,
    save_embeddings,
)

TEXTS = [
    "open the drawer",
    "press the button from above",
    "close the door, slowly and without any noise",
]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "open",
    "close",
    "the",
    "drawer",
    "door",
    "push",
    "it",
]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def save_word_tokenizer(folder) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


@pytest.fixture(scope="session")
def minilm():
    return LanguageEncoder()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS), **SMALL)).save_pretrained(folder)
    save_word_tokenizer(folder)
    return folder


def test_minilm_agrees_with_sentence_transformers(minilm):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(
        str(language.minilm_folder()), device="cpu", local_files_only=True
    )
    expected = torch.from_numpy(reference.encode(TEXTS, show_progress_bar=False))
    found = minilm.embed(TEXTS)
    assert found.shape == (3, minilm.dim) == (3, 384)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_minilm_knows_meaning(minilm):
    drawer, same, other = minilm.embed(["open the drawer", "pull the drawer open", "kick the ball"])
    assert drawer @ same > 0.7 > drawer @ other + 0.2


def test_minilm_needs_its_own_weights(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(language, "minilm_folder", lambda: tmp_path)
    with pytest.raises(LanguageError, match=f"sha256 is .*, expected {language.MINILM_SHA256}"):
        LanguageEncoder().embed(["open"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LanguageError, match="no such file"):
        LanguageEncoder().embed(["open"])


def test_vectors_can_be_trained_upon_and_do_not_depend_on_autocast(tiny_bert):
    plain = LanguageEncoder(str(tiny_bert)).embed(["open the drawer"])
    with torch.autocast("cpu", torch.bfloat16):
        inside = LanguageEncoder(str(tiny_bert)).embed(["open the drawer"])
    assert torch.equal(plain, inside)
    layer = torch.nn.Linear(16, 2)
    layer(plain).sum().backward()
    assert layer.weight.grad is not None
    assert not plain.requires_grad


def test_bert_is_the_mean_over_real_tokens(tiny_bert):
    encoder = LanguageEncoder(str(tiny_bert))
    assert encoder.dim == 16
    found = encoder.embed(["open", "open the drawer"])
    model = BertModel.from_pretrained(tiny_bert).eval()
    ids = torch.tensor([[2, 5, 3]])  # [CLS] open [SEP], alone and so without padding
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model(ids).last_hidden_state.mean(1), dim=-1)
    torch.testing.assert_close(found[:1], expected, atol=1e-6, rtol=0)


def test_order_duplicates_and_long_texts(tiny_bert, monkeypatch):
    monkeypatch.setattr(language, "BATCH_SIZE", 2)
    texts = ["push the door", "open", "open", "close the drawer " * 400, "it", "push it"]
    together = LanguageEncoder(str(tiny_bert)).embed(texts)
    alone = torch.cat([LanguageEncoder(str(tiny_bert)).embed([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(6))


def test_each_text_is_encoded_once(tiny_bert, monkeypatch):
    seen = []
    original = language.encode_texts
    monkeypatch.setattr(
        language, "encode_texts", lambda m, t, texts: seen.extend(texts) or original(m, t, texts)
    )
    encoder = LanguageEncoder(str(tiny_bert))
    threads = [
        threading.Thread(target=encoder.embed, args=(["open", "close", "open"],)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encoder.embed(["close", "push"])
    assert sorted(seen) == ["close", "open", "push"]


def test_t5_uses_its_encoder_alone(tmp_path):
    T5Model(
        T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path)
    save_word_tokenizer(tmp_path)
    encoder = LanguageEncoder(str(tmp_path))
    assert encoder.embed(["open", "open the door"]).shape == (2, encoder.dim) == (2, 16)


def test_clip_is_read_at_the_end_of_text(tmp_path):
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    text = {
        **SMALL,
        "vocab_size": len(WORDS),
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(tmp_path)
    save_word_tokenizer(tmp_path)
    encoder = LanguageEncoder(str(tmp_path))
    found = encoder.embed(["open", "close the door"])
    assert encoder.dim == 16
    with torch.no_grad():
        hidden = model.text_model(input_ids=torch.tensor([[2, 5, 3]])).last_hidden_state
    torch.testing.assert_close(
        found[0], torch.nn.functional.normalize(hidden[0, 2], dim=-1), atol=1e-6, rtol=0
    )


def test_preloaded_texts_need_no_encoder():
    encoder = LanguageEncoder("no/such-model")
    vectors = {"open": torch.randn(7), "close": torch.randn(7)}
    encoder.preload(vectors)
    assert encoder.dim == 7
    assert torch.equal(
        encoder.embed(["close", "open"]), torch.stack([vectors["close"], vectors["open"]])
    )
    assert set(encoder.cached()) == {"open", "close"}
    encoder.cached().clear()
    assert len(encoder.cached()) == 2


def test_preload_refuses_another_encoders_vectors(tiny_bert):
    encoder = LanguageEncoder(str(tiny_bert))
    encoder.embed(["open"])
    for wrong in (torch.zeros(384), torch.zeros(1, 16), torch.full((16,), torch.nan)):
        with pytest.raises(
            LanguageError, match=r"embedding of 'close': expected 16 finite numbers"
        ):
            encoder.preload({"close": wrong})
    mixed = LanguageEncoder(str(tiny_bert))
    mixed.preload({"open": torch.zeros(8)})
    with pytest.raises(LanguageError, match="gives 16 numbers, the embeddings loaded hold 8"):
        mixed.embed(["close"])


def test_unknown_and_broken_encoders(tmp_path, tiny_bert, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LanguageError, match=r"cannot load text encoder '.*nothing'.*minilm"):
        LanguageEncoder(str(tmp_path / "nothing")).embed(["open"])
    with pytest.raises(LanguageError, match="cannot load"):
        _ = LanguageEncoder(str(tmp_path)).dim
    for file in tiny_bert.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(
            content[: len(content) // 2] if file.suffix == ".safetensors" else content
        )
    with pytest.raises(LanguageError, match="cannot load"):
        LanguageEncoder(str(tmp_path)).embed(["open"])


def test_one_string_is_refused_and_no_text_gives_no_row(minilm):
    with pytest.raises(LanguageError, match=r"write \[text\]"):
        minilm.embed("open the drawer")
    assert minilm.embed([]).shape == (0, 384)


def test_copies_carry_the_cache(tiny_bert):
    encoder = LanguageEncoder(str(tiny_bert))
    expected = encoder.embed(["open"])
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(twin.embed(["open"]), expected)
        assert twin._loaded is None
        twin.embed(["push"])
    assert set(encoder.cached()) == {"open"}


def test_embeddings_on_disk(tmp_path):
    vectors = {"open the drawer": torch.randn(5), "öffne die Schublade\n": torch.randn(5)}
    save_embeddings(tmp_path / "policy", vectors)
    loaded = load_embeddings(tmp_path / "policy")
    assert list(loaded) == list(vectors)
    assert all(torch.equal(loaded[text], vectors[text]) for text in vectors)
    save_embeddings(tmp_path / "empty", {})
    assert load_embeddings(tmp_path / "empty") == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("language.json", None, "cannot read"),
        ("language.json", '{"format": "other"}', "expected format"),
        ("language.json", '{"format": "vla.language_embeddings", "version": 9}', "version 9"),
        (
            "language.json",
            '{"format": "vla.language_embeddings", "version": 1, "texts": []}',
            "belong together",
        ),
        ("language.safetensors", "short", "cannot read"),
        ("language.safetensors", None, "cannot read"),
    ],
)
def test_damaged_embeddings(tmp_path, file, content, message):
    save_embeddings(tmp_path, {"open": torch.zeros(3)})
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(LanguageError, match=message):
        load_embeddings(tmp_path)
