"""Learning what image tokens mean: load, judge, step, log, judge, save (LLaVA's first stage, Liu et
al. 2023, section 4.2).

Which pairs come at a step is a function of (seed, step).
"""

from __future__ import annotations

import math
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator

from vla.common.atomic import atomic_path, replace_folder
from vla.common.folder_lock import alone
from vla.common.foreign.json_files import read_json
from vla.config import ConfigError, check_config, dump_config, read_yaml
from vla.data import WindowSampler, prefetch
from vla.data.loading.image_text import ImageTextBatch, ImageTextPairs
from vla.models.layers.vision_language import VisionLanguageModel
from vla.models.layers.vision_language_base import load_base, load_processor
from vla.models.layers.vision_language_parts.answers import judge_answers
from vla.models.layers.vision_language_parts.composed_base import SOURCES_FILE, save_base
from vla.training.alignment.accuracy import answer_accuracy
from vla.training.alignment.config import AlignConfig
from vla.training.alignment.saved import CHECKPOINTS, KEPT, restore_step, save_step
from vla.training.checkpoint import Checkpoint, prune_checkpoints
from vla.training.metrics import Mean, MetricsLog
from vla.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from vla.training.patterns import matching
from vla.training.progress import ProgressDisplay
from vla.training.run_directory import open_run
from vla.training.seeding import seed_generators, seed_of
from vla.training.trainer import TrainingDivergedError

BASE_FOLDER = "base"
"""In the run directory: what `policy.base` reads."""


@dataclass(frozen=True)
class Aligned:
    """What an alignment left.

    Attributes:
        base: folder of the aligned model.
        before, after: accuracies on held-out pairs (`answer_accuracy`); empty without such.
    """

    base: Path
    before: dict[str, float]
    after: dict[str, float]


def align(config: AlignConfig, *, resume: bool = False, restart: bool = False) -> Aligned:
    """Trains the parts of a vision-language model that join pictures and words, on one process.

    Args:
        config: everything that decides the run.
        resume: go on from what was saved last in `config.out`, to the same weights; begin if there
            is nothing.
        restart: begin again in place of what an earlier run left.

    Raises:
        ConfigError: the config contradicts itself, the model or the run in `config.out`, or that
            holds a run and neither `resume` nor `restart` is given.
        CheckpointError: what a run saves could not be written or read.
        VLMError: the base cannot be had.
        DataError: pairs cannot be read.
        FolderInUseError: another run writes to `config.out`.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    check_config(config, AlignConfig)
    out = Path(config.out)
    if resume and restart:
        raise ConfigError(["vla align: --resume goes on and --restart begins again; give one"])
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ConfigError(
            ["vla align: runs on one process; start it without `accelerate launch` or `torchrun`"]
        )
    pairs = ImageTextPairs(config.pairs)
    held_out = ImageTextPairs(config.held_out) if config.held_out else None
    _check_apart(config, pairs, held_out)
    out.mkdir(parents=True, exist_ok=True)
    display = ProgressDisplay(config.steps, None, enabled=True)
    with alone(out), display:
        _check_own(out)
        # it asks for no more than what configs of all kinds of runs have
        checkpoint = None if restart else open_run(cast(Any, config), resume=resume)
        trunk = _trunk(config, accelerator.device)
        if restart:
            # only now: an earlier run must survive a wrong base
            for name in (BASE_FOLDER, CHECKPOINTS):
                shutil.rmtree(out / name, ignore_errors=True)
        with atomic_path(out / "config.yaml") as temporary:
            temporary.write_text(dump_config(config))
        # at -1: the lines of an earlier run, that of step 0 too, go
        kept = -1 if checkpoint is None else checkpoint.step
        with MetricsLog(out / "metrics.jsonl", accelerator, kept) as log:
            run = _Run(config, trunk, log, display)
            if checkpoint is None:
                before = run.judged(held_out, step=0)
            else:
                before = checkpoint.state["before"]
            run.learn(pairs, checkpoint, before)
            after = run.judged(held_out, step=config.steps)
        trunk.eval()
        replace_folder(out / BASE_FOLDER, lambda folder: _save(config, trunk, folder))
        # an earlier process may have ended before it removed old checkpoints
        prune_checkpoints(out / CHECKPOINTS, keep_last=KEPT)
    return Aligned(out / BASE_FOLDER, before, after)


def _check_own(out: Path) -> None:
    """Raises ConfigError if another command's run is in the folder, whose checkpoints would go."""
    stored = out / "config.yaml"
    if stored.exists() and "pairs" not in read_yaml(stored):
        raise ConfigError(
            [f"out: {out} holds something else than a run of `vla align`; name another out"]
        )
    if not stored.exists() and (out / CHECKPOINTS).exists():
        raise ConfigError(
            [f"out: {out} holds {CHECKPOINTS} without their config.yaml; name another out"]
        )


def _check_apart(config: AlignConfig, pairs: ImageTextPairs, other: ImageTextPairs | None) -> None:
    """Raises ConfigError if what is judged is what was learned, or shows one picture alone."""
    if other is None:
        return
    if other.folder.resolve() == pairs.folder.resolve():
        raise ConfigError(["held_out: is the folder of pairs; name one with other scenes"])
    if len({row["file_name"] for row in other.rows}) < 2:
        raise ConfigError([f"held_out: {other.folder} holds one picture; at least two are needed"])


def _trunk(config: AlignConfig, device: torch.device) -> VisionLanguageModel:
    base = load_base(config.base, torch.float32)
    names = [name for name, _ in base.named_parameters()]
    trained = matching(config.trained, names, key="trained")
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(name in trained)
    processor = load_processor(config.base)
    trunk = VisionLanguageModel(base, processor, options=config.processor, chat=config.chat)
    return trunk.to(device)


class _Run:
    """One call of `align`."""

    def __init__(
        self,
        config: AlignConfig,
        trunk: VisionLanguageModel,
        log: MetricsLog,
        display: ProgressDisplay,
    ) -> None:
        self.config, self.trunk, self.log, self.display = config, trunk, log, display
        device = trunk.embedding.device
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and fast)

    def judged(self, held_out: ImageTextPairs | None, *, step: int) -> dict[str, float]:
        """The accuracies, which are logged too."""
        if held_out is None:
            return {}
        self.trunk.eval()
        with self._precision():
            found = answer_accuracy(self.trunk, held_out, most=self.config.judged)
        self.log.write(step, {f"held_out/{name}": value for name, value in found.items()})
        return found

    def learn(
        self, pairs: ImageTextPairs, checkpoint: Checkpoint | None, before: dict[str, float]
    ) -> None:
        """All steps, or those behind `checkpoint`; `before` is saved with them."""
        config = self.config
        optimizer = build_optimizer(self.trunk, config.optim)
        sampler = WindowSampler(len(pairs), batch_size=config.batch_size, seed=config.seed)
        mean = Mean()
        done = 0
        if checkpoint is not None:
            restore_step(checkpoint, self.trunk, optimizer)
            done = checkpoint.step
            mean = Mean(checkpoint.state["mean"])
        self.trunk.train()
        self.display.begin(done)
        steps = range(done + 1, config.steps + 1)
        batches = prefetch((step, pairs.batch(sampler.indices(step - 1))) for step in steps)
        for step, batch in batches:
            rate = learning_rate(config.optim, step, config.steps)
            set_learning_rate(optimizer, rate)
            mean.add(self._step(step, batch, optimizer))
            self.display.advance(step)
            if step % config.log_every == 0 or step == config.steps:
                line = {**mean.take(), "lr": rate}
                self.log.write(step, line)
                self.display.show(line)
            if step == config.steps or (config.save_every and step % config.save_every == 0):
                self.log.sync()
                state = {"before": before, "mean": mean.state(), "scores": {}}
                save_step(Path(config.out), step, self.trunk, optimizer, state)

    def _step(
        self, step: int, batch: ImageTextBatch, optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        # of dropout, where a base has it
        seed_generators(seed_of(self.config.seed, step), self.trunk.embedding.device)
        images = [[image] for image in batch.images]
        with self._precision():
            found = judge_answers(self.trunk, images, batch.prompts, batch.answers)
        loss = found.losses.mean()
        optimizer.zero_grad()
        loss.backward()
        learned = [p for p in self.trunk.parameters() if p.requires_grad]
        # infinity only measures
        most = self.config.optim.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(learned, most)
        if not torch.isfinite(norm + loss):
            raise TrainingDivergedError(
                f"step {step}: the loss is {loss.item():g}, the gradient norm {norm.item():g}; "
                "lower optim.lr"
            )
        optimizer.step()
        exact = found.exact.float().mean()
        return {"loss": loss.item(), "exact": exact.item(), "grad_norm": norm.item()}

    def _precision(self) -> Any:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.trunk.embedding.device.type, dtype=torch.bfloat16)


def _save(config: AlignConfig, trunk: VisionLanguageModel, folder: Path) -> None:
    known = Path(config.base) / SOURCES_FILE
    sources = read_json(known) if known.is_file() else {}
    # a file of others: where it lists nothing, the base is named by its folder
    sources = sources if isinstance(sources, dict) and sources else {"base": str(config.base)}
    learned = f"learned in {config.steps} steps from image-text pairs (vla align)"
    save_base(folder, trunk.model, trunk.processor, {**sources, "projector": learned})


__all__ = ["Aligned", "align"]
