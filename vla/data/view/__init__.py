"""One HTML page to look at a dataset with: its numbers, videos and curves; and files for rerun."""

from vla.data.view.build import View as View
from vla.data.view.build import spread_episodes as spread_episodes
from vla.data.view.build import write_view as write_view
