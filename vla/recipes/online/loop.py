"""Rounds of acting, labelling and learning, resumable to the bit at their borders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from vla.common.atomic import write_json, write_text
from vla.common.folder_lock import alone
from vla.common.progress import progress_bar
from vla.common.terminal.consoles import output_console
from vla.config import ConfigError, UserError, check_config, dump_config
from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.models.policy import Policy, load_policy
from vla.recipes.online.acting import jobs_of_round, play_round, require_expert
from vla.recipes.online.config import FREE_ON_RESUME, ExpertLabels, OnlineConfig
from vla.recipes.online.evaluations import Evaluations
from vla.recipes.online.progress import RoundProgress
from vla.recipes.online.replay import Replay, further_rounds_mend
from vla.recipes.online.rewarding import LearnedRewards
from vla.recipes.online.run_folder import open_run
from vla.training.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints
from vla.training.finetuning.transfer import fit_policy
from vla.training.identity import method_card
from vla.training.metrics import Mean, MetricsLog
from vla.training.objective import Objective
from vla.training.online_rl.policy_gradient import PolicyGradientConfig
from vla.training.run_directory import versions
from vla.training.state import TrainingState
from vla.training.trainer import Trainer, training_state

EPISODES = "episodes"
_NOT_OF_THE_METHOD = {"seed", "init_from", "act"}
_console = output_console(stderr=True)


@dataclass(frozen=True)
class OnlineResult:
    """What an online run left.

    Attributes:
        policy: the last one, in eval mode.
        out: the run directory; `out / "policy"` holds the same policy on disk.
        rounds: that were done in all.
        metrics: of the last round.
    """

    policy: Policy
    out: Path
    rounds: int
    metrics: dict[str, float]


def online(config: OnlineConfig, *, resume: bool = False) -> OnlineResult:
    """Lets a policy act, labels what it did, learns from it, and so on.

    A run that was killed goes on with `resume=True` from the border of its last whole round, to the
    weights that it would have had. Worker processes are spawned: with `act.workers`, a script must
    call this under `if __name__ == "__main__":`.

    Raises:
        ConfigError: the config contradicts itself, the policy, the env or the run in `out`.
        FolderInUseError: another process writes to `out`.
        SpecError: the env does not fit the policy.
        ObjectiveError: a round cannot be learned from.
        RolloutError: an episode could not be played.
        TrainingDivergedError: the loss became NaN or infinite.
        CheckpointError, DataError: what the run writes could not be written; its last border stays.
    """
    check_config(config, OnlineConfig)
    out = Path(config.out)
    with alone(out):
        checkpoint = open_run(config, resume=resume)
        return _Run(config, checkpoint).go()


def _critics_of(run: str) -> Checkpoint:
    """The newest checkpoint of a run. Raises ConfigError if it has none."""
    checkpoint = newest_checkpoint(Path(run) / "checkpoints")
    if checkpoint is None:
        raise ConfigError(
            [f"critics_from: {run} is no run with checkpoints; name the folder `out` of a training"]
        )
    return checkpoint


class _Run:
    """One call of `online`."""

    def __init__(self, config: OnlineConfig, checkpoint: Checkpoint | None) -> None:
        self.config = config
        self.out = Path(config.out)
        self._started = time.monotonic()
        jobs_of_round(config, 1)  # before anything is written
        self.accelerator = Accelerator(mixed_precision="no")
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                [
                    f"online: acts and learns in one process, but was launched in "
                    f"{self.accelerator.num_processes}; start it as `vla online CONFIG`, and set "
                    "act.workers for envs that are slow"
                ]
            )
        torch.set_flush_denormal(True)  # moments near zero would make the CPU's arithmetic slow
        set_seed(config.seed)
        policy = self._policy(checkpoint)
        self._label_chunk = 1
        if config.label is not None:
            plays_ahead = require_expert(config.env)
            self._label_chunk = _label_chunk(config.label, policy.chunk, plays_ahead=plays_ahead)
        objective: Objective = config.objective.build(policy)
        self._check(objective)
        self.replay = Replay(config, policy, objective, self._label_chunk)
        if checkpoint is None:
            self._warn_of_known_starts()
        self.reward: LearnedRewards | None = None
        if config.reward is not None:
            self.reward = LearnedRewards(
                config.reward,
                config.env.spec(),
                out=self.out,
                seed=config.seed,
                device=self.accelerator.device,
            )
        self.rounds = 0
        self.state: TrainingState | None = None
        self.env_steps = 0
        self._objective = objective
        self._fresh = checkpoint is None and config.init_from is None
        self._policy_at_start = policy
        # of the policy that the first round began with; a checkpoint's own training is this run's
        training = policy.card.get("training", {})
        self._start = training if checkpoint is None else policy.card["online"]["start"]
        self._checkpoint = checkpoint
        if checkpoint is not None:
            self._restore(checkpoint)

    def _policy(self, checkpoint: Checkpoint | None) -> Policy:
        """The policy to go on with. Raises ConfigError if it does not fit the env."""
        config = self.config
        spec = config.env.spec()
        source = checkpoint.folder if checkpoint else config.init_from
        if source is None:
            assert config.policy is not None  # the config sees to it
            policy: Policy = config.policy.build(spec)
            return policy
        policy = load_policy(source).unwrapped
        lines = policy.spec.differences(spec)
        if lines:
            raise ConfigError([f"env: {line} (as the policy in {source} has it)" for line in lines])
        return policy

    def _check(self, objective: Objective) -> None:
        """Raises ConfigError if parts of the config do not go together."""
        config = self.config
        gradients = isinstance(config.objective, PolicyGradientConfig)
        lines = []
        if gradients and config.ema_decay is not None:
            lines.append(
                "ema_decay: the running mean would act, and another policy learn from it; set it "
                "to null"
            )
        if gradients and config.precision == "bf16":
            lines.append(
                "precision: policy gradients compare likelihoods with those of the float32 policy "
                "that acted; set precision=no"
            )
        if gradients and config.keep != "round":
            lines.append(
                "keep: policy gradients learn from what the present policy did; set keep: round"
            )
        if gradients and config.label is not None:
            lines.append(
                "label: policy gradients learn from the policy's own actions; leave it out, or use "
                "objective: {type: bc}"
            )
        if gradients and config.prior_data is not None:
            lines.append(
                "prior_data: policy gradients learn from what the present policy did; leave it "
                "out, or use objective: {type: filtered_bc}"
            )
        longest = max(task.horizon for task in config.env.suite().tasks)
        if isinstance(config.keep, int) and config.keep < longest:
            lines.append(
                f"keep: {config.keep} steps do not hold one episode, which takes up to {longest}; "
                f"keep at least {longest * config.episodes_per_round}"
            )
        if "group" in objective.extras and config.episodes_per_start < 2:
            lines.append(
                "episodes_per_start: the objective compares episodes of one start; set it to 8"
            )
        if lines:
            raise ConfigError(lines)

    def _warn_of_known_starts(self) -> None:
        """Says so if the first round begins where episodes of the prior data did."""
        known = self.replay.prior_seeds & {job.seed for job in jobs_of_round(self.config, 1)}
        if known:
            _console.print(
                f"note: {len(known)} episodes of the first round begin where some of "
                f"prior_data.path did, whose way the policy may know; for other starts set "
                f"seed={self.config.seed + 1}"
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Takes up the rounds that were done."""
        card = self._policy_at_start.card["online"]
        self.rounds = int(card["rounds"])
        self.env_steps = int(card["env steps"])
        if self.reward is not None:
            self.reward.restore(self.rounds)
        if self.config.keep == "round":
            return
        count = self.config.episodes_per_round
        dataset = EpisodeDataset(self.out / EPISODES)
        # what a killed round has left behind these comes again, and is the same
        for number in range(self._first_kept(dataset), self.rounds):
            first = number * count
            self.replay.add([dataset.episode(i) for i in range(first, first + count)])

    def _first_kept(self, dataset: EpisodeDataset) -> int:
        """The first round, from 0, of which anything is left in the replay: none before is read."""
        keep = self.config.keep
        count = self.config.episodes_per_round
        lengths = dataset.episodes["length"].to_numpy()
        number = self.rounds
        steps = 0
        while number > 0 and (not isinstance(keep, int) or steps < keep):
            number -= 1
            steps += int(lengths[number * count : (number + 1) * count].sum())
        return number

    def go(self) -> OnlineResult:
        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "config.yaml", dump_config(config))
        write_json(self.out / "versions.json", versions() | config.env.versions())
        if not self._fresh:
            self._begin_learning()
        evaluations = Evaluations(config, self.out)
        metrics: dict[str, float] = {}
        bar = progress_bar("online", console=_console, transient=True, note="")
        # by rounds: one in which nothing could be learned has taken no step
        path = self.out / "metrics.jsonl"
        log = MetricsLog(path, self.accelerator, self.rounds, counter="round")
        with bar as moves, log:
            self.progress = RoundProgress(
                moves,
                first=self.rounds,
                rounds=config.rounds,
                episodes=config.episodes_per_round,
            )
            if self.rounds == 0:
                self._evaluate(evaluations)
            while not self._is_over():
                metrics = self._round(self.rounds + 1)
                if evaluations.due(self.rounds, last=self._is_over()):
                    metrics |= self._evaluate(evaluations)
                assert self.state is not None
                log.write(self.state.step, {"round": float(self.rounds), **metrics})
                log.sync()
                if self.reward is not None:
                    self.reward.save_round(self.rounds, config.keep_last)
                self.state.save(self.out / "checkpoints", keep_last=config.keep_last, scores={})
                _console.print(self._line(metrics))
        return OnlineResult(self._finish(), self.out, self.rounds, metrics)

    def _evaluate(self, evaluations: Evaluations) -> dict[str, float]:
        if self.config.evaluate is not None:
            self.progress.evaluating(self.rounds)
        with self._deployed() as policy:
            return evaluations.run(policy, self.rounds)

    def _deployed(self) -> AbstractContextManager[Policy]:
        if self.state is None:
            return nullcontext(self._policy_at_start.eval())
        return self.state.deployed()

    def _begin_learning(self) -> None:
        """Makes the optimiser's state, once the policy's statistics are there."""
        config = self.config
        self.state = training_state(
            self._policy_at_start,
            self._objective,
            self.accelerator,
            config.optim,
            ema_decay=config.ema_decay,
            checkpoint=self._checkpoint,
        )
        if self._checkpoint is None and config.critics_from is not None:
            self.state.restore_objective(_critics_of(config.critics_from))
        # with epochs the number of steps is not known, and no schedule asks for it
        total = config.rounds * (config.updates or 1)
        self.trainer = Trainer(
            self.state,
            self.accelerator,
            config.optim,
            steps=total,
            seed=config.seed,
            out=self.out,
            bf16=config.precision == "bf16",
        )

    def _round(self, number: int) -> dict[str, float]:
        """Acts, labels and learns."""
        config = self.config
        started = time.monotonic()
        with self._deployed() as policy:
            played = play_round(
                config,
                policy,
                number,
                self.progress.acting(number),
                label_chunk=self._label_chunk,
            )
        acted = time.monotonic()
        rewarded: dict[str, float] = {}
        if self.reward is not None:
            episodes, rewarded = self.reward.round(played.episodes, number)
            played = replace(played, episodes=episodes)
        self.replay.add(played.episodes)
        if self.state is None:
            fit_policy(self._policy_at_start, {"": self.replay.windows})
            self._begin_learning()
        labelled = time.monotonic()
        learned = self._learn(number)
        done = time.monotonic()
        self._keep(played.episodes, number)
        self.rounds = number
        self.env_steps += sum(record.steps for record in played.records)
        self._note()
        return {
            **played.numbers(),
            "env_steps": float(self.env_steps),
            **rewarded,
            **learned,
            "seconds/act": acted - started,
            "seconds/label": labelled - acted,
            "seconds/learn": done - labelled,
        }

    def _learn(self, number: int) -> dict[str, float]:
        assert self.state is not None
        objective = self._objective
        policy = self.state.policy
        training = policy.training
        policy.eval()
        try:
            self.replay.begin_round(policy)
        except UserError as error:
            if not further_rounds_mend(error):
                raise
            _console.print(f"round {number}: nothing is learned yet: {error}")
            return {"updates": 0.0}
        finally:
            policy.train(training and not objective.acts_in_eval_mode)
        steps = self.replay.updates()
        mean = Mean()
        self.trainer.watch.start()
        for done, batches in enumerate(self.replay.batches(number, steps)):
            self.progress.learning(number, done, steps)
            mean.add(self.trainer.step(self.state.step + 1, batches))
            self.trainer.watch.start()
        return {**mean.take(), "updates": float(steps)}

    def _keep(self, episodes: Sequence[Episode], number: int) -> None:
        """Writes the episodes of a round, unless a killed round has done so already."""
        if not self.config.save_episodes:
            return
        count = self.config.episodes_per_round
        folder = self.out / EPISODES
        with DatasetWriter(
            folder,
            self.config.env.spec(),
            robot_type=str(self.config.env.model_dump().get("type", "")),
            metadata={
                "online": self.config.model_dump(mode="json", exclude=set(FREE_ON_RESUME)),
                "simulation": self.config.env.versions(),
            },
            resume=folder.exists(),
        ) as writer:
            done = writer.num_episodes - (number - 1) * count
            writer.add_episodes(list(episodes[done:]))

    def _note(self) -> None:
        """Notes in the policy's card how far the run is: what a checkpoint is resumed by."""
        assert self.state is not None
        config = self.config
        settings = config.model_dump(mode="json", exclude=set(FREE_ON_RESUME) | _NOT_OF_THE_METHOD)
        card = self.state.policy.card
        card["online"] = {
            "objective": config.objective.model_dump(mode="json"),
            "rounds": self.rounds,
            "env steps": self.env_steps,
            "start": self._start,
        }
        card["training"] = method_card(
            settings,
            seed=config.seed,
            objective=str(config.objective.type),
            start=self._start if config.init_from is not None else None,
        )

    def _finish(self) -> Policy:
        if self.state is None:
            # no round was asked for or done: the policy as it came
            self._begin_learning()
        assert self.state is not None
        if self.reward is not None:
            self.reward.save()
        trained = self.state.finish(self.out / "policy")
        # an earlier process may have ended before it removed old checkpoints
        prune_checkpoints(self.out / "checkpoints", keep_last=self.config.keep_last)
        return trained

    def _is_over(self) -> bool:
        minutes, env_steps = self.config.max_minutes, self.config.max_env_steps
        if minutes is not None and time.monotonic() - self._started > 60 * minutes:
            return True
        if env_steps is not None and self.env_steps >= env_steps:
            return True
        return self.rounds >= self.config.rounds

    def _line(self, metrics: dict[str, float]) -> str:
        seconds = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
        parts = [
            f"round {self.rounds} of {self.config.rounds}",
            f"played {metrics['played/success']:.0%} solved, return {metrics['played/return']:.3g}",
            f"{self.env_steps} env steps",
        ]
        if "loss" in metrics:
            parts.append(f"loss {metrics['loss']:.4g}")
        if metrics.get("teaches") == 0:
            parts.append("every episode came to the same, so the policy stays as it is")
        if "evaluation/success" in metrics:
            parts.append(f"evaluated {metrics['evaluation/success']:.0%}")
            if "evaluation/p_value" in metrics:
                parts[-1] += f" (against round 0: p = {metrics['evaluation/p_value']:.2g})"
        return "; ".join(parts) + f"; {seconds:.1f} s"


def _label_chunk(label: ExpertLabels, chunk: int, *, plays_ahead: bool) -> int:
    """How many actions the expert labels at each step. Raises ConfigError if it cannot."""
    if label.whole_chunks and not plays_ahead:
        raise ConfigError(
            [
                "label.whole_chunks: this env cannot be put back after the expert has played on "
                "(it has no changing_parts); set label.whole_chunks=false"
            ]
        )
    whole = plays_ahead if label.whole_chunks is None else label.whole_chunks
    return chunk if whole else 1


__all__ = ["OnlineResult", "online"]
