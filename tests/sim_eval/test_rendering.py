import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.sim_eval import rendering
from vla.sim_eval.envs.tabletop import TabletopConfig
from vla.sim_eval.rendering import RenderingError, SceneRenderer, choose_backend, gl_renderer

MJCF = """<mujoco><worldbody>
  <light pos="0 0 3"/><camera name="top" pos="0 0 3"/>
  <geom type="plane" size="2 2 .1" rgba=".8 .8 .8 1"/>
  <geom name="up" type="box" size=".2 .2 .2" pos="0 .6 .2" rgba="1 0 0 1"/>
</worldbody></mujoco>"""

FORGETFUL = f'''
from vla.sim_eval.rendering import SceneRenderer, choose_backend
choose_backend()
import mujoco
model = mujoco.MjModel.from_xml_string("""{MJCF}""")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderers = [SceneRenderer(model, 32, 32) for _ in range(2)]
print(all(r.render(data, 0).any() for r in renderers))
'''


def scene():
    choose_backend()
    import mujoco

    model = mujoco.MjModel.from_xml_string(MJCF)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("preset", ["fast", "full"])
def test_picture_is_upright_and_contiguous(preset):
    model, data = scene()
    renderer = SceneRenderer(model, 48, 64, preset)
    image = renderer.render(data, 0)
    renderer.close()
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    red = (image[..., 0] > 100) & (image[..., 1] < 50)
    rows, columns = np.nonzero(red)
    assert rows.mean() < 20  # the box lies beyond the middle, so it is in the upper half
    assert 28 < columns.mean() < 36


def test_fast_has_no_shadow():
    pictures = {}
    for preset in ("fast", "full"):
        model, data = scene()
        renderer = SceneRenderer(model, 64, 64, preset)
        pictures[preset] = renderer.render(data, 0).astype(int)
        renderer.close()
    assert (pictures["fast"] - pictures["full"]).max() > 20  # what the shadow darkens


def test_two_renderers_do_not_disturb_each_other():
    model, data = scene()
    small, large = SceneRenderer(model, 32, 32), SceneRenderer(model, 64, 64)
    first = small.render(data, 0)
    assert large.render(data, 0).shape == (64, 64, 3)
    np.testing.assert_array_equal(small.render(data, 0), first)
    large.close()
    np.testing.assert_array_equal(small.render(data, 0), first)
    small.close()


def test_closed_renderer_says_so():
    model, data = scene()
    renderer = SceneRenderer(model, 32, 32)
    renderer.render(data, 0)
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.render(data, 0)


def test_unknown_preset():
    model, _ = scene()
    with pytest.raises(ValueError, match="fast"):
        SceneRenderer(model, 32, 32, "quick")  # type: ignore[arg-type]


def test_renderer_has_a_name():
    assert gl_renderer()


def test_no_noise_when_the_interpreter_ends_with_open_renderers():
    ended = subprocess.run(
        [sys.executable, "-c", FORGETFUL], capture_output=True, text=True, timeout=120
    )
    assert ended.stdout.strip() == "True"
    assert ended.stderr == ""


def test_torchvision_can_be_imported_after_rendering():
    code = FORGETFUL + "import torchvision.models"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_threads_of_mesa_change_no_pixel():
    """Workers draw with none, the process that evaluates without workers with some."""
    code = f'''
import hashlib, mujoco
model = mujoco.MjModel.from_xml_string("""{MJCF}""")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 96, 128)
renderer.update_scene(data, camera=0)
print(hashlib.sha256(renderer.render().tobytes()).hexdigest())
renderer.close()
'''
    drawn = set()
    for threads in ("0", "2"):
        environment = {**os.environ, "MUJOCO_GL": choose_backend(), "LP_NUM_THREADS": threads}
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        drawn.add(ended.stdout)
    assert len(drawn) == 1


def test_users_backend_is_respected(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert choose_backend() == "glfw"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one backend")
@pytest.mark.parametrize("chosen", ["", "egl", "osmesa"])
def test_missing_libraries_name_the_remedy(monkeypatch, chosen):
    monkeypatch.setenv("MUJOCO_GL", chosen)
    monkeypatch.setattr(rendering, "_loads", lambda *names: None)
    rendering._egl_has_device.cache_clear()
    with pytest.raises(RenderingError, match="apt-get install -y libegl1"):
        choose_backend()
    rendering._egl_has_device.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one backend")
def test_osmesa_where_egl_is_missing(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_egl_has_device", lambda: False)
    monkeypatch.setattr(rendering, "_osmesa_loads", lambda: True)
    assert choose_backend() == "osmesa"


@pytest.fixture
def undecided(monkeypatch):
    """As in a process that has not drawn yet."""
    gl_renderer.cache_clear()
    # so that it is put back at the end: where nothing can be drawn it is changed
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", ""))
    yield monkeypatch
    gl_renderer.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one backend")
def test_unknown_value_names_one_that_works(undecided):
    undecided.setenv("MUJOCO_GL", "bogus")
    with pytest.raises(RenderingError) as caught:
        gl_renderer()
    text = str(caught.value)
    assert "MUJOCO_GL=bogus" in text
    assert "knows no such value" in text
    assert "\n" not in text
    works = [name for name in ("egl", "osmesa") if rendering._can_draw(name)]
    assert works, "this very test suite draws with one of them"
    assert f"set MUJOCO_GL={works[0]}" in text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one backend")
def test_unknown_value_does_not_matter_without_pictures(undecided):
    undecided.setenv("MUJOCO_GL", "bogus")
    env = TabletopConfig(tasks=("reach",), cameras=(), state="scene")
    assert "gl_renderer" not in env.versions()
    assert choose_backend(required=False) == "disable"


@pytest.mark.skipif(
    bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")), reason="has a screen"
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one backend")
def test_screen_that_is_not_there():
    code = """
import mujoco
from vla.sim_eval.rendering import RenderingError, SceneRenderer, gl_renderer
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><camera name='c'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
for draw in (gl_renderer, lambda: SceneRenderer(model, 32, 32).render(data, 0)):
    try:
        draw()
    except RenderingError as error:
        print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "MUJOCO_GL": "glfw", "PYOPENGL_PLATFORM": ""},
    )
    first, second = ended.stdout.splitlines()
    assert "MUJOCO_GL=glfw" in first
    assert "DISPLAY is not set" in first
    assert "MUJOCO_GL=glfw" in second
    assert ended.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one backend")
@pytest.mark.parametrize("command", ["eval", "collect"])
def test_nothing_is_begun_that_cannot_be_drawn(undecided, tmp_path, command):
    undecided.setenv("MUJOCO_GL", "bogus")
    config = tmp_path / "c.yaml"
    out = tmp_path / "out"
    config.write_text(
        f"env: {{type: tabletop, tasks: [reach]}}\nout: {out}\nepisodes_per_task: 1\nworkers: 1\n"
    )
    result = CliRunner().invoke(app, [command, str(config)])
    assert result.exit_code == 2
    assert "error: cannot render with MUJOCO_GL=bogus" in result.stderr
    assert "Traceback" not in result.output
    assert not out.exists()
