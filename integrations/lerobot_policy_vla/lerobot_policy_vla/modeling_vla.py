"""A policy of vla as LeRobot's scripts use one.

B robots, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from lerobot_policy_vla.configuration_vla import VlaConfig
from lerobot_policy_vla.matching import feature_names, fitted, image_batch, order
from lerobot_policy_vla.sources import Source, source_of

STATE, ACTION = "observation.state", "action"
ELSEWHERE = "a policy of vla is trained with `vla train`, and then exported again"


class VlaPolicy(PreTrainedPolicy):
    """Acts; its training is elsewhere.

    Args:
        config: names, sizes and how chunks are executed.
        source: where actions come from; None: the config's server.
        dataset_meta: of LeRobot, whose names of state and action dimensions are compared with the
            policy's.

    Raises ValueError if the robot's dimensions are not the policy's.
    """

    config_class = VlaConfig
    name = "vla"

    def __init__(
        self,
        config: VlaConfig,
        source: Source | None = None,
        dataset_meta: Any = None,
        **_: Any,  # statistics of the dataset, which the policy does not need
    ) -> None:
        super().__init__(config)
        config.validate_features()
        self.source = source_of(None, config) if source is None else source
        self.network = self.source.module  # moved to a device with this module
        spec, features = self.source.spec, getattr(dataset_meta, "features", None)
        states, actions = feature_names(features, STATE), feature_names(features, ACTION)
        actions = config.action_feature_names if actions is None else actions
        self._state_order = order(spec["state_names"], states, config.match, "state")
        action_order = order(spec["action_names"], actions, config.match, "action")
        self._robot_order = np.argsort(action_order)
        self._policy_order = np.array(action_order, int)
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        **options: Any,
    ) -> VlaPolicy:
        """The policy of an exported folder, or of one on the hub."""
        hub = {"force_download", "token", "cache_dir", "local_files_only", "revision"}
        asked = {key: options.pop(key) for key in hub & set(options)}
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **asked)
        assert isinstance(config, VlaConfig)
        folder = Path(pretrained_name_or_path)
        if config.remote is None and not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_name_or_path), **asked))
        policy = cls(config, source_of(folder, config), **options)
        return policy.to(config.device).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        self.config._save_pretrained(save_directory)
        if self.network is not None:
            self.network.save_pretrained(save_directory / self.config.checkpoint)

    # --- acting ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """The next observation is the first of an episode."""
        self.source.reset()
        self._queue: deque[np.ndarray] = deque()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The next action (B, A), in the robot's order."""
        if not self._queue:
            actions_nBA = self.source.actions(*self._seen(batch))
            self._queue.extend(self._to_robot(actions_nBA))
        return self._tensor(self._queue.popleft())

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        *,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """A chunk (B, K, A), in the robot's order.

        Args:
            batch: an observation, as LeRobot prepares it.
            inference_delay: steps that will be executed before the chunk is there.
            prev_chunk_left_over: (n, A), actions that are still queued.
        """
        more: dict[str, Any] = {}
        if self.source.continues and prev_chunk_left_over is not None:
            left = prev_chunk_left_over.detach().float().cpu().numpy()
            left_nA = left[0] if left.ndim == 3 else left
            # an estimate may exceed what is queued: then the robot stands until the chunk is there
            delay = min(inference_delay or 0, len(left_nA))
            more = {"prefix": left_nA[:, self._policy_order], "delay": delay}
        return self._tensor(self._to_robot(self.source.chunk(*self._seen(batch), **more)))

    def supports_rtc(self) -> bool:
        """Whether chunks continue the queued actions: if the server does."""
        return self.source.continues

    def _seen(self, batch: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
        """Images, state and tasks of an observation, under the policy's names."""
        images = {}
        for camera, size in self.source.spec["cameras"].items():
            key = self.config.cameras.get(camera, f"observation.images.{camera}")
            if key not in batch:
                raise KeyError(
                    f"{key} is missing; the robot gives {', '.join(map(str, batch))}: name its camera "
                    "in `cameras` of the exported config.json"
                )
            image_BHWC = image_batch(batch[key])
            if self.config.remote is None:
                image_BHWC = fitted(image_BHWC, tuple(size), self.config.resize, key)
            images[camera] = image_BHWC
        state = batch[STATE].detach().float().cpu().numpy() if STATE in batch else None
        rows = len(state) if state is not None else len(next(iter(images.values())))
        tasks = batch.get("task", "")
        tasks = [tasks] * rows if isinstance(tasks, str) else list(tasks)
        if state is None or not self._state_order:
            state = np.zeros((rows, 0), np.float32)
        return images, np.ascontiguousarray(state[:, self._state_order]), tasks

    def _to_robot(self, actions: np.ndarray) -> np.ndarray:
        return np.asarray(actions, np.float32)[..., self._robot_order]

    def _tensor(self, actions: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(actions)).to(self.config.device)

    # --- training --------------------------------------------------------------------------------

    def get_optim_params(self) -> dict:
        """Raises TypeError: LeRobot does not train it."""
        raise TypeError(ELSEWHERE)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        """Raises TypeError: LeRobot does not train it."""
        raise TypeError(ELSEWHERE)
