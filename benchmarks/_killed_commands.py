"""Whole `vla` commands that are killed: what they keep, and whether they end as if nothing had happened."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from _commands import EPISODES, ROUNDS, STEPS, contents, import_all, tiny


class KilledCommand:
    """A command that is repeated after every kill.

    Args:
        folder: of its output.
        source: what `_commands.prepare` has made.
    """

    name: str
    unit: str
    command: str
    total: int
    settings: tuple[tuple[str, str, Any], ...] = ()
    """(module, name, value): what is set so that there is more to keep within a second."""

    def __init__(self, folder: Path, source: Path, episodes: int, steps: int) -> None:
        self.folder, self.source, self.episodes, self.steps = folder, source, episodes, steps

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def run(self) -> None:
        import vla.cli

        for module, name, value in self.settings:
            setattr(sys.modules[module], name, value)
        sys.argv = ["vla", *tiny(self.command, self.source, self.out)]
        vla.cli.app(standalone_mode=False)

    def kept(self) -> int:
        raise NotImplementedError

    def check_whole(self) -> None:
        """Compares all files with those of the first time, which was not disturbed. Raises AssertionError."""
        reference = self.folder.with_name(f"{self.folder.name}.json")
        found = contents(self.out)
        if not reference.exists():
            reference.write_text(json.dumps(found))
            return
        expected = json.loads(reference.read_text())
        odd = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        assert not odd, f"{self.name}: {', '.join(odd)} differ from those of an undisturbed run"


class Training(KilledCommand):
    unit, total = "steps", STEPS

    def kept(self) -> int:
        from vla.training.checkpoint import newest_checkpoint

        newest = newest_checkpoint(self.out / "checkpoints")
        if newest is None:
            return 0
        # reads all tensors, and compares their checksum
        newest.tensors()
        return newest.step


class TrainingBC(Training):
    name, command = "training: bc", "train"


class TrainingIQL(Training):
    name, command = "training: iql", "train-iql"


class TrainingTokens(Training):
    name, command = "training: q_transformer", "train-tokens"


class TrainingReturns(Training):
    name, command = "training: return_conditioned", "train-rc"


class Online(KilledCommand):
    name, command, unit, total = "vla online", "online", "rounds", ROUNDS

    def kept(self) -> int:
        from vla.models import load_policy
        from vla.training.checkpoint import newest_checkpoint

        newest = newest_checkpoint(self.out / "checkpoints")
        if newest is None:
            return 0
        newest.tensors()
        return int(load_policy(newest.folder).card["online"]["rounds"])


class Dataset(KilledCommand):
    unit = "episodes"

    def kept(self) -> int:
        from vla.data import EpisodeDataset

        info = self.out / "meta" / "info.json"
        if not info.exists() or not json.loads(info.read_text())["total_episodes"]:
            return 0
        dataset = EpisodeDataset(self.out)
        for number in range(len(dataset)):
            dataset.episode(number)
        return len(dataset)


class Collection(Dataset):
    name, command, total = "vla collect", "collect", EPISODES
    settings = (("vla.sim_eval.collection.recording", "SECONDS_PER_COMMIT", 0.0),)


class Merge(Dataset):
    name, command, total = "vla data merge", "merge", 2 * EPISODES
    settings = (("vla.data.tools.derived", "EPISODES_PER_COMMIT", 1),)


class Evaluation(KilledCommand):
    name, command, unit, total = "vla eval", "eval", "episodes", EPISODES

    def kept(self) -> int:
        from vla.sim_eval.comparison.installing import JOURNAL, UNFINISHED
        from vla.sim_eval.comparison.results import Results
        from vla.sim_eval.journal import kept_episodes

        journal = self.out / UNFINISHED / JOURNAL
        if journal.exists():
            return kept_episodes(journal)
        there = (self.out / "results.json").exists() or (self.out / ".finished").exists()
        return len(Results.load(self.out).episodes) if there else 0


COMMANDS: dict[str, type[KilledCommand]] = {
    kind.name: kind
    for kind in (
        *(TrainingBC, TrainingIQL, TrainingTokens, TrainingReturns),
        *(Online, Collection, Merge, Evaluation),
    )
}
__all__ = ["COMMANDS", "KilledCommand", "import_all"]
