"""Trunks of transformers: any causal model of the library (GPT-2, Llama, Mamba ...) over a layout's
tokens.

The idea of PaLM-E and Cobra: whatever becomes tokens of one sequence can be processed by any
language model.

B windows, L tokens, D width of the policy, H width of the trunk.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.common.pretrained import (
    OwnCodeError,
    PretrainedError,
    load_config,
    load_model,
    new_config,
    new_model,
)
from vla.config import Config, PathText, UserError
from vla.tokenizers.layout import Layout

_NO_WORDS = {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None}


class BackboneError(UserError):
    """A model of transformers cannot be loaded, or cannot be the trunk of a layout."""


class BackboneConfig(Config):
    """A causal model of transformers in place of the native transformer."""

    architecture: str = "gpt2"
    """Its `model_type` in transformers: gpt2, llama, mamba, ... Not used with `pretrained`."""
    pretrained: PathText | None = None
    """Name or folder of a model whose weights to start from; null: random weights."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Fields of the model's own config, such as hidden_size, num_hidden_layers or n_embd. Without
    `pretrained`."""
    positions: Literal["step", "token"] = "step"
    """What the model's own positions count: time steps, shared by the tokens of a step; or tokens,
    as in language."""

    def build(
        self, layout: Layout, *, steps: int, width: int, from_checkpoint: bool = False
    ) -> Backbone:
        """With `from_checkpoint` no weights are fetched: they will be loaded.

        Raises BackboneError if there is no such model, or it cannot follow the layout.
        """
        return Backbone(self, layout, steps=steps, width=width, from_checkpoint=from_checkpoint)


class Backbone(nn.Module):
    """The model without its word embeddings, between two projections if its width is not the
    policy's.

    Attributes:
        config: from which the same architecture is built without fetching anything.
    """

    def __init__(
        self,
        config: BackboneConfig,
        layout: Layout,
        *,
        steps: int,
        width: int,
        from_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.model = _model(config, weights=not from_checkpoint)
        # words are never looked up: a table of one word keeps the model, and checkpoints, small
        embedding_width = self.model.get_input_embeddings().weight.shape[1]
        self.model.set_input_embeddings(nn.Embedding(1, embedding_width))
        self.model.config.vocab_size = 1
        # without gradient it would stop distributed training, so it must not ask for one
        self.model.get_input_embeddings().weight.requires_grad_(False)
        # a checkpoint is built again from the architecture, without fetching the pretrained model
        self.config = config
        if config.pretrained is not None:
            self.config = _architecture(config, self.model.config)
        # the arguments of `forward` say what a model of transformers can do
        parameters = inspect.signature(self.model.forward).parameters
        self.attends = "past_key_values" in parameters  # Mamba has a state, but no mask
        self.positioned = "position_ids" in parameters
        own = self.model.config
        if not self.attends and not layout.causal:
            raise BackboneError(
                f"backbone: {own.model_type} reads its tokens in order and takes no mask, but the "
                "layout is not plainly causal (empty action slots, readouts or a window); use a "
                "head that reads one state per step, such as autoregressive, no window, or an "
                "attention model such as gpt2 or llama"
            )
        needed = steps if config.positions == "step" else layout.length(steps)
        longest = getattr(own, "max_position_embeddings", None)
        if self.positioned and longest is not None and needed > longest:
            raise BackboneError(
                f"backbone: the context takes {needed} positions ({steps} steps, "
                f"{layout.length(steps)} tokens), {own.model_type} has {longest}; shorten history, "
                "count positions by step, or set options.max_position_embeddings (n_positions "
                "for gpt2)"
            )
        hidden = own.hidden_size
        self.enter: nn.Module = nn.Identity() if hidden == width else nn.Linear(width, hidden)
        self.leave: nn.Module = nn.Identity() if hidden == width else nn.Linear(hidden, width)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        *,
        mask: Bool[Tensor, "*B L L"],
        valid: Bool[Tensor, "B L"] | None,
        step_ids: Int64[Tensor, " L"],
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of all tokens.

        Args:
            mask: who attends to whom, padding included: (L, L) or (B, 1, L, L).
            valid: False at padded tokens; None if there are none.
            step_ids: time step of each token.
        """
        inputs: dict[str, Any] = {"inputs_embeds": self.enter(x_BLD), "use_cache": False}
        if self.positioned:
            positions_L = step_ids
            if self.config.positions == "token":
                positions_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
            inputs["position_ids"] = positions_L.expand(len(x_BLD), -1)
        if self.attends:
            # a mask of four axes is taken as it is and added to the scores; the least number rather
            # than -inf, since a row that is closed everywhere would become NaN
            closed = torch.finfo(x_BLD.dtype).min
            open_scores = torch.zeros(mask.shape, dtype=x_BLD.dtype, device=x_BLD.device)
            scores = open_scores.masked_fill(~mask, closed)
            inputs["attention_mask"] = scores.expand(len(x_BLD), 1, *mask.shape[-2:])
        elif valid is not None:
            inputs["attention_mask"] = valid.long()
        return self.leave(self.model(**inputs).last_hidden_state)


def _architecture(config: BackboneConfig, own: Any) -> BackboneConfig:
    """The architecture of a model that was fetched, as options that build it with random
    weights."""
    left_out = {
        "model_type",
        "architectures",
        "transformers_version",
        "_name_or_path",
        "dtype",
        "torch_dtype",
    }
    options = {key: value for key, value in own.to_diff_dict().items() if key not in left_out}
    return BackboneConfig(
        architecture=own.model_type, options=options | _NO_WORDS, positions=config.positions
    )


def _model(config: BackboneConfig, *, weights: bool) -> Any:
    """The model, with the weights of `pretrained`, or of the same architecture with random ones."""
    try:
        if config.pretrained is not None and weights:
            model, _ = load_model("AutoModel", config.pretrained)
        elif config.pretrained is not None:
            own = load_config(config.pretrained)
            # words are never looked up, and their table can be most of a small model
            for key, value in _NO_WORDS.items():
                setattr(own, key, value)
            model = new_model("AutoModel", own)
        else:
            own = new_config(config.architecture, _NO_WORDS | config.options)
            model = new_model("AutoModel", own)
    except OwnCodeError:
        raise
    except PretrainedError as error:
        name = config.pretrained or config.architecture
        raise BackboneError(
            f"backbone: no model {name!r}: {error}; expected a model_type of transformers (gpt2, "
            "llama, mamba ...) with options of its config, or a pretrained model within reach"
        ) from error
    if not hasattr(model.config, "hidden_size"):
        raise BackboneError(
            f"backbone: {model.config.model_type} is no plain causal model: its config has no "
            "hidden_size"
        )
    return model


__all__ = ["Backbone", "BackboneConfig", "BackboneError"]
