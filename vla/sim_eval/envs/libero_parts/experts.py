"""placeholder"""

from typing import Any

Expert = Any


def expert_for(*a: Any) -> Any:
    raise RuntimeError("no expert")
