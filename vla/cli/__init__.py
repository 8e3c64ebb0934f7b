"""The `vla` command: reads arguments, calls one public function, prints. Nothing else lives here."""

from vla.cli.app import app as app
from vla.cli.app import main as main
