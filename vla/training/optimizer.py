"""AdamW, the learning-rate schedule, and the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vla.config import ConfigError
from vla.training.config import CriticOptimConfig, OptimConfig
from vla.training.patterns import values_by_name


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters.

    Matrices and kernels decay; biases, norms and embeddings do not.

    Every group of parameters has a `rate`, the factor of `config.rates` on its learning rate (see
    `set_learning_rate`). With `config.critic` the parameters of the objective are groups of their
    own, whose key `critic` is True.

    Raises:
        ConfigError: a pattern of `config.rates` matches no parameter, or `config.critic` is for an
            objective without parameters.
    """
    names = [name for name, _ in module.named_parameters()]
    rates = values_by_name(config.rates, names, key="optim.rates")
    embeddings = _embeddings(module)
    # whether of critics with settings of their own, rate -> whether they decay -> parameters
    groups: dict[tuple[bool, float], dict[bool, list[nn.Parameter]]] = {}
    groups[False, 1.0] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_critic = config.critic is not None and name.startswith("objective.")
        is_matrix = parameter.ndim >= 2 and parameter not in embeddings
        decays = _settings(config, is_critic).weight_decay > 0 and is_matrix
        kind = (is_critic, rates.get(name, 1.0))
        parts = groups.setdefault(kind, {True: [], False: []})
        parts[decays].append(parameter)
    if config.critic is not None and not any(is_critic for is_critic, _ in groups):
        raise ConfigError(
            ["optim.critic: this objective has no networks of its own to learn; set it to null"]
        )
    options: list[dict[str, Any]] = []
    for (is_critic, rate), parts in groups.items():
        settings = _settings(config, is_critic)
        for decays, parameters in parts.items():
            decay = settings.weight_decay if decays else 0.0
            group: dict[str, Any] = {"params": parameters, "weight_decay": decay, "rate": rate}
            if is_critic:
                group |= {"critic": True, "betas": settings.betas, "lr": settings.lr}
            options.append(group)
    device = next(p for p in module.parameters() if p.requires_grad).device
    return torch.optim.AdamW(
        options,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=device.type in ("cpu", "cuda"),  # one kernel for all parameters; others have none
    )


def _settings(config: OptimConfig, is_critic: bool) -> OptimConfig | CriticOptimConfig:
    return config.critic if is_critic and config.critic is not None else config


def _embeddings(module: nn.Module) -> set[nn.Parameter]:
    """Parameters of embeddings: matrices, but their rows are vectors of tokens."""
    found: set[nn.Parameter] = set()
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            found.update(part.parameters(recurse=False))
    return found


def learning_rate(config: OptimConfig | CriticOptimConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` (1-based) of `steps`: warm-up, then cosine or constant."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.lr * (config.min_lr_fraction + (1 - config.min_lr_fraction) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of every group of parameters: `lr` times the group's own factor.

    Critics that have settings of their own keep their rate (`set_critic_learning_rate`).
    """
    for group in optimizer.param_groups:
        if not group.get("critic"):
            group["lr"] = lr * group.get("rate", 1.0)


def set_critic_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of critics that have settings of their own, as `set_learning_rate` does of the
    rest."""
    for group in optimizer.param_groups:
        if group.get("critic"):
            group["lr"] = lr * group.get("rate", 1.0)


def forget_zero_gradients(module: nn.Module) -> None:
    """Parameters whose gradient is zero everywhere get none at all.

    AdamW then neither decays them, nor moves them by their moments, nor counts the step for them.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    if not parameters:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    # one call and one copy to the CPU for all of them
    sizes = torch._foreach_norm(gradients, torch.inf)
    greatest = torch.stack([size.float() for size in sizes]).tolist()
    for parameter, size in zip(parameters, greatest, strict=True):
        if size == 0:
            parameter.grad = None


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimiser's moments and step counts as named tensors: `{moment}/{parameter}`."""
    found = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = value
    return found


@torch.no_grad()
def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    tensors: dict[str, Tensor],
) -> None:
    """The inverse of `optimizer_tensors`, for an optimiser that was built for the same module."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        moment, _, name = key.partition("/")
        by_name.setdefault(name, {})[moment] = value
    names = {parameter: name for name, parameter in module.named_parameters()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # torch numbers parameters by their place in the groups; without a gradient they have no state
    state = {}
    for index, parameter in enumerate(order):
        moments = by_name.get(names[parameter], {})
        if moments:
            state[index] = {
                moment: _laid_out_like(parameter, value) for moment, value in moments.items()
            }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment in the memory layout of its parameter (channels last); files hold it row by row."""
    # the moments that the optimiser makes have that layout, and sums in another one round otherwise
    if value.shape != parameter.shape:
        return value  # a step count
    return torch.empty_like(parameter).copy_(value)


class EMA:
    """Running mean of a module's trained parameters; frozen ones and buffers stay the module's own.

    The decay grows from 0.1 to its full value as (1 + step) / (10 + step), so that the initial
    weights are forgotten early. BatchNorm's running statistics are running means already and are
    not averaged twice.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in _trained(module)}

    def update(self, module: nn.Module, step: int) -> None:
        """Moves the mean towards the module's weights after step `step` (1-based)."""
        if not self.weights:
            return  # all of it is frozen, and torch's means need at least one tensor
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average(list(self.weights.values()), [p for _, p in _trained(module)], None)

    @contextmanager
    @torch.no_grad()
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """The module has the mean weights inside the context, its own again after it."""
        own = {name: p.detach().clone() for name, p in _trained(module)}
        self.copy_to(module)
        try:
            yield
        finally:
            _copy(own, module)

    def copy_to(self, module: nn.Module) -> None:
        """Overwrites the module's weights by their mean."""
        _copy(self.weights, module)


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


@torch.no_grad()
def _copy(weights: dict[str, Tensor], module: nn.Module) -> None:
    # in place: the optimiser and whoever shares the parameter must keep seeing the same tensor
    for name, parameter in _trained(module):
        parameter.copy_(weights[name])
