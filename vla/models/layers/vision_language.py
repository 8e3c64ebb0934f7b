"""Any image-text-to-text model of transformers as a trunk: prompts of images, text and embeddings
-> hidden states.

What is peculiar to an architecture stays in its own processor and forward pass. Embeddings that
belong to no token (a robot's state, action tokens, empty slots) replace the output of the embedding
layer at their places, so that the model sees ordinary ids of the right number and keeps its own
masks and positions.

N sequences, L tokens, n of them added, W width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla.config import UserError
from vla.models.layers.chat_prompt import ChatFrame, ChatTemplateError, chat_frame
from vla.types.images import ImageSize, Kernel, resized

_KERNELS: dict[Any, Kernel] = {2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow, in which processors say how they resize."""
_ROUNDING = 0.05
"""Of normalised pixels: two to three of 255 levels, by what they are divided by."""


class VLMError(UserError):
    """A vision-language model cannot be loaded, or cannot do what is asked of it."""


@dataclass(frozen=True)
class Prompt:
    """The input of a language model, padded on the left.

    Attributes:
        fields: the processor's tensors by the names of the model's arguments; `input_ids` and
            `attention_mask` (N, L).
        embeddings: (N, n, W) for the last n places, whose ids mean nothing; None if there are none.
    """

    fields: dict[str, Tensor]
    embeddings: Tensor | None = None

    @property
    def length(self) -> int:
        return self.fields["input_ids"].shape[1]

    @property
    def batch_size(self) -> int:
        return self.fields["input_ids"].shape[0]

    def append(self, embeddings: Float[Tensor, "N n W"], *, filler: int, answer: bool) -> Prompt:
        """The prompt with embeddings at its end, as part of the prompt or of the answer to it."""
        N = self.batch_size
        n = embeddings.shape[1]
        # PaliGemma's token types: 0 is the prompt, within which all see each other, 1 the answer
        values = {
            "input_ids": filler,
            "attention_mask": 1,
            "token_type_ids": int(answer),
            "mm_token_type_ids": 0,
        }
        fields = dict(self.fields)
        for name, value in values.items():
            if name in fields:  # each architecture has fields of its own
                added = fields[name].new_full((N, n), value)
                fields[name] = torch.cat([fields[name], added], dim=1)
        if self.embeddings is not None:
            embeddings = embeddings.to(self.embeddings.dtype)
            embeddings = torch.cat([self.embeddings, embeddings], dim=1)
        return Prompt(fields, embeddings)

    def append_ids(self, ids: Int64[Tensor, "N n"], mask: Bool[Tensor, "N n"]) -> Prompt:
        """The prompt followed by an answer in words, padded on the right."""
        values = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": torch.ones_like(ids),  # PaliGemma: an answer
            "mm_token_type_ids": torch.zeros_like(ids),  # Gemma 3: text
        }
        fields = dict(self.fields)
        for name, value in values.items():
            if name in fields:
                fields[name] = torch.cat([fields[name], value.to(fields[name].dtype)], dim=1)
        return Prompt(fields)


@dataclass(frozen=True)
class Prefill:
    """A prompt that was processed, and the state from which its answer continues.

    Attributes:
        hidden: (N, W), of the prompt's last token.
        cache: keys and values of the prompt; never changed, see
            `VisionLanguageModel.continue_with`.
        attention_mask: (N, L).
        position: (N,), of the answer's first token, if positions are not simply counted; else None.
    """

    hidden: Tensor
    cache: Any
    attention_mask: Tensor
    position: Tensor | None

    def fork(self, copies: int = 1) -> Prefill:
        """A prefill whose cache may grow without changing this one's: growing makes new tensors.

        With `copies` each prompt stands that many times in a row, and is not processed again.
        """
        # a shallow copy is enough: growing concatenates into new tensors, and never writes in place
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        if copies == 1:
            return replace(self, cache=cache)
        cache.batch_repeat_interleave(copies)
        position = self.position
        if position is not None:
            position = position.repeat_interleave(copies, dim=0)
        return Prefill(
            hidden=self.hidden.repeat_interleave(copies, dim=0),
            cache=cache,
            attention_mask=self.attention_mask.repeat_interleave(copies, dim=0),
            position=position,
        )


class VisionLanguageModel(nn.Module):
    """A model of `AutoModelForImageTextToText` with its processor.

    Args:
        model: from transformers, with scaled dot product attention.
        processor: its processor.
        options: further arguments of every call of the processor.
        chat: whether prompts are put into the processor's chat template; None: if it has one.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        options: Mapping[str, Any] | None = None,
        chat: bool | None = None,
    ) -> None:
        super().__init__()
        self.model = cast(Any, model)
        self.processor = processor
        self.options = dict(options or {})
        has_template = bool(getattr(processor, "chat_template", None))
        if chat and not has_template:
            raise VLMError(
                "policy.chat: is on, but the base's processor has no chat template; set it to "
                "false or null"
            )
        self.chat = has_template if chat is None else chat
        if self.model.base_model is self.model or self.model.get_output_embeddings() is None:
            raise VLMError(
                f"policy.base: {type(model).__name__} keeps no trunk apart from its output layer"
            )
        self.tokenizer = processor.tokenizer
        # on the left, so that the last place of every row is where its answer begins
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # a hook rather than `inputs_embeds`: some models need the ids beside them, for image places
        self._injected: tuple[Tensor, Tensor] | None = None
        self.model.get_input_embeddings().register_forward_hook(self._inject)

    def train(self, mode: bool = True) -> VisionLanguageModel:
        """As of any module, except that batch norms keep the statistics that they came with."""
        super().train(mode)
        # a step's few pictures, all of one scene, have other statistics than those by which the
        # policy will be computed when it acts
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    # --- what it is
    # -----------------------------------------------------------------------------------

    @property
    def text_config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def width(self) -> int:
        return int(self.embedding.shape[1])

    @property
    def embedding(self) -> Tensor:
        return cast(Tensor, self.model.get_input_embeddings().weight)

    @property
    def embedding_scale(self) -> float:
        """By which the embedding layer multiplies its rows (Gemma)."""
        return float(getattr(self.model.get_input_embeddings(), "embed_scale", 1.0))

    @property
    def output_matrix(self) -> Tensor | None:
        """None if the embedding matrix is the output matrix."""
        weight = self.model.get_output_embeddings().weight
        tied = weight is self.model.get_input_embeddings().weight
        return None if tied else weight

    @property
    def softcap(self) -> float | None:
        return getattr(self.text_config, "final_logit_softcapping", None)

    @property
    def filler(self) -> int:
        """An id for places whose embedding is replaced."""
        return int(self.tokenizer.pad_token_id)

    # --- prompts
    # --------------------------------------------------------------------------------------

    def prompt(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[Tensor | np.ndarray]],
    ) -> Prompt:
        """N prompts, each some images (uint8, (H, W, 3) or (3, H, W)) followed by a text.

        Raises:
            VLMError: the processor refuses them.
        """
        rows = zip(texts, images, strict=True)
        whole = [self._text(text, len(row_images)) for text, row_images in rows]
        options = dict(self.options)
        # a template that writes the first token itself would get it twice
        bos_token = self.tokenizer.bos_token
        if self.chat and bos_token and whole[0].startswith(bos_token):
            options["add_special_tokens"] = False
        # processors refuse empty lists of images, but take none at all
        any_images = any(len(row) for row in images)
        shown = [list(row) for row in images] if any_images else None
        try:
            fields = self.processor(
                text=whole, images=shown, padding=True, return_tensors="pt", **options
            )
        except (ValueError, TypeError, IndexError) as error:
            raise VLMError(
                f"policy.base: its processor refuses the prompt {whole[0]!r}: {error}"
            ) from error
        device = self.embedding.device
        # PaliGemma's processor adds labels, which its trunk does not take
        return Prompt({k: v.to(device) for k, v in fields.items() if k != "labels"})

    def image_size(self, camera_size: tuple[int, int]) -> ImageSize | None:
        """The size at which the processor sees a camera's images, if that is all it sees of them.

        None if images of that size would be no smaller, or another input: a processor may add parts
        at full size, crop, or choose the size by the image.
        """
        processor = getattr(self.processor, "image_processor", None)
        given = {
            key: self.options.get(key, getattr(processor, key, None))
            for key in ("size", "resample")
        }
        edges = {} if isinstance(given["size"], int | None) else dict(given["size"])
        kernel = _KERNELS.get(given["resample"])
        if edges.keys() != {"height", "width"} or kernel is None:
            return None
        size = ImageSize(edges["height"], edges["width"], kernel)
        if not size.shrinks(camera_size):
            return None
        # no list of options says what all processors do: an image of noise shows it
        noise = np.random.default_rng(0).integers(0, 256, (*camera_size, 3), dtype=np.uint8)
        image_HW3 = torch.from_numpy(noise)
        try:
            whole = self.prompt(["a"], [[image_HW3.permute(2, 0, 1)]]).fields
            small = self.prompt(["a"], [[resized(image_HW3, size).permute(2, 0, 1)]]).fields
        except VLMError:
            return None  # which the first batch says with its own prompt
        return size if _same_input(whole, small) else None

    def answer(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "N n"], Bool[Tensor, "N n"]]:
        """Ids of N answers, each with the end-of-text token, padded on the right; and a mask, False
        at padding."""
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in texts]
        lengths = [len(row) for row in rows]
        longest = max(1, *lengths)
        ids = torch.tensor([row + [self.filler] * (longest - len(row)) for row in rows])
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        device = self.embedding.device
        return ids.to(device), mask.to(device)

    def _text(self, text: str, images: int) -> str:
        if not self.chat:
            return getattr(self.processor, "image_token", "") * images + text
        return self.chat_frame(images).around(text)

    def chat_frame(self, images: int) -> ChatFrame:
        """What the chat template writes around a text behind so many pictures.

        Raises VLMError if the template cannot be rendered, or does more than that.
        """
        template = self.processor.chat_template
        if isinstance(template, dict):
            template = template.get("default", "")
        try:
            return chat_frame(str(template), self.tokenizer.special_tokens_map, images)
        except ChatTemplateError as error:
            raise VLMError(f"policy.base: {error}") from error

    # --- passes
    # ---------------------------------------------------------------------------------------

    def hidden(
        self,
        prompt: Prompt,
        *,
        slots: int = 0,
        overlay: tuple[Bool[Tensor, "N L"], Float[Tensor, "n W"]] | None = None,
    ) -> Float[Tensor, "N L W"]:
        """Hidden states of one pass.

        Attention is the model's own, except that the last `slots` places all see each other.

        Args:
            overlay: further places whose embeddings are replaced.
        """
        output = self._run(prompt, slots=slots, overlay=overlay, use_cache=False)
        return cast(Tensor, output.last_hidden_state)

    def prefill(self, prompt: Prompt) -> Prefill:
        """Processes the prompt once, for an answer that comes token by token."""
        positions_3NL = self._positions(prompt)
        output = self._run(prompt, use_cache=True)
        next_position_N = None
        if positions_3NL is not None:
            # text goes on after the greatest of the three, since an image counts in two at once
            next_position_N = positions_3NL.amax(dim=(0, 2)) + 1
        return Prefill(
            hidden=output.last_hidden_state[:, -1],
            cache=output.past_key_values,
            attention_mask=prompt.fields["attention_mask"],
            position=next_position_N,
        )

    def continue_with(self, prefill: Prefill, embedding: Float[Tensor, "N W"]) -> Prefill:
        """One more token. The cache of `prefill` grows: give a `fork` if it is needed again."""
        mask = prefill.attention_mask
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = prefill.position
        options = {}
        if position is not None:
            options["position_ids"] = position[None, :, None].expand(3, -1, 1)  # (3, N, 1)
        output = self.model.base_model(
            inputs_embeds=embedding[:, None].to(self.embedding.dtype),
            attention_mask=mask,
            past_key_values=prefill.cache,
            use_cache=True,
            **options,
        )
        next_position = None if position is None else position + 1
        return Prefill(output.last_hidden_state[:, -1], output.past_key_values, mask, next_position)

    def _run(
        self,
        prompt: Prompt,
        *,
        slots: int = 0,
        overlay: tuple[Tensor, Tensor] | None = None,
        use_cache: bool,
    ) -> Any:
        fields = dict(prompt.fields)
        positions = self._positions(prompt)
        if positions is not None:
            fields["position_ids"] = positions
        if slots:
            fields["attention_mask"] = self._mask(prompt, slots)
        with self._injecting(prompt, overlay):
            return self.model.base_model(**fields, use_cache=use_cache)

    def _positions(self, prompt: Prompt) -> Tensor | None:
        """(3, N, L) for models with rotary positions in time, height and width (Qwen-VL), computed
        by the model."""
        rope_index = getattr(self.model.base_model, "get_rope_index", None)
        if rope_index is None:
            return None
        # without images time, height and width count alike
        if "image_grid_thw" not in prompt.fields:
            counted = (prompt.fields["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            return counted.expand(3, -1, -1)
        known = inspect.signature(rope_index).parameters
        arguments = {name: value for name, value in prompt.fields.items() if name in known}
        return cast(Tensor, rope_index(**arguments)[0])

    def _mask(self, prompt: Prompt, slots: int) -> Bool[Tensor, "N 1 L L"]:
        """The model's own attention mask, in which the last `slots` places see each other in both
        directions."""
        from transformers.masking_utils import create_masks_for_generate

        fields = prompt.fields
        N, L = fields["input_ids"].shape
        window = getattr(self.text_config, "sliding_window", None)
        if window is not None and window < L:
            raise VLMError(
                "policy.decoding: parallel needs attention over the whole prompt; this one has "
                f"{L} tokens, the base's sliding window {window}; use smaller images or decoding: "
                "autoregressive"
            )
        make = getattr(self.model, "create_masks_for_generate", create_masks_for_generate)
        types = ("token_type_ids", "mm_token_type_ids")
        given: dict[str, Any] = {name: fields[name] for name in types if name in fields}
        own = make(
            config=self.model.config,
            inputs_embeds=self.embedding.new_empty(N, L, 0),
            attention_mask=fields["attention_mask"],
            past_key_values=None,
            position_ids=None,
            **given,
        )
        if isinstance(own, dict):  # models with sliding windows have a mask per kind of layer
            own = own.get("full_attention")
        diagonal = torch.eye(L, dtype=torch.bool, device=self.embedding.device)
        if own is None:  # transformers leaves a mask out that is plainly causal
            real_N11L = fields["attention_mask"].bool()[:, None, None, :]
            own = diagonal.new_ones(L, L).tril() & real_N11L
        # padding sees itself, so that no softmax runs over nothing
        mask = own.expand(N, 1, L, L) | diagonal
        mask[:, :, L - slots :, L - slots :] = True
        return mask

    # --- embeddings from outside
    # ----------------------------------------------------------------------

    @contextmanager
    def _injecting(self, prompt: Prompt, overlay: tuple[Tensor, Tensor] | None) -> Iterator[None]:
        """Within it, the embedding layer's output is replaced at the places of overlay and
        prompt."""
        self._injected = None
        if overlay is not None and overlay[0].any():
            # `masked_scatter` takes its values in order: two sources would need to be interleaved
            assert prompt.embeddings is None, "an overlay is for prompts of text alone"
            self._injected = overlay
        elif prompt.embeddings is not None:
            mask = torch.zeros_like(prompt.fields["input_ids"], dtype=torch.bool)
            mask[:, -prompt.embeddings.shape[1] :] = True
            self._injected = (mask, prompt.embeddings.flatten(0, 1))
        try:
            yield
        finally:
            self._injected = None

    def _inject(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self._injected is None:
            return output
        mask, values = self._injected
        return output.masked_scatter(mask.unsqueeze(-1), values.to(output.dtype))


def _same_input(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two inputs of a model differ by no more than pixels that were rounded."""
    if a.keys() != b.keys() or any(a[key].shape != b[key].shape for key in a):
        return False
    return all(bool(torch.allclose(a[key], b[key], rtol=0, atol=_ROUNDING)) for key in a)


__all__ = ["Prefill", "Prompt", "VLMError", "VisionLanguageModel"]
