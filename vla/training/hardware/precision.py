"""Which number format a run computes in."""

from __future__ import annotations

from typing import Literal

import torch

from vla.models.policy import Policy

Precision = Literal["no", "bf16"]
"""float32 throughout, or bfloat16 autocast of the forward pass."""


def resolve_precision(
    asked: Literal["auto", "no", "bf16"],
    policy: Policy,
    device: torch.device,
    recorded: str | None = None,
) -> Precision:
    """What `precision` of a training config means on this machine.

    Args:
        asked: the config's value.
        policy: to be trained.
        device: where.
        recorded: what the run computed in so far, if it is resumed: `auto` keeps it on whatever
            machine it goes on, since other rounding would make it another run.
    """
    if asked != "auto":
        return asked
    if recorded == "bf16":
        return "bf16"
    if recorded == "no":
        return "no"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    gains = device.type == "cpu" and multiplies_bf16() and _gains_on_cpus(policy)
    return "bf16" if gains else "no"


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16 numbers (AMX or AVX512_BF16).

    Others convert to float32 and back, which is slower than float32 from the start.
    """
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def _gains_on_cpus(policy: Policy) -> bool:
    """Whether bfloat16 makes a training step of this policy faster on such a CPU."""
    # matrices of small networks without pictures are too small: casting costs more than it saves
    if not policy.spec.cameras:
        return False
    # attention of transformers' models runs in bfloat16, whose gradient is slow on CPUs; ours does
    # not (see `vla.models.layers.transformer.Attention`)
    modules = policy.modules()
    return not any(type(module).__module__.startswith("transformers.") for module in modules)


__all__ = ["Precision", "multiplies_bf16", "resolve_precision"]
