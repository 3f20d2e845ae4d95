"""The ``helios`` command."""

from helios.cli.app import main

__all__ = ["main"]
