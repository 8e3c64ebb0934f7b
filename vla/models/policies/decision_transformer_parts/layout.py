"""The sequence of a Decision Transformer: which segments stand in it, and who attends to whom."""

from __future__ import annotations

from collections.abc import Mapping

from vla.tokenizers.layout import AttentionRule, Layout, Segment


def segments_layout(
    tokens: Mapping[str, int],
    dropout: Mapping[str, float],
    window: int | None,
) -> Layout:
    """(language), then per step [condition, image, state, (readout), action].

    Content is causal, readouts attend to the content before them, and nothing attends to a readout.
    So what a head learns to read from a readout never becomes an input of later steps.

    Args:
        tokens: segment -> its tokens; 0 leaves it out.
        dropout: segment -> chance in training that a learned vector stands for it, in a whole
            window.
        window: see `Layout`.
    """
    prefix: list[Segment] = []
    content: list[Segment] = []
    readouts: list[Segment] = []
    actions: list[Segment] = []
    if tokens["language"]:
        language = Segment(
            "language",
            tokens["language"],
            per_step=False,
            dropout=dropout["language"],
        )
        prefix.append(language)
    for name in ("condition", "image", "state"):
        if tokens[name]:
            content.append(Segment(name, tokens[name], dropout=dropout[name]))
    if tokens["readout"]:
        readout = Segment(
            "readout",
            tokens["readout"],
            content=False,
            readout=True,
        )
        readouts.append(readout)
    if tokens["action"]:
        # after everything else of its step: what predicts an action must not have seen it
        actions.append(Segment("action", tokens["action"]))
    names = [segment.name for segment in [*content, *actions]]
    rules = [AttentionRule(query, key, "causal") for query in names for key in names]
    if readouts:
        rules += [AttentionRule("readout", name, "causal") for name in names]
        # a head may read several: they see one another, so that their actions fit together
        rules.append(AttentionRule("readout", "readout", "same_step"))
    if prefix:
        queries = ["language", *names]
        queries += [segment.name for segment in readouts]
        rules += [AttentionRule(query, "language", "all") for query in queries]
    segments = [*prefix, *content, *readouts, *actions]
    return Layout(tuple(segments), tuple(rules), window)


__all__ = ["segments_layout"]
