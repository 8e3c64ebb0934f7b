"""The commands that are not of one topic, and the joining of those that are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from vla.cli.data import data_app
from vla.cli.policy import policy_app
from vla.cli.shared import ConfigFile, Overrides, Resume, clear_errors, console, escape
from vla.config import SECTIONS, UserError, load_config, read_yaml, registered, schema


class DefaultCommandGroup(TyperGroup):
    """A group that hands its arguments to its command `run` where the first of them names no other command.

    So `vla eval CONFIG` and `vla eval plan` live side by side; a config file called `plan` is written `./plan`.
    """

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of the default command, as if it were the group's, then the other commands."""
        self.commands[self.default].format_help(ctx, formatter)
        self.format_commands(ctx, formatter)


app = typer.Typer(
    name="vla",
    help="Robot policies that are transformers over tokens: collect, train, evaluate.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
config_app = typer.Typer(help="Config tools.", no_args_is_help=True)
tokenizer_app = typer.Typer(help="Action tokenizers.", no_args_is_help=True)
eval_app = typer.Typer(
    help="Rollouts on unseen seeds, and the planning of them.",
    cls=DefaultCommandGroup,
    rich_markup_mode="markdown",
)
app.add_typer(data_app, name="data")
app.add_typer(policy_app, name="policy")
app.add_typer(config_app, name="config")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(eval_app, name="eval")


@app.command(epilog="Example: `vla demo --out runs/demo`")
def demo(
    config: Annotated[Path | None, typer.Argument(help="Another demo config.")] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Where everything is written [default: runs/demo].")
    ] = None,
) -> None:
    """The whole story on the CPU: experts make demonstrations, RT-1 learns them, unseen seeds measure it."""
    with clear_errors():
        from vla.recipes.demo import DemoConfig
        from vla.recipes.demo import demo as run

        texts = list(overrides or []) + ([f"out={out}"] if out else [])
        if config is not None and "=" in str(config):
            texts, config = [str(config), *texts], None
        results = run(load_config(DemoConfig, config if config is not None else {}, texts))
        console.print(f"report: {results / 'report.html'}")


@app.command(
    epilog="Example: `vla collect configs/metaworld_mt10.yaml episodes_per_task=20 out=data/mt10`"
)
def collect(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Scripted experts, with noise in their states, make a dataset."""
    with clear_errors():
        from vla.sim_eval.collection.recording import CollectConfig
        from vla.sim_eval.collection.recording import collect as run

        path = run(
            load_config(CollectConfig, config, overrides or [], section="collect"), resume=resume
        )
        console.print(f"dataset: {path}")


@app.command(
    epilog="Example: `vla train configs/metaworld_mt10.yaml policy.history=4 optim.lr=3e-4 --resume`"
)
def train(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Pretraining and fine-tuning; several processes by `accelerate launch --multi_gpu --num_processes N -m vla.cli train CONFIG`."""
    with clear_errors():
        from vla.training import TrainConfig
        from vla.training import train as run

        result = run(
            load_config(TrainConfig, config, overrides or [], section="train"), resume=resume
        )
        console.print(f"policy: {result.out / 'policy'} (step {result.step})")


@eval_app.command(
    "run",
    hidden=True,
    epilog="Example: `vla eval configs/metaworld_mt10.yaml policy=runs/mt10/policy episodes_per_task=50`",
)
def evaluate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Rollouts on unseen seeds: results.json, episodes.parquet, videos, report.html."""
    with clear_errors():
        from vla.recipes.evaluate import evaluate_from_config
        from vla.sim_eval.evaluation import EvalConfig

        settings = load_config(EvalConfig, config, overrides or [], section="eval")
        results = evaluate_from_config(settings, command=f"vla {' '.join(sys.argv[1:])}")
        console.print(results.table())
        console.print(f"report: {Path(settings.out) / 'report.html'}")


@eval_app.command("plan", epilog="Example: `vla eval plan --rates 0.6 0.75 --power 0.8 --tasks 5`")
def eval_plan(
    rates: Annotated[
        tuple[float, float], typer.Option(help="The two success rates to be told apart.")
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
    """Two policies on the same seeds, block by block, until the difference is clear or `episodes_per_task` is reached."""
    with clear_errors():
        from vla.recipes.ab import compare_policies_sequentially
        from vla.sim_eval.evaluation import EvalConfig

        settings = load_config(EvalConfig, config, overrides or [], section="eval")
        command = f"vla {' '.join(sys.argv[1:])}"
        found = compare_policies_sequentially(
            policy_a, policy_b, settings, alpha=alpha, command=command
        )
        console.print(found.comparison.tables())
        console.print(
            f"played {found.episodes_per_task} of at most {found.limit} episodes per task"
        )
        console.print(f"report: {Path(settings.out) / 'report.html'}")


@eval_app.command(
    "perturb",
    epilog="Example: `vla eval perturb configs/metaworld_mt10.yaml policy=runs/mt10/policy --kinds light,camera`",
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
    """The same episodes under light, camera, noise, delay ... at three severities, and with wrong or missing inputs."""
    with clear_errors():
        from vla.recipes.evaluate import perturb_from_config
        from vla.sim_eval.robustness.sweep import PAGE, PerturbConfig

        texts = list(overrides or [])
        texts += [
            f"{key}=[{text}]"
            for key, text in (("kinds", kinds), ("severities", severities))
            if text is not None
        ]
        settings = load_config(PerturbConfig, config, texts, section="eval")
        found = perturb_from_config(settings, command=f"vla {' '.join(sys.argv[1:])}")
        console.print(found.table())
        console.print(f"report: {Path(settings.out) / PAGE}")


@app.command(epilog="Example: `vla compare runs/new runs/old --out runs/compare`")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluations, two or more.")],
    force: Annotated[
        bool, typer.Option("--force", help="Compare runs that differ in more than the policy.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for compare.json and report.html.")] = Path(
        "runs/compare"
    ),
    alpha: Annotated[
        float, typer.Option(help="Significance level of the whole comparison.")
    ] = 0.05,
) -> None:
    """Which policy is better: paired exact tests, corrected for their number, and one report."""
    with clear_errors():
        from vla.sim_eval.comparison.comparison import compare as run
        from vla.sim_eval.report import write_report

        comparison = run(runs, force=force, alpha=alpha)
        comparison.save(out)
        report = write_report(out / "report.html", comparison.runs.values(), comparison=comparison)
        console.print(comparison.tables())
        console.print(f"report: {report}")


@app.command(
    epilog="Example: `vla fqe 'policies=[runs/iql/checkpoints/step-*]' data.path=data/mixed data.rewards.kind=success`"
)
def fqe(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file: one config, or sections, one of them `fqe`.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Which checkpoint is best, told from recorded episodes without a simulator: fitted Q evaluation."""
    with clear_errors():
        from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig
        from vla.training.offline_evaluation.fitted_q_evaluation import fqe as run
        from vla.training.offline_evaluation.fqe_result import RESULT_FILE

        texts = list(overrides or [])
        if config is not None and "=" in str(config):
            texts, config = [str(config), *texts], None
        settings = load_config(
            FQEConfig, config if config is not None else {}, texts, section="fqe"
        )
        with console.status("opening the dataset") as status:
            result = run(settings, tell=lambda text: status.update(escape(text)))
        console.print(result.table())
        console.print(f"estimates: {Path(settings.out) / RESULT_FILE}")


@app.command(epilog="Example: `vla diagnose runs/iql`")
def diagnose(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    step: Annotated[
        int | None, typer.Option(help="Step of a checkpoint [default: the newest].")
    ] = None,
    episodes: Annotated[
        int,
        typer.Option(min=1, help="Most episodes read of those trained on, and of those held out."),
    ] = 50,
    windows: Annotated[int, typer.Option(min=1, help="Most windows looked at of each.")] = 2048,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the dataset lies now [default: as the run's config says]."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for diagnostics.json and calibration.svg [default: the run's]."),
    ] = None,
) -> None:
    """What a run's critics are worth: values beside returns, weights, data beside policy, and when to stop."""
    with clear_errors():
        from vla.training.offline_evaluation.diagnostics import diagnose as look

        found = look(run, step=step, episodes=episodes, windows=windows, data=data)
        console.print(found.tables())
        for path in found.save(out):
            console.print(f"written: {path}")


@tokenizer_app.command(
    "report", epilog="Example: `vla tokenizer report data/mt10 --chunk 8 --out runs/tokenizers`"
)
def tokenizer_report(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    chunk: Annotated[int, typer.Option(min=1, help="Actions per chunk.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json and error_tokens.svg.")
    ] = None,
) -> None:
    """Every action tokenizer on a dataset: tokens, bits, errors in robot units, microseconds; fitted to four of five episodes,
    measured on the fifth."""
    with clear_errors():
        from vla.data import EpisodeDataset
        from vla.tokenizers.report import tokenizer_report as run

        data = EpisodeDataset(dataset)
        found = run(
            data.columns.actions, data.spec, chunk=chunk, lengths=data.episodes["length"].tolist()
        )
        console.print(found.table())
        if out is not None:
            console.print(*[f"report: {path}" for path in found.save(out)], sep="\n")


@config_app.command("schema", epilog="Example: `vla config schema train > train.schema.json`")
def config_schema(
    name: Annotated[str, typer.Argument(help="collect, train, eval, fqe or demo.")],
) -> None:
    """The JSON schema of a config, for editors."""
    with clear_errors():
        console.print_json(data=schema(_config_class(name)))


def _config_class(name: str) -> Any:
    if name == "collect":
        from vla.sim_eval.collection.recording import CollectConfig

        return CollectConfig
    if name == "train":
        from vla.training import TrainConfig

        return TrainConfig
    if name == "eval":
        from vla.sim_eval.evaluation import EvalConfig

        return EvalConfig
    if name == "demo":
        from vla.recipes.demo import DemoConfig

        return DemoConfig
    if name == "fqe":
        from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig

        return FQEConfig
    raise UserError(f"no config {name!r}; there are: {', '.join(SECTIONS)}, demo")


@config_app.command("check", epilog="Example: `vla config check configs/metaworld_mt10.yaml`")
def config_check(config: ConfigFile) -> None:
    """Validates every section of a config file without running it."""
    with clear_errors():
        values = read_yaml(config)
        sections = [s for s in SECTIONS if s in values]
        if not sections:
            raise UserError(f"{config}: has none of the sections {', '.join(SECTIONS)}")
        if "out" in values:  # of all sections together
            load_config(_config_class("demo"), config)
            console.print("demo: fine")
            return
        for section in sections:
            load_config(_config_class(section), config, section=section)
            console.print(f"{section}: fine")


@app.command("list", epilog="Example: `vla list policies`")
def list_registered(
    kind: Annotated[
        str,
        typer.Argument(
            help="policies, objectives, values, extractions, envs, tokenizers, heads or formats."
        ),
    ],
) -> None:
    """What a config can name."""
    with clear_errors():
        try:
            found = registered(kind)
        except KeyError as error:
            raise UserError(error.args[0]) from None
        table = Table("", "", box=None, show_header=False, pad_edge=False)
        table.columns[0].no_wrap = True
        for name, cls in found.items():
            paragraph = (cls.__doc__ or "").strip().split("\n\n")[0]
            table.add_row(name, escape(" ".join(paragraph.split())))
        console.print(table)


@app.command(
    epilog="Example: `vla bench control_step`",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A file of benchmarks/.")],
) -> None:
    """Runs a benchmark of the repository; further arguments are handed to it."""
    with clear_errors():
        folder = Path(__file__).parents[2] / "benchmarks"
        names = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
        if name not in names:
            raise UserError(
                f"no benchmark {name!r}; there are: {', '.join(names) or 'none (run it from a checkout)'}"
            )
        raise typer.Exit(
            subprocess.call([sys.executable, str(folder / f"{name}.py"), *context.args])
        )


def main() -> None:
    app()
