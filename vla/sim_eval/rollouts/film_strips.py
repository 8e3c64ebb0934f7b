"""Film strips: one picture of frames spread over an episode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

GAP, TITLE, LABEL = 6, 34, 22  # pixels between frames, above them, and below them for the step
TITLE_COLOUR, LABEL_COLOUR = "#1c2430", "#5b6675"


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

    Raises ValueError if there is no frame.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not len(frames):
        raise ValueError(f"{path}: a film strip needs at least one frame")
    spread = np.linspace(0, len(frames) - 1, min(count, len(frames)))
    # unique, since rounding may give two neighbours the same step
    steps = np.unique(spread.round().astype(int))
    frame_height, frame_width = frames[0].shape[:2]
    width = round(height * frame_width / frame_height)
    size = (GAP + len(steps) * (width + GAP), TITLE + height + LABEL + GAP)
    strip = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(strip)
    title_font, label_font = ImageFont.load_default(18), ImageFont.load_default(13)
    draw.text((GAP + 2, 7), f"“{caption}”", fill=TITLE_COLOUR, font=title_font)
    for i, step in enumerate(steps):
        left = GAP + i * (width + GAP)
        frame = Image.fromarray(frames[step])
        strip.paste(frame.resize((width, height), Image.Resampling.LANCZOS), (left, TITLE))
        below = (left + 2, TITLE + height + 4)
        draw.text(below, f"step {step}", fill=LABEL_COLOUR, font=label_font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    strip.save(path)
    return path
