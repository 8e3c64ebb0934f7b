"""EfficientNet with FiLM after every block: an image becomes a map of tokens that an instruction has coloured.

RT-1 (Brohan et al. 2022, section 5.1); FiLM: Perez et al. 2018. Any EfficientNet of timm will do.

N images, U distinct conditions, C channels, D token width, h and w size of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct, freeze_batch_norm_2d
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from vla.common.names import did_you_mean
from vla.config import UserError

Norm = Literal["batch", "frozen_batch", "group"]


class TrunkError(UserError):
    """The image trunk does not exist, is of another kind, or its weights cannot be had."""


class FiLM(nn.Module):
    """Feature-wise scale and shift for a list of layers: x -> (1 + gamma(c)) * x + beta(c).

    All layers' gamma and beta come from one zero-initialised matrix: the identity at first, and one product per
    condition instead of two per layer.
    """

    def __init__(self, condition_dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.parameters_of = nn.Linear(condition_dim, 2 * sum(channels))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)

    def forward(self, condition_UE: Float[Tensor, "U E"]) -> list[tuple[Tensor, Tensor]]:
        """-> for each layer (1 + gamma, beta), each (U, C)."""
        parts = self.parameters_of(condition_UE).split(
            [c for c in self.channels for _ in range(2)], dim=1
        )
        return [(1 + gamma, beta) for gamma, beta in zip(parts[::2], parts[1::2], strict=True)]


def modulate(
    x: Float[Tensor, "N C h w"], scale: Tensor, shift: Tensor, index_N: Tensor | None,
) -> Tensor:
    """scale, shift (U, C) of image n's condition `index_N[n]`; None where N = U and they stand in order."""
    if index_N is not None:
        scale, shift = scale[index_N], shift[index_N]
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class FilmEfficientNet(nn.Module):
    """uint8 images and a condition per image -> a map of tokens.

    Args:
        name: a timm EfficientNet: efficientnet_b3, tf_efficientnetv2_b0, tinynet_e ...
        condition_dim: width of the condition.
        token_dim: D.
        stride: pixels per token, 8, 16 or 32; blocks beyond that stage are not kept.
        norm: batch; frozen_batch (statistics and affine parameters fixed: for pretrained trunks and small batches);
            or group (groups of 8 channels: independent of the batch).
        pretrained: ImageNet weights by timm; True, the name of a timm tag ("ra2_in1k"), or a .safetensors file.

    Raises:
        TrunkError: no such model, none of the EfficientNet family, no such stride, or weights out of reach.
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
    ) -> None:
        super().__init__()
        model = create_trunk(name, norm=norm, pretrained=pretrained)
        stages = {f["reduction"]: f["stage"] for f in model.feature_info}
        if stride not in stages:
            raise TrunkError(
                f"trunk {name!r} has no stage of stride {stride}; there are: {sorted(stages)}"
            )
        self.name, self.stride, self.token_dim = name, stride, token_dim
        blocks = [
            block
            for stage in model.blocks[: stages[stride]].children()
            for block in stage.children()
        ]
        channels = [_out_channels(block) for block in blocks]
        self.stem = nn.Sequential(model.conv_stem, model.bn1)
        self.blocks = nn.ModuleList(blocks)
        self.film = FiLM(condition_dim, channels)
        whole = stages[stride] == len(model.blocks)
        self.head = nn.Sequential(model.conv_head, model.bn2) if whole else nn.Identity()
        self.project = nn.Conv2d(
            model.num_features if whole else channels[-1], token_dim, 1, bias=False
        )
        self.film_out = FiLM(condition_dim, [token_dim])
        statistics: Any = model.default_cfg
        for key in ("mean", "std"):
            value = torch.tensor(statistics[key]).view(1, 3, 1, 1) * 255
            self.register_buffer(key, value, persistent=False)
        self.to(memory_format=torch.channels_last)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size (h, w) of the map for images of this size: every stage of stride 2 rounds up."""
        for _ in range(self.stride.bit_length() - 1):
            height, width = -(-height // 2), -(-width // 2)
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
            modulation: what `modulation` gave for U conditions.
            index_N: which condition each image has; None where every image has its own.
        """
        x = self.stem(x)
        for block, (scale, shift) in zip(self.blocks, modulation[:-1], strict=True):
            x = modulate(block(x), scale, shift, index_N)
        return modulate(self.project(self.head(x)), *modulation[-1], index_N)

    def prepare(
        self, images: UInt8[Tensor, "N H W 3"], size: tuple[int, int] | None = None,
    ) -> Tensor:
        """uint8 RGB -> normalised float (N, 3, H, W), channels last; resized (bilinear) to `size` where it is another."""
        x = images.permute(0, 3, 1, 2).to(
            self.mean.dtype
        )  # NHWC bytes are channels-last already: no copy
        if size is not None and x.shape[-2:] != torch.Size(size):
            shrinks = x.shape[-2] > size[0] or x.shape[-1] > size[1]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=shrinks)
        return (x - self.mean).div_(self.std)


def create_trunk(name: str, *, norm: Norm, pretrained: bool | str) -> EfficientNet:
    """A timm EfficientNet without classifier. Raises TrunkError."""
    if not timm.is_model(name):
        hint = did_you_mean(
            name, timm.list_models("*efficientnet*") + timm.list_models("tinynet*"), cutoff=0.6
        )
        raise TrunkError(
            f"no timm model {name!r}{hint}; `timm.list_models('*efficientnet*')` names them"
        )
    from_file = isinstance(pretrained, str) and pretrained.endswith(".safetensors")
    full_name = f"{name}.{pretrained}" if isinstance(pretrained, str) and not from_file else name
    try:
        model = timm.create_model(
            full_name, pretrained=bool(pretrained) and not from_file, num_classes=0
        )
    except Exception as error:  # timm and the hub raise many kinds
        cause = " ".join(str(error).split())[:300]
        remedy = (
            "set pretrained: false, or give a .safetensors file"
            if pretrained
            else "choose another trunk"
        )
        raise TrunkError(
            f"cannot create trunk {full_name!r} (pretrained: {pretrained}): {cause}; {remedy}"
        ) from error
    if not isinstance(model, EfficientNet):
        raise TrunkError(
            f"{name!r} is a {type(model).__name__}; the trunk must be one of timm's EfficientNet family"
        )
    if from_file:
        _load_trunk_file(model, str(pretrained))
    if norm == "group":
        _replace_batch_norm(model)
    return freeze_batch_norm_2d(model) if norm == "frozen_batch" else model


def _load_trunk_file(model: nn.Module, path: str) -> None:
    if not Path(path).is_file():
        raise TrunkError(f"pretrained: no file {path}")
    try:
        weights = {k: v for k, v in load_file(path).items() if not k.startswith("classifier.")}
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise TrunkError(
            f"pretrained: {path} does not fit the trunk: {' '.join(str(error).split())[:300]}"
        ) from error


def _replace_batch_norm(module: nn.Module) -> None:
    """Every batch norm of a timm model becomes a group norm with the same affine parameters and activation."""
    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            group = GroupNormAct(child.num_features, group_size=8, eps=child.eps)
            group.weight, group.bias, group.drop, group.act = (
                child.weight,
                child.bias,
                child.drop,
                child.act,
            )
            setattr(module, name, group)
        else:
            _replace_batch_norm(child)


def _out_channels(block: nn.Module) -> int:
    """Channels that a block puts out: those of its last norm (a convolution may be split into several)."""
    norms = [
        m
        for m in block.modules()
        if isinstance(m, (nn.BatchNorm2d, FrozenBatchNormAct2d, nn.GroupNorm))
    ]
    return norms[-1].state_dict()["weight"].numel()


__all__ = ["FiLM", "FilmEfficientNet", "Norm", "TrunkError", "create_trunk", "modulate"]
