"""`python -m vla.cli`, for `accelerate launch`."""

from vla.cli.app import main

main()
