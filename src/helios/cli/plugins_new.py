"""``helios plugins new``: create a package with one plug-in."""

import importlib.resources
import pathlib
import string
import tempfile
from collections.abc import Mapping
from typing import Annotated

import typer

import helios
from helios.cli.output import fail
from helios.cli.package_name import PackageName
from helios.errors import ConfigurationError

_COMMAND = "plugins new"
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    ".github/workflows/ci.yml": "ci.yml",
    "src/$module/__init__.py": "plugin.py",
    "src/$module/py.typed": "py.typed",
    "tests/test_$module.py": "test.py",
}
"""The files of a package, each with its template in the folder ``templates``."""


def new(
    name: Annotated[str, typer.Argument(help="The name of the package, such as helios-hello.")],
) -> None:
    """Create a package with one plug-in, in a new folder NAME.

    The package has a hook, a test, a README and a file for continuous integration.

    Exit code: 0 if the package was created, 2 if the name has a wrong spelling, 1 for other errors.
    """
    try:
        package = PackageName.parse(name)
    except ConfigurationError as error:
        fail(_COMMAND, error, as_json=False, exit_code=2)
    try:
        folder = pathlib.Path.cwd()
        package.require_free(folder)
        written = create_package(package, folder)
    except (ConfigurationError, OSError) as error:
        fail(_COMMAND, error, as_json=False)
    typer.echo("\n".join([*(f"created {path}" for path in written), "", *_next_steps(package)]))


def create_package(package: PackageName, folder: pathlib.Path) -> list[pathlib.Path]:
    """Create the folder of a package, whole or not at all.

    Args:
        package: its name.
        folder: the folder in which to create it.

    Returns:
        The paths of the files, relative to ``folder``.

    Raises:
        OSError: a file cannot be written.
    """
    names = {
        "distribution": package.distribution,
        "module": package.module,
        "plugin": package.plugin,
        "class_name": package.class_name,
        "version": helios.__version__,
    }
    # In the same file system, so that the whole folder gets its name in one step.
    with tempfile.TemporaryDirectory(prefix=".helios-new-", dir=folder) as scratch:
        unnamed = pathlib.Path(scratch, package.distribution)
        written = [_write(unnamed, target, source, names) for target, source in _FILES.items()]
        unnamed.rename(folder / package.distribution)
    return [path.relative_to(scratch) for path in written]


def _write(
    package: pathlib.Path, target: str, source: str, names: Mapping[str, str]
) -> pathlib.Path:
    template = importlib.resources.files("helios.cli").joinpath("templates", f"{source}.template")
    text = string.Template(template.read_text(encoding="utf-8")).substitute(names)
    path = package / string.Template(target).substitute(names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _next_steps(package: PackageName) -> list[str]:
    name = package.distribution
    return [
        "Install it, look at it, and test it:",
        f"  pip install --editable './{name}[dev]'",
        f"  helios plugins show {package.plugin}",
        f"  python -m pytest {name}",
        "The next run in this environment uses it. Try helios demo: it needs scikit-learn.",
        "docs/write-a-plugin.md of Helios explains how to continue.",
    ]
