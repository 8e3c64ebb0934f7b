"""What passes between the rooms: specs, observations, batches, outputs.

Shape letters used everywhere: B batch, T time steps of context, K actions per chunk,
A action dimensions, S state dimensions, F features, H and W image height and width.
"""

from vla.types.batch import Batch
from vla.types.errors import SpecError
from vla.types.images import ImageSize, resized
from vla.types.observation import Observation
from vla.types.policy import ActionDistribution, Actor, Memory, PolicyOutput
from vla.types.spec import Spec

__all__ = [
    "ActionDistribution",
    "Actor",
    "Batch",
    "ImageSize",
    "Memory",
    "Observation",
    "PolicyOutput",
    "Spec",
    "SpecError",
    "resized",
]
