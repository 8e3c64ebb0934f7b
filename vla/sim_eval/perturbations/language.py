"""Perturbations of the instruction: other words for the same, and two controls."""

from __future__ import annotations

from vla.sim_eval.perturbations.base import Episode, Perturbation, perturbation


@perturbation(
    "paraphrase", levels=(1, 2, 3), unit="paraphrase {} of the task, or the last that there is"
)
class Paraphrase(Perturbation):
    """The same wish in other words; the severity is the number of the paraphrase."""

    @classmethod
    def obstacle(cls, episode: Episode) -> str:
        if episode.env.held_out_paraphrases():
            return ""
        return f"the env knows no other words for {episode.instruction!r}; give its tasks `paraphrases`"

    def instruction(self) -> str:
        known = self.episode.env.held_out_paraphrases()
        return known[min(self.level, len(known)) - 1]


@perturbation(
    "wrong_instruction",
    unit="told to do something else in the same scene, or another task of the suite",
)
class WrongInstruction(Perturbation):
    """Control: success must fall where the instruction matters, for success is still that of the right one."""

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
        self._told = wrong[int(self.rng().integers(len(wrong)))]

    def instruction(self) -> str:
        return self._told


def _wrong(episode: Episode) -> list[str]:
    right = {episode.instruction, *episode.env.paraphrases()}
    return [
        text for text in episode.env.wrong_instructions() or episode.others if text not in right
    ]


@perturbation("empty_instruction", unit="told nothing")
class EmptyInstruction(Perturbation):
    """Control: what the policy does by itself."""

    def instruction(self) -> str:
        return ""
