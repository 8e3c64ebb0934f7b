"""Videos of episodes: MP4 files that browsers play, and film strips as pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vla.sim_eval.env import SimEnv
from vla.sim_eval.rendering import RenderingError


class VideoWriter:
    """Writes frames to an MP4 file: H.264 where PyAV has it, else MPEG-4.

    Frames smaller than 192 pixels are enlarged by a whole number, which costs few bytes and looks sharp.

    Args:
        path: file to write.
        fps: steps per second at which the film plays.
        max_bytes: memory that frames may take until they are encoded; beyond it every second one goes, and of those
            to come too. None: no limit.
    """

    def __init__(self, path: str | Path, fps: float, *, max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._fps = Fraction(fps).limit_denominator(1000)
        self._frames: list[tuple[int, np.ndarray]] = []
        self._latest: tuple[int, np.ndarray] | None = None
        self._offered, self._stride, self._max_bytes = 0, 1, max_bytes

    def add(self, frame: np.ndarray, step: int | None = None) -> None:
        """frame: uint8 (H, W, 3), the same size every time; step: when it is shown, default one after the other."""
        self._latest = (self._offered if step is None else step, np.ascontiguousarray(frame))
        if self._offered % self._stride == 0:
            self._frames.append(self._latest)
        self._offered += 1
        if (
            self._max_bytes is not None
            and len(self._frames) > 2
            and len(self._frames) * frame.nbytes > self._max_bytes
        ):
            self._frames, self._stride = self._frames[::2], 2 * self._stride

    @property
    def last_step(self) -> int:
        """Step of the newest frame; -1 before the first."""
        return -1 if self._latest is None else self._latest[0]

    def close(self) -> None:
        """Encodes the file. Raises ValueError where no frame was added."""
        if self._latest is None:
            raise ValueError(f"{self.path}: a video needs at least one frame")
        import av

        frames = self._frames if self._frames[-1] is self._latest else [*self._frames, self._latest]
        height, width = frames[0][1].shape[:2]
        scale = max(1, -(-192 // min(height, width)))
        scale += scale * height % 2 or scale * width % 2  # the pixel format needs even sides
        self.path.parent.mkdir(parents=True, exist_ok=True)
        codec = best_codec()
        with av.open(str(self.path), "w", options={"movflags": "faststart"}) as container:
            stream: Any = container.add_stream(codec, rate=self._fps)
            stream.width, stream.height, stream.pix_fmt = width * scale, height * scale, "yuv420p"
            stream.time_base = stream.codec_context.time_base = 1 / self._fps
            if codec == "libx264":
                stream.options = {"crf": "23", "preset": "veryfast", "threads": "1"}
            for step, frame in frames:
                large = frame.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else frame
                picture = av.VideoFrame.from_ndarray(large, format="rgb24")
                picture.pts, picture.time_base = step - frames[0][0], 1 / self._fps
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        self.discard()

    def discard(self) -> None:
        """Forgets the frames; nothing is written."""
        self._frames.clear()
        self._latest = None


def film_frame(env: SimEnv, observation: dict[str, Any]) -> np.ndarray | None:
    """What a film shows of an observation, uint8 (H, W, 3): the cameras side by side; of a robot without cameras what
    `env.render` draws. None where there is no picture."""
    if images := list(observation["images"].values()):
        return np.concatenate(images, axis=1)
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

    return next(
        (name for name in ("libx264", "libopenh264") if name in av.codecs_available), "mpeg4"
    )


def read_video(path: str | Path) -> np.ndarray:
    """All frames of a video: uint8 (N, H, W, 3)."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def film_strip(
    path: str | Path,
    frames: Sequence[np.ndarray],
    caption: str,
    *,
    count: int = 8,
    height: int = 160,
) -> Path:
    """A PNG of `count` frames spread over an episode, with their step numbers under a caption.

    Args:
        path: file to write.
        frames: uint8 (H, W, 3), frame i shows the scene before step i.
        caption: usually the instruction.
        count: frames in the strip, at most.
        height: height of a frame in the picture, in pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not len(frames):
        raise ValueError(f"{path}: a film strip needs at least one frame")
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    width = round(height * frames[0].shape[1] / frames[0].shape[0])
    gap, title, label = 6, 34, 22
    size = (gap + len(chosen) * (width + gap), title + height + label + gap)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((gap + 2, 7), f"“{caption}”", fill="#1c2430", font=ImageFont.load_default(18))
    for i, step in enumerate(chosen):
        left = gap + i * (width + gap)
        frame = Image.fromarray(frames[step]).resize((width, height), Image.Resampling.LANCZOS)
        picture.paste(frame, (left, title))
        draw.text(
            (left + 2, title + height + 4),
            f"step {step}",
            fill="#5b6675",
            font=ImageFont.load_default(13),
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path
