"""The state of torch in which a policy acts: evaluation mode, its threads, its random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from vla.control.actor_traits import traits_of


def computes_on_cpu(actor: object) -> bool:
    """Whether the policy computes on the processor that the envs need too."""
    device = _device(actor)
    if device is None:
        return traits_of(actor).computes_on_cpu
    return device.type == "cpu"


def _device(actor: object) -> torch.device | None:
    """Where the parameters of a torch module lie; None for what has none."""
    if not isinstance(actor, torch.nn.Module):
        return None
    parameter = next(actor.parameters(), None)
    return None if parameter is None else parameter.device


def seed_generators(actor: object, seed: int) -> None:
    """Seeds the generators of torch from which the actor may draw."""
    # not torch.manual_seed: it would reach for every device of the machine, at every control step
    torch.default_generator.manual_seed(seed)
    device = _device(actor)
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


@contextlib.contextmanager
def inference(actor: object, *, threads: int | None = None) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the policy and torch are as they were.

    Args:
        actor: the policy; what is no torch module is left as it is.
        threads: of torch meanwhile; default those that it has.
    """
    module = actor if isinstance(actor, torch.nn.Module) else None
    device = _device(actor)
    forked = [device] if device is not None and device.type == "cuda" else []
    was_training = module is not None and module.training
    had_threads = torch.get_num_threads()
    # torch does not say whether denormal numbers are flushed: the product of one of them does
    was_flushing = float(torch.tensor(1e-39) * 1.0) == 0.0
    if module is not None:
        module.eval()
    if threads is not None:
        # More threads than free cores wait for each other in busy loops: on two cores that also
        # rendered, two threads took 40 times as long as one.
        torch.set_num_threads(threads)
    # as in training: what a policy does must not depend on the process in which it acts
    torch.set_flush_denormal(True)
    try:
        with torch.no_grad(), torch.random.fork_rng(forked):
            yield
    finally:
        torch.set_flush_denormal(was_flushing)
        torch.set_num_threads(had_threads)
        if module is not None:
            module.train(was_training)
