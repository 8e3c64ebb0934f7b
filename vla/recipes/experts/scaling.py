"""Running normalisation of states, in the form in which policies of this package scale theirs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float


def scaled_env(env: Any, *, states: bool, rewards: bool, gamma: float) -> Any:
    """`VecNormalize` of stable-baselines3 around a vectorised env.

    It differs in two points. States are not clipped, since a policy's normalisation does not clip;
    and they are scaled in float32, as a policy computes: where a state hardly varies, float64 would
    differ from it by more than 1e-5.

    Args:
        states, rewards: what is scaled.
        gamma: discount of the returns whose deviation scales the rewards.
    """
    base: Any = importlib.import_module("stable_baselines3.common.vec_env").VecNormalize

    class Float32Normalize(base):  # type: ignore[misc]
        """See `scaled_env`."""

        def _normalize_obs(self, obs: np.ndarray, obs_rms: Any) -> np.ndarray:
            mean, std = _scale(obs_rms, self.epsilon)
            return (np.asarray(obs, dtype=np.float32) - mean) / std

    return Float32Normalize(env, norm_obs=states, norm_reward=rewards, gamma=gamma)


def state_scale(model: Any) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]] | None:
    """Mean and deviation (S,) by which the model's states are scaled now; None if they are not."""
    env = model.get_vec_normalize_env()
    if env is None or not env.norm_obs:
        return None
    return _scale(env.obs_rms, env.epsilon)


def _scale(statistics: Any, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    std = np.sqrt(statistics.var + epsilon)
    return statistics.mean.astype(np.float32), std.astype(np.float32)


__all__ = ["scaled_env", "state_scale"]
