"""Which episodes of a large dataset are shown: of every task a few solved and a few failed ones."""

from __future__ import annotations

import pandas as pd


def spread_order(count: int) -> list[int]:
    """0 to count - 1 in an order whose every beginning is spread evenly.

    First 0, then the middle, then the quarters, as in van der Corput's sequence.
    """
    bits = max(1, (count - 1).bit_length())

    def place(number: int) -> int:
        # its bits read backwards say where in the range it lies
        return int(f"{number:0{bits}b}"[::-1], 2)

    return sorted(range(count), key=place)


def shown_order(table: pd.DataFrame) -> list[int]:
    """Row numbers of all episodes in the order in which they deserve to be shown.

    Rounds over the tasks; in each round a task gives its next solved and its next failed episode.
    So every beginning of the order holds as many tasks as it can, and both outcomes of each.

    Args:
        table: an episodes table with `task_index` and `success`.
    """
    tasks = table["task_index"].to_numpy().tolist()
    outcomes = table["success"].to_numpy(bool).tolist()
    # (task, solved) -> its rows
    rows_of: dict[tuple[int, bool], list[int]] = {}
    for row, group in enumerate(zip(tasks, outcomes, strict=True)):
        rows_of.setdefault(group, []).append(row)
    # neighbouring tasks are often variants of each other, as neighbouring episodes are alike
    names = sorted(set(tasks))
    queues: list[list[int]] = []
    for i in spread_order(len(names)):
        for solved in (True, False):
            rows = rows_of.get((names[i], solved), [])
            queues.append([rows[j] for j in spread_order(len(rows))])
    order: list[int] = []
    longest = max(map(len, queues), default=0)
    for turn in range(longest):
        order += [queue[turn] for queue in queues if turn < len(queue)]
    return order
