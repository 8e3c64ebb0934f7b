"""Windows as a `datasets.IterableDataset`, for training loops other than `vla train`.

The library's own streams shuffle in a buffer whose state has to be kept; windows come here in an
order that is a function of the step, which `state_dict` then is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vla.data.errors import DataError
from vla.data.loading.protocols import IndexOrder
from vla.data.loading.windows import Windows
from vla.types import Batch

if TYPE_CHECKING:
    import datasets


def to_iterable_dataset(
    windows: Windows,
    order: IndexOrder,
    steps: int,
) -> datasets.IterableDataset:
    """The windows that `order` draws in its first `steps` steps, one example each.

    An example holds the fields of `Batch` without the batch dimension as numpy arrays, images under
    `images.CAMERA`, and its `step`. A step is a shard: `state_dict` and `load_state_dict` go on in
    the middle without decoding what came before. For several processes give each its own order, by
    `rank`; do not split the dataset between workers, which would decode the same blocks each.

    Args:
        windows: in memory, or streamed (`StreamedWindows`).
        order: over these windows; `windows.order(...)`.
        steps: how many.
    """
    import datasets

    examples = _Examples(windows, order)
    # a list among the arguments is what `datasets` takes for shards: here one per step
    return datasets.IterableDataset.from_generator(
        examples, gen_kwargs={"step": list(range(steps))}
    )


class _Examples:
    """What `datasets` calls for the examples of some steps."""

    def __init__(self, windows: Windows, order: IndexOrder) -> None:
        self.windows = windows
        self.order = order

    def __call__(self, step: list[int]) -> Iterator[dict[str, Any]]:
        for number in step:
            batch = self.windows.batch(self.order.indices(number))
            for row in range(batch.batch_size):
                yield {"step": number, **_example(batch, row)}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Examples:
        # `datasets` copies its generators; a copy of the windows would be one of all frames
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """What `datasets` hashes to name what is generated; windows themselves do not travel."""
        facts = (
            str(self.windows.dataset.root),
            tuple(self.windows.episodes),
            self.order.seed,
            self.order.rank,
        )
        return _refuse, facts


def _refuse(*facts: object) -> None:
    raise DataError(
        f"{facts[0]}: windows cannot be sent to another process; open them where they are read"
    )


def _example(batch: Batch, row: int) -> dict[str, Any]:
    """One window. Copies, since the batch's memory is used again."""
    found: dict[str, Any] = {}
    for camera, image in batch.images.items():
        found[f"images.{camera}"] = image[row].numpy().copy()
    for name, values in batch.extras.items():
        found[f"extras.{name}"] = np.array(values[row].numpy())
    for field in dataclasses.fields(Batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            item = value[row].numpy()
            # a number of the window, such as its task, becomes a plain one
            found[field.name] = np.array(item) if item.ndim else item.item()
        elif field.name == "instruction":
            found[field.name] = value[row]
    return found


__all__ = ["to_iterable_dataset"]
