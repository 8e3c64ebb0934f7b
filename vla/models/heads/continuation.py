"""What all distributions check before they continue a chunk that is being executed."""

from __future__ import annotations

from vla.types import Continuable


def check_continuation(actions: Continuable, method: str | None, frozen: int) -> str:
    """The method; the first of the distribution's own if it is None.

    Raises ValueError if there is no such method, or it cannot take `frozen` actions as given.
    """
    possible = actions.continuations
    if not possible:
        raise ValueError(f"{type(actions).__name__} cannot be continued")
    method = next(iter(possible)) if method is None else method
    if method not in possible:
        raise ValueError(f"method {method!r}: expected one of {', '.join(possible)}")
    if not 0 <= frozen <= possible[method]:
        raise ValueError(
            f"frozen is {frozen}: {method} takes 0 to {possible[method]} actions as given"
        )
    return method


__all__ = ["check_continuation"]
