"""Episodes on disk; windows, returns and statistics out of them."""

from vla.data.cache import FrameCache as FrameCache
from vla.data.episode import Episode as Episode
from vla.data.episode import decode_png as decode_png
from vla.data.episode import encode_png as encode_png
from vla.data.errors import DataError as DataError
from vla.data.format import Columns as Columns
from vla.data.format import DatasetReader as DatasetReader
from vla.data.format import KeyMap as KeyMap
from vla.data.format import Picture as Picture
from vla.data.prefetch import prefetch as prefetch
from vla.data.reader import EpisodeDataset as EpisodeDataset
from vla.data.relabel import relabel_by_goal as relabel_by_goal
from vla.data.relabel import relabel_by_instruction as relabel_by_instruction
from vla.data.returns import returns_to_go as returns_to_go
from vla.data.rewards import RewardConfig as RewardConfig
from vla.data.rewards import check_rewards as check_rewards
from vla.data.rewards import shape_rewards as shape_rewards
from vla.data.sampler import WindowSampler as WindowSampler
from vla.data.sampler import episode_balanced_weights as episode_balanced_weights
from vla.data.sampler import shorten_history as shorten_history
from vla.data.sampler import solved_share_weights as solved_share_weights
from vla.data.sampler import task_balanced_weights as task_balanced_weights
from vla.data.statistics import Statistics as Statistics
from vla.data.statistics import true_statistics as true_statistics
from vla.data.windows import Windows as Windows
from vla.data.writer import DatasetWriter as DatasetWriter
