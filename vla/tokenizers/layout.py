"""How a trajectory becomes one sequence: segments of tokens, and rules for who may attend to whom,
as data.

RT-1 is [image x 8, action x D with empty slots]; the Decision Transformer is [return, state,
action]. A layout is compiled for T steps to positions, segments, steps and an attention mask.

L tokens of the sequence: first all prefix segments, then step by step the others, in the order
given.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vla.common.renamed import former_attributes
from vla.config import UserError

Relation = Literal["none", "all", "same_step", "strictly_before", "up_to", "causal"]
"""Which keys of one segment a query of another (or the same) may attend to.

none: no key. all: every key; only for prefix keys. same_step: keys of the query's own step.
strictly_before: keys of earlier steps. up_to: keys of the own and of earlier steps. causal: keys at
the same or an earlier position.
"""

_MARKS = {
    "none": ".",
    "all": "all",
    "same_step": "=t",
    "strictly_before": "<t",
    "up_to": "<=t",
    "causal": "causal",
}


class LayoutError(UserError):
    """A layout contradicts itself, or is asked for something it does not have."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens of one kind.

    Attributes:
        name: unique in its layout.
        tokens: number of tokens, per step or (prefix) in all.
        content: False for empty slots: no value enters there, only the position does.
        per_step: False for a prefix that stands once before all steps.
        readout: empty slots that attend to others, while no other segment may attend to them (Octo
            Model Team, 2024).
        dropout: chance in training that the segment is replaced by a learned vector, in a whole
            window. A policy trained so works with and without it (Ho and Salimans, 2022,
            classifier-free guidance).
    """

    name: str
    tokens: int
    content: bool = True
    per_step: bool = True
    readout: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class AttentionRule:
    """Queries of segment `query` attend to keys of segment `key` as `relation` says."""

    query: str
    key: str
    relation: Relation


@dataclass(frozen=True)
class CompiledLayout:
    """A layout for T steps, as tensors on the CPU; L tokens.

    Attributes:
        steps: T.
        segment_ids: index of each token's segment in the layout.
        step_ids: step of each token, -1 in the prefix.
        slot_ids: place of each token in its step (or in the prefix).
        mask: row = query, column = key, True where attention is allowed.
    """

    steps: int
    segment_ids: Int64[Tensor, " L"]
    step_ids: Int64[Tensor, " L"]
    slot_ids: Int64[Tensor, " L"]
    mask: Bool[Tensor, "L L"]

    @property
    def length(self) -> int:
        return len(self.segment_ids)

    def with_step_mask(self, mask_BT: Bool[Tensor, "B T"]) -> Bool[Tensor, "B L L"]:
        """The attention mask of B windows, in which no token attends to padded steps (False).

        Tokens of padded steps keep their rows as they are, so that no softmax runs over nothing;
        their results reach no other token.
        """
        device = mask_BT.device
        prefix_B1 = torch.ones(mask_BT.shape[0], 1, dtype=torch.bool, device=device)
        # the prefix has step -1, which as an index is the last column
        valid_BL = torch.cat([mask_BT, prefix_B1], dim=1)[:, self.step_ids.to(device)]
        key_valid = valid_BL[:, None, :]
        query_padded = ~valid_BL[:, :, None]
        return self.mask.to(device) & (key_valid | query_padded)


@dataclass(frozen=True)
class Layout:
    """Ordered segments and attention rules; pairs without a rule do not attend.

    Attributes:
        window: steps that a token may attend to in one layer, its own included; None for all. A
            prefix is always visible. Keys and values of older steps can then be dropped, and
            nothing changes: see `TrajectoryTransformer.advance`.

    Raises:
        LayoutError: duplicate or unknown names, two rules for one pair, a token that may attend to
            nothing, a readout that others attend to, or a rule that includes later steps.
    """

    segments: tuple[Segment, ...]
    rules: tuple[AttentionRule, ...]
    window: int | None = None

    def __post_init__(self) -> None:
        _check_segments(self.segments)
        _check_rules(self.segments, self.rules)
        if self.window is not None and self.window < 1:
            raise LayoutError(
                f"window must be at least 1 step (its own), got {self.window}; "
                "None looks back over all"
            )
        # a row without any key makes the softmax NaN; the first step has the fewest keys
        for index, segment in enumerate(self.segments):
            compiled = self.compile(2)
            rows = compiled.mask[(compiled.segment_ids == index) & (compiled.step_ids <= 0)]
            if not rows.any(dim=1).all():
                raise LayoutError(
                    f"segment {segment.name!r}: its first token may attend to nothing in the first "
                    "step; add a rule that lets it attend to itself, to its step or to the prefix"
                )

    # --- sizes
    # ----------------------------------------------------------------------------------------

    @property
    def prefix(self) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if not s.per_step)

    @property
    def step(self) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if s.per_step)

    @property
    def prefix_tokens(self) -> int:
        return sum(s.tokens for s in self.prefix)

    @property
    def tokens_per_step(self) -> int:
        return sum(s.tokens for s in self.step)

    def length(self, steps: int) -> int:
        return self.prefix_tokens + steps * self.tokens_per_step

    def segment(self, name: str) -> Segment:
        """Raises LayoutError if there is no such segment."""
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise LayoutError(
            f"no segment {name!r}; there are: {', '.join(s.name for s in self.segments)}"
        )

    def slots(self, name: str) -> range:
        """Places of a segment in its step (or in the prefix)."""
        segment = self.segment(name)
        start = 0
        for other in self.step if segment.per_step else self.prefix:
            if other is segment:
                break
            start += other.tokens
        return range(start, start + segment.tokens)

    def relation(self, query: str, key: str) -> Relation:
        """How queries of one segment attend to keys of another. Raises LayoutError if there is no
        such segment."""
        self.segment(query)
        self.segment(key)
        for rule in self.rules:
            if (rule.query, rule.key) == (query, key):
                return rule.relation
        return "none"

    # --- compiled
    # -------------------------------------------------------------------------------------

    def compile(self, steps: int) -> CompiledLayout:
        """Tensors for `steps` steps. Raises LayoutError if steps < 1."""
        if steps < 1:
            raise LayoutError(f"steps must be at least 1, got {steps}")
        return _compile(self.segments, self.rules, self.window, steps)

    def reachable(self, steps: int) -> Bool[Tensor, "L L"]:
        """Row i, column j: through any number of layers, token i depends on the content of token
        j."""
        reach = self.compile(steps).mask | torch.eye(self.length(steps), dtype=torch.bool)
        # each squaring doubles the number of layers: the transitive closure needs log2(L) of them
        for _ in range(max(1, reach.shape[0] - 1).bit_length()):
            reach = (reach.float() @ reach.float()) > 0
        return reach

    def sees_own_step(self, query: str, key: str) -> bool:
        """Whether `query` at step t depends, through any number of layers, on `key` at step t.

        An action may be predicted only from tokens that do not see that very action.
        """
        index = {segment.name: i for i, segment in enumerate(self.segments)}
        self.segment(query)
        self.segment(key)
        # two steps, not one: the way from a token back to itself may lead through the step before
        compiled = self.compile(2)
        last = compiled.step_ids == 1
        rows = (compiled.segment_ids == index[query]) & last
        columns = (compiled.segment_ids == index[key]) & last
        return bool(self.reachable(2)[rows][:, columns].any())

    def independent_slots(self, name: str) -> bool:
        """Whether a segment's empty slots of one step can be left out without changing any other
        token."""
        if self.segment(name).content:
            return False
        # no token of another segment or step attends to them
        if self.relation(name, name) not in ("none", "same_step"):
            return False
        others = [s.name for s in self.segments if s.name != name]
        return all(self.relation(other, name) == "none" for other in others)

    @property
    def causal(self) -> bool:
        """Whether every token attends to all tokens up to itself, and to no other.

        That is what recurrent trunks such as Mamba compute.
        """
        mask = self.compile(2).mask
        lower_triangle = torch.ones_like(mask).tril()
        return self.window is None and bool((mask == lower_triangle).all())


def describe(layout: Layout, steps: int = 2) -> str:
    """A layout as text: its segments, who attends to whom, and the mask of `steps` steps, token by
    token.

    In the mask a row is a query; segments of more than three tokens are drawn as three.
    """
    lines = []
    if layout.prefix:
        lines.append(f"prefix     {_listed(layout.prefix)}")
    lines.append(f"each step  {_listed(layout.step)}  ({layout.tokens_per_step} tokens)")
    if layout.window is not None:
        lines.append(f"window     each layer looks back over {layout.window} steps")
    lines += [*_rule_table(layout), "", *_drawn_mask(layout, steps)]
    return "\n".join(line.rstrip() for line in lines)


def _listed(segments: tuple[Segment, ...]) -> str:
    return " | ".join(f"{s.name} x{s.tokens}{_traits(s)}" for s in segments)


def _rule_table(layout: Layout) -> list[str]:
    """A row for each segment as a query, a column for each as keys."""
    names = [segment.name for segment in layout.segments]
    first = max(len("attends to"), *map(len, names))
    widths = {name: max(len(name), len("causal")) for name in names}
    header = ["attends to".ljust(first), *(name.ljust(widths[name]) for name in names)]
    rows = ["  ".join(header)]
    for query in names:
        cells = [_MARKS[layout.relation(query, key)].ljust(widths[key]) for key in names]
        rows.append("  ".join([query.ljust(first), *cells]))
    return rows


def _traits(segment: Segment) -> str:
    traits = []
    if not segment.content:
        traits.append("readout" if segment.readout else "empty")
    if segment.dropout:
        traits.append(f"dropped {segment.dropout:g}")
    return f" ({', '.join(traits)})" if traits else ""


def _drawn_mask(layout: Layout, steps: int) -> list[str]:
    """One row for each token: # where it attends, . where it does not; | between the steps."""
    segments = tuple(dataclasses.replace(s, tokens=min(s.tokens, 3)) for s in layout.segments)
    small = Layout(segments, layout.rules, layout.window)
    compiled = small.compile(steps)
    labels = []
    for segment, step in zip(compiled.segment_ids, compiled.step_ids, strict=True):
        name = small.segments[int(segment)].name
        labels.append(name if step < 0 else f"{name} {int(step)}")
    width = max(map(len, labels))
    new_step = compiled.step_ids[1:] != compiled.step_ids[:-1]
    borders = [0, *(new_step.nonzero().flatten() + 1).tolist(), small.length(steps)]
    rows = []
    for label, row in zip(labels, compiled.mask.tolist(), strict=True):
        marks = "".join("#" if allowed else "." for allowed in row)
        parts = [marks[start:stop] for start, stop in itertools.pairwise(borders) if stop > start]
        rows.append(f"{label.ljust(width)}  {'|'.join(parts)}")
    return rows


def _check_segments(segments: tuple[Segment, ...]) -> None:
    names = [s.name for s in segments]
    if len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise LayoutError(f"segment names must be unique, found twice: {', '.join(twice)}")
    if not any(s.per_step for s in segments):
        raise LayoutError("a layout needs at least one segment per step")
    for segment in segments:
        if segment.tokens < 1:
            raise LayoutError(
                f"segment {segment.name!r}: needs at least 1 token, got {segment.tokens}"
            )
        if segment.readout and (segment.content or not segment.per_step):
            raise LayoutError(
                f"segment {segment.name!r}: a readout is made of empty slots (content=False) in "
                "each step"
            )
        if not 0 <= segment.dropout < 1:
            raise LayoutError(
                f"segment {segment.name!r}: dropout must be in [0, 1), got {segment.dropout}"
            )
        if segment.dropout and not segment.content:
            raise LayoutError(
                f"segment {segment.name!r}: empty slots have nothing to drop; set dropout to 0"
            )
    # prefixes stand first in the sequence, so they must also be listed first
    kinds = [s.per_step for s in segments]
    if kinds != sorted(kinds):
        late = next(s.name for i, s in enumerate(segments) if not s.per_step and any(kinds[:i]))
        raise LayoutError(
            f"prefix segment {late!r} stands after a per-step segment; prefixes come first"
        )


def _check_rules(segments: tuple[Segment, ...], rules: tuple[AttentionRule, ...]) -> None:
    known = {s.name: s for s in segments}
    relations = get_args(Relation)
    seen: dict[tuple[str, str], Relation] = {}
    for rule in rules:
        for name in (rule.query, rule.key):
            if name not in known:
                raise LayoutError(
                    f"rule {rule}: no segment {name!r}; there are: {', '.join(known)}"
                )
        if rule.relation not in relations:
            raise LayoutError(
                f"rule {rule}: no relation {rule.relation!r}; there are: {', '.join(relations)}"
            )
        pair = (rule.query, rule.key)
        if pair in seen:
            raise LayoutError(
                f"{rule.query!r} -> {rule.key!r} has two rules: {seen[pair]} and {rule.relation}; "
                "keep one"
            )
        seen[pair] = rule.relation
        _check_rule(rule, known[rule.query], known[rule.key])


def _check_rule(rule: AttentionRule, query: Segment, key: Segment) -> None:
    """Raises LayoutError if a rule between these two segments would break causality or a
    readout."""
    pair = f"{rule.query!r} -> {rule.key!r}"
    if key.readout and rule.query != rule.key and rule.relation != "none":
        raise LayoutError(f"{pair}: a readout reads and is not read; drop the rule")
    if key.per_step and rule.relation == "all":
        raise LayoutError(f"{pair}: `all` includes later steps; use up_to or causal")
    if not key.per_step and rule.relation not in ("none", "all", "causal"):
        raise LayoutError(f"{pair}: a prefix has no step; use all, causal or none")
    # every step attends to the prefix: through it, later steps would reach earlier ones
    if not query.per_step and key.per_step and rule.relation != "none":
        raise LayoutError(
            f"prefix {rule.query!r} may not attend to {rule.key!r}: "
            "it would carry later steps to all"
        )


@functools.lru_cache(maxsize=256)
def _compile(
    segments: tuple[Segment, ...],
    rules: tuple[AttentionRule, ...],
    window: int | None,
    steps: int,
) -> CompiledLayout:
    # the segment of each token of the prefix, and of each token of one step
    prefix: list[int] = []
    step: list[int] = []
    for index, segment in enumerate(segments):
        tokens = step if segment.per_step else prefix
        tokens += [index] * segment.tokens
    segment_ids = torch.tensor(prefix + step * steps)
    step_of_token = [t for t in range(steps) for _ in step]
    step_ids = torch.tensor([-1] * len(prefix) + step_of_token)
    slot_ids = torch.tensor(list(range(len(prefix))) + list(range(len(step))) * steps)
    positions = torch.arange(len(segment_ids))
    query_step = step_ids[:, None]
    key_step = step_ids[None, :]
    # (L, L) for each relation, rows are queries
    allowed = {
        "none": torch.zeros(len(positions), len(positions), dtype=torch.bool),
        "all": torch.ones(len(positions), len(positions), dtype=torch.bool),
        "same_step": key_step == query_step,
        "strictly_before": key_step < query_step,
        "up_to": key_step <= query_step,
        "causal": positions[None, :] <= positions[:, None],
    }
    index_of = {s.name: i for i, s in enumerate(segments)}
    mask = allowed["none"].clone()
    for rule in rules:
        queries_L = segment_ids == index_of[rule.query]
        keys_L = segment_ids == index_of[rule.key]
        mask |= queries_L[:, None] & keys_L[None, :] & allowed[rule.relation]
    if window is not None:
        mask &= (key_step > query_step - window) | (key_step < 0)
    return CompiledLayout(steps, segment_ids, step_ids, slot_ids, mask)


__getattr__ = former_attributes(__name__, {"Rule": "AttentionRule"})

__all__ = [
    "AttentionRule",
    "CompiledLayout",
    "Layout",
    "LayoutError",
    "Relation",
    "Segment",
    "describe",
]
