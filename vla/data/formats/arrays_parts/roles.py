"""Which arrays of an episode are read as what, where the keys do not say: by the names that public
datasets give them.

L: steps of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from vla.data.formats.arrays_parts.container import Array
from vla.data.formats.common.names import natural
from vla.data.formats.common.unread import COUNTS

ACTIONS = ("rel_actions", "actions", "action")
"""The first that is there: of both kinds of CALVIN's actions the relative ones, as its benchmark
has it."""
PLAIN_STATES = ("observations", "observation", "obs", "states", "state")
STATES = (
    *PLAIN_STATES,
    *("obs_state", "observation_state", "robot_obs", "robot_state", "agent_pos", "proprio"),
    *("qpos", "joint_positions", "joint_pos", "joints"),
)
OBSERVATIONS = ("observations", "observation", "obs")
"""Groups of what was seen."""
PREFIXES = ("observations/", "observation/", "obs/")
"""What may be left out of a key."""
REWARDS = ("rewards", "reward")
SUCCESSES = ("success", "successes", "is_success")
ENDS = ("terminals", "terminated", "terminations", "dones", "done", "is_terminal")
TIME_LIMITS = ("timeouts", "truncated", "truncations", "truncateds")
INSTRUCTIONS = (
    *("instruction", "language_instruction", "instructions", "language", "lang"),
    *("task_description", "task", "prompt"),
)
RATES = ("control_hz", "control_freq", "control_frequency", "fps", "hz", "frequency", "rate")
TIMES = ("timestamp", "timestamps", "time", "times", "time_stamp", "stamp", "stamps")
"""Of each step, in any unit."""
_ROBOT = re.compile(
    r"(?:.*/)?(robot\d+)_(eef_pos|eef_quat|eef_rot_axis_angle|gripper_(?:qpos|width))"
)
"""Position, orientation and gripper, as robomimic and UMI name them."""
_AGAIN = re.compile(r"(?:.*/)?next_")
"""The same once more, a step later."""
_CAMERA_GROUPS = ("images", "image", "sensor_data", "pixels", "cameras", "rgb")
_CAMERA_ENDS = re.compile(r"(.+)/(?:rgb|image|images|color|colour)$")


def group_of(path: str, names: Iterable[str]) -> str | None:
    """The group (with a slash behind it, or empty) in which an array or group of one of these
    names lies; None if there is none."""
    parts = path.split("/")
    for place, word in enumerate(parts):
        if word in names:
            return "".join(f"{above}/" for above in parts[:place])
    return None


def numbers_per_step(arrays: Mapping[str, Array], pictures: Collection[str]) -> dict[str, Array]:
    """Those that hold numbers and no images."""
    found = {}
    for key, array in arrays.items():
        if array.is_numeric and key not in pictures:
            found[key] = array
    return found


def first_of(names: Iterable[str], numbers: Mapping[str, Array]) -> list[str]:
    """The first of these names that is there; of a group all that is in it."""
    for name in names:
        if name in numbers:
            return [name]
        below = [key for key in numbers if key.startswith(f"{name}/")]
        if below:
            return sorted(below, key=natural)
    return []


def default_states(numbers: Mapping[str, Array], steps: int) -> list[str]:
    """Keys that are put side by side as the state; none if no name says so."""
    fitting = {}
    for key, array in numbers.items():
        # one observation may follow the last action
        per_step = array.rows in (steps, steps + 1) and len(array.shape) <= 2
        if per_step and not _AGAIN.match(key):
            fitting[key] = array
    single = [name for name in STATES if name in fitting]
    if single:
        return single[:1]
    robots = sorted((key for key in fitting if _ROBOT.fullmatch(key)), key=_robot_order)
    if robots:
        return robots
    seen = [key for key in fitting if group_of(key, OBSERVATIONS) is not None]
    # joint positions say where the arm is; what else is seen is listed for the user to choose
    for name in STATES:
        named = [key for key in seen if key.rpartition("/")[2] == name]
        if named:
            return named
    return seen


def _robot_order(key: str) -> tuple[object, ...]:
    found = _ROBOT.fullmatch(key)
    assert found is not None
    return (natural(found[1]), found[2])


def camera_names(keys: Sequence[str]) -> dict[str, str]:
    """Camera -> key: the word that tells the cameras apart, or the whole key."""
    short = {}
    for key in keys:
        parts = [part for part in key.split("/") if part not in (*OBSERVATIONS, "data")]
        inner = parts[1:] if len(parts) > 1 and parts[0] in _CAMERA_GROUPS else parts
        name = "/".join(inner or parts)
        ending = _CAMERA_ENDS.fullmatch(name)
        name = ending[1] if ending else name
        short[key] = (name.removesuffix("_image") or name).replace("/", "_")
    if len(set(short.values())) < len(short):
        return {key.replace("/", "_"): key for key in keys}
    return {name: key for key, name in short.items()}


def is_known_name(key: str) -> bool:
    """Whether an array says when the episode ended, what it was worth or what it was about, or
    counts or times its steps, or holds the same once more: nothing that could be a state."""
    word = key.rpartition("/")[2]
    others = ("compress_len", "episode_ends")
    known = (*REWARDS, *SUCCESSES, *ENDS, *TIME_LIMITS, *INSTRUCTIONS, *TIMES, *COUNTS, *others)
    return word in known or _AGAIN.match(key) is not None
