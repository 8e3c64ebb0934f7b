"""One HTML page of what evaluations found: rates, comparisons, failures, videos, and how to repeat.

Python gathers what a part of the page shows; the template of its name (`*.html.j2`) draws it.
"""

from vla.sim_eval.report.page import write_report as write_report
