"""Videos of episodes: MP4 files that browsers play."""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.storage.video import reproducible_x264
from vla.sim_eval.env import SimEnv
from vla.sim_eval.rendering import RenderingError

SMALLEST_SIDE = 192  # pixels; smaller frames are enlarged


class VideoWriter:
    """Writes frames to an MP4 file: H.264 if PyAV has it, else MPEG-4.

    Small frames are enlarged by a whole number, which costs few bytes and looks sharp.

    Args:
        path: file to write.
        fps: steps per second at which the film plays.
        max_bytes: memory that frames may take until they are encoded; beyond it every second one
            goes, and of those to come too. None: no limit.
    """

    def __init__(self, path: str | Path, fps: float, *, max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._fps = Fraction(fps).limit_denominator(1000)
        self._max_bytes = max_bytes
        self._frames: list[tuple[int, np.ndarray]] = []  # step and frame
        self._latest: tuple[int, np.ndarray] | None = None
        self._offered = 0
        self._stride = 1  # of the frames that are offered, every so many are kept

    def add(self, frame: np.ndarray, step: int | None = None) -> None:
        """Takes the next frame.

        Args:
            frame: uint8 (H, W, 3), the same size every time.
            step: when it is shown; default one after the other.
        """
        # the newest is kept whatever the stride: a film must show how the episode ended
        shown_at = self._offered if step is None else step
        self._latest = (shown_at, np.ascontiguousarray(frame))
        if self._offered % self._stride == 0:
            self._frames.append(self._latest)
        self._offered += 1
        if self._max_bytes is None or len(self._frames) <= 2:
            return
        if len(self._frames) * frame.nbytes > self._max_bytes:
            self._frames = self._frames[::2]
            self._stride *= 2

    @property
    def last_step(self) -> int:
        """Step of the newest frame; -1 before the first."""
        return -1 if self._latest is None else self._latest[0]

    def close(self) -> None:
        """Encodes the file. Raises ValueError if no frame was added."""
        if self._latest is None:
            raise ValueError(f"{self.path}: a video needs at least one frame")
        import av

        frames = list(self._frames)
        if frames[-1] is not self._latest:
            frames.append(self._latest)
        first_step = frames[0][0]
        height, width = frames[0][1].shape[:2]
        scale = _scale(height, width)
        codec = best_codec()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # faststart: the index stands at the front, so a browser plays before it has the whole file
        with av.open(str(self.path), "w", options={"movflags": "faststart"}) as container:
            stream: Any = container.add_stream(codec, rate=self._fps)
            stream.width = width * scale
            stream.height = height * scale
            stream.pix_fmt = "yuv420p"
            # time is counted in steps, of which some may have no frame
            stream.time_base = stream.codec_context.time_base = 1 / self._fps
            if codec == "libx264":
                # one thread: a worker has one core, and the file must not depend on their number
                options = {"crf": "23", "preset": "veryfast", "threads": "1"}
                stream.options = options | reproducible_x264()
            for step, frame in frames:
                # by whole pixels: an encoder's own scaling would blur them
                large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
                picture = av.VideoFrame.from_ndarray(large, format="rgb24")
                picture.pts = step - first_step
                picture.time_base = 1 / self._fps
                container.mux(stream.encode(picture))
            container.mux(stream.encode())  # what the encoder still holds
        self.discard()

    def discard(self) -> None:
        """Forgets the frames; nothing is written."""
        self._frames.clear()
        self._latest = None


def _scale(height: int, width: int) -> int:
    """How many times frames are enlarged."""
    scale = max(1, -(-SMALLEST_SIDE // min(height, width)))
    # yuv420p stores colours for 2 x 2 pixels: sides must be even
    odd = scale * height % 2 or scale * width % 2
    return scale + 1 if odd else scale


def film_frame(env: SimEnv, observation: dict[str, Any]) -> np.ndarray | None:
    """What a film shows of an observation, uint8 (H, W, 3); None if there is no picture.

    The cameras side by side; of a robot without cameras what `env.render` draws.
    """
    images = list(observation["images"].values())
    if images:
        return np.concatenate(images, axis=1)
    # a robot with cameras is filmed through them alone: `render` may show it from elsewhere
    if env.robot_spec.cameras:
        return None
    try:
        picture: Any = env.render()
    except (NotImplementedError, RenderingError):  # gymnasium's own `render` raises the former
        return None
    return None if picture is None else np.asarray(picture)


@functools.cache
def best_codec() -> str:
    """The first encoder of PyAV that browsers can play."""
    import av

    # builds of FFmpeg differ: those under the LGPL lack libx264
    for name in ("libx264", "libopenh264"):
        if name in av.codecs_available:
            return name
    return "mpeg4"


def read_video(path: str | Path) -> np.ndarray:
    """All frames of a video: uint8 (N, H, W, 3)."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)
