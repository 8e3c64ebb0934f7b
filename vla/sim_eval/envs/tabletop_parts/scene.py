"""The tabletop in MuJoCo: a table, a two-finger hand, three kinds of objects,
a bowl, a tray and a drawer.

Everything is made of primitives, so that a picture costs a fraction of a millisecond. Axes: x to
the right of the front camera's picture, y away from the camera, z up; the table's top is z = 0.
Units: metres, radians, kilograms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# far apart in hue, so that shading and compression leave no doubt about a colour's name
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.80, 0.05),
    "purple": (0.55, 0.10, 0.65),
}


@dataclass(frozen=True)
class Shape:
    """One kind of object.

    Attributes:
        geom: MuJoCo's type.
        size: half sizes, as MuJoCo takes them.
        half_height: how high its middle is above what it stands on.
        radius: from its middle to its side, which is what fingers meet.
    """

    geom: str
    size: tuple[float, ...]
    half_height: float
    radius: float


# All fit between the open fingers: at most 0.052 wide, and the fingers open to 0.084.
SHAPES: dict[str, Shape] = {
    "cube": Shape("box", (0.024, 0.024, 0.024), 0.024, 0.024),
    "cylinder": Shape("cylinder", (0.022, 0.036), 0.036, 0.022),
    "ball": Shape("sphere", (0.026,), 0.026, 0.026),
}
SLOTS = 3
"""Objects on the table."""

# 8 mm above the table: fingertips pressed into it would lift the hand's target away from the hand
WORKSPACE_LOW = np.array([-0.27, -0.20, 0.008])
WORKSPACE_HIGH = np.array([0.27, 0.26, 0.30])
"""Where the fingertips may go."""
# well inside the workspace, since the hand must also come behind an object to push it
OBJECTS_LOW = np.array([-0.21, -0.14])
OBJECTS_HIGH = np.array([0.21, 0.10])
"""Where things are put down at the start."""
HAND_LOW = np.array([-0.20, -0.14, 0.12])
HAND_HIGH = np.array([0.20, 0.16, 0.24])
"""Where the fingertips are at the start: anywhere above the table, so that the hand
does not tell what is asked."""
FINGER_TRAVEL = 0.042
"""Greatest distance of each finger from the middle."""
DRAWER_TRAVEL = 0.08
CABINET_Y = 0.20
"""Front of the cabinet."""
HANDLE_GAP = 0.045
"""How far the handle stands in front of the drawer: room for the closed fingers between them."""
RECEPTACLES: dict[str, float] = {"bowl": 0.046, "tray": 0.046}
"""Receptacle -> distance from its middle to the inside of its rim."""
# low enough that a hand may open inside, high enough that a ball stays
RIM_HEIGHT = 0.014
TIMESTEP = 0.005
SUBSTEPS = 10
CONTROL_HZ = 1.0 / (TIMESTEP * SUBSTEPS)
STEP_METRES = 0.025
"""Way of the hand for an action of 1."""


def model_xml() -> str:
    """The whole scene as MJCF.

    Where the movable things lie, and their colours, is set at every start.
    """
    # elliptic friction cones with a high impratio: with MuJoCo's defaults what the fingers hold
    # slips down slowly. numslices and the like: round things of few triangles cost a fraction on a
    # CPU and look alike at 96 pixels.
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"/>
  <size memory="4M"/>
  <visual>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
    <map znear="0.02" zfar="20"/>
    <quality offsamples="0" shadowsize="0" numslices="12" numstacks="6" numquads="1"/>
  </visual>
  <asset>
    <texture name="plain" type="2d" builtin="flat" width="8" height="8" rgb1="0.74 0.70 0.64"/>
    <texture name="checks" type="2d" builtin="checker" width="64" height="64"
      rgb1="0.80 0.76 0.70" rgb2="0.66 0.62 0.57"/>
    <texture name="stripes" type="2d" builtin="gradient" width="64" height="64"
      rgb1="0.62 0.46 0.30" rgb2="0.80 0.66 0.48"/>
    <texture name="slate" type="2d" builtin="flat" width="8" height="8" mark="random" random="0.3"
      rgb1="0.36 0.38 0.42" markrgb="0.5 0.52 0.56"/>
    <material name="plain" texture="plain" specular="0"/>
    <material name="checks" texture="checks" texrepeat="6 6" specular="0"/>
    <material name="stripes" texture="stripes" texrepeat="4 4" specular="0"/>
    <material name="slate" texture="slate" texrepeat="2 2" specular="0"/>
  </asset>
  <default>
    <geom friction="0.8 0.01 0.001" solref="0.01 1"/>
    <default class="visual"><geom contype="0" conaffinity="0" group="1" mass="0"/></default>
    <default class="finger">
      <geom type="box" size="0.007 0.011 0.025" pos="0 0 0.025" friction="1.6 0.02 0.002" condim="4"
        rgba="0.16 0.16 0.18 1"/>
      <joint type="slide" range="0 {FINGER_TRAVEL}" damping="4" armature="0.02"/>
    </default>
  </default>
  <worldbody>
    <light name="lamp" pos="0.3 -0.4 1.2" dir="-0.3 0.4 -1.2" directional="true"
      diffuse="0.45 0.45 0.45" specular="0 0 0"/>
    <camera name="front" pos="0 -0.47 0.60" xyaxes="1 0 0 0 0.765 0.644" fovy="41"/>
    <geom name="table" type="box" size="0.5 0.42 0.02" pos="0 0.03 -0.02" material="plain"/>
    {_hand()}
    {"".join(_object(slot) for slot in range(SLOTS))}
    {_bowl()}
    {_tray()}
    {_cabinet()}
  </worldbody>
  <actuator>
    <position name="x" joint="hand_x" kp="1500" kv="60"/>
    <position name="y" joint="hand_y" kp="1500" kv="60"/>
    <position name="z" joint="hand_z" kp="1500" kv="60"/>
    <position name="left" joint="left_finger" kp="260" forcerange="-8 8"/>
    <position name="right" joint="right_finger" kp="260" forcerange="-8 8"/>
  </actuator>
</mujoco>"""


def _hand() -> str:
    """The body's origin is the middle between the fingertips; its joints'
    positions are that point."""
    # slides instead of an arm: no inverse kinematics, and qpos[:3] is the hand's place in the world
    return """
    <body name="hand" gravcomp="1">
      <joint name="hand_x" type="slide" axis="1 0 0" armature="0.2"/>
      <joint name="hand_y" type="slide" axis="0 1 0" armature="0.2"/>
      <joint name="hand_z" type="slide" axis="0 0 1" armature="0.2"/>
      <geom name="palm" type="box" size="0.054 0.016 0.010" pos="0 0 0.062" mass="0.4"
        rgba="0.30 0.31 0.34 1"/>
      <geom name="arm" class="visual" type="cylinder" size="0.014" fromto="0 0 0.07 0 0 0.40"
        rgba="0.55 0.56 0.60 1"/>
      <camera name="wrist" pos="0 -0.055 0.10" xyaxes="1 0 0 0 0.90 0.44" fovy="75"/>
      <body name="left_finger" pos="-0.007 0 0" gravcomp="1">
        <joint name="left_finger" class="finger" axis="-1 0 0"/>
        <geom name="left_finger" class="finger" mass="0.05"/>
      </body>
      <body name="right_finger" pos="0.007 0 0" gravcomp="1">
        <joint name="right_finger" class="finger" axis="1 0 0"/>
        <geom name="right_finger" class="finger" mass="0.05"/>
      </body>
    </body>"""


def _object(slot: int) -> str:
    """A body that holds one geom of every shape; a start switches one on (`TabletopEnv.reset`)."""
    geoms = ""
    for name, shape in SHAPES.items():
        size = " ".join(map(str, shape.size))
        # 6: rolling friction too, or a ball would roll for ever; 4: without it,
        # but with torsional friction
        condim = 6 if shape.geom == "sphere" else 4
        geoms += (
            f'<geom name="object{slot}_{name}" type="{shape.geom}" size="{size}" '
            f'condim="{condim}" friction="0.8 0.01 0.004"/>'
        )
    # inertia is given: MuJoCo would take it from all geoms, also those that are switched off
    return f"""
    <body name="object{slot}" pos="{0.1 * slot} 0 0.05">
      <freejoint name="object{slot}"/>
      <inertial pos="0 0 0" mass="0.06" diaginertia="2.5e-5 2.5e-5 2.5e-5"/>
      {geoms}
    </body>"""


def _bowl() -> str:
    """A ring of twelve boxes, since MuJoCo's primitives are convex; the floor is
    painted and touches nothing."""
    # mocap: moved between episodes without a new model, and nothing moves it in between
    inside, rim = RECEPTACLES["bowl"], RIM_HEIGHT / 2
    sides = []
    for i in range(12):
        angle = 2 * np.pi * i / 12
        x, y = (inside + 0.004) * np.cos(angle), (inside + 0.004) * np.sin(angle)
        sides.append(
            f'<geom type="box" size="0.004 0.0145 {rim}" pos="{x:.5f} {y:.5f} {rim}" '
            f'euler="0 0 {angle:.5f}" rgba="0.96 0.96 0.96 1"/>'
        )
    floor = (
        f'<geom class="visual" type="cylinder" size="{inside} 0.001" pos="0 0 0.001" '
        'rgba="0.96 0.96 0.96 1"/>'
    )
    return f'<body name="bowl" mocap="true">{floor}{"".join(sides)}</body>'


def _tray() -> str:
    """Four walls around a painted floor."""
    inside, rim = RECEPTACLES["tray"], RIM_HEIGHT / 2
    far, wide = inside + 0.004, inside + 0.008
    walls = (
        (far, 0, 0.004, wide),
        (-far, 0, 0.004, wide),
        (0, far, wide, 0.004),
        (0, -far, wide, 0.004),
    )
    geoms = "".join(
        f'<geom type="box" size="{a} {b} {rim}" pos="{x} {y} {rim}" rgba="0.33 0.20 0.10 1"/>'
        for x, y, a, b in walls
    )
    floor = (
        f'<geom class="visual" type="box" size="{inside} {inside} 0.001" pos="0 0 0.001" '
        'rgba="0.40 0.25 0.13 1"/>'
    )
    return f'<body name="tray" mocap="true">{floor}{geoms}</body>'


def _cabinet() -> str:
    """A low chest whose drawer comes towards the camera; the handle is a bar on
    two posts, open from above."""
    wood = 'rgba="0.58 0.60 0.62 1"'
    dark = 'rgba="0.36 0.38 0.40 1"'
    post = HANDLE_GAP / 2
    return f"""
    <body name="cabinet" mocap="true" pos="0 {CABINET_Y} 0">
      <geom name="cabinet_top" type="box" size="0.066 0.055 0.004" pos="0 0.06 0.062" {wood}/>
      <geom name="cabinet_left" type="box" size="0.004 0.055 0.030" pos="-0.064 0.06 0.030" {wood}/>
      <geom name="cabinet_right" type="box" size="0.004 0.055 0.030" pos="0.064 0.06 0.030" {wood}/>
      <body name="drawer">
        <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" damping="2"
          frictionloss="0.6" armature="0.05"/>
        <geom name="drawer_front" type="box" size="0.056 0.005 0.026"
          pos="0 0.005 0.030" mass="0.2" {dark}/>
        <geom name="drawer_bottom" class="visual" type="box"
          size="0.054 0.045 0.002" pos="0 0.055 0.008" {dark}/>
        <geom name="handle" type="box" size="0.040 0.005 0.007"
          pos="0 -{HANDLE_GAP} 0.034" mass="0.05" rgba="0.1 0.1 0.1 1"/>
        <geom name="post_left" type="box" size="0.004 {post} 0.005"
          pos="-0.036 -{post} 0.034" mass="0.02" {dark}/>
        <geom name="post_right" type="box" size="0.004 {post} 0.005"
          pos="0.036 -{post} 0.034" mass="0.02" {dark}/>
      </body>
    </body>"""
