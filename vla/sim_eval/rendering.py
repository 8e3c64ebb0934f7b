"""Off-screen rendering of MuJoCo scenes on machines without a screen.

The package chooses the OpenGL backend itself: EGL where it works, else OSMesa; a value
that the user has put into MUJOCO_GL is respected, and if nothing can be drawn with it the error
names one that works. `SceneRenderer` draws the cameras of one
model with one of two presets:

- "full": MuJoCo's own quality (shadows, four-fold anti-aliasing,
  reflections), as Meta-World renders.
- "fast": none of the three. On a CPU a small frame takes about a tenth of the time.

Pictures of the two presets differ, so a policy is trained and evaluated with the same one;
`gl_renderer` and the preset belong in every record.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vla.config import UserError

Preset = Literal["full", "fast"]
GeomShape = Literal["sphere", "capsule", "ellipsoid", "cylinder", "box"]
PRESETS: tuple[str, ...] = get_args(Preset)
VISIBLE_GROUPS = (1, 1, 1, 0, 0, 0)
"""Which of MuJoCo's six groups of geoms are drawn; the last three hold collision shapes."""
MAX_GEOMS = 1000
INSTALL_COMMAND = "apt-get install -y libegl1 libgl1 libosmesa6"
OFF = ("disable", "disabled", "off", "false", "0")
"""Values of MUJOCO_GL with which MuJoCo draws nothing."""
KNOWN_VALUES = ("", "egl", "osmesa", "glfw", "glx", "enable", "enabled", "on", "true", "1", *OFF)
"""Values of MUJOCO_GL with which MuJoCo can be imported on Linux."""
_PROBE_SECONDS = 60
_PROBE = """
import importlib, sys
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(16, 16)
context.make_current()
from OpenGL import GL
sys.exit(GL.glGetString(GL.GL_RENDERER) is None)
"""

_live: weakref.WeakSet[SceneRenderer] = weakref.WeakSet()


class RenderingError(UserError):
    """This machine cannot render; the message names the remedy."""


def choose_backend(*, required: bool = True) -> str:
    """Sets MUJOCO_GL, unless the user has, and returns its value ("" if the
    system has one backend only).

    Call before anything imports `mujoco`, which reads the variable once.

    Args:
        required: False where no picture is needed: then drawing is switched off if it is
            impossible.

    Raises RenderingError if it is required and the libraries of the backend, or of both backends,
    do not load, or MuJoCo knows no such value.
    """
    try:
        return _chosen_backend()
    except RenderingError:
        if required:
            raise
        # MuJoCo cannot even be imported with a value that it does not know, or without the library
        os.environ["MUJOCO_GL"] = OFF[0]
        return OFF[0]


def _chosen_backend() -> str:
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if sys.platform != "linux":
        return chosen
    if chosen not in KNOWN_VALUES:
        raise _cannot_render(chosen, "MuJoCo knows no such value")
    if chosen not in ("", "egl", "osmesa"):
        return chosen
    _load_triton()
    works: dict[str, Callable[[], bool]] = {"egl": _egl_has_device, "osmesa": _osmesa_loads}
    for backend in [chosen] if chosen else works:
        if works[backend]():
            os.environ["MUJOCO_GL"] = backend
            return backend
    if chosen:
        raise _cannot_render(chosen, "its library does not load")
    raise RenderingError(
        "cannot render: neither EGL nor OSMesa loads on this machine; install the libraries with: "
        f"{INSTALL_COMMAND}"
    )


def _cannot_render(backend: str, why: str) -> RenderingError:
    """The error that names the value, what is wrong with it and what works on this machine."""
    others = [name for name in ("egl", "osmesa") if name != backend and _can_draw(name)]
    remedy = f"install the libraries with: {INSTALL_COMMAND}"
    if others:
        remedy = f"{' and '.join(others)} can: set MUJOCO_GL={others[0]}, or {remedy}"
    return RenderingError(
        f"cannot render with MUJOCO_GL={backend} on this machine: {why}; {remedy}"
    )


@functools.cache
def _can_draw(backend: str) -> bool:
    """Whether a picture could be drawn with "egl" or "osmesa", found out in another process."""
    if sys.platform != "linux":
        return False
    # PyOpenGL keeps the platform that it was first used with, here and in the environment
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    environment["MUJOCO_GL"] = backend
    command = [sys.executable, "-c", _PROBE, backend]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def _drawing_with(backend: str) -> Iterator[None]:
    """Whatever goes wrong within is a RenderingError."""
    # GLFW tells by warnings what is wrong, and goes on
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except RenderingError:
            raise
        except Exception as error:
            # each backend fails in its own way: ImportError, AttributeError, GLError ...
            raise _cannot_render(backend, _why(backend, error)) from error


def _why(backend: str, error: Exception) -> str:
    if backend in OFF:
        return "it switches drawing off"
    if backend not in ("egl", "osmesa") and sys.platform == "linux":
        screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        found = f"none answers at {screen}" if screen else "DISPLAY is not set"
        return f"it draws on a screen, and {found}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@functools.cache
def _load_triton() -> None:
    """Maps triton's library, if it is installed, before Mesa's."""
    # Both bring an LLVM. In this order alone can torchvision be imported in a process that has
    # rendered; in the other the process dies of a segmentation fault.
    found = importlib.util.find_spec("triton")
    if found is not None and found.origin is not None:
        _loads(*map(str, Path(found.origin).parent.glob("_C/libtriton*.so")))


def _loads(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@functools.cache
def _egl_has_device() -> bool:
    """Whether EGL loads and offers a device. A library without any driver has none."""
    egl = _loads("libEGL.so.1")
    # EGL makes contexts of a GL library, which may be missing where EGL itself loads
    if egl is None or _loads("libGL.so.1", "libOpenGL.so.0") is None:
        return False
    # ctypes takes results for 32-bit numbers: a pointer would be cut off
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    # EGLBoolean eglQueryDevicesEXT(max_devices, devices, *num_devices); 0 and
    # None ask for the number alone
    signature = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    )
    query = signature(address)
    count = ctypes.c_int(0)
    return bool(query(0, None, ctypes.byref(count))) and count.value > 0


def _osmesa_loads() -> bool:
    return _loads("libOSMesa.so.8", "libOSMesa.so", "libOSMesa.so.6") is not None


def _gl_context(width: int, height: int) -> Any:
    """A new OpenGL context, made current."""
    backend = choose_backend()
    # from the backend's own module: `mujoco.GLContext` is fixed by whoever imported mujoco first
    module = f"mujoco.{backend}" if backend in ("egl", "osmesa") else "mujoco.gl_context"
    with _drawing_with(backend):
        context = importlib.import_module(module).GLContext(width, height)
        context.make_current()
    return context


@functools.cache
def gl_renderer() -> str:
    """Name of what draws the pictures, for example "llvmpipe (LLVM 15.0.6, 256 bits)".

    Raises RenderingError if nothing does.
    """
    context = _gl_context(16, 16)
    try:
        # GLFW gives a context without a screen, too; it has no name, and draws nothing
        with _drawing_with(choose_backend()):
            from OpenGL import GL

            return str(GL.glGetString(GL.GL_RENDERER).decode())
    finally:
        context.free()


@atexit.register
def close_all() -> None:
    """Closes every renderer of this process that is still open."""
    for renderer in list(_live):
        renderer.close()


@dataclass(frozen=True)
class VisualGeom:
    """Something that is drawn and does not exist for the physics.

    Attributes:
        shape: one of `GeomShape`.
        size: half sizes in metres, as MJCF has them: sphere (r, r, r), capsule and
            cylinder (r, r, half length).
        position: of its middle in the world, metres.
        rotation: (3, 3), its axes as columns; row by row.
        rgba: colour, 0 to 1.
    """

    shape: GeomShape
    size: tuple[float, float, float]
    position: tuple[float, float, float]
    rgba: tuple[float, float, float, float]
    rotation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class SceneRenderer:
    """Draws the cameras of one MuJoCo model, all at one size.

    The OpenGL context is made at the first `render`, in the process and thread that calls
    it: a renderer that has not rendered yet survives a fork. `extras` are drawn in
    addition to what the model holds.

    Args:
        model: mujoco.MjModel. With "fast" its quality settings are changed (they
            bind when the context is made).
        height, width: size of the pictures in pixels.
        preset: "full" or "fast".
        groups: 1 for each of MuJoCo's six groups of geoms that is drawn, else 0.
    """

    def __init__(
        self,
        model: Any,
        height: int,
        width: int,
        preset: Preset = "fast",
        *,
        groups: Sequence[int] = VISIBLE_GROUPS,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset: no {preset!r}; there are: {', '.join(PRESETS)}")
        self.height, self.width, self.preset = height, width, preset
        self._model = model
        self._groups = tuple(groups)
        self._gl: Any = None
        self._open = True
        self.extras: Sequence[VisualGeom] = ()

    def _start(self) -> None:
        import mujoco

        quality, size = self._model.vis.quality, self._model.vis.global_
        # before the context is made, which reads both; changed later they do nothing
        if self.preset == "fast":
            quality.offsamples = 0
            quality.shadowsize = 0
        size.offwidth, size.offheight = max(self.width, 1), max(self.height, 1)
        self._gl = _gl_context(self.width, self.height)
        with _drawing_with(choose_backend()):
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        # maxgeom bounds the memory; what is beyond it is left out of the picture
        self._scene = mujoco.MjvScene(self._model, maxgeom=MAX_GEOMS)
        if self.preset == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = self._groups
        self._viewport = mujoco.MjrRect(0, 0, self.width, self.height)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        if not _live:
            # exit handlers run last in, first out: ours must precede the one with which EGL has
            # just registered its own end
            atexit.unregister(close_all)
            atexit.register(close_all)
        _live.add(self)

    def render(self, data: Any, camera: int) -> np.ndarray:
        """The picture of camera number `camera` in the state `data`: uint8 (height,
        width, 3), first row on top.

        Raises RenderingError if the machine cannot render, RuntimeError after `close`.
        """
        import mujoco

        if not self._open:
            raise RuntimeError("the renderer is closed: build a new one")
        if self._gl is None:
            self._start()
        # several envs render in turn in one process: the other's context may be the current one
        self._gl.make_current()
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._options,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        # after the update, which clears the scene's list of geoms
        self._add_extras()
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        image = np.empty((self.height, self.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, self._viewport, self._context)
        return np.ascontiguousarray(image[::-1])  # OpenGL's first row is the lowest

    def _add_extras(self) -> None:
        import mujoco

        for extra in self.extras:
            if self._scene.ngeom >= self._scene.maxgeom:
                raise RuntimeError(f"extras: a picture holds at most {MAX_GEOMS} geoms; draw fewer")
            mujoco.mjv_initGeom(
                self._scene.geoms[self._scene.ngeom],
                getattr(mujoco.mjtGeom, f"mjGEOM_{extra.shape.upper()}"),
                np.array(extra.size, dtype=np.float64),
                np.array(extra.position, dtype=np.float64),
                np.array(extra.rotation, dtype=np.float64),
                np.array(extra.rgba, dtype=np.float32),
            )
            self._scene.ngeom += 1

    def close(self) -> None:
        """Frees the OpenGL context; may be called twice."""
        self._open = False
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
            _live.discard(self)
