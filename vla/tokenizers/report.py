"""What each tokenizer costs and loses on given actions: tokens, bits, errors, microseconds.

N actions, M chunks, K actions per chunk, A action dimensions, D places per chunk. Errors are in
robot units.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Group
from rich.text import Text
from torch import Tensor

from vla.common.atomic import write_text
from vla.common.terminal.tables import Table, whole
from vla.config import registered
from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.bins import BinsConfig
from vla.tokenizers.chunks import chunk_rows
from vla.tokenizers.kmeans import KMeansConfig
from vla.tokenizers.report_plot import scatter_svg
from vla.types import Spec

MOST_CHUNKS = 4096
"""Chunks over which errors are measured, evenly spread over the episodes."""
BATCH = 256
"""Chunks that are encoded at once where the speed in batches is measured."""
HELD_OUT = 5
"""Every fifth episode is kept from fitting and measured instead, if there are that many."""


_COST_HEADS = (
    "ids",
    "tokens",
    "bits",
    "mean\nerror",
    "max\nerror",
    "bound",
    "outside",
    "µs in\nbatches",
    "µs\nalone",
)

_BOUND_NOTE = (
    "bound: of an error inside the fitted range. outside: share of the measured numbers beyond it "
    "(of bins of quantiles: beyond the quantiles); they are clipped to it, so the max error may "
    "exceed the bound"
)


@dataclass(frozen=True)
class TokenizerRow:
    """One tokenizer on one set of actions.

    Errors are |decode(encode(a)) - a| in robot units, by dimension.

    Attributes:
        name: what the tables call it.
        config: its config, JSON types.
        problem: why it does not fit these actions; the numbers below are then empty.
        vocab_size: ids.
        places: D.
        tokens: mean number of tokens of a chunk without padding.
        bits: mean of the sum of log2 of how many ids each token is one of.
        mean_error, max_error: over the measured chunks.
        error_bound: what the tokenizer guarantees inside its fitted range; numbers beyond are
            clipped to the range, and may err by more.
        outside: share of the measured numbers beyond that range, 0 to 1.
        encode_us, decode_us: microseconds per chunk in batches.
        encode_one_us, decode_one_us: microseconds of a chunk alone.
        fit_seconds: time that fitting took.
    """

    name: str
    config: dict[str, Any]
    problem: str | None = None
    vocab_size: int = 0
    places: int = 0
    tokens: float = math.nan
    bits: float = math.nan
    mean_error: tuple[float, ...] = ()
    max_error: tuple[float, ...] = ()
    error_bound: tuple[float, ...] = ()
    outside: tuple[float, ...] = ()
    encode_us: float = math.nan
    decode_us: float = math.nan
    encode_one_us: float = math.nan
    decode_one_us: float = math.nan
    fit_seconds: float = math.nan

    @property
    def mean(self) -> float:
        """Mean error over all dimensions."""
        return statistics.fmean(self.mean_error) if self.mean_error else math.nan

    @property
    def greatest(self) -> float:
        """Greatest error in any dimension."""
        return max(self.max_error, default=math.nan)


@dataclass(frozen=True)
class TokenizerReport:
    """All rows, and what they were measured on.

    Attributes:
        action_names: the dimensions.
        chunk: K.
        control_hz: actions per second.
        episodes_fitted, episodes_measured: how many; the same ones if there are fewer than five.
        chunks_measured: how many chunks the errors are taken over.
        rows: one for each tokenizer.
    """

    action_names: tuple[str, ...]
    chunk: int
    control_hz: float
    episodes_fitted: int
    episodes_measured: int
    chunks_measured: int
    rows: tuple[TokenizerRow, ...]

    def table(self) -> Group:
        """For the terminal: costs, errors by dimension, and what did not fit.

        Times are those of encoding + decoding a chunk.
        """
        done = [row for row in self.rows if row.problem is None]
        costs = _table(self._title(), "tokenizer", _COST_HEADS)
        costs.caption = _BOUND_NOTE
        for row in done:
            costs.add_row(
                row.name,
                str(row.vocab_size),
                f"{row.tokens:.1f}",
                f"{row.bits:.0f}",
                f"{row.mean:.2g}",
                f"{row.greatest:.2g}",
                f"{max(row.error_bound):.2g}",
                _percent(statistics.fmean(row.outside)),
                f"{row.encode_us + row.decode_us:.1f}",
                f"{row.encode_one_us + row.decode_one_us:.0f}",
            )
        # one word a line: all tokenizers stand side by side
        names = [row.name.replace(" ", "\n") for row in done]
        means = _table("mean error, robot units", "", names)
        greatest = _table("max error, robot units", "", names)
        for i, name in enumerate(self.action_names):
            means.add_row(name, *[f"{row.mean_error[i]:.2g}" for row in done])
            greatest.add_row(name, *[f"{row.max_error[i]:.2g}" for row in done])
        problems = []
        for row in self.rows:
            if row.problem is not None:
                # not markup: its brackets would be read as styles
                problems.append(Text(f"{row.name}: {row.problem}"))
        return Group(costs, means, greatest, *problems)

    def _title(self) -> str:
        return (
            f"chunks of {self.chunk} actions of {len(self.action_names)} dimensions "
            f"at {self.control_hz:g} Hz; fitted to {self.episodes_fitted} episodes, "
            f"measured on {self.chunks_measured} chunks of {self.episodes_measured}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        # not dataclasses.asdict: rows have numbers that JSON does not know, and computed ones
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["action_names"] = list(self.action_names)
        values["rows"] = [_plain(row) for row in self.rows]
        return values

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `report.json` and `error_tokens.svg`; returns their paths."""
        folder = Path(folder)
        data, plot = folder / "report.json", folder / "error_tokens.svg"
        write_text(data, json.dumps(self.to_dict(), indent=2) + "\n")
        title = (
            f"Chunks of {self.chunk} actions, {len(self.action_names)} dimensions, "
            f"{self.control_hz:g} Hz"
        )
        points = [(row.name, row.tokens, row.mean) for row in self.rows if row.problem is None]
        picture = scatter_svg(points, title, x="tokens per chunk", y="mean error, robot units")
        write_text(plot, picture)
        return [data, plot]


def default_tokenizers() -> dict[str, TokenizerConfig]:
    """By name: every scheme of bins, k-means over actions and chunks, all others with defaults."""
    found: dict[str, TokenizerConfig] = {
        "bins uniform": BinsConfig(scheme="uniform"),
        "bins quantile": BinsConfig(scheme="quantile"),
        "bins mu_law": BinsConfig(scheme="mu_law"),
        "kmeans action": KMeansConfig(over="action"),
        "kmeans chunk": KMeansConfig(over="chunk"),
    }
    # also those of plug-ins: whoever writes a tokenizer sees it beside the others
    for name, config_class in registered("tokenizers").items():
        if name not in ("bins", "kmeans"):
            found[name] = cast(TokenizerConfig, config_class())
    return found


def tokenizer_report(
    actions: Float[np.ndarray, "N A"],
    spec: Spec,
    *,
    chunk: int,
    lengths: Sequence[int] | None = None,
    tokenizers: Mapping[str, TokenizerConfig] | None = None,
) -> TokenizerReport:
    """Fits each tokenizer to some episodes and measures it on the others.

    Args:
        actions: N steps of episodes side by side, robot units.
        spec: of the robot.
        chunk: K.
        lengths: steps of each episode; None if there is one.
        tokenizers: configs by name; by default `default_tokenizers()`.

    Raises:
        TokenizerError: `actions` do not fit `spec`. A tokenizer that cannot be fitted to these
            actions is a row with the reason in `problem`.
    """
    steps = [len(actions)] if lengths is None else list(lengths)
    # whole episodes are held out: chunks of one episode overlap
    values_NA = torch.from_numpy(np.ascontiguousarray(actions, dtype=np.float32))
    fitted, measured = _divide(len(steps))
    episodes = values_NA.split(steps)
    fit_lengths = [steps[e] for e in fitted]
    fit_NA = torch.cat([episodes[e] for e in fitted])
    measured_lengths = [steps[e] for e in measured]
    measured_NA = torch.cat([episodes[e] for e in measured])
    # N A -> M K A
    chunks_MKA = measured_NA[chunk_rows(measured_lengths, chunk, most=MOST_CHUNKS)]
    configs = default_tokenizers() if tokenizers is None else dict(tokenizers)
    rows = []
    for name, config in configs.items():
        rows.append(_measure(name, config, spec, chunk, fit_NA, fit_lengths, chunks_MKA))
    return TokenizerReport(
        action_names=spec.action_names,
        chunk=chunk,
        control_hz=spec.control_hz,
        episodes_fitted=len(fitted),
        episodes_measured=len(measured),
        chunks_measured=len(chunks_MKA),
        rows=tuple(rows),
    )


def _table(title: str, first: str, heads: Sequence[str]) -> Table:
    return Table(*whole(first), *whole(*heads, justify="right"), title=title)


def _percent(share: float) -> str:
    """Almost nothing is not shown as nothing: one number outside breaks the bound."""
    return "<0.1%" if 0 < share < 0.001 else f"{100 * share:.2g}%"


def _divide(episodes: int) -> tuple[list[int], list[int]]:
    """Episodes to fit to, and to measure on."""
    every = list(range(episodes))
    if episodes < HELD_OUT:
        # errors of few episodes are those of the fitted ones: better than none
        return every, every
    measured = every[HELD_OUT - 1 :: HELD_OUT]
    return [e for e in every if e not in set(measured)], measured


def _measure(
    name: str,
    config: TokenizerConfig,
    spec: Spec,
    chunk: int,
    fit_NA: Tensor,
    lengths: list[int],
    chunks_MKA: Tensor,
) -> TokenizerRow:
    shown = config.model_dump(mode="json")
    # a tokenizer may refuse these actions when it is fitted or when it meets those held out
    try:
        started = time.perf_counter()
        tokenizer = config.build(spec, chunk).fit(fit_NA, lengths=lengths)
        seconds = time.perf_counter() - started
        ids_MD = tokenizer.encode(chunks_MKA)
        decoded_MKA = tokenizer.decode(ids_MD).double()
    except TokenizerError as error:
        return TokenizerRow(name, shown, problem=str(error))
    error_NA = (decoded_MKA - chunks_MKA.double()).abs().flatten(0, 1)
    low_A, high_A = tokenizer.fitted_range
    outside_NA = ((chunks_MKA < low_A) | (chunks_MKA > high_A)).flatten(0, 1)
    used_MD = torch.ones_like(ids_MD, dtype=torch.bool)
    if tokenizer.grammar is not None:
        # chunks of varying length are filled up with padding, which is none of their tokens
        used_MD = ids_MD != tokenizer.grammar.pad_id
    batch, batch_ids = chunks_MKA[:BATCH], ids_MD[:BATCH]
    one, one_ids = chunks_MKA[:1], ids_MD[:1]
    return TokenizerRow(
        name=name,
        config=shown,
        vocab_size=tokenizer.vocab_size,
        places=tokenizer.num_tokens,
        tokens=float(used_MD.sum(1).double().mean()),
        bits=float((used_MD * _bits(tokenizer)).sum(1).mean()),
        mean_error=tuple(error_NA.mean(0).tolist()),
        max_error=tuple(error_NA.amax(0).tolist()),
        error_bound=tuple(tokenizer.error_bound.tolist()),
        outside=tuple(outside_NA.double().mean(0).tolist()),
        # many chunks at once is training, one alone is control
        encode_us=_microseconds(lambda: tokenizer.encode(batch)) / len(batch),
        decode_us=_microseconds(lambda: tokenizer.decode(batch_ids)) / len(batch),
        encode_one_us=_microseconds(lambda: tokenizer.encode(one)),
        decode_one_us=_microseconds(lambda: tokenizer.decode(one_ids)),
        fit_seconds=seconds,
    )


def _bits(tokenizer: ActionTokenizer) -> Tensor:
    """log2 of the number of ids that may stand at each place, float64 (D,); without padding."""
    if tokenizer.allowed_ids is not None:
        return tokenizer.allowed_ids.sum(1).double().log2()
    ids = tokenizer.vocab_size - (tokenizer.grammar is not None)
    return torch.full((tokenizer.num_tokens,), math.log2(ids), dtype=torch.float64)


def _microseconds(call: Callable[[], object], *, repeats: int = 15) -> float:
    """Median time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    # the first call makes buffers and fills caches
    return 1e6 * statistics.median(times[1:])


def _plain(row: TokenizerRow) -> dict[str, Any]:
    """JSON has no NaN: numbers that were not measured are None."""
    values = {**dataclasses.asdict(row), "mean": row.mean, "greatest": row.greatest}
    for key, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            values[key] = None
    return values


__all__ = ["TokenizerReport", "TokenizerRow", "default_tokenizers", "tokenizer_report"]
