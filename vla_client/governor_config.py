"""What the governor is to keep to: one kind, range and greatest step per action dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Mapping, Union

import numpy as np

from vla_client.errors import GovernorError, shown

KINDS = ("absolute", "delta", "velocity", "keep")
PerDimension = Union[float, Mapping[str, float], None]


@dataclass(frozen=True)
class GovernorConfig:
    """Limits of what is sent to a robot. A dimensions, in the order of `names`.

    A value for all dimensions may be written once, or by name for some of them.

    Attributes:
        names: the action dimensions.
        kind: what a number commands; by name or one word for all. It has no default, since the
            wrong one makes holding a motion. `absolute`: a position. `delta`: a motion per
            step. `velocity`: a speed. `keep`: something to leave as it is, such as a gripper.
        low: least value of each dimension, (A,).
        high: greatest value of each dimension, (A,).
        control_hz: actions per second.
        max_step: greatest change per step: of the position or speed against what was sent last,
            for `delta` the motion itself. Needed for all dimensions but `keep`.
        max_from_measured: greatest distance of a position from the measured one; None: any.
        workspace: by name of an `absolute` dimension, the range (low, high) inside its limits.
        reject_factor: a step of more than this times `max_step` is no motion but a fault.
        on_violation: `clamp` an action to limits and rate, or `refuse` it and hold.
        max_observation_age: in periods; what was answered to an older observation is not executed.
        hold_after: in periods; without a valid action for so long, the robot holds.
        stop_after_s: without a valid action for so long, it is stopped until it is armed again.
        ramp_s: a run's first positions are reached from the measured ones over this time.

    Raises `GovernorError`, which names the key, for a value that makes no sense.
    """

    names: tuple[str, ...]
    kind: str | Mapping[str, str]
    low: tuple[float, ...]
    high: tuple[float, ...]
    control_hz: float
    max_step: PerDimension
    max_from_measured: PerDimension = None
    workspace: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reject_factor: float = 5.0
    on_violation: str = "clamp"
    max_observation_age: float = 3.0
    hold_after: float = 2.0
    stop_after_s: float = 0.5
    ramp_s: float = 1.0

    def __post_init__(self) -> None:
        names = tuple(self.names)
        object.__setattr__(self, "names", names)
        if not names or len(set(names)) != len(names):
            raise GovernorError(f"names={shown(names)}, expected one name per action dimension")
        _check_numbers(self)
        if self.on_violation not in ("clamp", "refuse"):
            raise GovernorError(
                f"on_violation={shown(self.on_violation)}, expected clamp or refuse"
            )
        for key in ("low", "high"):
            value = getattr(self, key)
            object.__setattr__(self, key, tuple(_array(value, key, len(names)).tolist()))
        self.bounds()  # the rest is checked by being computed

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any], values: Mapping[str, Any]) -> GovernorConfig:
        """The limits and the rate of a policy's spec, and the other keys of `values`.

        A binary dimension of the spec has one of two values, and no rate: its kind is `keep`.

        Args:
            spec: of `client.metadata["spec"]` or a checkpoint's spec.json.
            values: keys of this class; at least `kind` and `max_step`.

        Raises `GovernorError` if a key is missing or unknown, or gives a binary dimension another
        kind.
        """
        given: dict[str, Any] = {
            "names": tuple(spec["action_names"]),
            "low": tuple(spec["action_low"]),
            "high": tuple(spec["action_high"]),
            "control_hz": spec["control_hz"],
            **values,
        }
        known = cls.__dataclass_fields__
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise GovernorError(f"governor: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        for key, example in (("kind", "absolute"), ("max_step", "0.05")):
            if key not in given:
                raise GovernorError(
                    f"governor: {key} is missing: write for example {key}: {example}"
                )
        given["kind"] = _kind_with_binary(given["kind"], spec)
        return cls(**given)

    @property
    def period_s(self) -> float:
        """Seconds from one action to the next."""
        return 1 / self.control_hz

    def bounds(self) -> Bounds:
        """The same per dimension, as arrays."""
        kinds = self._kinds()
        low, high = np.array(self.low), np.array(self.high)
        step = self._per_dimension("max_step", self.max_step)
        for name, kind, least, greatest, most in zip(self.names, kinds, low, high, step):
            if not least < greatest:
                raise GovernorError(f"{name}: low={least:g} is not below high={greatest:g}")
            if kind in ("delta", "velocity") and not least <= 0 <= greatest:
                raise GovernorError(f"{name}: {kind} holds by 0, outside [{least:g}, {greatest:g}]")
            if kind != "keep" and not math.isfinite(most):
                raise GovernorError(
                    f"{name}: max_step is missing: write for example max_step: {{{name}: 0.05}}"
                )
        inner_low, inner_high = self._inside_workspace(kinds, low, high)
        distance = self._per_dimension("max_from_measured", self.max_from_measured)
        return Bounds(np.array(kinds), low, high, inner_low, inner_high, step, distance)

    def _kinds(self) -> list[str]:
        given = self.kind
        if isinstance(given, str):
            given = dict.fromkeys(self.names, given)
        _check_names("kind", given, self.names)
        missing = [name for name in self.names if name not in given]
        if missing:
            raise GovernorError(
                f"kind: {missing[0]} is missing, expected one of {', '.join(KINDS)}"
            )
        for name, kind in given.items():
            if kind not in KINDS:
                raise GovernorError(
                    f"kind of {name}: {shown(kind)}, expected one of {', '.join(KINDS)}"
                )
        return [given[name] for name in self.names]

    def _per_dimension(self, key: str, value: PerDimension) -> np.ndarray:
        """(A,), infinite where nothing is set."""
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            value = dict.fromkeys(self.names, value)
        _check_names(key, value, self.names)
        for name, number in value.items():
            if not (_is_number(number) and number > 0):
                raise GovernorError(f"{key} of {name}: {shown(number)}, expected a positive number")
        return np.array([value.get(name, np.inf) for name in self.names], float)

    def _inside_workspace(
        self, kinds: list[str], low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        _check_names("workspace", self.workspace, self.names)
        inner_low, inner_high = low.copy(), high.copy()
        for name, limits in self.workspace.items():
            i = self.names.index(name)
            if kinds[i] != "absolute":
                raise GovernorError(f"workspace of {name}: it is {kinds[i]}, expected absolute")
            inside = _array(limits, f"workspace of {name}", 2)
            inner_low[i] = max(low[i], inside[0])
            inner_high[i] = min(high[i], inside[1])
            if not inner_low[i] < inner_high[i]:
                raise GovernorError(
                    f"workspace of {name}: {list(inside)} leaves nothing of [{low[i]:g}, "
                    f"{high[i]:g}]"
                )
        return inner_low, inner_high


@dataclass(frozen=True)
class Bounds:
    """`GovernorConfig` as arrays (A,); `inner_*` are the limits inside the workspace."""

    kinds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    inner_low: np.ndarray
    inner_high: np.ndarray
    max_step: np.ndarray
    max_from_measured: np.ndarray


def _kind_with_binary(kind: Any, spec: Mapping[str, Any]) -> Any:
    """`kind` with the spec's binary dimensions, which specs of older policies do not name."""
    binary = spec.get("binary_actions", ())
    if not binary:
        return kind
    if isinstance(kind, str):
        kind = {name: "keep" if name in binary else kind for name in spec["action_names"]}
    if not isinstance(kind, Mapping):
        return kind  # the class says what is wrong with it
    for name in binary:
        if kind.get(name, "keep") != "keep":
            raise GovernorError(
                f"kind of {name}: {shown(kind[name])}, but the policy's spec says that it is "
                "binary, which a rate would break: write keep, or leave it out"
            )
    return {**kind, **dict.fromkeys(binary, "keep")}


def _is_number(value: object) -> bool:
    plain = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return plain and math.isfinite(value)  # type: ignore[arg-type]


def _check_numbers(config: GovernorConfig) -> None:
    keys = ("control_hz", "max_observation_age", "hold_after", "stop_after_s")
    for key in keys:
        value = getattr(config, key)
        if not (_is_number(value) and value > 0):
            raise GovernorError(f"{key}={shown(value)}, expected a positive number")
    if not (_is_number(config.ramp_s) and config.ramp_s >= 0):
        raise GovernorError(f"ramp_s={shown(config.ramp_s)}, expected a number of at least 0")
    if not (_is_number(config.reject_factor) and config.reject_factor >= 1):
        raise GovernorError(f"reject_factor={shown(config.reject_factor)}, expected at least 1")


def _check_names(key: str, given: object, names: tuple[str, ...]) -> None:
    if not isinstance(given, Mapping):
        raise GovernorError(f"{key}={shown(given)}, expected values by the names of dimensions")
    unknown = [name for name in given if name not in names]
    if unknown:
        raise GovernorError(f"{key}: {shown(unknown[0])} is no dimension of {', '.join(names)}")


def _array(values: Any, key: str, length: int) -> np.ndarray:
    listed = list(values) if isinstance(values, (list, tuple, np.ndarray)) else []
    if len(listed) != length or not all(_is_number(value) for value in listed):
        raise GovernorError(f"{key}={shown(values)}, expected {length} finite numbers")
    return np.array(listed, float)
