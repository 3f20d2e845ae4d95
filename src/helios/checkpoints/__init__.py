"""Checkpoint files: what they may hold, how they are named, written, found, kept and migrated."""
