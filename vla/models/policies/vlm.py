"""Vision-language models as robot policies: models of transformers that answer with actions.

RT-2 (Brohan et al. 2023) and OpenVLA (Kim et al. 2024) decode action tokens one by one; PaLM-E
(Driess et al. 2023) puts a robot's state among the words; OpenVLA-OFT (Kim et al. 2025) fills empty
slots of a whole chunk in one pass. Each step is answered from its own frame.

B windows or robots, T steps, N = B * T prompts, L tokens per prompt, D action tokens per chunk, V
action ids, n tokens of an answer, W width.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from vla.config import Choice, PathText, register
from vla.models.checkpoint_files import WEIGHTS_FILE
from vla.models.heads.categorical import CategoricalActions
from vla.models.layers.action_vocabulary import (
    ActionVocabulary,
    Reserve,
    VocabularyError,
    reserve_ids,
)
from vla.models.layers.lora import LoraSettings, add_lora, merged_weights
from vla.models.layers.vision_language import Prefill, Prompt, VisionLanguageModel, VLMError
from vla.models.layers.vision_language_base import (
    build_base,
    fingerprint,
    load_base,
    load_processor,
)
from vla.models.policies.vlm_parts.action_decoding import AutoregressiveActions, TokenDecoder
from vla.models.policies.vlm_parts.storage import (
    BASE_FOLDER,
    PROCESSOR_FOLDER,
    check_base,
    own_tensors,
    write_base,
)
from vla.models.policy import Policy, PolicyConfig
from vla.models.roles import STATE_INPUT, TRUNK, Role, roles_of
from vla.tokenizers.bins import BinsConfig
from vla.types import Batch, Observation, PolicyOutput, Spec

ADAPTER_FILE = "adapter.safetensors"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@register("policies", "vlm")
class VLMConfig(PolicyConfig):
    """A vision-language model that answers with actions."""

    type: Literal["vlm"] = "vlm"
    base: PathText
    """Model of the Hugging Face hub, or a folder that holds one: SmolVLM, PaliGemma, Qwen-VL, Gemma
    3 ..."""
    history: int = Field(default=1, ge=1, le=1)
    """Frames that a step is answered from: its own."""
    vocabulary: Reserve = "extend"
    """Ids that mean actions: new ones (extend), the last ordinary ones (last), or those of
    `unused_ids` (unused)."""
    unused_ids: list[int] = Field(default_factory=list)
    """For vocabulary: unused, ids of the base's vocabulary that text hardly uses, least used
    first."""
    decoding: Literal["autoregressive", "parallel"] = "autoregressive"
    """Token by token, or all at once from empty slots that see each other."""
    tokenizer: Annotated[Any, Choice("tokenizers")] = BinsConfig()
    """Action tokenizer."""
    head: Annotated[Any, Choice("heads")] | None = None
    """With decoding: parallel, a head that reads the slots in place of action ids, for example l1;
    null for action ids."""
    cameras: list[str] | None = None
    """Cameras whose images stand in the prompt, in this order; null for all of the spec."""
    prompt: str = Field(default="What should the robot do to {instruction}?", max_length=10_000)
    """What is asked; {instruction} stands for the instruction. Images come first, the state after
    it."""
    chat: bool | None = None
    """Put the prompt into the base's chat template; null: if it has one."""
    processor: dict[str, Any] = Field(default_factory=dict)
    """Further arguments for the base's processor, for example do_image_splitting: false."""
    state_tokens: int = Field(default=1, ge=0, le=10000)
    """Places at the prompt's end onto which the robot's state is projected; 0 leaves the state
    out."""
    lora: LoraSettings | None = LoraSettings()
    """Low-rank adapters on a frozen base; null trains the whole base, but for an output layer of
    words that is not its embedding matrix."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the base's weights are kept."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    save: Literal["adapter", "full"] = "adapter"
    """With lora: checkpoints hold what was trained and name the base (adapter), or hold the base
    too (full)."""

    @field_validator("prompt")
    @classmethod
    def _has_a_place_for_the_instruction(cls, value: str) -> str:
        try:
            parts = [part for part in string.Formatter().parse(value) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"no template: {error}; a brace itself is written twice") from error
        fields = {name for _, name, _, _ in parts}
        if fields != {"instruction"}:
            found = sorted(map(str, fields)) or "none"
            raise ValueError(f"expected the one field {{instruction}}, found {found}")
        # a width in it would make a text of any length out of a few letters
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError("expected {instruction} alone, without a format behind it")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> VLMConfig:
        if self.head is not None and self.decoding != "parallel":
            raise ValueError(
                "head: reads the slots of decoding: parallel; set that, or head: null for action "
                "ids"
            )
        if self.lora is None and self.dtype != "float32":
            raise ValueError(
                "dtype: bfloat16 is for a frozen base; without lora the base is trained, which "
                "needs float32 weights (set precision: bf16 in the training config for fast "
                "passes)"
            )
        if self.standardise_language:
            raise ValueError(
                "standardise_language: a VLM reads the instruction's words, no sentence vector"
            )
        if (self.vocabulary == "unused") != bool(self.unused_ids):
            raise ValueError("unused_ids: belongs to vocabulary: unused, which needs it")
        return self

    @property
    def stores_base(self) -> bool:
        return self.lora is None or self.save == "full"

    @property
    def weights_file(self) -> str:
        return WEIGHTS_FILE if self.stores_base else ADAPTER_FILE

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> VLM:
        """Raises VLMError if the base cannot be had, VocabularyError if it has no room for action
        ids."""
        # only the architecture is needed where weights will be loaded
        make = build_base if from_checkpoint else load_base
        base = make(self.base, self._dtype)
        return VLM(self, spec, base, load_processor(self.base))

    def build_for(self, spec: Spec, folder: Path) -> VLM:
        """The policy whose weights and processor are in the checkpoint `folder`.

        Raises:
            CheckpointError: the adapter in there was trained on another base.
        """
        if self.stores_base:
            base = build_base(folder / BASE_FOLDER, self._dtype)
        else:
            base = load_base(self.base, self._dtype)
            # an adapter on other weights would load, and answer nonsense
            check_base(folder, self.base, base)
        return VLM(self, spec, base, load_processor(folder / PROCESSOR_FOLDER))

    @property
    def _dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]


@dataclass(frozen=True)
class VLMMemory:
    """Nothing but the number of robots: each step is answered from its own frame."""

    batch_size: int

    def select(self, rows: Sequence[int]) -> VLMMemory:
        return VLMMemory(len(rows))

    @classmethod
    def stack(cls, memories: Sequence[VLMMemory]) -> VLMMemory:
        return cls(sum(m.batch_size for m in memories))


class VLM(Policy, TokenDecoder):
    """See the module's docstring. Built by `VLMConfig.build`, or read by `load_policy`."""

    config: VLMConfig
    reads_words = True

    def __init__(
        self,
        config: VLMConfig,
        spec: Spec,
        base: nn.Module,
        processor: Any,
    ) -> None:
        super().__init__(
            config, spec, tokenizer=config.tokenizer.build(spec, config.chunk), language=None
        )
        self.cameras = spec.chosen_cameras(config.cameras)
        self.reads_state = bool(config.state_tokens and spec.state_dim)
        self.base_fingerprint = fingerprint(base)
        self.trunk = VisionLanguageModel(
            base, processor, options=config.processor, chat=config.chat
        )
        trunk = self.trunk
        if trunk.chat:
            # at once: a template that cannot be used must not be found in the middle of an episode
            trunk.chat_frame(len(self.cameras))
        for camera in self.cameras:
            size = trunk.image_size(spec.cameras[camera])
            if size is not None:
                self.image_sizes = {**self.image_sizes, camera: size}
        self.feature_dim = trunk.width
        ids = reserve_ids(
            config.vocabulary,
            self.tokenizer.vocab_size,
            trunk.tokenizer,
            len(trunk.embedding),
            config.unused_ids,
        )
        if config.lora is not None:
            add_lora(base, config.lora)
        elif trunk.output_matrix is not None:
            # actions have output rows of their own: where no text is learned nothing would reach
            # it, which distributed training refuses, and weight decay would wear it away
            trunk.model.get_output_embeddings().requires_grad_(False)
        if config.gradient_checkpointing:
            trunk.model.activation_checkpointing_enable({"use_reentrant": False})
        # what is put among the words begins at about their size: the base knows nothing else
        spread = float(trunk.embedding.detach().float().std()) * trunk.embedding_scale
        if self.reads_state:
            self.state_projection = nn.Linear(spec.state_dim, config.state_tokens * trunk.width)
            nn.init.normal_(self.state_projection.weight, std=spread / spec.state_dim**0.5)
            nn.init.normal_(self.state_projection.bias, std=spread)
        if config.decoding == "parallel":
            slots = self.tokenizer.num_tokens
            if config.head is not None:
                slots = config.head.num_readouts(self.tokenizer)
            self.slots = nn.Parameter(torch.randn(slots, trunk.width) * spread)
        if config.head is None:
            self._check_decoding()
            # rows of their own beside the base's matrices: the base can stay frozen, an adapter is
            # one file, and the softmax of a robot prompt never runs over words
            self.vocabulary = ActionVocabulary(
                ids,
                trunk.embedding,
                trunk.output_matrix,
                scale=trunk.embedding_scale,
                softcap=trunk.softcap,
                read=config.decoding == "autoregressive",
            )
        else:
            self.head = config.head.build(self.tokenizer, spec, width=trunk.width)

    def _check_decoding(self) -> None:
        if self.config.decoding == "parallel" and self.tokenizer.grammar is not None:
            raise VLMError(
                "policy.decoding: parallel draws all tokens at once, but which ids of "
                f"{type(self.tokenizer).__name__} are valid depends on the ids before; use "
                "decoding: autoregressive, or another tokenizer"
            )

    def parameter_roles(self) -> dict[str, Role]:
        named = {"trunk": TRUNK}
        if self.reads_state:
            named["state_projection"] = STATE_INPUT
        if self.config.decoding == "parallel":
            named["slots"] = (
                TRUNK  # which slots there are is a matter of their number, hence of their shape
            )
        return super().parameter_roles() | roles_of(self, named)

    # --- control and training ---------------------------------------------------------------------

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step. Raises VLMError if the base's processor refuses the prompt."""
        B, T = batch.state.shape[:2]
        texts = [text for text in batch.instruction for _ in range(T)]
        images = {camera: batch.images[camera].flatten(0, 1) for camera in self.cameras}
        prompt = self._prompt(texts, images, batch.state.flatten(0, 1))
        if self.config.decoding == "parallel":
            return self._fill(prompt, (B, T))
        # teacher forcing: one pass over prompt and true tokens gives the logits of every place
        ids_ND = self.tokenizer.encode(batch.actions).flatten(0, 1)
        hidden_NLW = self._hidden_given(prompt, ids_ND)
        known = (ids_ND, self.vocabulary.logits(hidden_NLW[:, prompt.length - 1 :]))
        # where the first action token is predicted: the last place that has seen no action
        features_BTW = hidden_NLW[:, prompt.length - 1].float().view(B, T, -1)
        actions = AutoregressiveActions(self, prompt, (B, T), known=known)
        return PolicyOutput(features=features_BTW, actions=actions)

    def step(
        self, observation: Observation, memory: VLMMemory | None
    ) -> tuple[PolicyOutput, VLMMemory]:
        """Equal to `forward` over the same frames.

        The prompt is read once, and its keys and values are kept; tokens are decoded when they are
        asked for.
        """
        images = {camera: observation.images[camera] for camera in self.cameras}
        prompt = self._prompt(observation.instruction, images, observation.state)
        B = observation.batch_size
        if self.config.decoding == "parallel":
            return self._fill(prompt, (B, 1)), VLMMemory(B)
        prefill = self.prefill(prompt)
        output = PolicyOutput(
            features=prefill.hidden.float().unsqueeze(1),
            actions=AutoregressiveActions(self, prompt, (B, 1), prefilled=prefill),
        )
        return output, VLMMemory(B)

    def image_text_loss(
        self,
        images: Sequence[Sequence[Any]],
        prompts: Sequence[str],
        answers: Sequence[str],
    ) -> Float[Tensor, " N"]:
        """Mean cross-entropy (nats) of each answer's tokens over words and actions.

        A model that learns actions alone forgets its words (RT-2, section 3.2).

        Args:
            images: uint8 (H, W, 3) each.
            prompts: what is asked about them.
            answers: what the model is to answer.

        Raises:
            VLMError: with `head` there is no vocabulary that text and actions share.
        """
        if self.config.head is not None:
            raise VLMError("policy.head: co-training with text needs action ids; set head: null")
        prompt = self.trunk.prompt(prompts, images)
        answer_Nn, mask_Nn = self.trunk.answer(answers)
        whole = prompt.append_ids(answer_Nn, mask_Nn)
        overlay = self.vocabulary.overlay(whole.fields["input_ids"])
        hidden_NLW = self.trunk.hidden(whole, overlay=overlay)
        # each place predicts the next token: the last of the prompt the first of the answer
        predicting_NnW = hidden_NLW[:, prompt.length - 1 : -1]
        words = self.trunk.model.get_output_embeddings()
        logits = self.vocabulary.text_logits(predicting_NnW, words).float()
        losses_Nn = nn.functional.cross_entropy(logits.transpose(1, 2), answer_Nn, reduction="none")
        return (losses_Nn * mask_Nn).sum(-1) / mask_Nn.sum(-1)

    # --- what AutoregressiveActions asks for ------------------------------------------------------

    def score(self, prompt: Prompt, ids: Int64[Tensor, "N D"]) -> Float[Tensor, "N D V"]:
        """Logits of each place, given the ids before it."""
        return self.vocabulary.logits(self._hidden_given(prompt, ids)[:, prompt.length - 1 :])

    def prefill(self, prompt: Prompt) -> Prefill:
        """The prompt's keys and values."""
        return self.trunk.prefill(prompt)

    def decode_step(self, prefill: Prefill, ids: Int64[Tensor, " N"]) -> Prefill:
        """One more action token."""
        return self.trunk.continue_with(prefill, self.vocabulary.embed(ids[:, None])[:, 0])

    def _hidden_given(self, prompt: Prompt, ids_ND: Tensor) -> Float[Tensor, "N L W"]:
        """Hidden states of the prompt and of all action tokens but the last one."""
        given_NnW = self.vocabulary.embed(ids_ND[:, :-1])
        whole = prompt.append(given_NnW, filler=self.trunk.filler, answer=True)
        return self.trunk.hidden(whole)

    # --- parts ------------------------------------------------------------------------------------

    def _fill(self, prompt: Prompt, steps: tuple[int, int]) -> PolicyOutput:
        """All slots in one pass."""
        slots_NDW = self.slots.expand(prompt.batch_size, -1, -1)
        whole = prompt.append(slots_NDW, filler=self.trunk.filler, answer=True)
        hidden_NLW = self.trunk.hidden(whole, slots=len(self.slots))
        hidden_NDW = hidden_NLW[:, prompt.length :].float()
        hidden_BTDW = hidden_NDW.view(*steps, *hidden_NDW.shape[1:])
        features_BTW = hidden_BTDW[:, :, 0]
        if self.config.head is not None:
            return PolicyOutput(features=features_BTW, actions=self.head(hidden_BTDW))
        logits_BTDV = self.vocabulary.logits(hidden_BTDW)
        allowed_DV = self.tokenizer.allowed_ids
        if allowed_DV is not None:
            # in training too, so that the likelihood is that of what is generated
            forbidden_DV = ~allowed_DV.to(logits_BTDV.device)
            logits_BTDV = logits_BTDV.masked_fill(forbidden_DV, -torch.inf)
        actions = CategoricalActions(logits_BTDV, self.tokenizer)
        return PolicyOutput(features=features_BTW, actions=actions)

    def _prompt(
        self,
        instructions: Sequence[str],
        images: dict[str, Tensor],
        state: Tensor,
    ) -> Prompt:
        texts = [self.config.prompt.format(instruction=text) for text in instructions]
        # a processor takes one list of pictures per prompt
        per_camera = [images[camera].permute(0, 3, 1, 2).unbind() for camera in self.cameras]
        frames = list(zip(*per_camera, strict=True))
        prompt = self.trunk.prompt(texts, frames)
        if not self.reads_state:
            return prompt
        projected = self.state_projection(self.normalised_state(state))
        tokens_NnW = projected.unflatten(-1, (self.config.state_tokens, -1))
        return prompt.append(tokens_NnW, filler=self.trunk.filler, answer=False)

    def fit(
        self,
        actions: Any,
        states: Any,
        instructions: Sequence[str],
        **options: Any,
    ) -> None:
        """See `Policy.fit`. Raises VocabularyError if a prompt uses ids that were reserved for
        actions."""
        super().fit(actions, states, instructions, **options)
        if self.config.head is not None:
            return
        reserved = set(self.vocabulary.ids.tolist())
        for text in dict.fromkeys(instructions):
            words = self.config.prompt.format(instruction=text)
            for token_id in self.trunk.tokenizer(words)["input_ids"]:
                if token_id in reserved:
                    token = self.trunk.tokenizer.convert_ids_to_tokens(token_id)
                    raise VocabularyError(
                        f"policy.vocabulary: the token {token!r} of the prompt {words!r} is "
                        "reserved for actions; use vocabulary: extend"
                    )

    # --- storage ----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint holds: everything, or all that is not the frozen base."""
        return own_tensors(self, frozen_too=self.config.stores_base)

    def save_extra_files(self, folder: Path) -> None:
        """Writes the processor, and which base the weights belong to."""
        mark = None if self.config.stores_base else self.base_fingerprint
        write_base(folder, self.config.base, mark, self.trunk)

    def merged(self) -> VLM:
        """A policy that computes the same without adapters: they are added to the base's weights.

        It is saved whole and needs the base no more.
        """
        if self.config.lora is None:
            return self
        config = self.config.model_copy(update={"lora": None, "save": "full", "dtype": "float32"})
        # an empty model of the same architecture: its weights are replaced by the merged ones
        base = type(self.trunk.model)._from_config(
            self.trunk.model.config, dtype=torch.float32, attn_implementation="sdpa"
        )
        policy = VLM(config, self.spec, base, self.trunk.processor)
        policy.load_state_dict(merged_weights(self), strict=True)
        policy.use_tokenizer(self.tokenizer)
        policy.card = dict(self.card)
        policy.language.preload(self.language.cached())
        return policy.to(self.device).train(self.training)


__all__ = ["VLM", "VLMConfig", "VLMMemory"]
