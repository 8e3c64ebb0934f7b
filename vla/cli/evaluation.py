"""`vla eval` and `vla compare`: rollouts, their planning, and which policy is better."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vla.cli.default_command import DefaultCommandGroup
from vla.cli.shared import (
    ConfigFile,
    Overrides,
    Resume,
    clear_errors,
    console,
    path_option,
    remark_on_load,
)
from vla.common.folder_lock import alone
from vla.common.paths import expanded_path

commands = typer.Typer()
eval_app = typer.Typer(
    help="Rollouts on unseen seeds, and the planning of them.",
    cls=DefaultCommandGroup,
    rich_markup_mode="markdown",
)


@eval_app.command(
    "run",
    # `vla eval CONFIG` is enough, see DefaultCommandGroup
    hidden=True,
    epilog=(
        "Example: `vla eval configs/metaworld_mt10.yaml policy=runs/mt10/policy "
        "episodes_per_task=50`"
    ),
)
def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up what an interrupted evaluation has kept.")
    ] = False,
) -> None:
    """Rollouts on unseen seeds: results.json, episodes.parquet, videos, report.html."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.evaluate import evaluate_from_config
        from vla.sim_eval.evaluation import EvalConfig

        settings = load_config(EvalConfig, config, overrides or [], section="eval")
        remark_on_load()
        # writes the report, too
        results = evaluate_from_config(settings, command=_command(), resume=resume, restart=restart)
        console.print(results.table())
        console.print(f"report: {Path(settings.out) / 'report.html'}")


@eval_app.command("plan", epilog="Example: `vla eval plan --rates 0.6 0.75 --power 0.8 --tasks 5`")
def eval_plan(
    rates: Annotated[
        tuple[float, float], typer.Option(help="The two success rates to be distinguished.")
    ],
    power: Annotated[float, typer.Option(help="Probability of finding the difference.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Probability of a false alarm.")] = 0.05,
    paired: Annotated[
        bool | None,
        typer.Option(
            "--paired/--unpaired", help="Same seeds for both policies [default: show both]."
        ),
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(
            help="Of the policies' successes in the same episode [default: 0, 0.25, 0.5]."
        ),
    ] = None,
    tasks: Annotated[int, typer.Option(help="Tasks among which the episodes are divided.")] = 1,
) -> None:
    """How many episodes a comparison of two policies needs."""
    with clear_errors():
        from vla.sim_eval.statistics import plan

        # None for `paired` and `correlation`: a row for each possibility
        found = plan(
            *rates, power=power, alpha=alpha, paired=paired, correlation=correlation, tasks=tasks
        )
        console.print(found.table())


@eval_app.command(
    "ab",
    epilog="Example: `vla eval ab configs/metaworld_mt10.yaml runs/new/policy runs/old/policy`",
)
def eval_ab(
    config: ConfigFile,
    policy_a: Annotated[str, typer.Argument(help="`expert`, `random` or the folder of a policy.")],
    policy_b: Annotated[str, typer.Argument(help="The other one.")],
    overrides: Overrides = None,
    alpha: Annotated[
        float, typer.Option(help="Chance of calling equal policies different.")
    ] = 0.05,
) -> None:
    """Two policies on the same seeds, block by block, until the difference is clear or
    `episodes_per_task` is reached."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.ab import compare_policies_sequentially
        from vla.sim_eval.evaluation import EvalConfig

        settings = load_config(EvalConfig, config, overrides or [], section="eval")
        remark_on_load()
        found = compare_policies_sequentially(
            expanded_path(policy_a),
            expanded_path(policy_b),
            settings,
            alpha=alpha,
            command=_command(),
        )
        console.print(found.comparison.tables())
        # a sequential test may stop long before
        console.print(
            f"played {found.episodes_per_task} of at most {found.limit} episodes per task"
        )
        console.print(f"report: {Path(settings.out) / 'report.html'}")


@eval_app.command(
    "perturb",
    epilog=(
        "Example: `vla eval perturb configs/metaworld_mt10.yaml policy=runs/mt10/policy "
        "--kinds light,camera`"
    ),
)
def eval_perturb(
    config: ConfigFile,
    overrides: Overrides = None,
    kinds: Annotated[
        str | None, typer.Option(help="Perturbations, with commas between [default: all].")
    ] = None,
    severities: Annotated[
        str | None, typer.Option(help="Of 1, 2, 3, with commas between [default: all].")
    ] = None,
) -> None:
    """The same episodes under light, camera, noise, delay ... at three severities, and with wrong
    or missing inputs."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.evaluate import perturb_from_config
        from vla.sim_eval.robustness.sweep import PAGE, PerturbConfig

        texts = list(overrides or [])
        # lists in YAML; the options win over the overrides
        if kinds is not None:
            texts.append(f"kinds=[{kinds}]")
        if severities is not None:
            texts.append(f"severities=[{severities}]")
        settings = load_config(PerturbConfig, config, texts, section="eval")
        remark_on_load()
        found = perturb_from_config(settings, command=_command())
        console.print(found.table())
        console.print(f"report: {Path(settings.out) / PAGE}")


@eval_app.command(
    "realtime",
    epilog=(
        "Example: `vla eval realtime configs/tabletop_realtime.yaml latency=[0.05,0.1] "
        "method=[guidance,switch]`"
    ),
)
def eval_realtime(config: ConfigFile, overrides: Overrides = None) -> None:
    """The same episodes in a world that does not wait while the policy computes: success, pauses
    and jumps under latencies, by ways to go on from the chunk before."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.evaluate import realtime_from_config
        from vla.sim_eval.realtime.sweep import RealtimeConfig
        from vla.sim_eval.realtime.table import REALTIME_FILE

        settings = load_config(RealtimeConfig, config, overrides or [], section="eval")
        remark_on_load()
        found = realtime_from_config(settings, command=_command())
        console.print(found.table())
        console.print(f"results: {Path(settings.out) / REALTIME_FILE}")


@commands.command(
    epilog=(
        "Example: `vla compare runs/new runs/old` for two networks; `vla compare "
        "iql=runs/iql_s0/eval,runs/iql_s1/eval 'bc=runs/bc_s*/eval'` for two methods"
    )
)
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of evaluations, two or more; or for methods `NAME=FOLDER,FOLDER`, the "
            "evaluations of several trainings (patterns are allowed)."
        ),
    ],
    methods: Annotated[
        bool,
        typer.Option(
            "--methods",
            help="Take the folders for trainings of methods, grouped by what their policies say.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Compare runs that differ in more than the policy or the method."
        ),
    ] = False,
    out: Annotated[
        Path, path_option("Folder for compare.json and, of networks, report.html.")
    ] = Path("runs/compare"),
    alpha: Annotated[
        float, typer.Option(help="Significance level of the whole comparison.")
    ] = 0.05,
) -> None:
    """Which policy is better: paired exact tests, corrected for their number, and one report.

    With `NAME=` or `--methods`: which method is better, over several trainings of each.
    """
    with clear_errors():
        from vla.cli.compared_runs import groups_of, paths_of
        from vla.sim_eval.comparison.comparison import compare as run
        from vla.sim_eval.comparison.methods import compare_methods
        from vla.sim_eval.report import write_report

        with alone(out):
            groups = groups_of(runs, methods=methods)
            if groups:
                found = compare_methods(groups, force=force, alpha=alpha)
                console.print(found.tables())
                console.print(f"saved: {found.save(out)}")
                return
            comparison = run(paths_of(runs), force=force, alpha=alpha)
            # before the page: numbers are there even if a video cannot be read
            comparison.save(out)
            report = write_report(
                out / "report.html", comparison.runs.values(), comparison=comparison
            )
        console.print(comparison.tables())
        console.print(f"report: {report}")


def _command() -> str:
    """What results keep as the way to repeat them."""
    # as it was typed, but for the shell's quotes; not the path of the program, and not how an
    # interruption was dealt with
    typed = [text for text in sys.argv[1:] if text not in ("--resume", "--restart")]
    return f"vla {' '.join(typed)}"
