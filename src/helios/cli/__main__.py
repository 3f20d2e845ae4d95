"""``python -m helios.cli`` is the ``helios`` command."""

from helios.cli import main

main()
