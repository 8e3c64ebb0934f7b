"""What each tokenizer costs and loses on given actions: tokens, bits, errors in robot units,
microseconds.

N actions, K actions per chunk, A action dimensions, D places per chunk.
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
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

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
"""Every so-manieth episode is kept from fitting and measured instead, where there are that many."""


@dataclass(frozen=True)
class TokenizerRow:
    """One tokenizer on one set of actions. Errors are |decode(encode(a)) - a| in robot units, by
    dimension.

    Attributes:
        name: what the tables call it.
        config: its config, JSON types.
        problem: why it does not fit these actions; the numbers below are then empty.
        vocab_size: ids.
        places: D.
        tokens: mean number of tokens of a chunk without padding.
        bits: mean of the sum of log2 of how many ids each token is one of.
        mean_error, max_error: over the measured chunks.
        error_bound: what the tokenizer guarantees inside its fitted range.
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
        episodes_fitted, episodes_measured: how many; the same ones where there are fewer than five.
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
        """For the terminal: sizes, errors over all dimensions, times (encoding + decoding) per
        chunk; errors by dimension; what did not fit."""
        done = [row for row in self.rows if row.problem is None]
        heads = (
            "ids",
            "tokens",
            "bits",
            "mean\nerror",
            "max\nerror",
            "bound",
            "µs in\nbatches",
            "µs\nalone",
        )
        costs = _table(self._title(), "tokenizer", heads)
        for row in done:
            costs.add_row(
                row.name,
                str(row.vocab_size),
                f"{row.tokens:.1f}",
                f"{row.bits:.0f}",
                f"{row.mean:.2g}",
                f"{row.greatest:.2g}",
                f"{max(row.error_bound):.2g}",
                f"{row.encode_us:.1f}+{row.decode_us:.1f}",
                f"{row.encode_one_us:.0f}+{row.decode_one_us:.0f}",
            )
        names = [row.name.replace(" ", "\n") for row in done]
        means, most = (
            _table("mean error, robot units", "", names),
            _table("max error, robot units", "", names),
        )
        for i, name in enumerate(self.action_names):
            means.add_row(name, *[f"{row.mean_error[i]:.2g}" for row in done])
            most.add_row(name, *[f"{row.max_error[i]:.2g}" for row in done])
        problems = [
            Text(f"{row.name}: {row.problem}") for row in self.rows if row.problem is not None
        ]
        return Group(costs, means, most, *problems)

    def _title(self) -> str:
        return (
            f"chunks of {self.chunk} actions of {len(self.action_names)} dimensions at {self.control_hz:g} Hz; fitted to "
            f"{self.episodes_fitted} episodes, measured on {self.chunks_measured} chunks of {self.episodes_measured}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "action_names": list(self.action_names),
            "rows": [_plain(row) for row in self.rows],
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `report.json` and `error_tokens.svg`, and gives their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data, plot = folder / "report.json", folder / "error_tokens.svg"
        data.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        points = [(row.name, row.tokens, row.mean) for row in self.rows if row.problem is None]
        title = f"Chunks of {self.chunk} actions, {len(self.action_names)} dimensions, {self.control_hz:g} Hz"
        plot.write_text(
            scatter_svg(points, title, x="tokens per chunk", y="mean error, robot units")
        )
        return [data, plot]


def default_tokenizers() -> dict[str, TokenizerConfig]:
    """By name: every scheme of bins, k-means over actions and chunks, and all else that is
    registered."""
    found: dict[str, TokenizerConfig] = {
        "bins uniform": BinsConfig(scheme="uniform"),
        "bins quantile": BinsConfig(scheme="quantile"),
        "bins mu_law": BinsConfig(scheme="mu_law"),
        "kmeans action": KMeansConfig(over="action"),
        "kmeans chunk": KMeansConfig(over="chunk"),
    }
    others = {
        name: cls
        for name, cls in registered("tokenizers").items()
        if name not in ("bins", "kmeans")
    }
    return found | {name: cast(TokenizerConfig, cls()) for name, cls in others.items()}


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
        lengths: steps of each episode; None where there is one.
        tokenizers: configs by name; by default `default_tokenizers()`.

    Raises:
        TokenizerError: `actions` do not fit `spec`. A tokenizer that cannot be fitted to these
            actions is a row with the reason in `problem`.
    """
    steps = [len(actions)] if lengths is None else list(lengths)
    values_NA = torch.from_numpy(np.ascontiguousarray(actions, dtype=np.float32))
    fitted, measured = _divide(len(steps))
    episodes = values_NA.split(steps)
    fit_lengths, measured_lengths = [steps[e] for e in fitted], [steps[e] for e in measured]
    fit_NA = torch.cat([episodes[e] for e in fitted])
    measured_NA = torch.cat([episodes[e] for e in measured])
    chunks = measured_NA[chunk_rows(measured_lengths, chunk, most=MOST_CHUNKS)]
    configs = default_tokenizers() if tokenizers is None else dict(tokenizers)
    rows = [
        _measure(name, config, spec, chunk, fit_NA, fit_lengths, chunks)
        for name, config in configs.items()
    ]
    return TokenizerReport(
        action_names=spec.action_names,
        chunk=chunk,
        control_hz=spec.control_hz,
        episodes_fitted=len(fitted),
        episodes_measured=len(measured),
        chunks_measured=len(chunks),
        rows=tuple(rows),
    )


def _table(title: str, first: str, heads: Sequence[str]) -> Table:
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _divide(episodes: int) -> tuple[list[int], list[int]]:
    """Episodes to fit to, and to measure on."""
    everyone = list(range(episodes))
    if episodes < HELD_OUT:
        return everyone, everyone
    measured = everyone[HELD_OUT - 1 :: HELD_OUT]
    return [e for e in everyone if e not in set(measured)], measured


def _measure(
    name: str,
    config: TokenizerConfig,
    spec: Spec,
    chunk: int,
    fit_NA: Tensor,
    lengths: list[int],
    chunks: Tensor,
) -> TokenizerRow:
    shown = config.model_dump(mode="json")
    try:
        started = time.perf_counter()
        tokenizer = config.build(spec, chunk).fit(fit_NA, lengths=lengths)
        seconds = time.perf_counter() - started
        ids_BD = tokenizer.encode(chunks)
        error_NA = (tokenizer.decode(ids_BD).double() - chunks.double()).abs().flatten(0, 1)
    except TokenizerError as error:
        return TokenizerRow(name, shown, problem=str(error))
    used_BD = torch.ones_like(ids_BD, dtype=torch.bool)
    if tokenizer.grammar is not None:
        used_BD = ids_BD != tokenizer.grammar.pad_id
    batch, one = chunks[:BATCH], chunks[:1]
    batch_ids, one_ids = ids_BD[:BATCH], ids_BD[:1]
    return TokenizerRow(
        name=name,
        config=shown,
        vocab_size=tokenizer.vocab_size,
        places=tokenizer.num_tokens,
        tokens=float(used_BD.sum(1).double().mean()),
        bits=float((used_BD * _bits(tokenizer)).sum(1).mean()),
        mean_error=tuple(error_NA.mean(0).tolist()),
        max_error=tuple(error_NA.amax(0).tolist()),
        error_bound=tuple(tokenizer.error_bound.tolist()),
        encode_us=_microseconds(lambda: tokenizer.encode(batch)) / len(batch),
        decode_us=_microseconds(lambda: tokenizer.decode(batch_ids)) / len(batch),
        encode_one_us=_microseconds(lambda: tokenizer.encode(one)),
        decode_one_us=_microseconds(lambda: tokenizer.decode(one_ids)),
        fit_seconds=seconds,
    )


def _bits(tokenizer: ActionTokenizer) -> Tensor:
    """log2 of the number of ids that may stand at each place, float64 (D,); padding is none of
    them."""
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
    return 1e6 * statistics.median(times[1:])


def _plain(row: TokenizerRow) -> dict[str, Any]:
    """JSON has no NaN: numbers that were not measured are None."""
    values = {**dataclasses.asdict(row), "mean": row.mean, "greatest": row.greatest}
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


__all__ = ["TokenizerReport", "TokenizerRow", "default_tokenizers", "tokenizer_report"]
