"""Actions, words and trajectories <-> tokens."""

from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.bins import BinsConfig, BinsTokenizer

__all__ = ["ActionTokenizer", "BinsConfig", "BinsTokenizer", "TokenizerConfig", "TokenizerError"]
