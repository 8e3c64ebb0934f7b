"""Draws docs/quadruped.png: the expert in five families, seen from behind and by its own camera.

python scripts/draw_quadruped.py [--size 160]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

OUT = Path(__file__).parents[1] / "docs" / "quadruped.png"
WALKS = (
    ("around", 3, "trotting"),
    ("go-through", 3, "pacing"),
    ("crawl", 3, "trotting"),
    ("distinguish", 3, "bounding"),
    ("unload", 3, "trotting"),
)
"""Family, seed, gait."""
SHARES = (0.0, 0.45, 0.75, 1.0)
"""When pictures are taken, as shares of the episode."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160, help="of each picture, pixels")
    size = parser.parse_args().size
    rows = [row(family, seed, gait, size) for family, seed, gait in WALKS]
    Image.fromarray(np.concatenate(rows)).quantize(128).save(OUT, optimize=True)
    print("wrote", OUT)


def row(family: str, seed: int, gait: str, size: int) -> np.ndarray:
    """An instruction above the pictures of an episode."""
    from vla.sim_eval.envs.quadruped import QuadrupedConfig

    config = QuadrupedConfig(image_size=size, manner=True, speeds=["normally"], gaits=[gait])
    env = config.make(family)
    env.render_images = False
    info = env.reset(seed=seed)[1]
    views = [(env.render(), seen(env))]
    while not info["success"] and len(views) < env.task.horizon:
        info = env.step(env.expert_action())[4] | {"instruction": info["instruction"]}
        views.append((env.render(), seen(env)))
    chosen = [views[round(share * (len(views) - 1))] for share in SHARES]
    pictures = np.concatenate([np.concatenate(pair, axis=1) for pair in chosen], axis=1)
    env.close()
    return np.concatenate([caption(info["instruction"], pictures.shape[1]), pictures])


def seen(env: object) -> np.ndarray:
    """The picture of the robot's own camera."""
    env.render_images = True  # type: ignore[attr-defined]
    picture = env.observe()["images"]["front"]  # type: ignore[attr-defined]
    env.render_images = False  # type: ignore[attr-defined]
    return np.asarray(picture)


def caption(text: str, width: int) -> np.ndarray:
    """White text on a dark strip."""
    strip = Image.new("RGB", (width, 24), (30, 30, 36))
    ImageDraw.Draw(strip).text((8, 5), text, fill=(255, 255, 255))
    return np.asarray(strip)


if __name__ == "__main__":
    main()
