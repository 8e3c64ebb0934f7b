"""Runs `vla` commands in forks of one process, so that the imports are paid once.

With limits of the system where they are asked for, several at a time, and to be stopped, gone on with or killed by
their process numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EPISODES = 6
"""Of the collections and evaluations."""
STEPS = 30
"""Of the trainings."""
ROUNDS = 4
"""Of what learns from acting."""


_TIMES = (
    "seconds",
    "git",
    "frames_per_s",
    "eta",
    "run_id",
    "lost_workers",
    "losses",
    "files",
)
"""Beginnings of the keys of what differs between two equal runs."""


class Commands:
    """A process that forks one for each command."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        limits: Mapping[str, int] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> int:
        """Starts `vla ARGUMENTS` with its output in `log` -> its process.

        limits: name of a limit of the system (`FSIZE`, `NOFILE`) -> its value; `AS` counts from what the process has.
        settings: `module:NAME` -> what it is set to.
        """
        job = {"arguments": [*arguments], "log": str(log)}
        return int(self._ask(job | {"limits": limits or {}, "settings": settings or {}}))

    def wait(self, process: int) -> int:
        """Waits for the end -> the exit status, negative where a signal ended it."""
        return int(self._ask({"wait": process}))

    def run(self, arguments: Sequence[str], log: Path, **options: Any) -> int:
        """Starts and waits -> the exit status."""
        return self.wait(self.start(arguments, log, **options))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, job: Mapping[str, Any]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the process that starts the commands ended by itself; see above")
        return line


def tiny(command: str, folder: Path, out: Path) -> list[str]:
    """Arguments of a small command that reads what `prepare` has put into `folder`, and writes `out`."""
    data, other, run = folder / "data", folder / "other", folder / "run"
    evaluations = [str(folder / "evaluation"), str(folder / "random")]
    env = "env={type: pointmaze, tasks: [umaze], horizon: 30}"
    training = [
        f"data.path={data}",
        f"steps={STEPS}",
        "batch_size=8",
        "log_every=1",
        "validate_every=null",
        "save_every=5",
        "optim.warmup_steps=2",
    ]
    mlp = "policy={type: mlp, hidden: 16, depth: 1, chunk: 2}"
    values = "head: {type: q_values, hidden: 16, depth: 1, heads: 1}, tokenizer: {type: bins, num_bins: 8}"
    tokens = f"policy={{type: mlp, hidden: 16, depth: 1, chunk: 2, {values}}}"
    turned = "policy={type: decision_transformer, width: 16, depth: 1, heads: 1, history: 2}"
    read = {
        "convert": [str(data), str(out)],
        "merge": [str(data), str(other), "--out", str(out)],
        "filter": [str(data), str(out), "--min-length", "2"],
        "delete": [str(data), str(out), "--episodes", "0"],
        "label": [str(data), str(out), str(folder / "labels.csv")],
        "split": [str(data), str(out), "train=0.5", "val=0.5"],
        "resample": [str(data), str(out), "--control-hz", "50"],
    }
    if command in read:
        return ["data", command, *read[command]]
    trainings = {
        "train": [mlp],
        "train-tokens": [tokens, "objective={type: q_transformer}"],
        "train-iql": [mlp, "objective={type: iql, critic: {hidden: 16, depth: 1}}"],
        "train-rc": [turned, "objective={type: return_conditioned}"],
    }
    empty = str(folder / "empty.yaml")
    if command in trainings:
        return ["train", empty, *training, *trainings[command], f"out={out}", "--resume"]
    episodes = f"episodes_per_task={EPISODES}"
    collect = [env, episodes, "workers=1", "only_successes=false", f"out={out}", "--resume"]
    evaluation = [
        env,
        episodes,
        "workers=0",
        "batch_size=2",
        "videos_per_task=0",
        f"policy={run / 'policy'}",
    ]
    others = {
        "collect": ["collect", empty, *collect],
        "eval": ["eval", empty, *evaluation, "failure_videos=0", f"out={out}", "--resume"],
        "online": [
            "online",
            empty,
            env,
            mlp,
            "objective={type: bc}",
            "ema_decay=0.9",
            f"rounds={ROUNDS}",
            f"episodes_per_round={EPISODES}",
            "updates=10",
            "batch_size=8",
            "keep=400",
            f"evaluate={{every: 2, episodes_per_task: {EPISODES}}}",
            f"out={out}",
            "--resume",
        ],
        "compare": ["compare", *evaluations, "--out", str(out)],
        "fqe": [
            "fqe",
            f"policies=[{run / 'policy'}]",
            f"data.path={data}",
            "steps=20",
            f"out={out}",
        ],
        "tokenizer": ["tokenizer", "report", str(data), "--chunk", "2", "--out", str(out)],
        "view": ["data", "view", str(data), "--out", str(out / "view.html")],
    }
    return others[command]


def prepare(folder: Path, commands: Commands) -> None:
    """Makes what the small commands read: two datasets, a run and two evaluations."""
    (folder / "empty.yaml").write_text("{}\n")
    (folder / "labels.csv").write_text("episode_index,success\n0,true\n")
    made = {"data": ("collect", []), "other": ("collect", ["noise.std=0.2"]), "run": ("train", [])}
    made |= {"evaluation": ("eval", []), "random": ("eval", ["policy=random"])}
    for name, (command, more) in made.items():
        arguments = [*tiny(command, folder, folder / name), *more]
        if commands.run(arguments, folder / "log"):
            raise SystemExit((folder / "log").read_text())


def contents(folder: Path) -> dict[str, str]:
    """File -> a digest of all that does not tell the time or the name of the run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        # pages and cards show the numbers of other files
        if path.is_file() and path.suffix not in (".html", ".md", ".lock"):
            found[str(path.relative_to(folder))] = hashlib.sha256(_lasting(path)).hexdigest()
    return found


def _lasting(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        values = [json.loads(line) for line in content.splitlines()]
    elif path.suffix == ".json":
        values = json.loads(content)
    else:
        return content
    return json.dumps(_without_times(values)).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_times(item)
        for key, item in value.items()
        # sums and sizes of files that hold times follow them
        if not key.startswith(_TIMES) and not key.endswith(("_us", "_seconds", "_s"))
    }


def serve() -> None:
    import vla.cli

    import_all()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
            continue
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        status = 70
        try:
            status = _run(vla.cli.app, job)
        finally:
            os._exit(status)


def _run(app: Any, job: Mapping[str, Any]) -> int:
    from vla.common.machine_faults import end_where_threads_get_no_memory

    with open(job["log"], "wb") as log:
        # through a pipe: limits on files are not for what the command says
        said = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
    assert said.stdin is not None
    os.dup2(said.stdin.fileno(), 1)
    os.dup2(said.stdin.fileno(), 2)
    said.stdin.close()
    os.close(0)
    for place, value in job["settings"].items():
        module, _, name = place.partition(":")
        setattr(sys.modules[module], name, value)
    for name, value in job["limits"].items():
        limit = getattr(resource, f"RLIMIT_{name}")
        now = _address_space() if name == "AS" else 0
        resource.setrlimit(limit, (now + value, resource.getrlimit(limit)[1]))
    sys.argv = ["vla", *job["arguments"]]
    try:
        end_where_threads_get_no_memory()
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.close(1)
        os.close(2)
        said.wait()
    return 0


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def import_all() -> None:
    """What commands import when they begin."""
    from importlib import import_module

    from vla.common.registry import lookup

    names = (
        "recipes.evaluate recipes.online training sim_eval.collection.recording sim_eval.comparison.methods sim_eval.report "
        "training.offline_evaluation.fitted_q_evaluation tokenizers.report data.view data.tools.conversion "
        "data.tools.merging data.tools.filtering data.tools.labels data.tools.splitting"
    )
    for name in names.split():
        import_module(f"vla.{name}")
    for kind, name in (("envs", "pointmaze"), ("policies", "mlp"), ("objectives", "iql")):
        lookup(kind, name)
    import_module("gymnasium_robotics")


if __name__ == "__main__":
    serve()
