"""Virtual ranks in a run: their batches, steps and checkpoints."""
