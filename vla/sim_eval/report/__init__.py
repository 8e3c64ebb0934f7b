"""One HTML page that shows what evaluations found: rates, comparisons, failures, videos, and how to repeat them."""

from vla.sim_eval.report.page import write_report as write_report
