"""Finds what is wrong with an env, before a training or an evaluation does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from vla.config import UserError
from vla.sim_eval.env import SimEnv, Task
from vla.types import Spec


class EnvError(UserError):
    """An env breaks the contract of `SimEnv`.

    `problems` holds one line for each fault, with its remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def check_env(env: Any, *, steps: int = 20) -> None:
    """Plays a few episodes; raises EnvError with a line for everything that breaks the contract.

    Args:
        env: what `EnvConfig.make` gives. Its episode is lost; it is not closed.
        steps: control steps to play in each comparison.
    """
    # Later checks need what earlier ones have looked at, so the first faulty group ends the check.
    for group in (
        _attributes(env),
        _start(env),
        _steps(env, steps),
        _repeats(env, steps),
        _ends(env),
        _expert(env),
    ):
        problems = list(group)
        if problems:
            raise EnvError(problems)


# --- what it has ----------------------------------------------------------------------------------


def _attributes(env: Any) -> Iterator[str]:
    if not isinstance(env, SimEnv):
        yield f"env: is {type(env).__name__}; derive it from vla.sim_eval.SimEnv"
        return
    # an author may have forgotten any of them: annotations of the base class are no values
    spec = getattr(env, "robot_spec", None)
    task = getattr(env, "task", None)
    space = getattr(env, "action_space", None)
    if not isinstance(spec, Spec):
        yield (
            f"robot_spec: is {type(spec).__name__}; set it to the vla.types.Spec of the robot (the "
            "name `spec` is gymnasium's)"
        )
    if not isinstance(task, Task):
        yield f"task: is {type(task).__name__}; set it to the vla.sim_eval.Task that is played"
    elif not task.instruction.strip():
        yield f"task.instruction: is {task.instruction!r}; say the task in words"
    elif task.horizon < 1:
        yield f"task.horizon: is {task.horizon}; expected at least one step"
    # an env without a space works here; a wrong one would mislead other libraries
    if space is not None and isinstance(spec, Spec) and not _fits(space, spec):
        yield (
            f"action_space: is {space}, but the spec says low={spec.action_low} "
            f"high={spec.action_high}; make them agree"
        )


def _fits(space: Any, spec: Spec) -> bool:
    if not isinstance(space, gymnasium.spaces.Box) or space.shape != (spec.action_dim,):
        return False
    return np.allclose(space.low, spec.action_low) and np.allclose(space.high, spec.action_high)


# --- what it gives --------------------------------------------------------------------------------


def _start(env: SimEnv) -> Iterator[str]:
    result = env.reset(seed=0)
    if not isinstance(result, tuple) or len(result) != 2:
        yield f"reset: returns {type(result).__name__}; expected the two values (observation, info)"
        return
    yield from _observation("reset", env, result[0])
    yield from _info("reset", result[1])


def _observation(where: str, env: SimEnv, observation: Any) -> Iterator[str]:
    if not isinstance(observation, dict) or not {"images", "state"} <= set(observation):
        has = list(observation) if isinstance(observation, dict) else type(observation).__name__
        expected = '{"images": {camera: picture}, "state": array}'
        yield f"{where}: observation is {has}; expected {expected}"
        return
    yield from _images(where, env, observation["images"])
    state = np.asarray(observation["state"])
    shape = (env.robot_spec.state_dim,)
    if state.dtype != np.float32 or state.shape != shape:
        yield f"{where}: state is {state.dtype} {state.shape}, expected float32 {shape}"
    elif not np.isfinite(state).all():
        yield f"{where}: state holds NaN or infinity: {state}"


def _images(where: str, env: SimEnv, images: Any) -> Iterator[str]:
    for camera, (height, width) in env.robot_spec.cameras.items():
        if camera not in images:
            has = ", ".join(images) or "none"
            yield f"{where}: images lack camera {camera!r} of the spec (they have: {has})"
            continue
        image = np.asarray(images[camera])
        size = (height, width, 3)
        if image.dtype != np.uint8 or image.shape != size:
            yield (
                f"{where}: camera {camera!r} gives {image.dtype} {image.shape}, expected uint8 "
                f"{size}: RGB from 0 to 255, channels last"
            )
        # a camera in the dark, inside a body or behind the scene: it renders, and nothing is seen
        elif image.min() == image.max():
            yield (
                f"{where}: camera {camera!r} gives one colour everywhere ({image.min()}); check "
                "its pose and the light"
            )


def _info(where: str, info: Any) -> Iterator[str]:
    if not isinstance(info, dict):
        yield f"{where}: info is {type(info).__name__}, expected a dict"
        return
    instruction, success = info.get("instruction"), info.get("success")
    if not isinstance(instruction, str) or not instruction.strip():
        yield f'{where}: info["instruction"] is {instruction!r}; expected the task in words'
    if not isinstance(success, bool | np.bool_):
        yield (
            f'{where}: info["success"] is {success!r}; expected True or False: whether it is '
            "solved at this step"
        )
    if not isinstance(info.get("failure", ""), str):
        yield f'{where}: info["failure"] is {info["failure"]!r}; expected text'


def _steps(env: SimEnv, steps: int) -> Iterator[str]:
    observation, _ = env.reset(seed=0)
    # each picture beside a copy: an env that draws into one buffer changes what its caller holds
    kept = {camera: (image, np.array(image)) for camera, image in observation["images"].items()}
    result = env.step(_actions(env, 1)[0])
    if not isinstance(result, tuple) or len(result) != 5:
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
        changed = [c for c, (image, copy) in kept.items() if not np.array_equal(image, copy)]
        if changed:
            yield (
                f"step: overwrites the picture of {changed[0]!r} that reset returned; return a new "
                "array each time"
            )
            break
        if terminated or truncated:
            break
        _, _, terminated, truncated, _ = env.step(action)


# --- whether it repeats itself --------------------------------------------------------------------


def _repeats(env: SimEnv, steps: int) -> Iterator[str]:
    actions = _actions(env, steps)
    first, start = _play(env, 0, actions)
    again, start_again = _play(env, 0, actions)
    if any(not np.array_equal(start[camera], start_again[camera]) for camera in start):
        yield (
            "reset: seed=0 gives two different pictures; draw everything from self.np_random after "
            "super().reset(seed=seed)"
        )
    if not np.allclose(first, again, atol=1e-6):
        yield (
            "reset: seed=0 and the same actions give two different episodes; reset all of the "
            "simulator's state"
        )
    others = [_play(env, seed, actions[:0])[1] for seed in (1, 2, 3)]
    # by the pictures: what a start changes must be seen, or no policy could answer to it
    same = [np.array_equal(start[camera], other[camera]) for other in others for camera in start]
    if start and all(same):
        yield (
            "reset: seeds 0 to 3 all start with the same picture; use the seed, or no evaluation "
            "can vary the start"
        )
    env.render_images = False
    try:
        unseen, _ = _play(env, 0, actions)
    finally:
        env.render_images = True
    if not np.allclose(first, unseen, atol=1e-6):
        yield (
            "render_images: the episode changes when it is False; rendering must not touch the "
            "physics"
        )


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
    """Random actions (steps, A) inside the bounds, the same at every call."""
    spec = env.robot_spec
    shape = (steps, spec.action_dim)
    drawn = np.random.default_rng(0).uniform(spec.action_low, spec.action_high, shape)
    return spec.to_ends(drawn.astype(np.float32))


# --- how it ends, and whether its expert acts -----------------------------------------------------


def _ends(env: SimEnv) -> Iterator[str]:
    env.render_images = False  # a horizon may be hundreds of steps
    try:
        env.reset(seed=0)
        for action in _actions(env, env.task.horizon):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                return
        yield (
            f"step: neither terminated nor truncated after task.horizon = {env.task.horizon} "
            "steps; truncate there"
        )
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
        return
    # 1e-6: bounds that were rounded to float32 may lie beside those of the spec
    below = (action < np.asarray(spec.action_low) - 1e-6).any()
    above = (action > np.asarray(spec.action_high) + 1e-6).any()
    if below or above:
        yield f"expert_action: gives {action}, outside the spec's bounds; clip it"
    between = np.abs(action - spec.to_ends(action)) > 1e-6
    if between.any():
        names = ", ".join(np.array(spec.action_names)[between])
        yield (
            f"expert_action: gives {action}, but {names} is binary: give the lower or the upper "
            "end of its range"
        )
    if not env.expert_has_memory and not np.array_equal(action, np.asarray(env.expert_action())):
        yield (
            "expert_action: gives another action when it is asked twice in one state; make it a "
            "function of the state, or set `expert_has_memory = True`"
        )
