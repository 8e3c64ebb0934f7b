"""The contract of action tokenizers: chunks of actions <-> token ids; fitted numbers are stored as
JSON.

K actions per chunk, A action dimensions, D tokens per chunk.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla.common.foreign.json_files import JsonError, read_json
from vla.config import Config, UserError, registered
from vla.tokenizers.grammar import TokenGrammar
from vla.types import Spec
from vla.types.tensors import is_exporting, to_ends

FORMAT = "vla.action_tokenizer"
FORMAT_VERSION = 1
MAX_CHUNK = 10_000
"""Actions. Tables of a tokenizer grow with the chunk, and are made when its file is read."""
LEAST_WEIGHT = 0.1
"""Of a place, as a share of the heaviest one's weight: that of VQ-BeT's second code (0.5 beside
5). Of a place that weighs nothing a policy would learn nothing, and emit any id."""


class TokenizerError(UserError):
    """A tokenizer is not fitted, not readable, or is given something that does not fit it."""


class ActionTokenizer(ABC):
    """Chunks of K actions with A dimensions <-> `num_tokens` ids below `vocab_size`.

    `num_tokens` and `vocab_size` follow from the config alone, since networks are built before data
    are seen. Every sequence of ids that keeps to `allowed_ids` and `grammar` decodes to a valid
    chunk, any other raises; `decode(encode(a))` differs from `a` by at most `error_bound` if `a`
    lies inside the fitted range.

    Attributes:
        action_names: one name per action dimension.
        chunk: K, actions per chunk.
        binary_ends: the two values of each binary dimension, by name (`Spec.binary_ends`); what is
            decoded is moved to the one that is nearer.
    """

    _classes: ClassVar[dict[str, type[ActionTokenizer]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ActionTokenizer._classes[cls.__name__] = cls

    def __init__(
        self,
        action_names: Sequence[str],
        chunk: int,
        binary_ends: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        if chunk < 1:
            raise TokenizerError(f"chunk must be at least 1, got {chunk}")
        if chunk > MAX_CHUNK:
            raise TokenizerError(f"chunk must be at most {MAX_CHUNK}, got {chunk}")
        if not action_names:
            raise TokenizerError(
                "action_names is empty: a tokenizer needs at least one action dimension"
            )
        self.action_names = tuple(action_names)
        self.chunk = chunk
        self.binary_ends = dict(binary_ends or {})

    @property
    def action_dim(self) -> int:
        """Number of action dimensions, A."""
        return len(self.action_names)

    # --- what a tokenizer defines
    # ---------------------------------------------------------------------

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of distinct ids."""

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """D, the number of ids of one chunk."""

    @property
    def tokens_per_action(self) -> int | None:
        """Tokens per action if they stand action by action; None if a token belongs to the whole
        chunk."""
        return None

    @property
    def allowed_ids(self) -> Bool[Tensor, "D V"] | None:
        """Ids that may stand at each place, whatever stands at the others; None for all."""
        return None

    @property
    def ordered_ids(self) -> Bool[Tensor, " D"] | None:
        """Places at which neighbouring ids mean neighbouring values, so that a target may be spread
        over them.

        None if there is no such place.
        """
        return None

    @property
    def grammar(self) -> TokenGrammar | None:
        """Which ids may follow, if that depends on the ids before; None if it does not."""
        return None

    @property
    def has_soft_targets(self) -> bool:
        """Whether ids are near and far by what they decode to: `soft_targets` can be asked.

        Known before the fit.
        """
        return False

    @property
    def has_place_weights(self) -> bool:
        """Whether places explain unequal parts of a chunk: `place_weights` can be asked.

        Known before the fit.
        """
        return False

    def soft_targets(
        self,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
        *,
        smoothing: float,
    ) -> Float[Tensor, "*batch D V"]:
        """Training targets that count an id as the more right, the nearer it decodes to the truth.

        Softmax of -distance^2 / (2 (smoothing * unit)^2) over the ids of a place, given the true
        ids at the places before it.

        Args:
            actions: robot units.
            ids: `encode(actions)`.
            smoothing: standard deviation of the target, in a unit of the tokenizer's own, about
                the error that its ids leave.

        Raises:
            TokenizerError: there is no distance between ids, or the tokenizer was fitted before
                its unit was stored.
        """
        raise TokenizerError(
            f"{type(self).__name__} has no distances between ids; set policy.head.code_smoothing: 0"
        )

    def place_weights(self, ids: Int64[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Weights of the places in a loss, by the variance of chunks that each explains.

        Fitted, and stored with the tokenizer; their mean over the places is 1. No place weighs less
        than `LEAST_WEIGHT` of the heaviest.

        Raises:
            TokenizerError: places explain equal parts, or the tokenizer was fitted before weights
                were stored.
        """
        raise TokenizerError(
            f"{type(self).__name__} has no weights of places; set policy.head.place_weights: equal"
        )

    @property
    @abstractmethod
    def fitted_range(self) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        """Least and greatest value of each dimension, robot units, on the CPU; values beyond are
        clipped to them."""

    @property
    @abstractmethod
    def error_bound(self) -> Float[Tensor, " A"]:
        """Greatest |decode(encode(a)) - a| of each dimension, robot units, for float32 `a` in the
        fitted range."""

    @abstractmethod
    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        """Fits to checked float32 actions on the CPU, of episodes of `lengths` steps, one after the
        other."""

    @abstractmethod
    def _encode(self, actions_KA: Tensor) -> Tensor:
        """Checked float32 (..., K, A) -> int64 (..., D)."""

    @abstractmethod
    def _decode(self, ids_D: Tensor) -> Tensor:
        """int64 (..., D) in [0, vocab_size) and within `allowed_ids` -> float32 (..., K, A).

        Raises TokenizerError if the ids break the grammar.
        """

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """JSON types from which `_from_state` builds an equal tokenizer."""

    @classmethod
    @abstractmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        """Raises TokenizerError, KeyError, TypeError or ValueError if `state` is not what `_state`
        returned."""

    # --- what everyone calls
    # --------------------------------------------------------------------------

    def fit(
        self,
        actions: Float[Tensor, "N A"] | Float[np.ndarray, "N A"],
        *,
        lengths: Sequence[int] | None = None,
    ) -> Self:
        """Fits to N actions (robot units) of episodes, one after the other, and returns itself.

        lengths: steps of each episode; None if there is one. Chunks never reach from one episode
        into the next:
            beyond the end an episode's last action is repeated.

        Raises:
            TokenizerError: other number of dimensions, no rows, values that are not finite, or
                lengths that do not add up to N.
        """
        actions_NA = torch.as_tensor(actions).detach().to("cpu", torch.float32)
        if actions_NA.ndim != 2 or actions_NA.shape[1] != self.action_dim:
            raise TokenizerError(
                f"fit: expected actions of shape (N, {self._dims}), got {tuple(actions_NA.shape)}"
            )
        if len(actions_NA) == 0:
            raise TokenizerError(
                "fit: got no actions; fit on the actions of a dataset with at least one step"
            )
        self._check_finite(actions_NA, "fit")
        steps = [len(actions_NA)] if lengths is None else [int(length) for length in lengths]
        # a wrong boundary would teach chunks that jump from one episode to another
        if sum(steps) != len(actions_NA) or min(steps) < 1:
            raise TokenizerError(
                f"fit: lengths of {len(steps)} episodes add up to {sum(steps)} steps, there are "
                f"{len(actions_NA)} actions; give one positive length for each episode, in their "
                "order"
            )
        self._fit(actions_NA, steps)
        return self

    def encode(self, actions: Float[Tensor, "*batch K A"]) -> Int64[Tensor, "*batch D"]:
        """Actions in robot units -> ids on the same device; values outside the fitted range are
        clipped to it.

        Raises:
            TokenizerError: another K or A, values that are not finite, or a tokenizer that was
                never fitted.
        """
        if actions.ndim < 2 or tuple(actions.shape[-2:]) != (self.chunk, self.action_dim):
            raise TokenizerError(
                f"encode: expected actions of shape (..., {self.chunk}, {self._dims}), got "
                f"{tuple(actions.shape)}; use the tokenizer that was fitted for this robot and "
                "this chunk length"
            )
        # float32 always: bins of a bfloat16 action would be those of its rounded value
        actions_KA = actions.detach().float()
        self._check_finite(actions_KA, "encode")
        return self._encode(actions_KA)

    def decode(self, ids: Int64[Tensor, "*batch D"]) -> Float[Tensor, "*batch K A"]:
        """Ids -> float32 actions in robot units, on the same device.

        Raises:
            TokenizerError: another number of tokens, no integers, ids outside [0, vocab_size), or
                ids that may not stand where they do.
        """
        if ids.ndim < 1 or ids.shape[-1] != self.num_tokens:
            raise TokenizerError(
                f"decode: expected ids of shape (..., {self.num_tokens}), got {tuple(ids.shape)}"
            )
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TokenizerError(f"decode: expected integer ids, got {ids.dtype}")
        ids_D = ids.long()
        # an exported graph cannot look at numbers; there ids come from an argmax over allowed ones
        if not is_exporting():
            self._check_ids(ids_D)
        return to_ends(self._decode(ids_D), self.action_names, self.binary_ends)

    def _check_ids(self, ids_D: Tensor) -> None:
        if bool(((ids_D < 0) | (ids_D >= self.vocab_size)).any()):
            low, high = int(ids_D.min()), int(ids_D.max())
            raise TokenizerError(
                f"decode: expected ids in [0, {self.vocab_size}), got ids in [{low}, {high}]"
            )
        if self.allowed_ids is not None:
            self._check_allowed(ids_D, self.allowed_ids)

    def check_spec(self, spec: Spec) -> None:
        """Raises TokenizerError if the tokenizer was made for other action dimensions than
        `spec`'s."""
        if spec.action_names != self.action_names:
            raise TokenizerError(
                f"the tokenizer was made for actions {list(self.action_names)}, the spec has "
                f"{list(spec.action_names)}; build and fit a tokenizer for this robot"
            )

    # --- storage
    # --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the inverse of `from_dict`."""
        values = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "class": type(self).__name__,
            "action_names": list(self.action_names),
            "chunk": self.chunk,
            "state": self._state(),
        }
        if self.binary_ends:
            values["binary_ends"] = {name: list(ends) for name, ends in self.binary_ends.items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The tokenizer that `to_dict` described; called on the base class, any kind of tokenizer.

        Raises:
            TokenizerError: not a tokenizer, another version, an unknown or another class, damaged
                numbers.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise TokenizerError(
                f"not an action tokenizer: expected a mapping with format {FORMAT!r}"
            )
        if values.get("version") != FORMAT_VERSION:
            raise TokenizerError(
                f"tokenizer format version {values.get('version')!r}, this vla reads version "
                f"{FORMAT_VERSION}: install the vla that wrote it, or fit the tokenizer again"
            )
        # files name the class, which is known once its module is imported
        registered("tokenizers")
        name = values.get("class")
        found = ActionTokenizer._classes.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(sorted(ActionTokenizer._classes))
            raise TokenizerError(
                f"no tokenizer class {name!r}; there are: {known}; is its plugin installed?"
            )
        if not issubclass(found, cls):
            raise TokenizerError(
                f"expected a {cls.__name__}, found a {name}; load it with {name} or ActionTokenizer"
            )
        try:
            names = [str(name) for name in values["action_names"]]
            chunk = int(values["chunk"])
            tokenizer = cast(Self, found._from_state(names, chunk, values["state"]))
            # files of robots without binary dimensions have no such key
            stored_ends = values.get("binary_ends", {})
            tokenizer.binary_ends = {
                name: (float(low), float(high)) for name, (low, high) in stored_ends.items()
            }
            return tokenizer
        except TokenizerError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TokenizerError(
                f"damaged {name}: {type(error).__name__}: {error}; fit the tokenizer again"
            ) from error

    def save(self, path: str | Path) -> None:
        """Writes one JSON file."""
        Path(path).write_text(json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises FileNotFoundError, or TokenizerError naming the file."""
        try:
            return cls.from_dict(read_json(path))
        except JsonError as error:
            raise TokenizerError(f"{path}: not a JSON file: {error.reason}") from error
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    # --- helpers
    # --------------------------------------------------------------------------------------

    @property
    def _dims(self) -> str:
        return f"{self.action_dim} ({', '.join(self.action_names)})"

    def _bound_of_ends(self, bound_A: Tensor) -> Tensor:
        """`bound_A` of what `_decode` gives -> that of what `decode` gives."""
        bound_A = bound_A.clone()
        for name, (low, high) in self.binary_ends.items():
            dim = self.action_names.index(name)
            # a value just beside the middle may go to the farther end, but never beyond it
            beside_middle = (high - low) / 2 + float(bound_A[dim])
            bound_A[dim] = min(high - low, beside_middle)
        return bound_A

    def _refitted(self, what: str) -> TokenizerError:
        """What to raise if a file of an older version lacks `what`."""
        return TokenizerError(
            f"this {type(self).__name__} was fitted before {what} were stored; fit it again, or "
            "set policy.head.code_smoothing: 0 and policy.head.place_weights: equal"
        )

    def _check_allowed(self, ids_D: Tensor, allowed_DV: Tensor) -> None:
        places_D = torch.arange(self.num_tokens, device=ids_D.device)
        allowed_here = allowed_DV.to(ids_D.device)[places_D, ids_D]
        wrong_ND = ~allowed_here.reshape(-1, self.num_tokens)
        if not bool(wrong_ND.any()):
            return
        row, place = wrong_ND.nonzero()[0].tolist()
        wrong_id = int(ids_D.reshape(-1, self.num_tokens)[row, place])
        raise TokenizerError(
            f"decode: id {wrong_id} may not stand at place {place}; "
            "mask the logits with the tokenizer's allowed_ids"
        )

    def _check_finite(self, actions_A: Tensor, where: str) -> None:
        if bool(torch.isfinite(actions_A).all()):
            return
        bad_A = ~torch.isfinite(actions_A).reshape(-1, self.action_dim).all(0)
        names = [name for name, bad in zip(self.action_names, bad_A.tolist(), strict=True) if bad]
        raise TokenizerError(
            f"{where}: actions hold NaN or infinity in {', '.join(names)}; drop or mend those steps"
        )


class TokenizerConfig(Config, ABC):
    """Base of the configs registered under "tokenizers"; a subclass adds `type: Literal["name"] =
    "name"`."""

    @abstractmethod
    def build(self, spec: Spec, chunk: int) -> ActionTokenizer:
        """A tokenizer for `spec`'s actions in chunks of `chunk`."""


__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "LEAST_WEIGHT",
    "ActionTokenizer",
    "TokenGrammar",
    "TokenizerConfig",
    "TokenizerError",
]
