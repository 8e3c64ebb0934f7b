"""The actor of stable-baselines3 as a policy of this package: `mlp`, with the head that means the
same.

| actor                        | head                                                            |
| ---------------------------- | --------------------------------------------------------------- |
| tanh of a Gaussian           | gaussian, `squash: full`, deviations of the state (see below)   |
| tanh                         | squashed                                                        |
| Gaussian, clipped            | gaussian, `squash: none`, the same deviations in all states     |
| linear, clipped              | the same, behind max(x, 0) and max(-x, 0), whose difference is x|
| values of a grid of actions  | categorical over one token, whose ids are the grid              |

Deviations of the state are bounded smoothly here and by a clamp there: they are fitted by least
squares, a factor and a shift for each action dimension.

N states, S state dimensions, A action dimensions, C combinations of a grid, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla.config import UserError
from vla.models.heads.categorical import CategoricalConfig
from vla.models.heads.gaussian import GaussianConfig
from vla.models.heads.squashed import SquashedConfig
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.recipes.experts.actions import Actions, GridActions
from vla.recipes.experts.algorithms import ALGORITHMS, Architecture
from vla.recipes.experts.config import AlgorithmName
from vla.recipes.experts.scaling import state_scale
from vla.tokenizers.kmeans import KMeansConfig
from vla.types import Spec

LOG_STD = (-20.0, 2.0)
"""Bounds of the logarithm of a deviation, those of SAC in stable-baselines3."""
LEAST_LOG_STD = -10.0
"""Of ars, which draws no actions: its samples are its mode."""
_MARGIN = 1e-4
"""Shares of the bounds are kept off 0 and 1, whose logits are infinite."""
MOST_WEIGHT = 1e6
"""Of a network that still learns: states and rewards are of about unit size, or scaled to it."""
Layer = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,), float64."""


class ExpertError(UserError):
    """An expert cannot become a policy: its training diverged, or it would act otherwise."""


def policy_of(
    model: Any,
    algorithm: AlgorithmName,
    sizes: Architecture,
    spec: Spec,
    actions: Actions,
    states: Float[np.ndarray, "N S"],
) -> MLPPolicy:
    """The model's present actor as a policy in evaluation mode.

    Args:
        model: of stable-baselines3 or sb3-contrib, trained by `algorithm`.
        sizes: of its actor.
        spec: of the robot.
        actions: what its actions mean.
        states: robot units, to which deviations are fitted.

    Raises ExpertError if its weights have diverged.
    """
    kind = ALGORITHMS[algorithm].actor
    scale = state_scale(model)
    # without this the weights that are drawn here, and then replaced, would change the training
    with torch.random.fork_rng([]), torch.no_grad():
        if kind == "values":
            assert isinstance(actions, GridActions)
            policy = _of_values(model, sizes, spec, actions)
        elif kind == "search":
            policy = _of_search(model, sizes, spec)
        elif kind == "deterministic":
            # the last layer's tanh is the head's
            layers = _layers(model.actor.mu)
            policy = _new(sizes, spec, SquashedConfig())
            _fill(policy, layers[:-1], layers[-1])
        elif kind == "gaussian":
            policy = _of_gaussian(model, sizes, spec)
        else:
            observed = states if scale is None else (states - scale[0]) / scale[1]
            policy = _of_squashed_gaussian(model, sizes, spec, observed)
        if scale is not None:
            policy.state_mean.copy_(torch.from_numpy(scale[0]))
            policy.state_std.copy_(torch.from_numpy(scale[1]))
    if has_diverged(policy):
        raise diverged(algorithm, int(model.num_timesteps))
    return policy.eval()


def _new(sizes: Architecture, spec: Spec, head: Any, **options: Any) -> MLPPolicy:
    values = {"hidden": sizes.hidden, "depth": sizes.depth, "activation": sizes.activation}
    return MLPConfig(**(values | options), head=head).build(spec)


def _of_squashed_gaussian(
    model: Any,
    sizes: Architecture,
    spec: Spec,
    observed: Float[np.ndarray, "N S"],
) -> MLPPolicy:
    actor = model.actor
    config = GaussianConfig(squash="full", deviation="state", log_std=LOG_STD)
    policy = _new(sizes, spec, config)
    mean, deviation = (_layers(actor.latent_pi, last)[-1] for last in (actor.mu, actor.log_std))
    hidden = _layers(actor.latent_pi, actor.mu)[:-1]
    # what the actor itself computes, whose layers may have been folded
    actor.set_training_mode(False)
    _, log_std_NA, _ = actor.get_action_dist_params(torch.from_numpy(observed))
    factor_A, shift_A = _logit_fit(log_std_NA.double())
    weight, bias = deviation
    # a factor and a shift of the output are those of the layer
    spread = (factor_A[:, None] * weight, factor_A * bias + shift_A)
    both = (torch.cat([mean[0], spread[0]]), torch.cat([mean[1], spread[1]]))
    _fill(policy, hidden, both)
    return policy


def _logit_fit(log_std_NA: Float[Tensor, "N A"]) -> tuple[Tensor, Tensor]:
    """Factor and shift (A,) each that turn a logarithm of a deviation into what the head's sigmoid
    takes, by least squares."""
    target_NA = _logits(log_std_NA)
    x_NA = log_std_NA - log_std_NA.mean(0)
    variance_A = x_NA.square().mean(0)
    low, high = LOG_STD
    share_A = ((log_std_NA.mean(0) - low) / (high - low)).clamp(_MARGIN, 1 - _MARGIN)
    # the slope at the mean, where the deviation is the same in all states
    tangent_A = 1 / ((high - low) * share_A * (1 - share_A))
    covariance_A = (x_NA * (target_NA - target_NA.mean(0))).mean(0)
    factor_A = torch.where(variance_A > 1e-12, covariance_A / variance_A, tangent_A)
    return factor_A, target_NA.mean(0) - factor_A * log_std_NA.mean(0)


def _logits(log_std: Tensor) -> Tensor:
    """The inverse of the head's bound."""
    low, high = LOG_STD
    return ((log_std - low) / (high - low)).clamp(_MARGIN, 1 - _MARGIN).logit()


def _of_gaussian(model: Any, sizes: Architecture, spec: Spec) -> MLPPolicy:
    config = GaussianConfig(squash="none", deviation="global", log_std=LOG_STD)
    policy = _new(sizes, spec, config)
    # the value network beside it is not needed to act
    layers = _layers(model.policy.mlp_extractor.policy_net, model.policy.action_net)
    _fill(policy, layers[:-1], layers[-1])
    policy.head.spread.copy_(_logits(model.policy.log_std.detach().double())[None])
    return policy


def _of_search(model: Any, sizes: Architecture, spec: Spec) -> MLPPolicy:
    layers = _layers(model.policy.action_net)
    if sizes.depth:
        policy = _new(sizes, spec, SquashedConfig())
        _fill(policy, layers[:-1], layers[-1])
        return policy
    (weight, bias) = layers[0]
    S = spec.state_dim
    config = GaussianConfig(squash="none", deviation="global", log_std=LOG_STD)
    options = {"hidden": 2 * S, "depth": 1, "activation": "relu"}
    policy = _new(sizes, spec, config, **options)
    identity = torch.eye(S, dtype=torch.float64)
    parts = torch.cat([identity, -identity])
    # exact: of x and -x one is kept and the other 0
    _fill(policy, [(parts, torch.zeros(2 * S))], (torch.cat([weight, -weight], dim=1), bias))
    policy.head.spread.copy_(_logits(torch.full(policy.head.spread.shape, LEAST_LOG_STD)))
    return policy


def _of_values(
    model: Any,
    sizes: Architecture,
    spec: Spec,
    actions: GridActions,
) -> MLPPolicy:
    C = len(actions.table)
    tokenizer = KMeansConfig(centres=C, over="action")
    policy = _new(sizes, spec, CategoricalConfig(), tokenizer=tokenizer)
    table = torch.from_numpy(actions.table)
    policy.tokenizer.fit(table)
    # as many centres as points: each is a point, in the order of k-means
    ids_C = policy.tokenizer.encode(table[:, None]).flatten()
    assert sorted(ids_C.tolist()) == list(range(C)), "a centre for each combination"
    network = model.policy.q_net if hasattr(model.policy, "q_net") else model.policy.quantile_net
    layers = _layers(_inner(network))
    weight, bias = layers[-1]
    # of a quantile network the mean over its quantiles, by which it acts
    weight_CH = weight.unflatten(0, (-1, C)).mean(0)
    bias_C = bias.unflatten(0, (-1, C)).mean(0)
    ordered_CH = torch.empty_like(weight_CH)
    ordered_C = torch.empty_like(bias_C)
    ordered_CH[ids_C] = weight_CH
    ordered_C[ids_C] = bias_C
    _fill(policy, layers[:-1], (ordered_CH, ordered_C))
    return policy


def _inner(network: Any) -> nn.Sequential:
    inner: nn.Sequential = network.q_net if hasattr(network, "q_net") else network.quantile_net
    return inner


def _layers(*modules: nn.Module) -> list[Layer]:
    """The linear layers, in order, each with the batch norm before it folded in."""
    parts: list[Any] = []
    for module in modules:
        parts += module if isinstance(module, nn.Sequential) else [module]
    found: list[Layer] = []
    # the one that waits for the next linear layer
    norm: Any = None
    for part in parts:
        if isinstance(part, nn.Linear):
            found.append(_behind(norm, *_weight_and_bias(part)))
            norm = None
        # batch renormalisation of crossq; activations have no numbers
        elif hasattr(part, "ra_mean"):
            norm = part
    return found


def _weight_and_bias(layer: nn.Linear) -> Layer:
    weight = layer.weight.detach().double()
    # the layers of ars have none
    if layer.bias is None:
        return weight, torch.zeros(len(weight), dtype=torch.float64)
    return weight, layer.bias.detach().double()


def _behind(norm: Any, weight: Tensor, bias: Tensor) -> Layer:
    """A linear layer behind a batch norm in evaluation, a factor and a shift of each input, as one
    layer."""
    if norm is None:
        return weight, bias
    # in double precision: what is folded is rounded once, when it is written
    std = (norm.ra_var.double() + norm.eps).sqrt()
    scale = norm.scale.detach().double() / std
    shift = norm.bias.detach().double() - scale * norm.ra_mean.double()
    return weight * scale, bias + weight @ shift


def _fill(policy: MLPPolicy, hidden: Sequence[Layer], last: Layer) -> None:
    """Writes layers into the trunk, and the last one into the head."""
    trunk = [layer for layer in policy.trunk if isinstance(layer, nn.Linear)]
    head = policy.head if isinstance(policy.head, nn.Linear) else policy.head.out
    for layer, (weight, bias) in zip([*trunk, head], [*hidden, last], strict=True):
        assert layer.weight.shape == weight.shape
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def has_diverged(network: nn.Module) -> bool:
    """Whether a number of it is NaN, infinite, or beyond all use."""
    values = network.state_dict().values()
    return not all(bool((value.abs() < MOST_WEIGHT).all()) for value in values)


def diverged(algorithm: AlgorithmName, step: int) -> ExpertError:
    """The error that says so."""
    return ExpertError(
        f"{algorithm}: the weights have become NaN or huge by step {step}; set "
        "options.learning_rate lower, or normalise_states=true"
    )


__all__ = ["LOG_STD", "ExpertError", "diverged", "has_diverged", "policy_of"]
