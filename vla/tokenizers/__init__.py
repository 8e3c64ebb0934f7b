"""Actions, words and trajectories <-> tokens."""

from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.bins import BinsConfig, BinsTokenizer
from vla.tokenizers.language import LanguageEncoder, LanguageError, load_embeddings, save_embeddings

__all__ = [
    "ActionTokenizer",
    "BinsConfig",
    "BinsTokenizer",
    "LanguageEncoder",
    "LanguageError",
    "TokenizerConfig",
    "TokenizerError",
    "load_embeddings",
    "save_embeddings",
]
