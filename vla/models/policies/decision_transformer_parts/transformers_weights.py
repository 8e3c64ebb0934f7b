"""Weights of `DecisionTransformerModel` of transformers, as a policy here.

B windows, T steps, S state dimensions, A action dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla.common.pretrained import OwnCodeError, PretrainedError, load_model
from vla.config import UserError
from vla.models.policies.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from vla.types import Spec, SpecError

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh"}
_PLAIN = {
    "embed_timestep.weight": "transformer.time.weight",
    "embed_return": "condition_embedding",
    "embed_state": "state_embedding",
    "embed_action": "action_embedding",
    "embed_ln": "transformer.norm_in",
    "encoder.ln_f": "transformer.norm_out",
    "predict_action.0": "head.out",
}
_LAYER = {
    "ln_1": "norm_attention",
    "ln_2": "norm_feed_forward",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "feed_forward.hidden",
    "mlp.c_proj": "feed_forward.out",
}


def from_transformers(
    model: Any | str | Path,
    spec: Spec,
    *,
    state_mean: Any = None,
    state_std: Any = None,
    **changes: Any,
) -> DecisionTransformer:
    """A policy that gives the actions of a `DecisionTransformerModel`, in evaluation mode.

    Args:
        model: the model, or its folder or name on the Hugging Face hub.
        spec: the robot; states and actions in the order that the model was trained on. The model's
            actions, in -1 .. 1, become the spec's range.
        state_mean, state_std: (S,), what the model's training standardised states with; null for
            states as they are.
        changes: fields of `DecisionTransformerConfig`, such as history, return_scale and
            target_return.

    Raises:
        SpecError: other numbers of states or actions than the model's.
        UserError: there is no such model, or it is of a kind that the policy cannot be.
    """
    if isinstance(model, str | Path):
        model = _fetch(model)
    own = model.config
    for name, count, expected in (
        ("state", spec.state_dim, own.state_dim),
        ("action", spec.action_dim, own.act_dim),
    ):
        if count != expected:
            raise SpecError(f"the model has {expected} {name} dimensions, the spec {count}")
    activation = _ACTIVATIONS.get(own.activation_function)
    if (
        activation is None
        or not own.action_tanh
        or (own.n_inner or 4 * own.hidden_size) != 4 * own.hidden_size
    ):
        raise UserError(
            f"a DecisionTransformerModel with activation {own.activation_function!r}, "
            f"action_tanh={own.action_tanh}, n_inner={own.n_inner} has no equal here: expected "
            "relu, gelu or gelu_new, tanh and an inner width of 4 x"
        )
    if own.scale_attn_by_inverse_layer_idx or not own.scale_attn_weights:
        raise UserError("a DecisionTransformerModel with other attention scales has no equal here")
    values: dict[str, Any] = {
        "cameras": [],
        "max_timestep": own.max_ep_len,
        "width": own.hidden_size,
        "depth": own.n_layer,
        "heads": own.n_head,
        "feed_forward": activation,
    }
    policy = DecisionTransformerConfig(**values | changes).build(spec)
    policy.load_state_dict(_translated(model.state_dict(), policy), strict=True)
    if state_mean is not None:
        policy.state_mean.copy_(torch.as_tensor(state_mean))
    if state_std is not None:
        policy.state_std.copy_(torch.as_tensor(state_std))
    return policy.eval()


def _translated(found: Mapping[str, Tensor], policy: DecisionTransformer) -> dict[str, Tensor]:
    result = dict(policy.state_dict())
    # the model knows no places within a step
    result["transformer.position"] = torch.zeros_like(result["transformer.position"])
    width = policy.config.width
    # every token stands at the model's position 0, after the norm
    at_zero = found["encoder.wpe.weight"][0]
    for name, value in found.items():
        layer = re.fullmatch(r"encoder\.h\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            stem, _, kind = name.rpartition(".")
            if name in _PLAIN or stem in _PLAIN:
                result[_PLAIN.get(name) or f"{_PLAIN[stem]}.{kind}"] = value
            continue
        number, part, kind = layer.groups()
        block = f"transformer.blocks.{number}"
        if kind == "weight" and not part.startswith("ln_"):
            # GPT-2's Conv1D keeps inputs first
            value = value.T.contiguous()
        if part == "attn.c_attn":
            # one matrix for queries, keys and values, in this order
            result[f"{block}.attention.query.{kind}"] = value[:width]
            result[f"{block}.attention.key_value.{kind}"] = value[width:]
        elif part in _LAYER:
            result[f"{block}.{_LAYER[part]}.{kind}"] = value
    result["transformer.norm_in.bias"] = result["transformer.norm_in.bias"] + at_zero
    return result


def _fetch(name: str | Path) -> Any:
    try:
        model, missing = load_model("DecisionTransformerModel", name)
    except OwnCodeError:
        raise
    except PretrainedError as error:
        raise UserError(f"{name}: no DecisionTransformerModel within reach: {error}") from error
    if missing:
        raise UserError(f"{name}: lacks {len(missing)} tensors, first {missing[0]}; copy it again")
    return model


__all__ = ["from_transformers"]
