"""`vla data`: what can be done with a dataset without a policy."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from vla.cli.data_write import add_to
from vla.cli.shared import (
    Dataset,
    Format,
    KeySettings,
    clear_errors,
    console,
    dataset_keys,
    escape,
    path_argument,
    path_option,
    print_notes,
    shown_progress,
)
from vla.common.errors import UserError

data_app = typer.Typer(help="Dataset tools.", no_args_is_help=True)
# first in the help: what writes datasets
add_to(data_app)


@data_app.command("info", epilog="Example: `vla data info data/mt10`")
def data_info(dataset: Dataset, settings: KeySettings = None, format: Format = None) -> None:
    """What a dataset holds: episodes, frames, tasks, cameras, dimensions, successes, returns."""
    with clear_errors():
        from vla.cli.data_tables import print_info
        from vla.data import EpisodeDataset

        opened = EpisodeDataset(dataset, format=format, keys=dataset_keys(settings))
        print_info(opened.info())
        # they come up while the numbers are read
        opened.issue_warnings()


@data_app.command(
    "relabel",
    epilog="Example: `vla data relabel data/tabletop_offline data/relabelled --by instruction`",
)
def data_relabel(
    dataset: Dataset,
    out: Annotated[Path, path_argument("Folder of the new dataset.")],
    by: Annotated[
        str,
        typer.Option(
            help="instruction (failures that did something else) or goal (later pictures)."
        ),
    ],
    settings: KeySettings = None,
    format: Format = None,
    per_episode: Annotated[
        int, typer.Option(min=1, help="At most this many new labels for one episode.")
    ] = 1,
    keep: Annotated[
        bool, typer.Option(help="By instruction: write the episodes as they were, too.")
    ] = True,
    any_instruction: Annotated[
        bool, typer.Option(help="By instruction: also those that the dataset never gives.")
    ] = False,
    probability: Annotated[
        float, typer.Option(min=0, max=1, help="By goal: of a goal in the same episode.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="By goal: decides starts and goals.")] = 0,
) -> None:
    """Writes a dataset in which episodes count as successes at what they did achieve."""
    with clear_errors():
        from vla.data import relabel_by_goal, relabel_by_instruction

        keys = dataset_keys(settings)
        if by == "instruction":
            made = relabel_by_instruction(
                dataset,
                out,
                format=format,
                keys=keys,
                per_episode=per_episode,
                known_only=not any_instruction,
                keep=keep,
            )
        elif by == "goal":
            made = relabel_by_goal(
                dataset,
                out,
                format=format,
                keys=keys,
                per_episode=per_episode,
                probability=probability,
                seed=seed,
            )
        else:
            # options of the other way are ignored, so no guess is made
            raise UserError(f"--by {by}: expected instruction or goal")
        print_notes(made.notes)
        console.print(
            f"{made.episodes} episodes, {made.relabelled} of them with a new label: "
            f"{escape(str(made.root))}"
        )


@data_app.command("stats", epilog="Example: `vla data stats data/mt10 --json > stats.json`")
def data_stats(
    dataset: Dataset,
    settings: KeySettings = None,
    format: Format = None,
    images: Annotated[
        int, typer.Option(min=0, help="Frames per camera for mean and deviation; 0 for none.")
    ] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers as JSON.")] = False,
) -> None:
    """True statistics of all frames: quantiles of actions and states, returns, lengths, tasks,
    colours."""
    with clear_errors():
        import json

        from vla.cli.data_tables import print_stats
        from vla.data import EpisodeDataset
        from vla.data.view.summary import summarise

        opened = EpisodeDataset(dataset, format=format, keys=dataset_keys(settings))
        found = summarise(opened, images=images)
        opened.issue_warnings()
        if as_json:
            # not by rich, which would break long lines
            typer.echo(json.dumps(found, indent=2, allow_nan=False))
        else:
            print_stats(found)


@data_app.command("validate", epilog="Example: `vla data validate data/mt10 --fix`")
def data_validate(
    dataset: Dataset,
    settings: KeySettings = None,
    format: Format = None,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Repair what can be repaired without loss; originals are kept."),
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Decode no images.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All findings as JSON.")] = False,
) -> None:
    """Is everything in a dataset what it says it is? Exit status 1 if a finding is an error."""
    # scripts that read JSON often read standard error with it
    shown = nullcontext(None) if as_json else shown_progress("decoding")
    with clear_errors(), shown as progress:
        import json

        from vla.cli.data_tables import print_report
        from vla.data.validation.report import validate

        report = validate(
            dataset,
            format=format,
            keys=dataset_keys(settings),
            fix=fix,
            deep=not fast,  # decoding all images takes most of the time
            progress=progress,
        )
    # behind the bar, which would be drawn over it
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        print_report(report)
    raise typer.Exit(0 if report.ok else 1)


@data_app.command(
    "view", epilog="Example: `vla data view data/mt10 --out mt10.html --episodes 0:20`"
)
def data_view(
    dataset: Dataset,
    settings: KeySettings = None,
    out: Annotated[
        Path | None, path_option("The page; view.html if no other file is asked for.")
    ] = None,
    rrd: Annotated[Path | None, path_option("A recording for the rerun viewer.")] = None,
    episodes: Annotated[
        str | None, typer.Option(help="Which episodes: `0:20` or `3,7,10:20`.")
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            min=1, help="Without --episodes: so many, evenly over tasks, successes and failures."
        ),
    ] = 50,
    max_mb: Annotated[
        float, typer.Option(min=0.1, help="The page is not larger than so many MB.")
    ] = 50.0,
    format: Format = None,
) -> None:
    """Writes one HTML page with videos, curves and numbers; with --rrd, a recording for the rerun
    viewer."""
    with clear_errors(), shown_progress("looking") as progress:
        from vla.data import EpisodeDataset
        from vla.data.view import spread_episodes, write_view
        from vla.data.view.rerun import export_rerun

        opened = EpisodeDataset(dataset, format=format, keys=dataset_keys(settings))
        written = []
        if rrd is not None:
            # of a recording nothing is left out for its size: all episodes may be too many
            chosen = spread_episodes(opened, sample) if episodes is None else episodes
            made = export_rerun(rrd, opened, episodes=chosen, progress=progress)
            size = f"{made.bytes / 1e6:.1f} MB"
            written.append(f"{made.episodes} of {len(opened)} episodes, {size}: {rrd}")
        if out is not None or rrd is None:
            out = out or Path("view.html")
            page = write_view(
                out, opened, episodes=episodes, sample=sample, max_mb=max_mb, progress=progress
            )
            videos = f", {page.filmed} with videos" if opened.spec.cameras else ""
            size = f"{page.bytes / 1e6:.1f} MB"
            written.append(f"{page.episodes} of {page.total} episodes{videos}, {size}: {out}")
        opened.issue_warnings()
    for line in written:
        console.print(escape(line), soft_wrap=True, highlight=False)


@data_app.command(
    "prefer", epilog="Example: `vla data prefer data/mt10 pairs.html --pairs 100 --steps 25`"
)
def data_prefer(
    dataset: Dataset,
    out: Annotated[Path, path_argument("File of the page.")],
    settings: KeySettings = None,
    pairs: Annotated[int, typer.Option(min=1, help="So many pairs of films.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each film.")] = 25,
    seed: Annotated[int, typer.Option(min=0, help="Decides which parts are shown.")] = 0,
    format: Format = None,
) -> None:
    """Writes one HTML page that asks which of two films is better, and saves the answers as a file.

    A reward model of type preference learns from it: `model.labels=FILE`.
    """
    with clear_errors(), shown_progress("filming") as progress:
        from vla.data import EpisodeDataset
        from vla.data.view.preferences import write_preference_page

        opened = EpisodeDataset(dataset, format=format, keys=dataset_keys(settings))
        page = write_preference_page(
            out, opened, pairs=pairs, steps=steps, seed=seed, progress=progress
        )
        opened.issue_warnings()
    size = f"{page.bytes / 1e6:.1f} MB"
    console.print(escape(f"{page.pairs} pairs, {size}: {out}"), soft_wrap=True, highlight=False)
