"""Statistics of success rates: pure functions of counts and outcomes."""

from vla.sim_eval.statistics.intervals import clopper_pearson as clopper_pearson
from vla.sim_eval.statistics.intervals import macro_rate as macro_rate
from vla.sim_eval.statistics.intervals import wilson_interval as wilson_interval
