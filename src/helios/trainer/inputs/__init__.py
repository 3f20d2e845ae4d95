"""The batches of a run: their sources, their limits, and the position in an epoch."""
