"""Two plug-ins that need an extra: of one it is missing, of the other it is there."""
