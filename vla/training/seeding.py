"""Every step seeds its generators from (seed, step, process): no random state is saved."""

from __future__ import annotations

import random

import numpy as np
import torch
from accelerate.utils import set_seed


def seed_of(*parts: int) -> int:
    """One 32-bit seed from several numbers, for example (seed, step, process)."""
    # mixed, not added: (1, 2) and (2, 1) must not share their dropout
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the generators of Python, numpy and torch, those of `device` among them."""
    if device.type != "cpu":
        set_seed(seed)
        return
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for libraries that draw from it
    # Not `torch.manual_seed`: it records the call, with its stack, for every GPU that may be used
    # later, which a step of a small network would feel.
    torch.default_generator.manual_seed(seed)


__all__ = ["seed_generators", "seed_of"]
