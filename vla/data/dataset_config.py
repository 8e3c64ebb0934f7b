"""A dataset as configs name it: where it lies, in which format, and what of it is read as what."""

from __future__ import annotations

from vla.config import Config, PathText
from vla.data.format import KeyMap
from vla.data.reader import EpisodeDataset


class DatasetConfig(Config):
    """Where a dataset lies and how it is read."""

    path: PathText
    """Folder of the dataset, or its file, or a URL such as `hf://datasets/USER/NAME`."""
    format: str | None = None
    """Its format (`vla list formats`); found from what lies there by default."""
    keys: KeyMap | None = None
    """What of it is read as what; by the format's conventions by default."""

    def open(self, place: str) -> EpisodeDataset:
        """The dataset. Its warnings are issued, as far as there are some by now.

        Args:
            place: where this config stands, for example `data`, for messages that name a key.

        Raises:
            DataError: it cannot be read.
        """
        dataset = EpisodeDataset(
            self.path, format=self.format, keys=self.keys, keys_at=f"{place}.keys."
        )
        dataset.issue_warnings()
        return dataset
