"""Its entry point names a submodule that was left out of the distribution."""

import pathlib

pathlib.Path(__file__).with_suffix(".imported").touch()
