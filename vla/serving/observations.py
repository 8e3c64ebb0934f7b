"""What a client sends -> what the policy sees: keys, sizes, the axis of several robots.

B robots, S state dimensions, H and W picture height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.common.names import did_you_mean
from vla.control.realtime_plan import Queued
from vla.serving.pictures import Resize, as_pictures
from vla.types import Spec

MAX_PROMPT = 1000
"""Characters of an instruction."""
MAX_ROBOTS = 256
"""Of one observation. Numbers alone are small: a message of a megabyte could stand for a hundred
thousand robots, and all others would wait for them."""
STATE_KEYS = ("state", "observation/state", "observation.state")
PROMPT_KEYS = ("prompt", "instruction")
# openpi's stock robots: LIBERO (image, wrist_image), DROID (the others); ALOHA's keys are names of
# cameras
STOCK_IMAGES = (
    "observation/image",
    "observation/wrist_image",
    "observation/exterior_image_1_left",
    "observation/wrist_image_left",
)
DROID_STATE = ("observation/joint_position", "observation/gripper_position")
ROLES = ("state", "instruction")
"""What `keys` may name beside cameras."""


@dataclass(frozen=True)
class RobotInputs:
    """What B robots see.

    Attributes:
        images: camera -> uint8 (B, H, W, 3).
        state: float32 (B, S).
        instructions: B texts.
        batched: whether the client sent the axis B.
        queued: what each still executes; empty if none said so.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray
    instructions: list[str]
    batched: bool
    queued: Sequence[Queued | None] = ()

    @property
    def batch_size(self) -> int:
        return len(self.instructions)


class ObservationReader:
    """Reads the observations of clients for one policy.

    Args:
        spec: the policy's.
        keys: key of the client -> camera, "state" or "instruction".
        resize: what happens to pictures of another size.
        default_prompt: for observations without an instruction.

    Raises UserError if `keys` name what the policy does not have.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        keys: Mapping[str, str] | None = None,
        resize: Resize = "none",
        default_prompt: str | None = None,
    ) -> None:
        self.spec = spec
        self.keys = dict(keys or {})
        self.resize = resize
        self.default_prompt = default_prompt
        self._check_keys()

    def _check_keys(self) -> None:
        known = [*self.spec.cameras, *ROLES]
        seen: set[str] = set()
        for key, role in self.keys.items():
            if role not in known:
                raise UserError(
                    f"keys: {key!r} is read as {role!r}{did_you_mean(role, known)}; there are: "
                    f"{', '.join(known)}"
                )
            if role in seen and role != "state":
                raise UserError(f"keys: two keys are read as {role!r}; leave one of them")
            seen.add(role)

    def names(self) -> dict[str, list[str]]:
        """What is read of an observation -> keys that it is looked for under, in this order."""
        names = {camera: self._camera_keys(camera) for camera in self.spec.cameras}
        names["state"] = self._given("state") or [*STATE_KEYS, " + ".join(DROID_STATE)]
        names["instruction"] = self._given("instruction") or list(PROMPT_KEYS)
        return names

    def read(self, message: Mapping[str, Any]) -> RobotInputs:
        """The inputs in an observation. Raises UserError naming the key that is wrong."""
        sent = _flat(message)
        sources = self._sources(sent)
        images = {}
        for camera, size in self.spec.cameras.items():
            key = sources[camera]
            images[camera] = as_pictures(key, _array(key, sent[key]), size, self.resize)
        state_key, state = self._state(sent)
        batched = {key: images[camera].ndim == 4 for camera, key in sources.items()}
        if self.spec.state_dim:
            batched[state_key] = state.ndim == 2
        is_batched = _agree("the axis of several robots", batched)
        if not is_batched:
            images = {camera: image[None] for camera, image in images.items()}
            state = state.reshape(1, -1)
        sizes = {key: len(images[camera]) for camera, key in sources.items()}
        if self.spec.state_dim:
            sizes[state_key] = len(state)
        B = _agree("the number of robots", sizes)
        # a policy may need neither pictures nor a state
        B = 1 if B is None else B
        if not 1 <= B <= MAX_ROBOTS:
            raise UserError(
                f"the observation is of {B} robots, expected 1 to {MAX_ROBOTS}; send more of them "
                "as further observations, each with a `vla/session` of its own"
            )
        if not self.spec.state_dim:
            state = np.zeros((B, 0), np.float32)
        instructions = self._instructions(sent, B)
        self._check_finite(state_key, state)
        return RobotInputs(images, state, instructions, is_batched)

    # --- which key is what ---------------------------------------------------------------------

    def _given(self, role: str) -> list[str]:
        return [key for key, found in self.keys.items() if found == role]

    def _camera_keys(self, camera: str) -> list[str]:
        return self._given(camera) or [
            f"images/{camera}",
            f"observation/{camera}",
            f"observation.images.{camera}",
            camera,
        ]

    def _sources(self, sent: Mapping[str, Any]) -> dict[str, str]:
        """camera -> the key of its picture."""
        sources = {}
        missing = []
        for camera in self.spec.cameras:
            key = next((key for key in self._camera_keys(camera) if key in sent), None)
            if key is not None:
                sources[camera] = key
            else:
                missing.append(camera)
        stock = [
            key
            for key in STOCK_IMAGES
            if key in sent and key not in sources.values() and key not in self.keys
        ]
        # names of openpi's robots only where there is no choice: a wrist is a wrist, and the one
        # camera that is left is the one picture that is left
        for on_wrist in (True, False):
            cameras = [camera for camera in missing if _is_on_wrist(camera) == on_wrist]
            keys = [key for key in stock if _is_on_wrist(key) == on_wrist]
            if len(cameras) == len(keys) == 1 and not self._given(cameras[0]):
                sources[cameras[0]] = keys[0]
        lost = [camera for camera in missing if camera not in sources]
        if lost:
            raise UserError(_no_picture(lost[0], self._camera_keys(lost[0]), sent))
        return sources

    def _state(self, sent: Mapping[str, Any]) -> tuple[str, np.ndarray]:
        """The state as it was sent, (S,) or (B, S) float32, and its key."""
        if not self.spec.state_dim:
            return "", np.zeros(0, np.float32)
        given = self._given("state")
        keys = given or [key for key in STATE_KEYS if key in sent][:1]
        if not keys and all(key in sent for key in DROID_STATE):
            keys = list(DROID_STATE)
        missing = [key for key in keys if key not in sent]
        if not keys or missing:
            looked_for = missing or [*STATE_KEYS, " and ".join(DROID_STATE)]
            raise UserError(
                f"the observation has no state: looked for {', '.join(looked_for)}; it has: "
                f"{_listed(sent)}; send it, or name its key: keys={{KEY: state}}"
            )
        parts = [numbers(key, sent[key]) for key in keys]
        name = " + ".join(keys)
        if len(parts) > 1:
            # a gripper is often one number without an axis
            axes = max(part.ndim for part in parts)
            parts = [part[..., None] if part.ndim == axes - 1 else part for part in parts]
            parts = [np.atleast_1d(part) for part in parts]
            _agree(
                "the axis of several robots", {k: p.ndim for k, p in zip(keys, parts, strict=True)}
            )
            if parts[0].ndim == 2:
                _agree(
                    "the number of robots", {k: len(p) for k, p in zip(keys, parts, strict=True)}
                )
        state = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        S = self.spec.state_dim
        if state.ndim not in (1, 2) or state.shape[-1] != S:
            raise UserError(
                f"{name}: has shape {state.shape}, the policy's state has {S} numbers: "
                f"{', '.join(self.spec.state_names)}; send these, in this order"
            )
        return name, state

    def _check_finite(self, key: str, state: np.ndarray) -> None:
        wrong = ~np.isfinite(state).all(0)
        if wrong.any():
            names = [
                name
                for name, is_wrong in zip(self.spec.state_names, wrong, strict=True)
                if is_wrong
            ]
            raise UserError(
                f"{key}: NaN or infinity in {', '.join(names)}; a sensor is broken, or was not read"
            )

    def _instructions(self, sent: Mapping[str, Any], B: int) -> list[str]:
        keys = self._given("instruction") or PROMPT_KEYS
        key = next((key for key in keys if key in sent), None)
        if key is None:
            if self.default_prompt is None:
                raise UserError(
                    f"the observation has no instruction: send `{keys[0]}`, or start the server "
                    "with default_prompt=TEXT"
                )
            return [self.default_prompt] * B
        value = sent[key]
        texts = [value] * B if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            kind = type(value).__name__
            raise UserError(f"{key}: is {kind}, expected a text, or a list of one for each robot")
        if len(texts) != B:
            raise UserError(f"{key}: has {len(texts)} texts for {B} robots; send one for each")
        longest = max(len(text) for text in texts)
        if longest > MAX_PROMPT:
            raise UserError(f"{key}: has {longest} characters, expected at most {MAX_PROMPT}")
        return list(texts)


def _flat(message: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"images": {"top": x}}` as `{"images/top": x}`; what is of the protocol is left out."""
    found: dict[str, Any] = {}
    for key, value in message.items():
        if not isinstance(key, str) or key.startswith("vla/"):
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}/")
        else:
            found[prefix + key] = value
    return found


def _is_on_wrist(name: str) -> bool:
    return any(word in name.lower() for word in ("wrist", "hand", "gripper"))


def _agree(what: str, values: Mapping[str, Any]) -> Any:
    """The value that all keys have; None without any. Raises UserError if two differ."""
    items = list(values.items())
    for key, value in items[1:]:
        if value != items[0][1]:
            raise UserError(
                f"{items[0][0]} and {key} differ in {what} ({items[0][1]} and {value}): give all "
                "inputs one, or none"
            )
    return items[0][1] if items else None


def _array(key: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise UserError(f"{key}: is {type(value).__name__}, expected an array")
    return value


def numbers(key: str, value: Any) -> np.ndarray:
    """float32 numbers of an array, a list, or one number. Raises UserError for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "buif":
        raise UserError(f"{key}: is {type(value).__name__}, expected numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return array.astype(np.float32)


def _listed(sent: Mapping[str, Any]) -> str:
    keys = [key if len(key) <= 60 else key[:57] + "..." for key in list(sent)[:20]]
    return ", ".join(keys) or "nothing"


def _no_picture(camera: str, looked_for: list[str], sent: Mapping[str, Any]) -> str:
    return (
        f"the observation has no picture of camera {camera!r}: looked for "
        f"{', '.join(looked_for)}; it has: {_listed(sent)}; send it, or name its key: "
        f"keys={{KEY: {camera}}}"
    )
