"""Findings of what is in a dataset: what objectives refuse, sensors, grippers, pictures, words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, Windows
from vla.data.rewards import check_rewards
from vla.data.select import chosen_episodes, how_to_delete
from vla.data.validation.report import Finding, validate
from vla.types import Spec

SPEC = Spec({"front": (8, 8)}, ("x", "y", "gripper"), ("dx", "gripper"), (-1, -1), (1, 1), 10)
Change = Callable[[int, Episode], dict[str, Any]]


def episode(number: int) -> Episode:
    """Good data: a hand that moves, a gripper that follows its command, some successes."""
    rng = np.random.default_rng([7, number])
    L = 20 + number % 5
    command = np.where(np.arange(L) > 8 + number % 3, 1.0, -1.0)
    opened = np.concatenate([[-1.0, -1.0], command[:-2]]) + 0.01 * rng.normal(size=L)
    solved = np.zeros(L, bool)
    solved[-1] = number % 2 == 0
    return Episode(
        images={"front": rng.integers(0, 256, (L, 8, 8, 3), dtype=np.uint8)},
        state=np.column_stack([rng.normal(size=(L, 2)), opened]).astype(np.float32),
        actions=np.column_stack([rng.uniform(-1, 1, L), command]).astype(np.float32),
        rewards=solved.astype(np.float32),
        success=solved,
        terminated=bool(solved[-1]),
        instruction=("open the drawer", "push the button")[number // 2 % 2],
    )


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., list[Finding]]:
    """found(change) -> findings of a dataset whose episodes were each changed."""

    def make(change: Change = lambda n, e: {}, count: int = 24, spec: Spec = SPEC) -> list[Finding]:
        with DatasetWriter(tmp_path / "set", spec) as writer:
            for number in range(count):
                good = episode(number)
                writer.add_episode(dataclasses.replace(good, **change(number, good)))
        return list(validate(tmp_path / "set").findings)

    return make


def test_good_data_have_no_finding(found):
    assert found() == []


def _scaled_gripper(number: int, e: Episode) -> dict[str, Any]:
    """0 to 1 in the second half of the episodes, as of another laboratory."""
    actions = e.actions.copy()
    if number >= 12:
        actions[:, 1] = (actions[:, 1] + 1) / 2
    return {"actions": actions}


def _swapped_gripper(number: int, e: Episode) -> dict[str, Any]:
    return {"actions": e.actions * [1, -1 if number >= 12 else 1]}


def _stuck_sensor(number: int, e: Episode) -> dict[str, Any]:
    return {"state": np.where([True, number != 3, True], e.state, 0.5)}


def _unread_state(number: int, e: Episode) -> dict[str, Any]:
    rows = np.minimum(np.arange(len(e)), 5 if number == 3 else len(e))
    return {"state": e.state[rows]}


def _far_away(number: int, e: Episode) -> dict[str, Any]:
    state = e.state.copy()
    if number == 5:
        state[4, 1] = 1e30
    return {"state": state}


def _black(number: int, e: Episode) -> dict[str, Any]:
    pictures = e.images["front"].copy()
    if number in (2, 4):
        pictures[3] = 0
    return {"images": {"front": pictures}}


CONTENT: dict[str, tuple[Change, str, str, str]] = {
    "scale of the gripper": (_scaled_gripper, "grippers", "warning", "from 0 to 1 in 12"),
    "gripper that is swapped": (_swapped_gripper, "grippers", "warning", "in 12 of 24 episodes"),
    "stuck sensor": (_stuck_sensor, "stuck", "note", "'y' stands still in episodes 3 "),
    "state that was not read": (_unread_state, "stuck", "warning", "in episodes 3:"),
    "1e30": (_far_away, "outliers", "warning", "'y' is 1e+30 in episode 5"),
    "black pictures": (_black, "images", "warning", "2 of 526 pictures are of one colour"),
    "dimension that never moves": (
        lambda n, e: {"state": e.state * [1, 0, 1]},
        "constant_state",
        "note",
        "never move: y",
    ),
    "one instruction": (
        lambda n, e: {"instruction": "push the button"},
        "one_instruction",
        "note",
        "all 24 episodes have the one instruction 'push the button'",
    ),
    "an instruction of one episode": (
        lambda n, e: {"instruction": "wave"} if n == 0 else {},
        "held_out",
        "note",
        "1 of 3 instructions have one episode",
    ),
    "no successes": (
        lambda n, e: {"success": np.zeros(len(e), bool)},
        "success",
        "note",
        "none of 24 episodes is marked as solved",
    ),
    "rewards of other sizes": (
        lambda n, e: {"rewards": e.rewards * 7},
        "objectives",
        "note",
        r"q_transformer: ",
    ),
    "episodes that are cut off at a loss": (
        lambda n, e: {"rewards": e.rewards - 1},
        "objectives",
        "note",
        "cal_ql: 12 of 24 episodes are cut off",
    ),
}


@pytest.mark.parametrize("name", CONTENT)
def test_content(found, name):
    change, check, severity, message = CONTENT[name]
    matching = [f for f in found(change) if f.check == check and message in f.message]
    assert [f.severity for f in matching] == [severity]


def test_nothing_else_is_suspected_of_a_swapped_gripper(found):
    assert {f.check for f in found(_swapped_gripper)} == {"grippers"}


def test_a_gripper_that_may_also_hold(found):
    def change(number: int, e: Episode) -> dict[str, Any]:
        # closes or holds in some episodes, holds or opens in others
        return {"actions": np.clip(e.actions, *((-1, 0) if number % 2 else (0, 1)))}

    assert not [f for f in found(change) if "two conventions" in f.message]


def test_rare_events_are_no_outliers(found):
    def change(number: int, e: Episode) -> dict[str, Any]:
        state = e.state * [1, 0, 1]
        if number == 7:
            state[3, 1] = 5
        return {"state": state}

    assert not [f for f in found(change) if f.check == "outliers"]


@pytest.mark.parametrize("faulty", [1, 3])
def test_outliers_of_small_datasets(found, faulty):
    """A fault of one step or several among 80: neither range nor deviation may hide it."""

    def change(number: int, e: Episode) -> dict[str, Any]:
        state = e.state.copy()
        if number == 2:
            state[5 : 5 + faulty, 1] = 1e30
        return {"state": state}

    (finding,) = [f for f in found(change, count=4) if f.check == "outliers"]
    assert f"{faulty} such numbers in 1 episodes" in finding.message
    assert re.search(r"`vla data delete \S+set \S+set_without --episodes 2`", finding.message)


@pytest.mark.parametrize(
    ("numbers", "typed"),
    [([0], "0"), ([3, 1], "1,3"), ([0, 1, 2, 7, 9, 10], "0:3,7,9:11")],
)
def test_numbers_of_episodes_as_they_are_typed(numbers, typed):
    command = how_to_delete("d", numbers)
    assert command == f"vla data delete d d_without --episodes {typed}"
    assert chosen_episodes(typed, 12, "d") == sorted(numbers)


def test_what_never_moves_is_named_with_the_rest(found):
    (finding,) = [
        f for f in found(lambda n, e: {"state": e.state * [1, 0, 1]}) if f.check == "constant_state"
    ]
    assert finding.message.endswith("state=[x,gripper]")


def test_one_episode_cannot_be_held_out(found):
    (finding,) = [f for f in found(count=1) if f.check == "held_out"]
    assert "data.validation_fraction" in finding.message


def test_short_episodes_have_no_targets(found):
    def change(number: int, e: Episode) -> dict[str, Any]:
        first = {name: getattr(e, name)[:3] for name in ("state", "actions", "rewards", "success")}
        return {**first, "images": {"front": e.images["front"][:3]}, "terminated": False}

    messages = [f.message for f in found(lambda n, e: change(n, e) | {"rewards": np.ones(3) * n})]
    assert any("policy.chunk below 3" in message for message in messages)


def test_neither_state_nor_camera(found):
    blind = dataclasses.replace(SPEC, cameras={}, state_names=())
    findings = found(lambda n, e: {"images": {}, "state": e.state[:, :0]}, spec=blind)
    assert [f.check for f in findings if f.severity == "error"] == ["observations"]


REFUSED: dict[str, Change] = {
    "no rewards": lambda n, e: {"rewards": np.zeros(len(e))},
    "equal returns": lambda n, e: {"rewards": np.eye(len(e))[0], "terminated": False},
    "time limits": lambda n, e: {"terminated": True, "success": np.zeros(len(e), bool)},
}


@pytest.mark.parametrize("name", [*REFUSED, "good"])
def test_the_validator_finds_what_a_training_refuses(found, tmp_path, name):
    findings = found(REFUSED.get(name, lambda n, e: {}), count=40)
    windows = Windows(EpisodeDataset(tmp_path / "set"), history=1, chunk=1, discount=0.99)
    try:
        check_rewards(windows)
        refused = False
    except DataError:
        refused = True
    assert refused == (name != "good")
    said = [f for f in findings if f.check in ("rewards", "terminals")]
    assert bool(said) == refused
