"""The training loop: load, step, log, validate, evaluate, save.

How one step is divided among processes and micro-batches changes nothing but the order of sums:
each micro-batch's mean is weighted by its share of the valid steps of the whole global batch. Two
things do see the division: dropout and augmentation draw other numbers on each process, and a trunk
whose norm is "batch" takes its statistics from what one forward sees: the windows of one process's
micro-batch on the CPU, those of all processes on CUDA, where it becomes SyncBatchNorm; the running
statistics that are saved are those of process 0. The norms "group" and "frozen_batch" see one image
at a time and do not care. Each step seeds its generators from (seed, step, process), so that a
resumed run needs no random states.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed

from vla.common.folder_lock import alone
from vla.config import ConfigError, check_config
from vla.data.errors import DataWarning
from vla.models.policy import Policy, load_policy
from vla.training.checkpoint import Checkpoint, prune_checkpoints, scores_of
from vla.training.config import TrainConfig
from vla.training.distributed.companions import companions_watched
from vla.training.finetuning.pcgrad import check_projection, task_names
from vla.training.finetuning.transfer import (
    Transfer,
    choose_trained,
    fit_policy,
    fit_transferred,
    transferred_policy,
)
from vla.training.hardware.allocator import keep_freed_memory
from vla.training.hardware.precision import Precision, resolve_precision
from vla.training.identity import training_card
from vla.training.metrics import MetricsLog, check_trackers, tracker_options
from vla.training.objective import Objective
from vla.training.progress import ProgressDisplay
from vla.training.run_data.batches import step_batches
from vla.training.run_data.data_record import check_same_data, record_of, write_record
from vla.training.run_data.drawing import BatchPlan
from vla.training.run_data.image_text import open_pairs, pair_batches
from vla.training.run_data.ineffective import ineffective_settings
from vla.training.run_data.multi_robot import save_robots
from vla.training.run_data.opening import Sources, open_data, open_sources
from vla.training.run_directory import open_run, recorded_precision, write_run
from vla.training.trainer import Trainer, training_state
from vla.training.validation import build_scorer

Evaluate = Callable[[Policy, int], dict[str, float]]


@dataclass(frozen=True)
class RunResult:
    """What a training run left.

    Attributes:
        policy: the trained policy in eval mode, on the device; the running mean of its weights if
            that is on.
        out: the run directory; `out / "policy"` holds the same policy on disk.
        step: optimiser steps that were done in all.
        metrics: the last value of everything that was measured in this call.
    """

    policy: Policy
    out: Path
    step: int
    metrics: dict[str, float]


def train(
    config: TrainConfig,
    *,
    evaluate: Evaluate | None = None,
    resume: bool = False,
) -> RunResult:
    """Trains a policy on demonstrations.

    Runs on one process, or on all processes of `accelerate launch` or `torchrun`.

    Args:
        config: everything that decides the run.
        evaluate: scores a policy in eval mode, called on process 0 each `evaluate_every` steps with
            the policy and the step; its numbers are logged as `evaluation/...`.
        resume: go on from the newest whole checkpoint in `config.out`, or begin if there is none.
            The losses are those of a run that was never interrupted: bit for bit on the CPU with
            one thread (with several, the convolutions of oneDNN may add up gradients of very small
            maps in another order).

    Raises:
        ConfigError: the config contradicts itself, the data, the run in `config.out` or the
            installed packages.
        FolderInUseError: another training writes to `config.out`.
        LostProcessError: another process of this training has ended or cannot be reached.
        TrainingDivergedError: the loss became NaN or infinite.
        CheckpointError: a checkpoint could not be written (older ones are kept) or read.
    """
    check_config(config, TrainConfig)
    accelerator = _set_up(config, evaluate)
    main = accelerator.is_main_process
    if not main:
        # all processes read the same data, and one says what is odd in them
        warnings.simplefilter("ignore", DataWarning)
    # process 0 writes, for all
    held = alone(Path(config.out)) if main else contextlib.nullcontext()
    display = ProgressDisplay(config.steps, config.max_minutes, enabled=main)
    with held, companions_watched(), display:
        return _train(config, evaluate, accelerator, display, resume=resume)


def _train(
    config: TrainConfig,
    evaluate: Evaluate | None,
    accelerator: Accelerator,
    display: ProgressDisplay,
    *,
    resume: bool,
) -> RunResult:
    main = accelerator.is_main_process
    device = accelerator.device
    out = Path(config.out)
    plan = BatchPlan(
        batch_size=config.batch_size,
        micro_batches=config.grad_accumulation,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )

    # Load: where the run stands, the data, the policy and what trains it.
    checkpoint = open_run(config, resume=resume)
    sources = open_sources(config.data, config.policy, config.objective)
    set_seed(config.seed)  # the same initial weights on every process
    policy, transfer = _load_or_build_policy(config, sources, checkpoint)
    recorded = recorded_precision(out) if checkpoint else None
    precision = resolve_precision(config.precision, policy, device, recorded)
    bf16 = precision == "bf16"
    objective: Objective = config.objective.build(policy)
    pairs = open_pairs(config.co_training, policy, plan)
    record = record_of(config, sources, policy, pairs)
    if resume:
        # before hours of decoding
        check_same_data(config, record)
    data = open_data(config.data, plan, sources, policy, objective)
    # reading has brought up what opening could not know
    sources.issue_warnings()
    if checkpoint is None and transfer and config.transfer:
        fit_transferred(policy, data.windows.sources, transfer, config.transfer)
    elif checkpoint is None and config.init_from is None:
        fit_policy(policy, data.windows.sources)
    if transfer:
        policy.card["transfer"] = transfer.card()
    policy.card["data"] = data.card
    policy.card["data warnings"] = sources.warnings_by_name()
    if checkpoint is None:  # else the checkpoint's card says it
        start = policy.card.get("training", {}) if config.init_from else {}
        dataset = str(data.card.get("dataset", ""))
        policy.card["training"] = training_card(config, start, dataset)
    state = training_state(
        policy,
        objective,
        accelerator,
        config.optim,
        ema_decay=config.ema_decay,
        compiled=config.compile,
        checkpoint=checkpoint,
    )
    tasks: dict[str, str] = {}
    if config.optim.project_gradients:
        check_projection(state.learner, accelerator.num_processes)
        tasks = task_names(sources.named().values())
    trainer = Trainer(
        state,
        accelerator,
        config.optim,
        steps=config.steps,
        seed=config.seed,
        out=out,
        bf16=bf16,
        tasks=tasks,
        pairs_weight=config.co_training.weight if config.co_training else 0.0,
    )
    scorer = None
    if config.validate_every is not None:
        limit = config.data.validation_windows
        scorer = build_scorer(data, plan, objective, accelerator, max_windows=limit, bf16=bf16)

    # nobody looks into the run directory once process 0 writes there
    accelerator.wait_for_everyone()
    log = _open_log(config, accelerator, state.step, transfer, precision)
    if main:
        write_record(out, record, sources.warnings())
    first = state.step
    latest: dict[str, float] = {}
    watch = trainer.watch
    steps = range(first + 1, config.steps + 1)
    display.begin(first)
    with log:
        display.say(
            f"{out}: step {first} of {config.steps}, {data.frames} windows of {data.episodes} "
            f"episodes, {accelerator.num_processes} x {device.type}"
        )
        for text in (*ineffective_settings(config), *data.lines):
            display.say(text)
        if transfer and checkpoint is None:
            for text in transfer.lines():
                display.say(text)
        watch.start()
        loaded = step_batches(
            data.windows,
            data.order,
            steps,
            micro_batches=config.grad_accumulation,
            device=device,
            variable_history=config.data.variable_history,
        )
        pairs_per_step = config.co_training.batch_size if config.co_training else 0
        texts = pair_batches(pairs, steps, plan, batch_size=pairs_per_step)
        for (step, batches), step_pairs in zip(loaded, texts, strict=True):
            numbers = trainer.step(step, batches, step_pairs)

            # Log.
            display.advance(step)
            last = step == config.steps or _any_out_of_time(config, accelerator, display)
            state.mean.add(numbers | watch.seconds())
            line: dict[str, float] = {}
            if _due(step, config.log_every) or step == config.steps:
                line = data.log_line(state.mean.take(), step)
                frames = config.batch_size * policy.history
                line["frames_per_s"] = frames / line["seconds/step"]
                line["eta"] = display.eta

            # Validate and evaluate; each checkpoint is scored, so that the best can be kept.
            saving = last or _due(step, config.save_every)
            if scorer and (saving or _due(step, config.validate_every)):
                with state.deployed() as deployed:
                    line |= scorer(deployed)
            if evaluate and _due(step, config.evaluate_every):
                if main:
                    with state.deployed() as deployed:
                        scores = evaluate(deployed, step)
                    line |= {f"evaluation/{name}": value for name, value in scores.items()}
                accelerator.wait_for_everyone()
            if line:
                log.write(step, line)
                display.show(line)
                latest |= line

            # Save.
            if saving and main:
                # the log first: a resumed run cuts it at its checkpoint, and needs all before that
                log.sync()
                state.save(out / "checkpoints", keep_last=config.keep_last, scores=scores_of(line))
            if last:
                break
            watch.start()

    # streamed images are read while training goes on
    sources.issue_warnings()
    policy.card["data warnings"] = sources.warnings_by_name()
    if main:
        write_record(out, record, sources.warnings())
    trained = state.finish(out / "policy" if main else None)
    if main:
        # an earlier process may have ended before it removed old checkpoints
        prune_checkpoints(out / "checkpoints", keep_last=config.keep_last)
    if main and trained.robot_names:
        save_robots(trained, out / "policies")
    accelerator.wait_for_everyone()
    return RunResult(trained, out, state.step, latest)


def _set_up(config: TrainConfig, evaluate: Evaluate | None) -> Accelerator:
    """Raises ConfigError."""
    check_trackers(list(config.trackers))
    if config.evaluate_every and evaluate is None:
        raise ConfigError(
            [
                "evaluate_every: is set, but train() was given no function to evaluate with; set "
                "it to null"
            ]
        )
    keep_freed_memory()
    torch.set_flush_denormal(True)  # moments near zero would make the CPU's arithmetic very slow
    torch.set_float32_matmul_precision("high")
    # autocast is the loop's own: accelerate's precision can be set once per Python process only
    return Accelerator(
        mixed_precision="no",
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(
            config.out, logging_dir=str(Path(config.out) / "tensorboard")
        ),
        # long: the others wait while process 0 evaluates
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )


def _load_or_build_policy(
    config: TrainConfig,
    sources: Sources,
    checkpoint: Checkpoint | None,
) -> tuple[Policy, Transfer | None]:
    """The policy, and what was kept of another robot's if it was carried over from that.

    Raises ConfigError if a trained policy fits neither the data nor the config.
    """
    if config.transfer is None:
        return _load_as_it_is(config, sources, checkpoint), None
    if checkpoint is None:
        assert config.init_from is not None  # the config sees to it
        policy, transfer = transferred_policy(
            config.init_from, config.transfer, config.policy, sources.spec
        )
    else:
        policy = _load_as_it_is(config, sources, checkpoint)
        transfer = Transfer.load(Path(config.out))
    choose_trained(policy, config.transfer, transfer.tensors)
    return policy, transfer


def _load_as_it_is(config: TrainConfig, sources: Sources, checkpoint: Checkpoint | None) -> Policy:
    """A new policy, or a trained one that must fit the data and the config without changes."""
    source = checkpoint.folder if checkpoint else config.init_from
    if source is None:
        assert sources.policy is not None  # the config sees to it
        policy = sources.policy.build(sources.spec)
        return policy
    policy = load_policy(source).unwrapped
    problems = [
        f"data.path: {line} (as the policy in {source} has it)"
        for line in policy.spec.differences(sources.spec)
    ]
    if sources.policy is not None:
        wanted = sources.policy.model_dump()
        found = policy.config.model_dump()
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key):
                problems.append(
                    f"policy.{key}: is {wanted.get(key)!r}, the policy in {source} has "
                    f"{found.get(key)!r}"
                )
    if problems and not checkpoint:
        problems.append(
            "init_from: set transfer: {} to carry the policy over to other data or another policy"
        )
    if problems:
        raise ConfigError(problems)
    # several robots differ by the names that the config gives them
    doubt = None if policy.robot_names else policy.spec.doubt(sources.spec)
    if doubt is not None and not checkpoint:
        text = f"data and the policy in {source}: {doubt}; it goes on as if they were"
        warnings.warn(DataWarning(f"{text} (transfer={{}} begins with new heads)"), stacklevel=2)
    return policy


def _open_log(
    config: TrainConfig,
    accelerator: Accelerator,
    step: int,
    transfer: Transfer | None,
    precision: Precision,
) -> MetricsLog:
    """The log of process 0, whose run directory is written now; elsewhere an empty one."""
    if not accelerator.is_main_process:
        return MetricsLog(None, accelerator, step)
    out = Path(config.out)
    run_id = write_run(config, precision)
    if transfer:
        transfer.save(out)
    if config.trackers:
        options = tracker_options(out, config.model_dump(mode="json"), run_id, step)
        accelerator.init_trackers("vla", init_kwargs=options)
    return MetricsLog(out / "metrics.jsonl", accelerator, step)


def _any_out_of_time(
    config: TrainConfig,
    accelerator: Accelerator,
    display: ProgressDisplay,
) -> bool:
    """Whether a process has run out of time: clocks differ, and all stop together."""
    if config.max_minutes is None:
        return False
    flag = torch.tensor(float(display.out_of_time), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum") > 0)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
