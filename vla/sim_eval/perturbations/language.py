"""Perturbations of the instruction: other words for the same, and two controls."""

from __future__ import annotations

from vla.common.registry import register
from vla.sim_eval.perturbations.base import Episode, Perturbation


@register("perturbations", "paraphrase")
class Paraphrase(Perturbation):
    """The same wish in other words; the severity is the number of the paraphrase."""

    kind = "paraphrase"
    levels = (1, 2, 3)
    unit = "paraphrase {} of the task, or the last that there is"

    @classmethod
    def obstacle(cls, episode: Episode) -> str:
        if episode.env.held_out_paraphrases():
            return ""
        text = episode.instruction
        return f"the env knows no other words for {text!r}; give its tasks `paraphrases`"

    def instruction(self) -> str:
        # held-out wordings: those that demonstrations use would measure nothing new
        known = self.episode.env.held_out_paraphrases()
        return known[min(self.level, len(known)) - 1]


@register("perturbations", "wrong_instruction")
class WrongInstruction(Perturbation):
    """Control: success must fall where the instruction matters, for success is
    still that of the right one."""

    kind = "wrong_instruction"
    unit = "asked to do something else in the same scene, or another task of the suite"

    @classmethod
    def obstacle(cls, episode: Episode) -> str:
        if _wrong(episode):
            return ""
        return (
            "the env knows no wrong instruction and its suite no other one than "
            f"{episode.instruction!r}; add a task with another instruction to the suite"
        )

    def begin(self) -> None:
        wrong = _wrong(self.episode)
        self._text = wrong[int(self.rng().integers(len(wrong)))]

    def instruction(self) -> str:
        return self._text


def _wrong(episode: Episode) -> list[str]:
    # a paraphrase of the right instruction is right too, whichever list it stands in
    right = {episode.instruction, *episode.env.paraphrases()}
    candidates = episode.env.wrong_instructions() or episode.others
    return [text for text in candidates if text not in right]


@register("perturbations", "empty_instruction")
class EmptyInstruction(Perturbation):
    """Control: what the policy does by itself."""

    kind = "empty_instruction"
    unit = "the instruction is empty"

    def instruction(self) -> str:
        return ""
