"""What an actor may say of itself beyond `spec`, `history` and `act`.

`vla.models.Policy` says all of it. An actor of a user's own needs only the three members of
`Actor`; for whatever it leaves out the defaults below hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor


def keep_memory(memory: Any, actions: Tensor) -> Any:
    """The `remember` of an actor that does not look back at its own actions."""
    return memory


@dataclass(frozen=True)
class ActorTraits:
    """The optional members of an actor; each field is the member of the same name.

    Attributes:
        return_conditioned: whether it can be asked for a return.
        counts_steps: whether `act` has to see every step of an episode, since its memory counts
            them.
        executed_actions: how many actions of a chunk its critic values; None if it has none, or
            any number may be executed.
        source: the folder or repository that it was loaded from; None if unknown.
        card: what it says of itself beside; `training` of it says by which training it was made.
        computes_on_cpu: whether it takes the processor that the envs need too; of a torch module
            its device says it.
        fingerprint: a hash of all that decides its actions; None if its weights are to be asked,
            or its name has to do.
        remember: (memory, actions (B, K, A)) -> the memory of an actor that executed these actions.
    """

    return_conditioned: bool = False
    counts_steps: bool = False
    executed_actions: int | None = None
    source: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    computes_on_cpu: bool = False
    fingerprint: str | None = None
    remember: Callable[[Any, Tensor], Any] = keep_memory


def traits_of(actor: object) -> ActorTraits:
    """The traits that `actor` has now, defaults for the rest.

    Read them again for every evaluation: a policy loses its `source` as soon as it trains.
    """
    # The only place that looks at what an actor has: a protocol cannot give defaults to classes
    # that do not derive from it, and a check of types would leave out every actor that is no
    # `Policy`.
    given = {}
    for trait in fields(ActorTraits):
        if hasattr(actor, trait.name):
            given[trait.name] = getattr(actor, trait.name)
    return ActorTraits(**given)
