"""Call hooks: bound callers, guards, measured time, and checks of results."""
