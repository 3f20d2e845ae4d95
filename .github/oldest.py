"""Print a constraint for each dependency: the oldest version that ``pyproject.toml`` allows.

The continuous integration tests Helios with these versions. The tools for development, in the extra
``dev``, are not part of what a user installs, so they have none.
"""

import pathlib
import tomllib
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = pathlib.Path(__file__).parents[1]


def requirements() -> Iterator[Requirement]:
    """Yield the requirements of Helios, of its extras, and of the packages in plugins_contrib."""
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins_contrib/*/pyproject.toml"))]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        for name in extras.keys() - {"dev", "test"}:
            yield from map(Requirement, extras[name])
        yield from map(Requirement, project["dependencies"])


def oldest(requirement: Requirement) -> Version:
    """Return the lower bound of a requirement.

    Raises:
        SystemExit: it has none.
    """
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "~=", "==")]
    if not bounds:
        raise SystemExit(f"{requirement} has no lower bound: add one, such as >=1.0")
    return max(bounds)


def main() -> None:
    """Print the constraints by name; of several bounds, the highest."""
    pins: dict[str, Version] = {}
    for requirement in requirements():
        if not requirement.name.startswith("helios-"):  # those come from this repository
            pins[requirement.name] = max(
                oldest(requirement), pins.get(requirement.name, Version("0"))
            )
    for name, version in sorted(pins.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
