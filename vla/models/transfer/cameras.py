"""Which camera of a new policy takes the place of which camera of an old one."""

from __future__ import annotations

from collections.abc import Mapping

from vla.models.layers.vision_encoder import VisionEncoder
from vla.models.policy import Policy


def cameras_of(policy: Policy) -> tuple[str, ...]:
    """The cameras that a policy looks through, in its order."""
    if policy.cameras:
        return policy.cameras
    encoder = vision_encoder_of(policy)
    return tuple(policy.spec.cameras) if encoder is None else encoder.cameras


def vision_encoder_of(policy: Policy) -> VisionEncoder | None:
    """The encoder through which all images go; None if there is none, or several."""
    encoders = [module for module in policy.modules() if isinstance(module, VisionEncoder)]
    return encoders[0] if len(encoders) == 1 else None


def paired_cameras(old: Policy, new: Policy, chosen: Mapping[str, str]) -> dict[str, str]:
    """New camera -> old camera: those chosen, then by name, then the others in their order."""
    old_cameras = cameras_of(old)
    new_cameras = cameras_of(new)
    pairs = dict(chosen)
    # a name is a hint, the user's word is more
    for camera in new_cameras:
        if camera in old_cameras and camera not in pairs:
            pairs[camera] = camera
    taken = set(pairs.values())
    spare = [camera for camera in old_cameras if camera not in taken]
    unpaired = [camera for camera in new_cameras if camera not in pairs]
    # not strict: where one policy has more cameras, the rest stays without a partner
    pairs |= dict(zip(unpaired, spare, strict=False))
    return pairs


def keeps_order(old: Policy, new: Policy, pairs: Mapping[str, str]) -> bool:
    """Whether every new camera has the place in its policy that its old camera had there."""
    old_place = {camera: place for place, camera in enumerate(cameras_of(old))}
    new_place = {camera: place for place, camera in enumerate(cameras_of(new))}
    for new_camera, old_camera in pairs.items():
        if new_place.get(new_camera) != old_place.get(old_camera):
            return False
    return True


__all__ = ["cameras_of", "keeps_order", "paired_cameras", "vision_encoder_of"]
