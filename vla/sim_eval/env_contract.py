"""Tells the author of an env what is wrong with it, before a training or an evaluation finds out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from vla.config import UserError
from vla.sim_eval.env import SimEnv, Task
from vla.types import Spec


class EnvError(UserError):
    """An env breaks the contract of `SimEnv`. `problems` holds one line for each fault, with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def check_env(env: Any, *, steps: int = 20) -> None:
    """Plays a few episodes and raises EnvError with a line for everything that breaks the contract of `SimEnv`.

    Args:
        env: what `EnvConfig.make` gives. Its episode is lost; it is not closed.
        steps: control steps to play in each comparison.
    """
    # Later checks need what earlier ones have looked at, so that the first faulty group ends the check.
    for group in (
        _attributes(env),
        _start(env),
        _steps(env, steps),
        _repeats(env, steps),
        _ends(env),
        _expert(env),
    ):
        if problems := list(group):
            raise EnvError(problems)


def _attributes(env: Any) -> Iterator[str]:
    if not isinstance(env, SimEnv):
        yield f"env: is {type(env).__name__}; derive it from vla.sim_eval.SimEnv"
        return
    spec, task = getattr(env, "robot_spec", None), getattr(env, "task", None)
    if not isinstance(spec, Spec):
        yield f"robot_spec: is {type(spec).__name__}; set it to the vla.types.Spec of the robot (the name `spec` is gymnasium's)"
    if not isinstance(task, Task):
        yield f"task: is {type(task).__name__}; set it to the vla.sim_eval.Task that is played"
    elif not task.instruction.strip():
        yield f"task.instruction: is {task.instruction!r}; say the task in words"
    elif task.horizon < 1:
        yield f"task.horizon: is {task.horizon}; expected at least one step"
    space = getattr(env, "action_space", None)
    if space is None or not isinstance(spec, Spec):
        return
    low, high = spec.action_low, spec.action_high
    fits = isinstance(space, gymnasium.spaces.Box) and space.shape == (spec.action_dim,)
    if not fits or not (np.allclose(space.low, low) and np.allclose(space.high, high)):
        yield f"action_space: is {space}, but the spec says low={low} high={high}; make them agree"


def _start(env: SimEnv) -> Iterator[str]:
    result = env.reset(seed=0)
    if not (isinstance(result, tuple) and len(result) == 2):
        yield f"reset: returns {type(result).__name__}; expected the two values (observation, info)"
        return
    yield from _observation("reset", env, result[0])
    yield from _info("reset", result[1])


def _observation(where: str, env: SimEnv, observation: Any) -> Iterator[str]:
    if not isinstance(observation, dict) or not {"images", "state"} <= set(observation):
        has = list(observation) if isinstance(observation, dict) else type(observation).__name__
        yield f'{where}: observation is {has}; expected {{"images": {{camera: picture}}, "state": array}}'
        return
    for camera, (height, width) in env.robot_spec.cameras.items():
        if camera not in observation["images"]:
            yield f"{where}: images lack camera {camera!r} of the spec (they have: {', '.join(observation['images']) or 'none'})"
            continue
        image = np.asarray(observation["images"][camera])
        if image.dtype != np.uint8 or image.shape != (height, width, 3):
            yield (
                f"{where}: camera {camera!r} gives {image.dtype} {image.shape}, expected uint8 {(height, width, 3)}: "
                "RGB from 0 to 255, channels last"
            )
        elif image.min() == image.max():
            yield f"{where}: camera {camera!r} gives one colour everywhere ({image.min()}); check its pose and the light"
    state = np.asarray(observation["state"])
    if state.dtype != np.float32 or state.shape != (env.robot_spec.state_dim,):
        yield f"{where}: state is {state.dtype} {state.shape}, expected float32 {(env.robot_spec.state_dim,)}"
    elif not np.isfinite(state).all():
        yield f"{where}: state holds NaN or infinity: {state}"


def _info(where: str, info: Any) -> Iterator[str]:
    if not isinstance(info, dict):
        yield f"{where}: info is {type(info).__name__}, expected a dict"
        return
    if not isinstance(info.get("instruction"), str) or not info["instruction"].strip():
        yield f'{where}: info["instruction"] is {info.get("instruction")!r}; expected the task in words'
    if not isinstance(info.get("success"), bool | np.bool_):
        yield f'{where}: info["success"] is {info.get("success")!r}; expected True or False: whether it is solved at this step'
    if not isinstance(info.get("failure", ""), str):
        yield f'{where}: info["failure"] is {info["failure"]!r}; expected text'


def _steps(env: SimEnv, steps: int) -> Iterator[str]:
    observation, _ = env.reset(seed=0)
    kept = {camera: (image, np.array(image)) for camera, image in observation["images"].items()}
    result = env.step(_actions(env, 1)[0])
    if not (isinstance(result, tuple) and len(result) == 5):
        yield "step: expected the five values (observation, reward, terminated, truncated, info)"
        return
    after, reward, terminated, truncated, info = result
    yield from _observation("step", env, after)
    yield from _info("step", info)
    if not np.isscalar(reward) or not np.isfinite(float(reward)):  # type: ignore[arg-type]
        yield f"step: reward is {reward!r}; expected a finite number"
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, bool | np.bool_):
            yield f"step: {name} is {value!r}; expected True or False"
    for action in _actions(env, steps):
        if overwritten := [
            camera for camera, (image, copy) in kept.items() if not np.array_equal(image, copy)
        ]:
            yield f"step: overwrites the picture of {overwritten[0]!r} that reset returned; return a new array each time"
            break
        if terminated or truncated:
            break
        _, _, terminated, truncated, _ = env.step(action)


def _repeats(env: SimEnv, steps: int) -> Iterator[str]:
    actions = _actions(env, steps)
    first, start = _play(env, 0, actions)
    again, start_again = _play(env, 0, actions)
    if any(not np.array_equal(start[camera], start_again[camera]) for camera in start):
        yield "reset: seed=0 gives two different pictures; draw everything from self.np_random after super().reset(seed=seed)"
    if not np.allclose(first, again, atol=1e-6):
        yield "reset: seed=0 and the same actions give two different episodes; reset all of the simulator's state"
    others = [_play(env, seed, actions[:0])[1] for seed in (1, 2, 3)]
    if start and all(
        np.array_equal(start[camera], other[camera]) for other in others for camera in start
    ):
        yield "reset: seeds 0 to 3 all start with the same picture; use the seed, or no evaluation can vary the start"
    env.render_images = False
    try:
        unseen, _ = _play(env, 0, actions)
    finally:
        env.render_images = True
    if not np.allclose(first, unseen, atol=1e-6):
        yield "render_images: the episode changes when it is False; rendering must not touch the physics"


def _play(env: SimEnv, seed: int, actions: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """States and rewards of an episode (steps, S + 1), and its first pictures."""
    observation, _ = env.reset(seed=seed)
    start = {camera: np.array(image) for camera, image in observation["images"].items()}
    rows = [np.append(observation["state"], 0.0)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(observation["state"], float(reward)))
        if terminated or truncated:
            break
    return np.stack(rows), start


def _actions(env: SimEnv, steps: int) -> np.ndarray:
    low, high = np.asarray(env.robot_spec.action_low), np.asarray(env.robot_spec.action_high)
    return (
        np.random.default_rng(0)
        .uniform(low, high, (steps, env.robot_spec.action_dim))
        .astype(np.float32)
    )


def _ends(env: SimEnv) -> Iterator[str]:
    env.render_images = False
    try:
        env.reset(seed=0)
        for action in _actions(env, env.task.horizon):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                return
        yield f"step: neither terminated nor truncated after task.horizon = {env.task.horizon} steps; truncate there"
    finally:
        env.render_images = True


def _expert(env: SimEnv) -> Iterator[str]:
    env.reset(seed=0)
    try:
        action = np.asarray(env.expert_action())
    except RuntimeError:
        return  # there is no expert
    spec = env.robot_spec
    if action.shape != (spec.action_dim,) or not np.isfinite(action).all():
        yield f"expert_action: gives {action}, expected {spec.action_dim} finite numbers"
    elif (action < np.asarray(spec.action_low) - 1e-6).any() or (
        action > np.asarray(spec.action_high) + 1e-6
    ).any():
        yield f"expert_action: gives {action}, outside the spec's bounds; clip it"
