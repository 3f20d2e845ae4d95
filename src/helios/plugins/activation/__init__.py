"""Activate plug-ins: select the requested ones, build them, and register them."""
