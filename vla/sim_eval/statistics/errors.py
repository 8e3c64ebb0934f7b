"""What is wrong with the numbers that were given: one exception, and the checks
that several files share."""

from __future__ import annotations

from vla.config import UserError


class StatisticsError(UserError):
    """The counts contradict each other, or there are fewer episodes than the method needs."""


def check_counts(successes: int, n: int, name: str = "") -> None:
    """Raises StatisticsError unless 0 <= successes <= n and n >= 1; `name`
    says which policy's they are."""
    suffix = f"_{name}" if name else ""
    if n < 1:
        raise StatisticsError(
            f"n{suffix} is {n}: expected at least one episode; run the evaluation first"
        )
    if not 0 <= successes <= n:
        raise StatisticsError(f"successes{suffix} is {successes}: expected 0 to n{suffix} = {n}")


def check_pairs(wins: int, losses: int, ties: int) -> None:
    """Raises StatisticsError unless there is at least one pair and no count is negative."""
    for name, value in (("wins", wins), ("losses", losses), ("ties", ties)):
        if value < 0:
            raise StatisticsError(f"{name} is {value}: expected a count, 0 or more")
    # "all pairs agree" is a result (p = 1), "there is no pair" is a mistake: only
    # the ties distinguish the two
    if wins + losses + ties == 0:
        raise StatisticsError(
            "wins, losses and ties are all 0: expected at least one pair of episodes with the same "
            "task and seed; where all pairs agree, say so by ties=N"
        )


def check_fraction(name: str, value: float, example: float) -> None:
    """Raises StatisticsError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise StatisticsError(
            f"{name} is {value:g}: expected a value between 0 and 1, for example {example:g}"
        )
