"""Chat templates of others: what they write around a text, and that they cannot take time or memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import vlm_toys

from vla.models.layers.chat_prompt import ChatTemplateError, chat_frame

SPECIAL = {"bos_token": "<s>"}
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"


@pytest.mark.parametrize("family", ["smolvlm", "qwen"])
def test_texts_are_framed_as_the_processor_does_it(family: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(vlm_toys.FAMILIES[family](tmp_path))
    for images in (0, 2):
        content = [{"type": "image"}] * images + [{"type": "text", "text": "open it {x}"}]
        expected = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        special = processor.tokenizer.special_tokens_map
        assert (
            chat_frame(processor.chat_template, special, images).around("open it {x}") == expected
        )


def test_special_tokens_and_trimmed_texts() -> None:
    template = "{{ bos_token }}U: {{ messages[0]['content'][0]['text'] | trim }}\nA:"
    assert chat_frame(template, SPECIAL, 0).around(" go left ") == "<s>U: go left\nA:"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LOOP, "takes too long|rendered"),
        ("{{ 'a' * 9999999999 }}", "MemoryError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ messages[0]['content'][0]['text'] | upper }}", "exactly once"),
        ("{% set t = messages[0]['content'][0]['text'] %}{{ t | length }}{{ t }}", "changes"),
    ],
)
def test_templates_that_are_refused(template: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(ChatTemplateError, match=message):
        chat_frame(template, SPECIAL, 0)
    assert time.monotonic() - start < 60
