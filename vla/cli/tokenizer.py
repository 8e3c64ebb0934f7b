"""`vla tokenizer`: what can be asked of action tokenizers."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from vla.cli.shared import (
    Dataset,
    Format,
    KeySettings,
    clear_errors,
    console,
    dataset_keys,
    path_option,
    shown_progress,
)
from vla.common.folder_lock import alone

tokenizer_app = typer.Typer(help="Action tokenizers.", no_args_is_help=True)


@tokenizer_app.command(
    "report", epilog="Example: `vla tokenizer report data/mt10 --chunk 8 --out runs/tokenizers`"
)
def tokenizer_report(
    dataset: Dataset,
    settings: KeySettings = None,
    format: Format = None,
    chunk: Annotated[int, typer.Option(min=1, help="Actions per chunk.")] = 8,
    out: Annotated[Path | None, path_option("Folder for report.json and error_tokens.svg.")] = None,
) -> None:
    """Every action tokenizer on a dataset: tokens, bits, errors in robot units, microseconds;
    fitted to four of five episodes, measured on the fifth."""
    held = nullcontext() if out is None else alone(out)
    with clear_errors(), held:
        from vla.data import EpisodeDataset
        from vla.tokenizers.report import tokenizer_report as run

        data = EpisodeDataset(dataset, format=format, keys=dataset_keys(settings))
        # chunks never reach from one episode into the next
        lengths = data.episodes["length"].tolist()
        data.issue_warnings()
        with shown_progress("measuring"):
            found = run(data.columns.actions, data.spec, chunk=chunk, lengths=lengths)
        console.print(found.table())
        if out is not None:
            for path in found.save(out):
                console.print(f"report: {path}")
