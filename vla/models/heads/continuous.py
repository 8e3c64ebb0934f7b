"""What the heads over real-valued actions share: the units in which they learn, means over chunks,
a small network.

B windows, T steps, K actions per chunk, A action dimensions, N actions.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla.models.heads.base import HeadError
from vla.types import Spec

LEAST_SHARE = 1e-3
"""A dimension's unit is at least this share of half its range: a unit of next to nothing would blow
up noise."""


class ActionScale(nn.Module):
    """Robot units <-> units of the data, for each action dimension: `robot = shift + scale * unit`.

    Before `fit` the unit is half the spec's range, around its middle. If a dimension never moved,
    its one value is 0 and its unit tiny, so that predictions stay at that value.

    Args:
        spec: of the robot.
        kind: spread, mean 0 and deviation 1; or range, two quantiles of the data at -1 and 1.
        quantiles: of the range; of a dimension whose quantiles are equal the least and greatest
            values are taken.
    """

    shift: Tensor
    scale: Tensor
    half_range: Tensor

    def __init__(
        self,
        spec: Spec,
        kind: Literal["spread", "range"] = "spread",
        quantiles: tuple[float, float] = (0.01, 0.99),
    ) -> None:
        super().__init__()
        self.kind = kind
        self.quantiles = quantiles
        self.names = spec.action_names
        low = torch.tensor(spec.action_low)
        high = torch.tensor(spec.action_high)
        # follows from the spec, so it is not saved; shift and scale are fitted, so they are
        self.register_buffer("half_range", (high - low) / 2, persistent=False)
        self.register_buffer("shift", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)

    def fit(self, actions: Float[Tensor, "N A"]) -> None:
        """Raises HeadError if there are no actions, or they have other dimensions or are not
        finite."""
        A = len(self.names)
        if actions.ndim != 2 or actions.shape[1] != A or len(actions) == 0:
            raise HeadError(
                f"policy.head: expected actions of shape (N, {A}) ({', '.join(self.names)}), "
                f"got {tuple(actions.shape)}; fit on the actions of this robot's dataset"
            )
        # float64: sums over millions of steps lose digits in float32
        values_NA = actions.detach().to("cpu", torch.float64)
        finite_A = torch.isfinite(values_NA).all(0)
        if not bool(finite_A.all()):
            bad = [name for name, ok in zip(self.names, finite_A.tolist(), strict=True) if not ok]
            raise HeadError(
                f"policy.head: actions hold NaN or infinity in {', '.join(bad)}; "
                "drop or mend those steps"
            )
        if self.kind == "spread":
            shift_A, scale_A = _spread(values_NA)
        else:
            shift_A, scale_A = _range(values_NA, self.quantiles)
        least_A = LEAST_SHARE * self.half_range.cpu().double()
        self.shift.copy_(shift_A)
        self.scale.copy_(torch.maximum(scale_A, least_A))

    def to_unit(self, actions: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Robot units -> units of the data."""
        return (actions.float() - self.shift) / self.scale

    def to_robot(self, unit: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Units of the data -> robot units."""
        return self.shift + self.scale * unit.float()


def _spread(values_NA: Tensor) -> tuple[Tensor, Tensor]:
    return values_NA.mean(0), values_NA.std(0, unbiased=False)


def _range(values_NA: Tensor, quantiles: tuple[float, float]) -> tuple[Tensor, Tensor]:
    # by rank: torch.quantile takes no more than 2^24 numbers
    ranks = [round(q * (len(values_NA) - 1)) for q in quantiles]
    low_A, high_A = values_NA.sort(0).values[ranks]
    # a gripper that is open in 99 % of the steps has equal quantiles, and still two values
    flat_A = low_A == high_A
    low_A = torch.where(flat_A, values_NA.amin(0), low_A)
    high_A = torch.where(flat_A, values_NA.amax(0), high_A)
    return (low_A + high_A) / 2, (high_A - low_A) / 2


class MLP(nn.Sequential):
    """LayerNorm (trunks need not end in one), `depth` hidden layers with GELU, a linear layer;
    float32 comes out."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int = 1) -> None:
        layers: list[nn.Module] = [nn.LayerNorm(inputs)]
        width = inputs
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.GELU()]
            width = hidden
        super().__init__(*layers, nn.Linear(hidden, outputs))

    @property
    def out(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self[-1])

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """x of any floating-point type."""
        # under autocast the trunk hands over bfloat16, which a float32 layer would refuse
        return super().forward(x.to(self.out.weight.dtype)).float()


def chunk_mean(
    values: Float[Tensor, "B T K"],
    action_mask: Bool[Tensor, "B T K"] | None,
) -> Float[Tensor, "B T"]:
    """Mean over the valid actions of each chunk; 0 if there are none."""
    if action_mask is None:
        return values.mean(-1)
    # `where`, not a product: what does not count may be infinite, and 0 * inf is NaN
    return values.where(action_mask, 0.0).sum(-1) / action_mask.sum(-1).clamp(min=1)


def of_chosen(
    values: Float[Tensor, "B T G M K A"],
    index: Int64[Tensor, "B T G"],
) -> Float[Tensor, "B T G K A"]:
    """Of M ways to act, the one that is chosen in each of G places."""
    # not take_along_dim, which would fix the number of robots of an exported graph
    B, T, G, _, K, A = values.shape
    rows = index[..., None, None, None].expand(B, T, G, 1, K, A)
    return values.gather(3, rows).squeeze(3)


def without_masked(
    unit: Float[Tensor, "B T K A"],
    action_mask: Bool[Tensor, "B T K"] | None,
) -> Tensor:
    """0, the mean action, in place of actions that do not count."""
    return unit if action_mask is None else unit.where(action_mask[..., None], 0.0)


def check_temperature(temperature: float) -> None:
    """Raises ValueError if it is negative or no number."""
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 (the mode) or positive, got {temperature}")


__all__ = [
    "MLP",
    "ActionScale",
    "check_temperature",
    "chunk_mean",
    "of_chosen",
    "without_masked",
]
