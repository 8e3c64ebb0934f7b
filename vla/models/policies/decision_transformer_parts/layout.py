"""The sequence of a Decision Transformer: which segments stand in it, and who attends to whom."""

from __future__ import annotations

from collections.abc import Mapping

from vla.tokenizers.layout import Layout, Rule, Segment


def segments_layout(
    tokens: Mapping[str, int], dropout: Mapping[str, float], window: int | None
) -> Layout:
    """(language), then per step [condition, image, state, (readout), action].

    Content is causal, readouts attend to the content before them, and nothing attends to a readout. So the head may be
    trained on what a readout says of a step without any later step having seen it.

    Args:
        tokens: segment -> its tokens; 0 leaves it out.
        dropout: segment -> chance in training that a learned vector stands for it, in a whole window.
        window: see `Layout`.
    """
    prefix, content, readouts, actions = [], [], [], []
    if tokens["language"]:
        prefix.append(
            Segment("language", tokens["language"], per_step=False, dropout=dropout["language"])
        )
    for name in ("condition", "image", "state"):
        if tokens[name]:
            content.append(Segment(name, tokens[name], dropout=dropout[name]))
    if tokens["readout"]:
        readouts.append(Segment("readout", tokens["readout"], content=False, readout=True))
    if tokens["action"]:
        # after everything else of its step: what predicts an action must not have seen it
        actions.append(Segment("action", tokens["action"]))
    names = [segment.name for segment in [*content, *actions]]
    rules = [Rule(query, key, "causal") for query in names for key in names]
    if readouts:
        rules += [Rule("readout", name, "causal") for name in names]
        rules.append(Rule("readout", "readout", "same_step"))
    if prefix:
        queries = ["language", *names, *(segment.name for segment in readouts)]
        rules += [Rule(query, "language", "all") for query in queries]
    return Layout((*prefix, *content, *readouts, *actions), tuple(rules), window)


__all__ = ["segments_layout"]
