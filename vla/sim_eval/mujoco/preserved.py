"""An env is stepped ahead and put back as it was, to the bit."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vla.sim_eval.env import SimEnv


@contextmanager
def preserved(env: SimEnv) -> Iterator[None]:
    """Within it the env may be stepped; afterwards it is as it was, to the bit.

    Raises RuntimeError if the env does not say what changes as it is stepped (`changing_parts`).
    """
    parts = env.changing_parts()
    if not parts:
        raise RuntimeError(f"{type(env).__name__} cannot be put back: it has no changing_parts")
    restores = [_attributes(part) for part in parts]
    if env.data is not None:
        restores.append(_physics(env.model, env.data))
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _physics(model: Any, data: Any) -> Callable[[], None]:
    """The simulator's state, and what it has computed of it; contacts are found again."""
    mujoco = importlib.import_module("mujoco")
    everything = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, everything))
    mujoco.mj_getState(model, data, state, everything)
    # positions of bodies are those before the last integration: a forward pass would move them on,
    # and with them what the next observation says
    names = [name for name in dir(data) if not name.startswith("_")]
    arrays = {name: getattr(data, name) for name in names}
    computed = {n: array.copy() for n, array in arrays.items() if isinstance(array, np.ndarray)}

    def restore() -> None:
        mujoco.mj_setState(model, data, state, everything)
        mujoco.mj_forward(model, data)
        for name, array in computed.items():
            present = getattr(data, name)
            # those of contacts have the number of the contacts that were found now
            if present.shape == array.shape:
                present[...] = array

    return restore


def _attributes(part: object) -> Callable[[], None]:
    """The object's attributes, and what numbers and collections among them hold; of other objects
    that it refers to, only which ones they are."""
    names = dict(vars(part))
    contents = [_contents(value) for value in names.values()]

    def restore() -> None:
        vars(part).clear()
        vars(part).update(names)
        for put_back in contents:
            put_back()

    return restore


def _contents(value: Any) -> Callable[[], None]:
    # in place: an array may be a view of the simulator's, and others may hold the same list
    if isinstance(value, np.ndarray) and value.flags.writeable:
        array = value.copy()
        return lambda: np.copyto(value, array)
    if isinstance(value, list | deque):
        items = list(value)

        def refill() -> None:
            value.clear()
            value.extend(items)

        return refill
    if isinstance(value, dict | set):
        kept = value.copy()

        def update() -> None:
            value.clear()
            value.update(kept)

        return update
    if isinstance(value, np.random.Generator):
        state = value.bit_generator.state

        def rewind() -> None:
            value.bit_generator.state = state

        return rewind
    return lambda: None


__all__ = ["preserved"]
