"""A policy out of the files of a checkpoint, which may be damaged, or made to harm."""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from vla.common.checksums import CHECKSUMS_FILE, EditedFileWarning, changed_files
from vla.config import UserError
from vla.models.building_budget import BuildingBudget
from vla.models.checkpoint_files import (
    CONFIG_FILE,
    SPEC_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    read_config,
    read_shapes,
    read_tensors,
    require_files,
)
from vla.models.heads.base import complete_weights
from vla.tokenizers.language import check_lengths, load_embeddings, stored_vectors
from vla.types import Spec


def read_policy(folder: Path) -> Any:
    """The policy in the checkpoint `folder`, as it was saved.

    Raises CheckpointError: see `load_policy`.
    """
    if not (folder / CONFIG_FILE).is_file():
        require_files(folder, [CONFIG_FILE, SPEC_FILE, TOKENIZER_FILE])
    config, card = read_config(folder / CONFIG_FILE)
    require_files(folder, [SPEC_FILE, *config.tokenizer_files, config.weights_file])
    try:
        vectors = load_embeddings(folder)
        check_lengths(vectors)
        with _budget(config, folder), stored_vectors(vectors):
            policy = config.build_for(Spec.load(folder / SPEC_FILE), folder)
            policy.load_tokenizer(folder)
        policy.language.preload(vectors)
    except UserError as error:
        raise _within(folder, error) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{folder}: the model of its config does not fit into this machine's memory"
        ) from error
    policy.card = card
    load_weights(policy, folder / config.weights_file)
    # last: what is wrong in a way that can be named has its own sentence above
    _check_sums(folder)
    return policy


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Loads exactly the tensors of `module` (of a policy: its `weights`) from a safetensors file.

    Raises:
        CheckpointError: unreadable file, or tensors that are missing, unknown, of another shape or
            type, or that hold NaN or infinity.
    """
    expected = getattr(module, "weights", module.state_dict)()
    found = read_tensors(Path(path), expected, partial(complete_weights, module))
    # not strict: a policy's weights may be fewer than its state; what is missing was checked above
    module.load_state_dict(found, strict=False)


def _budget(config: Any, folder: Path) -> AbstractContextManager[Any]:
    """What may be built for the weights in the folder."""
    if config.weights_file != WEIGHTS_FILE:
        # an adapter: its base lies elsewhere, and the file says nothing of its size
        return contextlib.nullcontext()
    robots = config.option("robots") or ()
    # robots share what is stored once, but each is built whole
    return BuildingBudget(read_shapes(folder / WEIGHTS_FILE), copies=1 + len(robots))


def _within(folder: Path, error: UserError) -> CheckpointError:
    """The error with the folder in front, unless it names it already."""
    text = str(error)
    return CheckpointError(text if str(folder) in text else f"{folder}: {text}")


def _check_sums(folder: Path) -> None:
    """Raises CheckpointError if a file is not the one that was saved; warns of an edited config."""
    try:
        changed = list(changed_files(folder))
    except (UserError, OSError) as error:
        raise CheckpointError(f"{folder / CHECKSUMS_FILE}: cannot be used: {error}") from error
    # people edit this one, for example where a base has moved; all others are written by vla alone
    if CONFIG_FILE in changed:
        warnings.warn(
            f"{folder / CONFIG_FILE}: is not as it was saved; if nobody edited it, copy the "
            "checkpoint again",
            EditedFileWarning,
            stacklevel=2,
        )
    damaged = [name for name in changed if name != CONFIG_FILE]
    if damaged:
        raise CheckpointError(
            f"{folder / damaged[0]}: is damaged: its SHA-256 is not the one in {CHECKSUMS_FILE}; "
            f"copy the checkpoint again, or remove {CHECKSUMS_FILE} if you changed it yourself"
        )


__all__ = ["load_weights", "read_policy"]
