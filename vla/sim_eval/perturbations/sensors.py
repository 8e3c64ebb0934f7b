"""Perturbations of what the policy sees.

The simulation, and a scripted expert that reads it, notice nothing.
"""

from __future__ import annotations

import numpy as np

from vla.common.registry import register
from vla.sim_eval.perturbations.base import Observed, Perturbation

GREY = 127
STATE_NOISE_PER_LEVEL = 2e-4


@register("perturbations", "noise")
class Noise(Perturbation):
    """Gaussian noise, drawn independently for every step, in each pixel's channels
    and each value of the state.

    The state's deviation at the three severities is 0.002, 0.004 and 0.008:
    millimetres if it is in metres.
    """

    kind = "noise"
    levels = (10, 20, 40)
    unit = "pixels ± {} of 255 (one deviation), state ± 0.0002 of its units for each of them"

    def observation(self, observation: Observed, step: int) -> Observed:
        images = {}
        # a generator per step and camera: a step that is observed twice, or without
        # pictures, shows the same noise
        named = sorted(observation["images"].items())
        for i, (camera, image) in enumerate(named, start=1):
            grain = self.rng(step, i).standard_normal(image.shape, dtype=np.float32)
            images[camera] = _to_pixels(image + self.level * grain)
        state = observation["state"]
        grain = self.rng(step, 0).standard_normal(state.shape, dtype=np.float32)
        deviation = np.float32(self.level * STATE_NOISE_PER_LEVEL)
        noisy = (state + deviation * grain).astype(state.dtype)
        return {**observation, "images": images, "state": noisy}


@register("perturbations", "blur")
class Blur(Perturbation):
    """Pictures out of focus; the level is the deviation of the Gaussian."""

    kind = "blur"
    levels = (0.5, 1.0, 2.0)
    unit = "Gaussian of {} % of the picture's height"
    needs = ("cameras",)

    def observation(self, observation: Observed, step: int) -> Observed:
        from scipy.ndimage import gaussian_filter

        images = {}
        for camera, image in observation["images"].items():
            # of the height, not in pixels: the same lens blurs small and large pictures alike
            deviation = self.level / 100 * image.shape[0]
            # 0 on the last axis, or the colours would run into each other
            widths = (deviation, deviation, 0)
            soft = gaussian_filter(image.astype(np.float32), widths, mode="nearest")
            images[camera] = _to_pixels(soft)
        return {**observation, "images": images}


@register("perturbations", "blank_image")
class BlankImage(Perturbation):
    """Control: what the policy does with its eyes shut."""

    kind = "blank_image"
    unit = "every picture is plain grey"
    needs = ("cameras",)

    def observation(self, observation: Observed, step: int) -> Observed:
        # medium grey is near zero once normalised; black would be an unusual input of its own
        images = observation["images"]
        blank = {camera: np.full_like(image, GREY) for camera, image in images.items()}
        return {**observation, "images": blank}


@register("perturbations", "frozen_state")
class FrozenState(Perturbation):
    """Control: what the policy does when its state never changes."""

    kind = "frozen_state"
    unit = "the state stays what it was at the start"
    needs = ("state",)

    def observation(self, observation: Observed, step: int) -> Observed:
        if step == 0:
            self._state = np.array(observation["state"])
        # a copy each time: whoever keeps an observation may write into it
        return {**observation, "state": np.array(self._state)}


def _to_pixels(values: np.ndarray) -> np.ndarray:
    """float (H, W, 3) -> uint8; rounded, since a plain cast cuts off and wraps
    around below 0 and above 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
