"""Names of the repairs, in the order in which they are applied; `repairs.py` holds what they do."""

REMOVE_LEFTOVERS = "remove leftovers"
DROP_CAMERAS = "drop cameras without files from info.json"
SORT_TASKS = "sort the table of tasks"
CORRECT_TOTALS = "correct totals and splits in info.json"
REBUILD_EPISODES = "rebuild success, return and terminated of the episodes table"
REWRITE_STATS = "rewrite stats.json"
REBUILD_CACHES = "rebuild decoded frames"
