"""Checkpoints whose tensors hold NaN, other types, other sizes and other numbers, with and without checksums."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from attacks._case import Case
from attacks._checkpoints import KINDS, answer, clean_answer, fresh
from attacks._checkpoints import warm as warm

COUNT = 200
CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda t: t * torch.nan,
    "one NaN": lambda t: t.flatten().index_fill(0, torch.tensor([0]), torch.nan).view(t.shape),
    "infinity": lambda t: t * 0 + torch.inf,
    "int8": lambda t: t.to(torch.int8),
    "int64": lambda t: t.to(torch.int64),
    "bool": lambda t: t.to(torch.bool),
    "float64": lambda t: t.double(),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "one more": lambda t: torch.cat([t.flatten(), t.flatten()[:1]]),
    "a further axis": lambda t: t[None],
    "nothing": lambda t: t.flatten()[:0],
}
LANGUAGE = {
    "1e30": lambda t: t * 1e30,
    "a thousandfold": lambda t: t * 1000,
}
SUMMED = {
    "doubled": lambda t: t * 2,
    "negative": lambda t: -t,
    "a bit more": lambda t: t * 1.01,
    "reversed": lambda t: t.flatten().flip(0).view(t.shape),
}


def case(rng: random.Random, folder: Path) -> Case:
    kind = rng.choice(KINDS)
    policy = fresh(kind, folder)
    name = rng.choice(["model.safetensors", "model.safetensors", "language.safetensors"])
    changes = CHANGES | (LANGUAGE if name.startswith("language") else {})
    # finite numbers of the right type and size can only be known by their sums
    summed = rng.random() < 0.5
    if summed:
        changes = changes | SUMMED
    else:
        (policy / "checksums.json").unlink()
    change = rng.choice(sorted(changes))
    tensors = load_file(policy / name)
    floats = [key for key, tensor in tensors.items() if tensor.is_floating_point() and len(tensor)]
    key = rng.choice(floats)
    tensors[key] = changes[change](tensors[key]).contiguous()
    save_file(tensors, policy / name)
    what = f"{kind}: {name}, {key}: {change}{'' if summed else ', no sums'}"
    return Case(what, lambda: answer(policy), clean_answer(kind))
