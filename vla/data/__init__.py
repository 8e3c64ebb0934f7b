"""Episodes on disk; windows, returns and statistics out of them."""

from typing import TYPE_CHECKING

from vla.common.renamed import former_attributes
from vla.data.episode import Episode as Episode
from vla.data.episode import decode_image as decode_image
from vla.data.episode import encode_png as encode_png
from vla.data.errors import DataError as DataError
from vla.data.format import Columns as Columns
from vla.data.format import DatasetReader as DatasetReader
from vla.data.format import Image as Image
from vla.data.format import KeyMap as KeyMap
from vla.data.loading.frame_cache import FrameCache as FrameCache
from vla.data.loading.prefetching import prefetch as prefetch
from vla.data.loading.sampler import WindowSampler as WindowSampler
from vla.data.loading.shortening import shorten_history as shorten_history
from vla.data.loading.window_weights import episode_balanced_weights as episode_balanced_weights
from vla.data.loading.window_weights import solved_share_weights as solved_share_weights
from vla.data.loading.window_weights import task_balanced_weights as task_balanced_weights
from vla.data.loading.windows import Windows as Windows
from vla.data.reader import EpisodeDataset as EpisodeDataset
from vla.data.returns import returns_to_go as returns_to_go
from vla.data.rewards import RewardConfig as RewardConfig
from vla.data.rewards import check_rewards as check_rewards
from vla.data.rewards import shape_rewards as shape_rewards
from vla.data.statistics import Statistics as Statistics
from vla.data.statistics import true_statistics as true_statistics
from vla.data.storage.video import VideoConfig as VideoConfig
from vla.data.storage.video import VideoReader as VideoReader
from vla.data.storage.video import encode_video as encode_video
from vla.data.tools.relabelling import relabel_by_goal as relabel_by_goal
from vla.data.tools.relabelling import relabel_by_instruction as relabel_by_instruction
from vla.data.writer import DatasetWriter as DatasetWriter

if not TYPE_CHECKING:  # type checkers know the names of today alone
    __getattr__ = former_attributes(__name__, {"Picture": "Image", "decode_png": "decode_image"})
