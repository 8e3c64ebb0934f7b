"""`vla serve` and `vla ping`: a policy behind a socket, and a look at one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla.cli.shared import (
    Format,
    KeySettings,
    Overrides,
    clear_errors,
    console,
    dataset_keys,
    escape,
    path_option,
    remark_on_load,
)
from vla.common.errors import UserError

if TYPE_CHECKING:
    from vla.serving.ping import PingReport

commands = typer.Typer()


@commands.command(epilog="Example: `vla serve runs/tabletop/policy port=8000 max_batch=1`")
def serve(
    policy: Annotated[
        str, typer.Argument(help="Folder of a policy, or a repository of the Hugging Face hub.")
    ],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, path_option("YAML file with keys of `vla config schema serve`.")
    ] = None,
) -> None:
    """A policy for robots that connect: openpi's protocol at `/`, vla-eval's at `/vla_eval`.

    Ends on SIGTERM and Ctrl-C, after what waits has been answered.
    """
    with clear_errors():
        from vla.config import load_config
        from vla.serving import ServeConfig
        from vla.serving import serve as run

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        # a line for every connection that opens
        logging.getLogger("vla.serving.sockets").setLevel(logging.WARNING)
        settings = load_config(
            ServeConfig,
            config if config is not None else {},
            [f"policy={policy}", *(overrides or [])],
        )
        remark_on_load()
        run(settings, announce=lambda line: console.print(line, soft_wrap=True))


@commands.command(epilog="Example: `vla ping ws://127.0.0.1:8000 --data data/tuesday`")
def ping(
    url: Annotated[str, typer.Argument(help="ws://HOST:PORT, or wss://HOST:PORT.")],
    settings: KeySettings = None,
    data: Annotated[
        str | None,
        typer.Option(help="Dataset whose robot is compared and whose frames are replayed."),
    ] = None,
    format: Format = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of it that are replayed.")] = 2,
    count: Annotated[int, typer.Option(min=1, help="Pings and observations timed.")] = 50,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the API key.")
    ] = "VLA_API_KEY",
) -> None:
    """What a policy server says of itself, how fast it answers, how its clock differs, and whether
    it fits a dataset. Exit status 1 if it does not."""
    with clear_errors():
        from vla.data import EpisodeDataset
        from vla.serving.ping import ping as ask

        keys = dataset_keys(settings)
        if data is None and (keys is not None or format is not None):
            raise UserError(
                "keys and --format are of a dataset, and none is named; add --data PATH"
            )
        dataset = None if data is None else EpisodeDataset(data, format=format, keys=keys)
        report = ask(
            url,
            # not an option: other users of this machine see the arguments of its programs
            api_key=os.environ.get(api_key_env),
            count=count,
            dataset=dataset,
            episodes=episodes,
        )
        _print_report(report)
    raise typer.Exit(1 if report.differences else 0)


def _print_report(report: PingReport) -> None:
    """A line for each thing that was found."""
    said = report.metadata
    name = escape(str(said.get("server", "a server that does not say its name")))
    console.print(f"{escape(report.url)}: {name}, {escape(str(said.get('protocol', 'openpi')))}")
    for key in ("action_horizon", "history", "control_hz", "every_step", "features"):
        if key in said:
            console.print(f"  {key}: {escape(str(said[key]))}")
    for camera, (height, width) in report.spec.cameras.items() if report.spec else ():
        console.print(f"  camera {escape(camera)}: {height}x{width}")
    latency = report.network
    console.print(f"network: p50 {latency.p50:.2f} ms, p99 {latency.p99:.2f} ms of {latency.count}")
    if report.answers is not None:
        latency = report.answers
        inside = f", of them {report.infer_ms:.1f} ms in the server" if report.infer_ms else ""
        line = f"answers: p50 {latency.p50:.1f} ms, p99 {latency.p99:.1f} ms of {latency.count}"
        console.print(line + inside)
    if report.clock_offset_s is not None:
        console.print(f"clock: the server's is {1000 * report.clock_offset_s:+.1f} ms from ours")
    for difference in report.differences:
        console.print(f"[bold red]does not fit:[/] {escape(difference)}", soft_wrap=True)
    if report.replay is not None:
        console.print(f"replay: {report.replay.frames} frames, mean difference of the first action")
        for dim, error in report.replay.errors.items():
            share = report.replay.shares[dim]
            console.print(f"  {escape(dim)}: {error:.4g} ({share:.1%} of its range)")
