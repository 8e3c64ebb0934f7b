"""Success on unseen seeds while a run goes on, paired with that before its first round."""

from __future__ import annotations

from pathlib import Path

from vla.models.policy import Policy
from vla.recipes.online.config import OnlineConfig
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.statistics import mcnemar_exact

_HOW_EPISODES_ARE_PLAYED = {
    "replan_every",
    "workers",
    "batch_size",
    "threads",
    "timeout",
    "launcher",
    "ray_address",
}


class Evaluations:
    """Evaluations in `out/evaluations/round-NNNN`, as `vla eval` leaves them and `vla compare`
    reads them."""

    def __init__(self, config: OnlineConfig, out: Path) -> None:
        self._config = config
        self._folder = out / "evaluations"

    def due(self, number: int, *, last: bool) -> bool:
        """Whether the policy is evaluated after round `number`; always after the last one."""
        plan = self._config.evaluate
        return plan is not None and (last or number % plan.every == 0)

    def run(self, policy: Policy, number: int) -> dict[str, float]:
        """Evaluates the policy after round `number`; {} if none is wanted."""
        plan = self._config.evaluate
        if plan is None:
            return {}
        act = self._config.act
        # what stands in no field of this run is as `vla eval` has it
        config = EvalConfig.model_validate(
            {
                "env": self._config.env,
                "episodes_per_task": plan.episodes_per_task,
                "seed": self._config.seed,
                "temperature": plan.temperature,
                **act.model_dump(include=_HOW_EPISODES_ARE_PLAYED),
                "videos_per_task": 0,
                "failure_videos": 0,
                "out": str(self._folder / f"round-{number:04d}"),
            }
        )
        results = evaluate(
            policy, config, name=f"round {number}", progress=False, resume=True, restart=True
        )
        solved = [record.success_ever for record in results.episodes]
        found = {"evaluation/success": sum(solved) / len(solved)}
        first = self._folder / "round-0000"
        if number and first.exists():
            before = [record.success_ever for record in Results.load(first).episodes]
            if len(before) == len(solved):
                gained = sum(b and not a for a, b in zip(before, solved, strict=True))
                lost = sum(a and not b for a, b in zip(before, solved, strict=True))
                ties = len(solved) - gained - lost
                found["evaluation/p_value"] = mcnemar_exact(gained, lost, ties)
        return found


__all__ = ["Evaluations"]
