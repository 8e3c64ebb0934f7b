"""Models, configs, tokenizers and processors of others: all of them are loaded here.

Whatever a folder or a repository of the Hugging Face hub holds, no code of it runs, no question is
asked, and weights come from safetensors alone, or from files of known checksums (`wheels.py`). What
a folder holds is read without asking the network; what must be fetched is announced in a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vla.common.errors import UserError
from vla.common.foreign.json_files import JsonError, read_json
from vla.common.foreign.plain_files import NotPlainError, check_plain_file

ANSWER_SECONDS = 10.0
"""How long the hub may take to answer at all. A download that has begun takes what it takes."""
CONFIGS = ("*config*.json",)
TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Of tokenizers and processors."""
MODEL_FILES = (*CONFIGS, "*.safetensors", "*.safetensors.index.json")
GGUF_INSTALL = "pip install 'vla[smollm]'"
OWN_CODE = "this checkpoint asks for code of its own, which vla never runs"
_SMALL = 4 * 2**20  # bytes of a config; vocabularies, which are larger, name no code


class PretrainedError(UserError):
    """What others made cannot be loaded: it is not within reach, damaged, or of another kind."""


class OwnCodeError(PretrainedError):
    """A checkpoint asks for code of its own. It is never run, whatever is answered or set."""


# --- loading --------------------------------------------------------------------------------------


def load_config(place: str | Path) -> Any:
    """The config of transformers in a folder, or in a repository of the hub.

    Raises PretrainedError.
    """
    from transformers import AutoConfig

    folder = _prepared(place, CONFIGS, "its config")
    with _as_one_error(place):
        return AutoConfig.from_pretrained(folder, **_local())


def new_config(architecture: str, options: Mapping[str, Any]) -> Any:
    """A config of transformers of the `model_type` architecture. Raises PretrainedError."""
    from transformers import AutoConfig

    refuse_code_in(options, architecture)
    with _as_one_error(architecture):
        return AutoConfig.for_model(architecture, **options)


def new_model(loader: str, config: Any, **options: Any) -> Any:
    """A model of transformers with random weights.

    Args:
        loader: a class of transformers that makes models from configs, such as "AutoModel".
        options: of its `from_config`.

    Raises PretrainedError.
    """
    import transformers

    # a config may also name a kernel, which is compiled code out of a repository
    refuse_code_in(config.to_dict(), config.model_type)
    with _as_one_error(config.model_type):
        found = getattr(transformers, loader)
        return found.from_config(config, trust_remote_code=False, **options)


def load_model(loader: str, place: str | Path, **options: Any) -> tuple[Any, list[str]]:
    """A model of transformers with its weights, and names of tensors that its files lack.

    Args:
        loader: a class of transformers that loads models, such as "AutoModel".
        place: a folder, or a repository of the hub.
        options: of its `from_pretrained`.

    Raises PretrainedError.
    """
    import transformers

    folder = _prepared(place, MODEL_FILES, "its weights")
    with _as_one_error(place), _quiet():
        found = getattr(transformers, loader)
        model, report = found.from_pretrained(
            folder,
            # pickled weights can run code
            use_safetensors=True,
            output_loading_info=True,
            **_local(),
            **options,
        )
    return model, sorted(report["missing_keys"])


def load_text_tool(loader: str, place: str | Path) -> Any:
    """A tokenizer ("AutoTokenizer") or processor ("AutoProcessor") of transformers.

    Raises PretrainedError.
    """
    import transformers

    folder = _prepared(place, TEXT_FILES, "its tokenizer and processor")
    with _as_one_error(place), _quiet():
        return getattr(transformers, loader).from_pretrained(folder, **_local())


def load_timm(name: str, *, weights: bool) -> Any:
    """A network of timm by its name, such as "efficientnet_b3" or "efficientnet_b3.ra2_in1k".

    Args:
        weights: with those of its tag, by timm's name for them; else with random ones.

    Raises PretrainedError.
    """
    import timm
    from safetensors.torch import load_file

    # timm reads configs out of repositories and folders that stand behind a colon
    if ":" in name:
        raise PretrainedError(f"{name!r} is no network of timm; name one, such as efficientnet_b3")
    with _as_one_error(name):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    if not weights:
        return model
    described: Any = model.pretrained_cfg
    repository = described.get("hf_hub_id")
    if not repository:
        raise PretrainedError(f"timm has no weights of {name!r} on the Hugging Face hub")
    folder = fetch(repository, ("model.safetensors",), "its weights")
    with _as_one_error(name):
        check_plain_file(folder / "model.safetensors")
        found = load_file(folder / "model.safetensors")
        # what is stored ends in a classifier, which the network here has not
        found = {key: value for key, value in found.items() if not key.startswith("classifier.")}
        model.load_state_dict(found)
    return model


def load_tensors(file: Path) -> dict[str, Any]:
    """Name -> tensor, of a .pth file of torch whose checksum is known.

    Raises PretrainedError if it holds anything but tensors.
    """
    import torch

    with _as_one_error(file):
        # such a file is a pickle: this reader makes tensors of it and refuses all else
        found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise PretrainedError(f"{file}: holds something else than named tensors")
    return found


def load_gguf(file: Path) -> tuple[Any, Any]:
    """The language model (float32) and tokenizer of a GGUF file whose checksum is known.

    Quantised weights are computed back: they keep the loss of their few bits.

    Raises PretrainedError if it cannot be read, or the package `gguf` is not installed.
    """
    import torch
    import transformers

    if find_spec("gguf") is None:
        raise PretrainedError(f"{file}: needs the package gguf to be read: {GGUF_INSTALL}")
    with _as_one_error(file), _quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, gguf_file=file.name, **_local()
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, **_local()
        )
    return model, tokenizer


def _local() -> dict[str, Any]:
    """For every call: what the folder holds, and no code out of it."""
    return {"local_files_only": True, "trust_remote_code": False}


# --- code of its own ------------------------------------------------------------------------------


def refuse_own_code(folder: str | Path) -> None:
    """Raises OwnCodeError if a config in the folder names code, JsonError if one cannot be read."""
    for file in sorted(Path(folder).glob("*config*.json")):
        if file.stat().st_size <= _SMALL:
            refuse_code_in(read_json(file), file)


def refuse_code_in(values: Any, name: object) -> None:
    """Raises OwnCodeError if these values of a config, or values within them, name code.

    `auto_map` names classes in files beside the config; an implementation with a slash in its name
    is a kernel, compiled code in a repository.
    """
    if isinstance(values, list | tuple):
        for value in values:
            refuse_code_in(value, name)
    if not isinstance(values, Mapping):
        return
    for key, value in values.items():
        is_kernel = str(key).endswith("_implementation") and "/" in str(value)
        if (key == "auto_map" and value) or is_kernel:
            raise OwnCodeError(f"{name}: {OWN_CODE} ({key}: {str(value)[:200]!r})")
        refuse_code_in(value, name)


def _prepared(place: str | Path, patterns: Sequence[str], what: str) -> str:
    """The folder, or that of the fetched repository, after its configs were looked through."""
    folder = fetch(place, patterns, what)
    try:
        refuse_own_code(folder)
    except JsonError as error:
        raise PretrainedError(str(error)) from error
    return str(folder)


@contextmanager
def _as_one_error(place: str | Path) -> Iterator[None]:
    """Whatever transformers raises at a foreign folder becomes a PretrainedError."""
    try:
        yield
    except NotPlainError as error:
        raise PretrainedError(f"{place}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # it raises nearly every kind, by what the files hold
        cause = " ".join(str(error).split())[:300]
        # classes that no file names in `auto_map` can be asked for in other ways
        if "trust_remote_code" in cause:
            raise OwnCodeError(f"{place}: {OWN_CODE}") from error
        raise PretrainedError(f"{place}: {type(error).__name__}: {cause}") from error


# --- the network ----------------------------------------------------------------------------------


def fetch(place: str | Path, patterns: Sequence[str], what: str) -> Path:
    """The folder, or that of the downloaded repository.

    Args:
        patterns: names of the files that are needed; empty for all.
        what: what is fetched, in words.

    Raises PretrainedError if there is no such folder and no such repository within reach.
    """
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download

    name = str(place)
    options = reach_hub(name, what)
    try:
        folder = snapshot_download(
            name,
            allow_patterns=list(patterns) or None,
            # copies in other formats, such as onnx/ and openvino/, lie in folders of their own
            ignore_patterns=["*/*"] if patterns else None,
            **options,
        )
    except Exception as error:  # the hub raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise PretrainedError(
            f"{name}: no such folder, and no repository of the Hugging Face hub within reach: "
            f"{reason}"
        ) from error
    return Path(folder)


def reach_hub(name: str, what: str) -> dict[str, Any]:
    """Says in a line what will be asked of the hub, and looks whether it answers at all.

    Returns options for `snapshot_download`: of a hub that is silent only earlier copies are taken.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return {}
    # before the first request: whoever waits knows for what
    print(f"fetching {name} ({what}) from {constants.ENDPOINT}", file=sys.stderr)
    start = time.monotonic()
    try:
        HfApi().model_info(name, timeout=ANSWER_SECONDS)
    except Exception:  # no such host or repository: the download says it better, and at once
        # its own requests have no limit: where packets are dropped they would wait for minutes
        return {"local_files_only": True} if time.monotonic() - start > ANSWER_SECONDS / 2 else {}
    return {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' bars and reports."""
    from transformers.utils import logging

    # a text tower out of a larger checkpoint leaves weights unused, which is reported as a problem
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


__all__ = [
    "OWN_CODE",
    "OwnCodeError",
    "PretrainedError",
    "fetch",
    "load_config",
    "load_gguf",
    "load_model",
    "load_tensors",
    "load_text_tool",
    "load_timm",
    "new_config",
    "new_model",
    "reach_hub",
    "refuse_code_in",
    "refuse_own_code",
]
