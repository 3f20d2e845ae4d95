"""Checkpoint files: their content, names, storage, retention and migration."""
