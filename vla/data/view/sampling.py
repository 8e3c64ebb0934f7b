"""Which episodes of a large dataset are shown: a few of every task, of those solved and of those not."""

from __future__ import annotations

import pandas as pd


def spread_order(count: int) -> list[int]:
    """0 to count - 1 in an order whose every beginning is spread evenly: first 0, then the middle, then the quarters."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))


def shown_order(table: pd.DataFrame) -> list[int]:
    """Row numbers of all episodes in the order in which they deserve to be shown.

    Rounds over the tasks; in each round a task gives its next solved and its next failed episode. So every beginning of the
    order holds as many tasks as it can, and both outcomes of each.

    Args:
        table: an episodes table with `task_index` and `success`.
    """
    groups: dict[int, dict[bool, list[int]]] = {}
    rows = zip(
        table["task_index"].to_numpy().tolist(),
        table["success"].to_numpy(bool).tolist(),
        strict=True,
    )
    for row, (task, solved) in enumerate(rows):
        groups.setdefault(task, {}).setdefault(solved, []).append(row)
    tasks = [groups[task] for task in sorted(groups)]
    queues = [
        [
            [rows[i] for i in spread_order(len(rows))]
            for _, rows in sorted(tasks[t].items(), reverse=True)
        ]
        for t in spread_order(len(tasks))
    ]
    longest = max((len(queue) for task in queues for queue in task), default=0)
    return [
        queue[turn]
        for turn in range(longest)
        for task in queues
        for queue in task
        if turn < len(queue)
    ]
