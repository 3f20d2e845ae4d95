"""Two plug-ins that need an extra: of one it is missing, of the other it is there."""

import pathlib

pathlib.Path(__file__).with_suffix(".imported").touch()
