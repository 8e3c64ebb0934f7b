"""The algorithms of stable-baselines3 and sb3-contrib that an expert may be trained by, and what
they are built with.

Where a default differs from theirs it is that of rl-baselines3-zoo: states and rewards are scaled
for on-policy algorithms, ddpg and td3 explore by Gaussian noise, ars learns a linear policy.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from torch import nn

from vla.common.names import did_you_mean
from vla.config import ConfigError, UserError
from vla.recipes.experts.config import AlgorithmName, ExpertConfig

ActorKind = Literal["squashed_gaussian", "deterministic", "gaussian", "search", "values"]
"""squashed_gaussian: tanh of a Gaussian. deterministic: tanh. gaussian: clipped, one deviation for
all states. search: the network of ars. values: of every combination of actions."""
PACKAGES = {"stable_baselines3": "stable-baselines3", "sb3_contrib": "sb3-contrib"}
_NOT_OPTIONS = {
    # set by keys of the config
    *("policy", "env", "seed", "policy_kwargs", "action_noise"),
    # what is kept and printed of a run is ours
    *("device", "verbose", "tensorboard_log", "stats_window_size", "_init_setup_model"),
    # classes, which a config cannot name, and exploration by which actors are of another form
    *("replay_buffer_class", "replay_buffer_kwargs", "rollout_buffer_class"),
    *("rollout_buffer_kwargs", "use_sde", "sde_sample_freq", "use_sde_at_warmup"),
}


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Attributes:
        package: that has it.
        name: of its class.
        actor: what is exported.
        hidden, critic_hidden, depth, activation: default architecture.
        scales_states, scales_rewards: by default.
        replays: it keeps a replay buffer.
        needs_noise: its actor explores by added noise alone.
    """

    package: str
    name: str
    actor: ActorKind
    hidden: int = 256
    critic_hidden: int | None = None
    depth: int = 2
    activation: Literal["relu", "tanh"] = "relu"
    scales_states: bool = False
    scales_rewards: bool = False
    replays: bool = False
    needs_noise: bool = False

    @property
    def discrete(self) -> bool:
        """It chooses among a grid of actions."""
        return self.actor == "values"


def _on_policy(package: str, name: str) -> Algorithm:
    return Algorithm(
        package,
        name,
        "gaussian",
        hidden=64,
        activation="tanh",
        scales_states=True,
        scales_rewards=True,
    )


_SB3 = "stable_baselines3"
_CONTRIB = "sb3_contrib"
ALGORITHMS: dict[AlgorithmName, Algorithm] = {
    "dqn": Algorithm(_SB3, "DQN", "values", hidden=64, replays=True),
    "qrdqn": Algorithm(_CONTRIB, "QRDQN", "values", hidden=64, replays=True),
    "ddpg": Algorithm(_SB3, "DDPG", "deterministic", replays=True, needs_noise=True),
    "td3": Algorithm(_SB3, "TD3", "deterministic", replays=True, needs_noise=True),
    "sac": Algorithm(_SB3, "SAC", "squashed_gaussian", replays=True),
    "tqc": Algorithm(_CONTRIB, "TQC", "squashed_gaussian", replays=True),
    "crossq": Algorithm(_CONTRIB, "CrossQ", "squashed_gaussian", critic_hidden=1024, replays=True),
    "a2c": _on_policy(_SB3, "A2C"),
    "ppo": _on_policy(_SB3, "PPO"),
    "trpo": _on_policy(_CONTRIB, "TRPO"),
    "ars": Algorithm(_CONTRIB, "ARS", "search", hidden=64, depth=0, scales_states=True),
}


@dataclass(frozen=True)
class Architecture:
    """The sizes of a run: those of the config, or the algorithm's own."""

    hidden: int
    critic_hidden: int
    depth: int
    activation: Literal["relu", "tanh"]


def architecture(config: ExpertConfig) -> Architecture:
    """Raises ConfigError if a layer is asked for that the algorithm's policy cannot have."""
    own = ALGORITHMS[config.algorithm]
    hidden = config.hidden or own.hidden
    depth = own.depth if config.depth is None else config.depth
    if depth == 0 and config.algorithm != "ars":
        raise ConfigError(
            [
                f"depth: 0 is a linear policy, which ars alone learns; set depth=1 or more for "
                f"{config.algorithm}"
            ]
        )
    return Architecture(
        hidden,
        config.critic_hidden or own.critic_hidden or hidden,
        depth,
        config.activation or own.activation,
    )


def library(package: str) -> ModuleType:
    """stable_baselines3 or sb3_contrib. Raises UserError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # what the package itself misses is another error
        if error.name not in PACKAGES:
            raise
        raise UserError(
            f"{PACKAGES[str(error.name)]} is not installed, and `vla expert` trains by it; "
            "install it with: pip install 'vla[experts]'"
        ) from error


def algorithm_class(name: AlgorithmName) -> Any:
    """The class of stable-baselines3 or sb3-contrib. Raises UserError if it is not installed."""
    own = ALGORITHMS[name]
    return getattr(library(own.package), own.name)


def check_algorithm(config: ExpertConfig) -> None:
    """Raises what is wrong with algorithm and options, as far as that is known without an env.

    UserError if a package is not installed, ConfigError if sizes or options do not fit the
    algorithm.
    """
    architecture(config)
    _options(config, algorithm_class(config.algorithm))
    if config.action_noise is not None and not ALGORITHMS[config.algorithm].needs_noise:
        raise ConfigError(
            [f"action_noise: {config.algorithm} explores by itself; leave it out, or use td3"]
        )


def build_model(config: ExpertConfig, env: Any) -> Any:
    """A new model of the algorithm over a vectorised env.

    Raises ConfigError if the algorithm refuses an option's value.
    """
    cls = algorithm_class(config.algorithm)
    arguments = _options(config, cls) | _fixed(config, env)
    linear = config.algorithm == "ars" and architecture(config).depth == 0
    try:
        model = cls("LinearPolicy" if linear else "MlpPolicy", env, **arguments)
    except (AssertionError, TypeError, ValueError) as error:
        # the options are the one thing in this call that a user has written
        if not config.options:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            [f"options: {cls.__name__} refuses {config.options}: {reason}"]
        ) from error
    # without this it would make a folder of logs for every run, in the system's temporary one
    logger = importlib.import_module("stable_baselines3.common.logger")
    model.set_logger(logger.Logger(folder=None, output_formats=[]))
    return model


def _options(config: ExpertConfig, cls: Any) -> dict[str, Any]:
    """The user's, checked by name and type, and a replay buffer that is no larger than the run."""
    parameters = inspect.signature(cls.__init__).parameters
    known = sorted(set(parameters) - _NOT_OPTIONS - {"self"})
    for name, value in config.options.items():
        if name not in known:
            raise ConfigError(
                [
                    f"options.{name}: {cls.__name__} has no such option"
                    f"{did_you_mean(name, known)}; it has: {', '.join(known)}"
                ]
            )
        default = parameters[name].default
        # many are first used in the middle of a training, and would end it with a traceback
        if not _is_alike(value, default):
            raise ConfigError(
                [f"options.{name}: is {value!r}, expected a value such as {default!r}"]
            )
    options: dict[str, Any] = dict(config.options)
    if ALGORITHMS[config.algorithm].replays:
        # theirs is a million steps, which is allocated whatever the run needs
        options.setdefault("buffer_size", min(1_000_000, config.steps))
    return options


def _is_alike(value: Any, default: Any) -> bool:
    """Whether an option's value may stand in place of its default."""
    # a default of None tells nothing of what else may stand there
    if default is None or type(value) is type(default):
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return False
    # a text is "auto" or the like, in place of a number
    return isinstance(value, int | float) and isinstance(default, float | str)


def _fixed(config: ExpertConfig, env: Any) -> dict[str, Any]:
    own = ALGORITHMS[config.algorithm]
    fixed: dict[str, Any] = {
        "seed": config.seed,
        # a network of this size is slower on an accelerator
        "device": "cpu",
        "policy_kwargs": _policy_arguments(config),
    }
    if own.needs_noise:
        noise = importlib.import_module("stable_baselines3.common.noise")
        sigma = 0.1 if config.action_noise is None else config.action_noise
        shape = env.action_space.shape
        fixed["action_noise"] = noise.NormalActionNoise(np.zeros(shape), np.full(shape, sigma))
    return fixed


def _policy_arguments(config: ExpertConfig) -> dict[str, Any]:
    sizes = architecture(config)
    own = ALGORITHMS[config.algorithm]
    if own.actor == "search" and sizes.depth == 0:
        return {}
    actor = [sizes.hidden] * sizes.depth
    critic = [sizes.critic_hidden] * sizes.depth
    layers: Any = actor
    if own.actor == "gaussian":
        layers = {"pi": actor, "vf": critic}
    elif own.actor in ("deterministic", "squashed_gaussian"):
        layers = {"pi": actor, "qf": critic}
    return {
        "net_arch": layers,
        "activation_fn": nn.ReLU if sizes.activation == "relu" else nn.Tanh,
    }


__all__ = [
    "ALGORITHMS",
    "PACKAGES",
    "ActorKind",
    "Algorithm",
    "Architecture",
    "algorithm_class",
    "architecture",
    "build_model",
    "check_algorithm",
    "library",
]
