"""The arguments of a trainer: which kinds they have, and their checks before anything runs."""
