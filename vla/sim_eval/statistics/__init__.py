"""Statistics of success rates, for the sample sizes of robot evaluation: pure
functions of counts and outcomes."""

# Nothing here draws random numbers to find a probability: power, coverage and stopping times are
# sums over all outcomes, so the same counts give the same number. The bootstrap alone resamples, by
# a fixed seed. McNemar's and Barnard's tests and Clopper and Pearson's interval are scipy's; it has
# no counterpart of the rest.

from vla.sim_eval.statistics.bootstrap import clustered_bootstrap, clustered_bootstrap_difference
from vla.sim_eval.statistics.errors import StatisticsError
from vla.sim_eval.statistics.hypothesis_tests import (
    barnard,
    holm,
    mcnemar_exact,
    minimum_pairs,
    smallest_significant,
)
from vla.sim_eval.statistics.intervals import (
    clopper_pearson,
    coverage,
    half_width,
    macro_rate,
    wilson_interval,
)
from vla.sim_eval.statistics.planning import Plan, PlannedTest, plan
from vla.sim_eval.statistics.posterior import (
    paired_probability_of_improvement,
    probability_of_improvement,
)
from vla.sim_eval.statistics.power import episodes_needed, pair_probabilities, power_of
from vla.sim_eval.statistics.sequential import (
    SequentialComparison,
    UnpairedSequentialComparison,
    paired_log_e_value,
    unpaired_log_factor,
)
from vla.sim_eval.statistics.stopping import SequentialPlan, sequential_plan
from vla.sim_eval.statistics.trainings import (
    MethodDifference,
    MethodRate,
    method_difference,
    method_p_value,
    method_rate,
    permutation_test,
)

__all__ = [
    "MethodDifference",
    "MethodRate",
    "Plan",
    "PlannedTest",
    "SequentialComparison",
    "SequentialPlan",
    "StatisticsError",
    "UnpairedSequentialComparison",
    "barnard",
    "clopper_pearson",
    "clustered_bootstrap",
    "clustered_bootstrap_difference",
    "coverage",
    "episodes_needed",
    "half_width",
    "holm",
    "macro_rate",
    "mcnemar_exact",
    "method_difference",
    "method_p_value",
    "method_rate",
    "minimum_pairs",
    "pair_probabilities",
    "paired_log_e_value",
    "paired_probability_of_improvement",
    "permutation_test",
    "plan",
    "power_of",
    "probability_of_improvement",
    "sequential_plan",
    "smallest_significant",
    "unpaired_log_factor",
    "wilson_interval",
]
