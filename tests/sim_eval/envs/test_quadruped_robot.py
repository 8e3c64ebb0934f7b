"""The quadruped's body: its legs' kinematics, what it senses, and what can be changed about it."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from vla.sim_eval.envs.quadruped_parts.kinematics import SIDE, foot_positions, leg_angles
from vla.sim_eval.envs.quadruped_parts.robot import JOINT_NAMES, Robot, WorldError, model_xml

CHANGED = (
    "geom_friction",
    "body_mass",
    "body_inertia",
    "body_ipos",
    "actuator_gainprm",
    "actuator_biasprm",
    "actuator_forcerange",
    "dof_M0",
)


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(model_xml())


@pytest.fixture
def robot(model):
    robot = Robot(model, mujoco.MjData(model))
    robot.stand()
    yield robot
    robot.set_world()


def test_inverse_and_forward_kinematics_agree_over_the_reach():
    rng = np.random.default_rng(0)
    for _ in range(200):
        feet = np.stack(
            [
                rng.uniform(-0.13, 0.13, 4),
                SIDE * rng.uniform(0.03, 0.2, 4),
                -rng.uniform(0.13, 0.33, 4),
            ],
            axis=1,
        )
        np.testing.assert_allclose(foot_positions(leg_angles(feet)), feet, atol=1e-9)


def test_a_foot_out_of_reach_is_drawn_towards_the_hip():
    far = np.stack([np.full(4, 0.5), SIDE * 0.08, np.full(4, -0.5)], axis=1)
    reached = foot_positions(leg_angles(far))
    assert np.isfinite(reached).all()
    np.testing.assert_allclose(np.linalg.norm(reached[:, [0, 2]], axis=1), 0.422, atol=1e-9)


def test_kinematics_are_those_of_the_model(robot):
    """The feet of the compiled model are where the formulas put them."""
    for foot in range(4):
        leg = ("FL", "FR", "RL", "RR")[foot]
        geom = robot.data.geom(f"{leg}_foot").xpos
        hip = robot.data.body(f"{leg}_hip").xpos
        angles = robot.data.qpos[robot.joint_positions].reshape(4, 3)
        np.testing.assert_allclose(geom - hip, foot_positions(angles)[foot], atol=1e-9)


def test_senses_heading_and_velocity_in_its_own_axes(robot):
    robot.stand(1.0, -2.0, yaw=np.pi / 2)
    robot.data.qvel[:3] = [0.0, 0.7, 0.0]  # the world's y, which is ahead
    body = robot.sense()
    assert body.xy.tolist() == [1.0, -2.0]
    assert body.yaw == pytest.approx(np.pi / 2)
    np.testing.assert_allclose(body.velocity, [0.7, 0.0, 0.0], atol=1e-12)


def test_falls_are_seen(robot):
    assert not robot.fallen()
    robot.data.qpos[3:7] = [0.0, 1.0, 0.0, 0.0]  # on its back
    assert robot.fallen()


def test_feet_on_the_ground_are_known(robot):
    mujoco.mj_step(robot.model, robot.data, 60)
    assert robot.feet_on_ground().tolist() == [True] * 4
    robot.data.qpos[2] = 1.0
    mujoco.mj_forward(robot.model, robot.data)
    assert not robot.feet_on_ground().any()


def test_the_world_can_be_changed_and_is_nominal_again(robot):
    model = robot.model
    before = {name: getattr(model, name).copy() for name in CHANGED}
    robot.set_world(friction=0.5, payload=5.0, motor=0.7, com=0.05)
    assert model.body_subtreemass[model.body("trunk").id] == pytest.approx(12.44 + 5.0)
    assert model.geom_friction[model.geom("floor").id, 0] == pytest.approx(0.4)
    assert model.geom_friction[model.geom("RR_foot").id, 0] == pytest.approx(0.45)
    assert model.actuator_forcerange[0, 1] == pytest.approx(33.0 * 0.7)
    assert model.body_ipos[model.body("trunk").id, 0] - before["body_ipos"][1, 0] == pytest.approx(
        0.05
    )
    assert all(not np.array_equal(getattr(model, name), before[name]) for name in CHANGED)
    robot.set_world()
    assert all(np.array_equal(getattr(model, name), before[name]) for name in CHANGED)


def test_a_heavier_robot_with_weak_motors_sags(robot):
    heights = []
    for world in ({}, {"payload": 6.0, "motor": 0.5}):
        robot.set_world(**world)
        robot.stand()
        mujoco.mj_step(robot.model, robot.data, 200)
        heights.append(robot.sense().height)
    assert heights[1] < heights[0] - 0.02


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ({"friction": 0.0}, "friction: is 0; give 0.01 to 5"),
        ({"payload": -1.0}, "payload: is -1; give 0 to 30"),
        ({"motor": float("nan")}, "motor: is nan; give 0.05 to 5"),
        ({"com": 1.0}, "com: is 1; give -0.2 to 0.2"),
    ],
)
def test_worlds_that_cannot_be_are_refused(robot, world, message):
    with pytest.raises(WorldError) as error:
        robot.set_world(**world)
    assert str(error.value) == message


def test_joints_are_named_by_leg():
    assert len(JOINT_NAMES) == 12
    assert JOINT_NAMES[:3] == ("FL_abduction", "FL_hip", "FL_knee")
