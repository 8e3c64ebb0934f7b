"""Perturbations of what the policy sees. The simulation, and a scripted expert that reads it, notice nothing."""

from __future__ import annotations

import numpy as np

from vla.sim_eval.perturbations.base import Observed, Perturbation, perturbation

GREY = 127
STATE_NOISE_PER_LEVEL = 2e-4


@perturbation(
    "noise",
    levels=(10, 20, 40),
    unit="pixels ± {} of 255 (one deviation), state ± 0.0002 of its units for each of them",
)
class Noise(Perturbation):
    """Gaussian noise, drawn anew for every step, in each pixel's channels and each value of the state.

    The state's deviation at the three severities is 0.002, 0.004 and 0.008: millimetres where it is in metres.
    """

    def observation(self, observation: Observed, step: int) -> Observed:
        images = {}
        for i, (camera, image) in enumerate(sorted(observation["images"].items()), start=1):
            grain = self.rng(step, i).standard_normal(image.shape, dtype=np.float32)
            images[camera] = np.clip(np.rint(image + self.level * grain), 0, 255).astype(np.uint8)
        state = observation["state"]
        grain = self.rng(step, 0).standard_normal(state.shape, dtype=np.float32)
        noisy = (state + np.float32(self.level * STATE_NOISE_PER_LEVEL) * grain).astype(state.dtype)
        return {**observation, "images": images, "state": noisy}


@perturbation(
    "blur",
    levels=(0.5, 1.0, 2.0),
    unit="Gaussian of {} % of the picture's height",
    needs=("cameras",),
)
class Blur(Perturbation):
    """Pictures out of focus; the level is the deviation of the Gaussian."""

    def observation(self, observation: Observed, step: int) -> Observed:
        from scipy.ndimage import gaussian_filter

        images = {}
        for camera, image in observation["images"].items():
            deviation = self.level / 100 * image.shape[0]
            soft = gaussian_filter(
                image.astype(np.float32), (deviation, deviation, 0), mode="nearest"
            )
            images[camera] = np.clip(np.rint(soft), 0, 255).astype(np.uint8)
        return {**observation, "images": images}


@perturbation("blank_image", unit="every picture is plain grey", needs=("cameras",))
class BlankImage(Perturbation):
    """Control: what the policy does with its eyes shut."""

    def observation(self, observation: Observed, step: int) -> Observed:
        blank = {
            camera: np.full_like(image, GREY) for camera, image in observation["images"].items()
        }
        return {**observation, "images": blank}


@perturbation("frozen_state", unit="the state stays what it was at the start", needs=("state",))
class FrozenState(Perturbation):
    """Control: what the policy does when its state tells nothing new."""

    def observation(self, observation: Observed, step: int) -> Observed:
        if step == 0:
            self._state = np.array(observation["state"])
        return {**observation, "state": np.array(self._state)}
