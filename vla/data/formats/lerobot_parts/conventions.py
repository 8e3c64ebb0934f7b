"""Which features of a LeRobot dataset are state and action if no key says so, and what is then not
read: each with the key that reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vla.data import schema
from vla.data.formats.lerobot_parts.info import IMAGE, NUMERIC, VIDEO, Feature

MAX_WIDTH = 2**16
"""A row of more numbers is no vector of a robot."""
_STATES = (schema.STATE, "state")
_ACTIONS = (schema.ACTION, "actions")
_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_KINDS = (r"joint|qpos", r"cartesian|eef|ee_|tcp|pose", r"vel", r"torque|effort")
"""Words of the spaces that one action may be given in: several of them are alternatives."""


def is_bookkeeping(name: str) -> bool:
    """Whether a feature says where a row stands, or what came of it, in every dataset."""
    return name in _BOOKKEEPING or name in (schema.DONE, schema.TERMINATED)


def is_vector(feature: Feature) -> bool:
    """Whether a row holds numbers that a state or an action can be made of."""
    return feature.dtype in NUMERIC and feature.width <= MAX_WIDTH and not is_picture(feature)


def is_picture(feature: Feature) -> bool:
    """Whether a feature of numbers is an image, with its channels first or last."""
    shape = feature.shape
    if feature.is_camera or len(shape) != 3:
        return False
    return min(shape[0], shape[2]) in (1, 3, 4) and max(shape) >= 16


def typed(key: str, entries: Sequence[str]) -> str:
    """A key as it is typed at a command: `state=[a,b]`, with quotes where brackets need them."""
    if any("[" in entry for entry in entries):
        quoted = ",".join(f'"{entry}"' for entry in entries)
        return f"{key}='[{quoted}]'"
    return f"{key}=[{','.join(entries)}]"


def usual_state(features: Mapping[str, Feature]) -> tuple[list[str], str]:
    """Features of the state, and what to say of the choice: nothing if it is LeRobot's own."""
    for name in _STATES:
        if name in features and is_vector(features[name]):
            return [name], ""
    observed = [name for name in _vectors(features) if name.startswith("observation.")]
    parts = [name for name in observed if name.startswith(f"{schema.STATE}.")]
    single = [name for name in observed if features[name].width == 1]
    # parts of a state, the only vector, or one number per joint: there is one way to read them
    chosen = parts or (observed if len(observed) == 1 or single == observed else [])
    if chosen:
        return chosen, (
            f"there is no {schema.STATE!r}: {_listed(chosen, features)} is read as the state, as "
            f"`{typed('state', chosen)}` would; name others, or none: `state=[]`"
        )
    return [], ""


def usual_action(features: Mapping[str, Feature]) -> tuple[list[str], str]:
    """Features of the action, and what to say of the choice; none if they may be alternatives."""
    for name in _ACTIONS:
        if name in features and is_vector(features[name]):
            return [name], ""
    parts = [name for name in _vectors(features) if re.match(r"actions?\.", name)]
    kinds = [kind for kind in _KINDS if any(re.search(kind, name) for name in parts)]
    if not parts or len(kinds) > 1:
        return [], ""
    return parts, (
        f"there is no {schema.ACTION!r}: {_listed(parts, features)} is read as the action, as "
        f"`{typed('action', parts)}` would; name others if these are alternatives"
    )


def action_candidates(features: Mapping[str, Feature]) -> list[str]:
    """What a user may mean by the action."""
    vectors = [name for name in _vectors(features) if not name.startswith("observation.")]
    named = [name for name in vectors if "action" in name]
    return named or vectors


def not_read(
    features: Mapping[str, Feature],
    used: set[str],
    state: list[str],
    action: list[str],
    *,
    chosen: set[str],
) -> list[str]:
    """Sentences that name each feature that is not read, and the key that reads it.

    Args:
        used: features that are read.
        state, action: those that the state and the action are made of.
        chosen: `state`, `action`, `instruction` if a key named them: then what is left out was
            left out on purpose.
    """
    left = [name for name in _vectors(features) if name not in used]
    actions = [name for name in left if re.match(r"actions?([._]|$)", name)]
    rewards = [name for name in left if name in ("reward", "rewards")]
    successes = [name for name in left if re.fullmatch(r"(is_)?success(es)?", name)]
    others = [name for name in left if name not in (*actions, *rewards, *successes)]
    sentences = []
    if others and "state" not in chosen:
        sentences.append(
            f"numbers that are not read: {_listed(others, features)}; "
            f"`{typed('state', [*state, *others])}` reads them as state"
        )
    if actions and "action" not in chosen:
        sentences.append(
            f"numbers that are not read: {_listed(actions, features)}; "
            f"`{typed('action', actions)}` reads them as the action instead of "
            f"{', '.join(action)}"
        )
    for key, names in (("reward", rewards), ("success", successes)):
        if names and not used & {f"next.{key}"}:
            sentences.append(
                f"numbers that are not read: {names[0]}; `{key}={names[0]}` reads them as the {key}"
            )
    texts = [n for n, f in features.items() if f.dtype == "string" and n not in used]
    if texts and "instruction" not in chosen:
        sentences.append(
            f"texts that are not read: {', '.join(texts)}; `instruction={texts[0]}` reads one as "
            "the instruction"
        )
    arrays = [name for name, feature in features.items() if _is_array(feature)]
    if arrays:
        sentences.append(
            f"arrays that are no vectors (images?) are left out: {_listed(arrays, features)}; "
            "store images with dtype 'image' or 'video'"
        )
    known = (*NUMERIC, VIDEO, IMAGE, "string")
    strange = [f"{n} ({f.dtype})" for n, f in features.items() if f.dtype not in known]
    if strange:
        sentences.append(
            f"features of kinds that are not read: {', '.join(strange)}; store them as numbers, "
            "images or texts"
        )
    return sentences


def _is_array(feature: Feature) -> bool:
    return feature.dtype in NUMERIC and not is_vector(feature)


def _vectors(features: Mapping[str, Feature]) -> list[str]:
    """Features of numbers that say something of the robot."""
    found = []
    for name, feature in features.items():
        is_said = name in _BOOKKEEPING or name.startswith(("next.", "annotation."))
        if is_vector(feature) and not is_said:
            found.append(name)
    return found


def _listed(names: Sequence[str], features: Mapping[str, Feature]) -> str:
    return ", ".join(f"{name} {features[name].shape}" for name in names)
