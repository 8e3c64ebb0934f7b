"""Actions, words and trajectories <-> tokens."""

from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.bins import BinsConfig, BinsTokenizer
from vla.tokenizers.fast import FastConfig, FastTokenizer
from vla.tokenizers.grammar import TokenGrammar, masked_logits
from vla.tokenizers.kmeans import KMeansConfig, KMeansTokenizer
from vla.tokenizers.language import LanguageEncoder, LanguageError, load_embeddings, save_embeddings
from vla.tokenizers.rvq import RVQConfig, RVQTokenizer

__all__ = [
    "ActionTokenizer",
    "BinsConfig",
    "BinsTokenizer",
    "FastConfig",
    "FastTokenizer",
    "KMeansConfig",
    "KMeansTokenizer",
    "LanguageEncoder",
    "LanguageError",
    "RVQConfig",
    "RVQTokenizer",
    "TokenGrammar",
    "TokenizerConfig",
    "TokenizerError",
    "load_embeddings",
    "masked_logits",
    "save_embeddings",
]
