"""What an env hands over while episodes are played, held against its spec: a fault is told where it happens,
in words, and not by an error of array arithmetic somewhere later. `check_env` looks at more, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vla.sim_eval.env_contract import EnvError
from vla.types import Spec


def checked_reset(result: Any, spec: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """`result` of an env's reset. Raises EnvError with a line for every fault."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise EnvError(
            [f"reset: returns {_kind(result)}, expected the two values (observation, info)"]
        )
    observation, info = result
    _raise([*_state("reset", observation, spec), *_info("reset", info, ("instruction", "success"))])
    return observation, info


def checked_step(result: Any, spec: Spec) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
    """`result` of an env's step -> observation, reward, whether it is over, info. Raises EnvError."""
    if not (isinstance(result, tuple) and len(result) == 5):
        raise EnvError(
            [
                f"step: returns {_kind(result)}, expected the five values (observation, reward, terminated, truncated, info)"
            ]
        )
    observation, reward, terminated, truncated, info = result
    problems = [*_state("step", observation, spec), *_info("step", info, ("success",))]
    if not np.isscalar(reward) or isinstance(reward, str) or not np.isfinite(float(reward)):  # type: ignore[arg-type]
        problems.append(f"step: reward is {reward!r}, expected a finite number")
    _raise(problems)
    return observation, float(reward), bool(terminated or truncated), info


def check_images(observation: dict[str, Any], cameras: Iterable[str], spec: Spec) -> None:
    """Raises EnvError where a picture is missing or is not the one that the spec promises."""
    images, problems = observation.get("images"), []
    for camera in cameras:
        size = (*spec.cameras[camera], 3)
        if not isinstance(images, dict) or camera not in images:
            has = ", ".join(images) if isinstance(images, dict) and images else "none"
            problems.append(f"images lack camera {camera!r} of the spec (they have: {has})")
        elif (image := np.asarray(images[camera])).dtype != np.uint8 or image.shape != size:
            problems.append(
                f"camera {camera!r} gives {image.dtype} {image.shape}, expected uint8 {size}"
            )
    _raise(problems)


def _state(where: str, observation: Any, spec: Spec) -> Iterator[str]:
    if not isinstance(observation, dict) or "state" not in observation:
        has = list(observation) if isinstance(observation, dict) else _kind(observation)
        yield f'{where}: observation is {has}, expected {{"images": {{camera: picture}}, "state": array}}'
        return
    state, shape = np.asarray(observation["state"]), (spec.state_dim,)
    if state.dtype.kind != "f" or state.shape != shape:
        yield f"{where}: state is {state.dtype} {state.shape}, expected float32 {shape}"
    elif not np.isfinite(state).all():
        bad = ", ".join(
            name
            for name, value in zip(spec.state_names, state, strict=True)
            if not np.isfinite(value)
        )
        yield f"{where}: state holds NaN or infinity in {bad}: the simulation has diverged or a sensor is broken"


def _info(where: str, info: Any, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        kind = (str,) if key == "instruction" else (bool, np.bool_)
        value = info.get(key) if isinstance(info, dict) else None
        if not isinstance(value, kind):
            yield f'{where}: info["{key}"] is {value!r}, expected {"text" if kind == (str,) else "True or False"}'


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else type(value).__name__


def _raise(problems: list[str]) -> None:
    if problems:
        raise EnvError(problems)
