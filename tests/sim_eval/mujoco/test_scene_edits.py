"""Edits of a model: each changes what it names, greater strengths change more, and `restore` undoes all to the bit."""

import numpy as np
import pytest

from vla.sim_eval.mujoco.scene_edits import SceneEditor
from vla.sim_eval.rendering import SceneRenderer, VisualGeom, choose_backend

MJCF = """
<mujoco>
  <asset>
    <texture name="checks" type="2d" builtin="checker" rgb1=".1 .1 .1" rgb2=".9 .9 .9" width="32" height="32"/>
    <material name="checked" texture="checks" rgba="0.9 0.8 0.7 1"/><material name="plain" rgba="0.2 0.4 0.6 1"/>
  </asset>
  <worldbody>
    <light name="sun" pos="0 0 3" dir="0 0 -1" diffuse="0.6 0.6 0.6"/>
    <camera name="top" pos="0 0 2"/>
    <geom name="floor" type="plane" size="2 2 .1" material="checked"/>
    <body name="robot" pos="0 0 .5">
      <joint name="slide" type="slide" axis="1 0 0"/><geom type="box" size=".1 .1 .1" rgba=".3 .3 .3 1"/>
      <camera name="wrist" pos="0 0 .2"/>
      <body name="finger" pos="0 .2 0"><joint type="slide" axis="0 1 0"/><geom name="tip" type="sphere" size=".05"/></body>
    </body>
    <body name="cube" pos=".5 0 .1"><freejoint/><geom name="cube" type="box" size=".1 .1 .1" rgba="1 0 0 1"/></body>
    <body name="twin" pos="-.5 0 .1"><freejoint/><geom name="twin" type="box" size=".1 .1 .1" rgba="1 0 0 1"/></body>
    <body name="door" pos="0 -.5 .2"><joint type="hinge"/><geom type="box" size=".1 .02 .2" rgba="0 0 1 1"/></body>
  </worldbody>
  <actuator><motor joint="slide"/></actuator>
</mujoco>
"""
EDITS = ("light", "camera", "colours", "texture", "mass", "friction")
CHANGES = {
    "light": {"light_dir", "light_diffuse"},
    "camera": {"cam_pos", "cam_quat"},
    "colours": {"geom_rgba", "mat_rgba"},
    "texture": {"geom_matid"},
    "mass": {"body_mass", "body_inertia"},
    "friction": {"geom_friction"},
}


@pytest.fixture
def model():
    choose_backend()
    import mujoco

    return mujoco.MjModel.from_xml_string(MJCF)


def arrays(model):
    """Every array of the model, of its headlight and its statistics."""
    names = [name for name in dir(model) if isinstance(getattr(model, name), np.ndarray)]
    found = {name: np.array(getattr(model, name)) for name in names}
    found |= {
        f"headlight.{name}": np.array(getattr(model.vis.headlight, name))
        for name in ("ambient", "diffuse")
    }
    return found | {
        name: np.array(getattr(model.stat, name))
        for name in ("extent", "center", "meaninertia", "meanmass")
    }


def differing(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_its_own_fields_and_is_undone_to_the_bit(model, edit):
    model.body_pos[model.body("door").id, 0] = (
        0.3  # an env moved something since the model was compiled
    )
    editor, before = SceneEditor(model), arrays(model)
    getattr(editor, edit)(np.random.default_rng(0), 1.0)
    changed = differing(before, arrays(model))
    derived = {
        "actuator_acc0",
        "body_invweight0",
        "body_subtreemass",
        "dof_M0",
        "dof_invweight0",
    } | {*("meaninertia", "meanmass", "headlight.ambient", "headlight.diffuse", "light_ambient")}
    assert CHANGES[edit] <= changed <= CHANGES[edit] | derived
    editor.restore()
    assert not differing(before, arrays(model))


@pytest.mark.parametrize("edit", ["light", "camera", "colours", "mass", "friction"])
def test_a_greater_strength_makes_the_same_change_greater(model, edit):
    editor, before = SceneEditor(model), arrays(model)
    sizes = []
    for strength in (0.0, 0.2, 0.4):
        getattr(editor, edit)(np.random.default_rng(3), strength)
        sizes.append(
            sum(float(np.abs(getattr(model, name) - before[name]).sum()) for name in CHANGES[edit])
        )
        editor.restore()
    assert sizes[0] == pytest.approx(0, abs=1e-6)
    assert 1.5 * sizes[1] < sizes[2]


def test_the_same_draws_give_the_same_scene(model):
    editor, found = SceneEditor(model), []
    for seed in (5, 5, 6):
        rng = np.random.default_rng(seed)
        for edit in EDITS:
            getattr(editor, edit)(rng, 1.0)
        found.append(arrays(model))
        editor.restore()
    assert not differing(found[0], found[1])
    assert differing(found[0], found[2])


def test_cameras_keep_looking_at_the_same_point(model):
    import mujoco

    editor = SceneEditor(model)
    fixed, wrist = model.camera("top"), model.camera("wrist")
    for seed in range(5):
        editor.restore()
        place = np.array(wrist.pos)
        editor.camera(np.random.default_rng(seed), 1.0, metres=0.0, degrees=10.0)
        backwards = np.zeros(9)
        mujoco.mju_quat2Mat(backwards, np.array(fixed.quat))
        ahead = -backwards.reshape(3, 3)[:, 2]
        meets = fixed.pos + (2 - 0.6) * ahead  # the robot's upper side is 0.6 m high
        assert np.allclose(meets, [0, 0, 0.6], atol=1e-6)
        assert np.array_equal(wrist.pos, place)  # on a moving body: turned on the spot
    editor.restore()
    editor.camera(np.random.default_rng(0), 1.0, names=["top"])
    assert np.array_equal(wrist.quat, [1, 0, 0, 0])


def test_alike_colours_stay_alike_and_materials_stay_visible(model):
    SceneEditor(model).colours(np.random.default_rng(1), 1.0, exclude=[model.geom("tip").id])
    cube, twin = model.geom("cube").rgba, model.geom("twin").rgba
    assert np.array_equal(cube, twin)
    assert cube[0] > 2 * max(cube[1:3])  # still red
    assert np.array_equal(
        model.geom("floor").rgba, [0.5, 0.5, 0.5, 1]
    )  # any other would hide its material
    assert np.array_equal(model.geom("tip").rgba, [0.5, 0.5, 0.5, 1])


def test_surfaces_get_other_materials_at_full_strength_only_surely(model):
    editor, floor = SceneEditor(model), model.geom("floor")
    for seed in range(4):
        editor.texture(np.random.default_rng(seed), 1.0)
        assert floor.matid[0] == model.material("plain").id
        editor.restore()
        editor.texture(np.random.default_rng(seed), 0.0)
        assert floor.matid[0] == model.material("checked").id


def test_objects_are_what_moves_and_is_no_robot(model):
    editor = SceneEditor(model)
    assert [model.body(i).name for i in editor.objects()] == ["cube", "twin", "door"]
    masses = np.array(model.body_mass)
    editor.mass(np.random.default_rng(0), 1.0)
    changed = np.flatnonzero(masses != model.body_mass)
    assert [model.body(i).name for i in changed] == ["cube", "twin", "door"]
    factors = model.body_mass[changed] / masses[changed]
    assert (factors > np.exp(-0.71)).all()
    assert (factors < np.exp(0.71)).all()


def test_extras_are_drawn_and_not_simulated(model):
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = SceneRenderer(model, 48, 48)
    try:
        before = renderer.render(data, model.camera("top").id)
        renderer.extras = [
            VisualGeom("sphere", (0.2, 0.2, 0.2), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0))
        ]
        drawn = renderer.render(data, model.camera("top").id)
        assert drawn[24, 24, 1] > 2 * drawn[24, 24, 0]  # green in the middle
        assert np.array_equal(renderer.render(data, model.camera("top").id), drawn)
        renderer.extras = ()
        assert np.array_equal(renderer.render(data, model.camera("top").id), before)
        renderer.extras = [
            VisualGeom("box", (0.1, 0.1, 0.1), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0))
        ] * 2000
        with pytest.raises(RuntimeError, match="at most 1000"):
            renderer.render(data, model.camera("top").id)
    finally:
        renderer.close()
