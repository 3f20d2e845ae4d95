"""Run the ``helios`` command as ``python -m helios.cli``."""

from helios.cli import main

main()
