"""Read what a plug-in declares, and find what has no effect."""
