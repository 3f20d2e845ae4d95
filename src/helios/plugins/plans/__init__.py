"""The plan of the active plug-ins, and its comparison with that of a checkpoint."""
