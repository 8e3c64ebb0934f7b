"""The `vla` command: reads arguments, calls one public function, prints. Nothing else lives here.

Imports of a command's own packages stand inside of it: help, completion and `vla list` stay quick.
"""

from vla.cli.app import app as app
from vla.cli.app import main as main
