"""What an env hands over while episodes are played, held against its spec.

A fault is named where it happens, in words, and not by an error of array arithmetic somewhere
later. These checks run at every step, so they are few; `check_env` looks at more, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vla.sim_eval.env_contract import EnvError
from vla.types import Spec

Values = dict[str, Any]
"""An observation or an info."""


def checked_reset(result: Any, spec: Spec) -> tuple[Values, Values]:
    """`result` of an env's reset -> observation, info.

    Raises EnvError with a line for every fault.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        _raise([f"reset: returns {_kind(result)}, expected the two values (observation, info)"])
    observation, info = result
    problems = list(_state_problems("reset", observation, spec))
    problems += _info_problems("reset", info, ("instruction", "success"))
    _raise(problems)
    return observation, info


def checked_step(result: Any, spec: Spec) -> tuple[Values, float, bool, bool, Values]:
    """`result` of an env's step -> observation, reward, terminated, truncated, info.

    Raises EnvError with a line for every fault.
    """
    if not isinstance(result, tuple) or len(result) != 5:
        _raise(
            [
                f"step: returns {_kind(result)}, expected the five values "
                "(observation, reward, terminated, truncated, info)"
            ]
        )
    observation, reward, terminated, truncated, info = result
    problems = list(_state_problems("step", observation, spec))
    problems += _info_problems("step", info, ("success",))
    if not _is_finite_number(reward):
        problems.append(f"step: reward is {reward!r}, expected a finite number")
    _raise(problems)
    return observation, float(reward), bool(terminated), bool(truncated), info


def check_images(observation: Values, cameras: Iterable[str], spec: Spec) -> None:
    """Raises EnvError if a picture is missing or is not the one that the spec promises."""
    # apart from the state: most steps of a chunk are not seen, and an env may leave their pictures
    # out
    images = observation.get("images")
    problems: list[str] = []
    for camera in cameras:
        size = (*spec.cameras[camera], 3)
        if not isinstance(images, dict) or camera not in images:
            has = ", ".join(images) if isinstance(images, dict) and images else "none"
            problems.append(f"images lack camera {camera!r} of the spec (they have: {has})")
            continue
        image = np.asarray(images[camera])
        if image.dtype != np.uint8 or image.shape != size:
            problems.append(
                f"camera {camera!r} gives {image.dtype} {image.shape}, expected uint8 {size}"
            )
    _raise(problems)


def _is_finite_number(value: Any) -> bool:
    # numpy counts text among the scalars, and float("1") would accept it
    if isinstance(value, str) or not np.isscalar(value):
        return False
    return bool(np.isfinite(float(value)))  # type: ignore[arg-type]


def _state_problems(where: str, observation: Any, spec: Spec) -> Iterator[str]:
    if not isinstance(observation, dict) or "state" not in observation:
        has = list(observation) if isinstance(observation, dict) else _kind(observation)
        expected = '{"images": {camera: picture}, "state": array}'
        yield f"{where}: observation is {has}, expected {expected}"
        return
    state = np.asarray(observation["state"])
    shape = (spec.state_dim,)
    # any float here: `EnvHost` converts, and only `check_env` insists on float32
    if state.dtype.kind != "f" or state.shape != shape:
        yield f"{where}: state is {state.dtype} {state.shape}, expected float32 {shape}"
        return
    finite = np.isfinite(state)
    if not finite.all():
        named = zip(spec.state_names, finite, strict=True)
        broken = [name for name, is_finite in named if not is_finite]
        yield (
            f"{where}: state holds NaN or infinity in {', '.join(broken)}: the simulation has "
            "diverged or a sensor is broken"
        )


def _info_problems(where: str, info: Any, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        value = info.get(key) if isinstance(info, dict) else None
        if key == "instruction":
            fits, expected = isinstance(value, str), "text"
        else:
            fits, expected = isinstance(value, bool | np.bool_), "True or False"
        if not fits:
            yield f'{where}: info["{key}"] is {value!r}, expected {expected}'


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else type(value).__name__


def _raise(problems: list[str]) -> None:
    if problems:
        raise EnvError(problems)
