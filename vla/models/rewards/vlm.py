"""A vision-language model that is asked whether the task is done; it learns nothing.

B windows, T steps, N prompts, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from vla.config import PathText, register
from vla.models.layers.vision_language import VisionLanguageModel, VLMError
from vla.models.layers.vision_language_base import fingerprint, load_base, load_processor
from vla.models.policy import Policy
from vla.models.rewards.base import RewardError, RewardModel, RewardModelConfig
from vla.types import Batch, Spec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_FIELD = "{instruction}"


@register("rewards", "vlm")
class VLMRewardConfig(RewardModelConfig):
    """How likely a vision-language model is to answer that the task is done.

    Formula: score = log P(yes | frames, instruction); success = P(yes) / (P(yes) + P(no)), each of
    the answer's first token. Nothing is trained.

    Source: TOPReward, 2026, "Token probabilities as hidden zero-shot rewards for robotics".
    """

    learns_by_steps: ClassVar[bool] = False
    type: Literal["vlm"] = "vlm"
    base: PathText
    """Model of the Hugging Face hub, or a folder that holds one: SmolVLM, PaliGemma, Qwen-VL ..."""
    history: int = Field(default=16, ge=1, le=10_000)
    """Steps of the past that its frames are taken from."""
    frames: int = Field(default=4, ge=1, le=64)
    """Frames of these that are shown, evenly spread, the present one among them."""
    camera: str | None = None
    """The camera whose frames are shown; null: the spec's first."""
    prompt: str = Field(
        default="The pictures show a robot in the order of time. It was asked: {instruction} Is "
        "this done in the last picture? Answer True or False.",
        max_length=10_000,
    )
    """What is asked; {instruction} stands for the instruction. The frames come first."""
    yes: str = Field(default="True", min_length=1, max_length=100)
    """The answer whose probability is the score."""
    no: str = Field(default="False", min_length=1, max_length=100)
    """The answer that it is weighed against."""
    chat: bool | None = None
    """Put the prompt into the base's chat template; null: if it has one."""
    processor: dict[str, Any] = Field(default_factory=dict)
    """Further arguments for the base's processor, for example do_image_splitting: false."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the base's weights are kept."""

    @field_validator("prompt")
    @classmethod
    def _has_a_place_for_the_instruction(cls, value: str) -> str:
        # replaced as text: braces elsewhere mean nothing
        if value.count(_FIELD) != 1:
            raise ValueError(f"expected {_FIELD} once, found it {value.count(_FIELD)} times")
        return value

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        """Raises VLMError if the base cannot be had, RewardError if there is no such camera."""
        return VLMReward(self, spec)


class VLMReward(RewardModel):
    """See `VLMRewardConfig`. Its folder names the base, whose weights it does not hold."""

    config: VLMRewardConfig
    judges_success: ClassVar[bool] = True

    def __init__(self, config: VLMRewardConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        cameras = list(spec.cameras)
        camera = config.camera or next(iter(cameras), "")
        if camera not in cameras:
            raise RewardError(
                f"model.camera: there is no camera {camera!r}; there are: "
                f"{', '.join(cameras) or 'none'}"
            )
        self.camera = camera
        self.cameras = (camera,)
        self.history = config.history
        base = load_base(config.base, _DTYPES[config.dtype])
        self.base_fingerprint = fingerprint(base)
        self.trunk = VisionLanguageModel(
            base, load_processor(config.base), options=config.processor, chat=config.chat
        )
        self.trunk.requires_grad_(False)
        self.yes, self.no = (self._first_token(text) for text in (config.yes, config.no))
        if self.yes == self.no:
            raise VLMError(
                f"model.yes and model.no: {config.yes!r} and {config.no!r} begin with the same "
                "token; choose answers that do not"
            )

    def _first_token(self, text: str) -> int:
        ids = self.trunk.tokenizer(text, add_special_tokens=False)["input_ids"]
        return int(ids[0])

    def weights(self) -> dict[str, Tensor]:
        own = super().weights()
        return {name: tensor for name, tensor in own.items() if not name.startswith("trunk.")}

    @property
    def files(self) -> dict[str, Any]:
        # not by name: the same name may get other weights
        return {"base_fingerprint": self.base_fingerprint}

    def check_files(self, values: Mapping[str, Any]) -> None:
        wanted = values.get("base_fingerprint")
        if wanted != self.base_fingerprint:
            raise RewardError(
                f"model.base: {self.config.base} has weights {self.base_fingerprint}, the reward "
                f"model was saved with {wanted}; name the base that it was made with"
            )

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        return self._over_steps(batch)[0]

    def success(self, batch: Batch) -> Float[Tensor, "B T"]:
        return self._over_steps(batch)[1]

    def judge_last(self, batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        # not by `score`, which asks the model once for every step of the window
        return self._answers(batch, batch.mask.shape[1])

    def _over_steps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        T = batch.mask.shape[1]
        found = [self._answers(batch, stop) for stop in range(1, T + 1)]
        scores, success = zip(*found, strict=True)
        return torch.stack(scores, 1), torch.stack(success, 1)

    @torch.no_grad()
    def _answers(self, batch: Batch, stop: int) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Score and success of the step before `stop`."""
        images, prompts = [], []
        frames_BTHW3 = batch.images[self.camera]
        for row, text in enumerate(batch.instruction):
            # padding repeats the first frame, which would look like a robot that waits
            seen = np.flatnonzero(batch.mask[row, :stop].cpu().numpy())
            if not len(seen):
                seen = np.array([stop - 1])
            count = min(len(seen), self.config.frames)
            places = np.linspace(0, len(seen) - 1, count).round().astype(int)
            if count == 1:
                places = np.array([len(seen) - 1])
            # channels first: processors guess by the shape, and three rows may be three colours
            images.append([frames_BTHW3[row, t].permute(2, 0, 1) for t in seen[places].tolist()])
            prompts.append(self.config.prompt.replace(_FIELD, text))
        log_probs_BV = self._log_probs(prompts, images)
        yes_B, no_B = log_probs_BV[:, self.yes], log_probs_BV[:, self.no]
        return yes_B, torch.sigmoid(yes_B - no_B)

    def _log_probs(self, prompts: list[str], images: list[list[Tensor]]) -> Float[Tensor, "B V"]:
        """Of the answer's first token. Prompts of different numbers of frames are asked apart."""
        found: dict[int, Tensor] = {}
        for count in {len(row) for row in images}:
            rows = [i for i, row in enumerate(images) if len(row) == count]
            prompt = self.trunk.prompt([prompts[i] for i in rows], [images[i] for i in rows])
            # padded on the left: the last place of every row is where the answer begins
            hidden_NW = self.trunk.hidden(prompt)[:, -1]
            logits_NV = self.trunk.model.get_output_embeddings()(hidden_NW).float()
            softcap = self.trunk.softcap
            if softcap is not None:
                logits_NV = softcap * torch.tanh(logits_NV / softcap)
            log_probs_NV = logits_NV.log_softmax(-1)
            found |= dict(zip(rows, log_probs_NV, strict=True))
        return torch.stack([found[i] for i in range(len(images))])


__all__ = ["VLMReward", "VLMRewardConfig"]
