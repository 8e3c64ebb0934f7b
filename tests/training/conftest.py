from __future__ import annotations

from pathlib import Path

import pytest
import training_toy


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of eight short episodes."""
    return training_toy.write_dataset(tmp_path_factory.mktemp("toy") / "data")
