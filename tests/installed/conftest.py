"""Plug-ins that are really installed, and trainers that are really started beside them.

Each environment is a virtual environment whose ``site-packages`` also leads to the packages of the
interpreter that runs the tests: Helios, PyTorch, and what the installations need. Those are pip,
and hatchling, which builds the packages below ``packages/``, each once; both belong to the
requirements of the tests. Nothing is downloaded.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from typing import Any

import pytest

HERE = pathlib.Path(__file__).parent
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT", "TEMP", "TMPDIR")
SET_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "PYTHONIOENCODING": "utf-8",
    # PyTorch reads entry points too, and falls over damaged ones before Helios is asked.
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
}
BUILD = """
import json, os, sys
from hatchling.build import build_wheel  # the backend that all of our packages name

for package, wheel in json.load(sys.stdin).items():
    os.makedirs(wheel)
    os.chdir(package)
    build_wheel(wheel)
"""
PIP = ("-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "-q")


@dataclasses.dataclass(frozen=True)
class Fault:
    """An exception, as far as it can leave its process.

    Attributes:
        types: the names of its class and of the classes above.
        message: what it says.
        notes: what was added to it.
        files: the files that its traceback goes through, outermost first.
        cause: what it was raised from.
    """

    types: list[str]
    message: str
    notes: list[str]
    files: list[str]
    cause: "Fault | None"

    @classmethod
    def of(cls, fault: dict[str, Any] | None) -> "Fault | None":
        return fault and cls(**{**fault, "cause": cls.of(fault["cause"])})  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an attempt to construct a trainer and to train.

    Attributes:
        printed: standard output: the header, and what plug-ins print.
        log: what was logged, with tracebacks.
        warnings: category, message and file of each warning.
        error: what was raised, if anything.
        refused: what was raised, if anything, by each later registration.
        active: the ids of the plug-ins of the trainer, in their order.
        imported: the modules of our packages that were imported.
        leftovers: what the attempt has changed in its process and in the current folder.
    """

    printed: str
    log: str
    warnings: list[tuple[str, str, str]]
    error: Fault | None
    refused: list[Fault | None]
    active: list[str]
    imported: list[str]
    leftovers: list[str]

    @property
    def calls(self) -> list[str]:
        """The hooks that plug-ins were called for, as ``id.hook``."""
        return re.findall(r"^called (.+)$", self.printed, re.MULTILINE)

    def why_active(self, plug_id: str) -> str:
        """Return the header's line on an active plug-in, single-spaced, or an empty string."""
        return self._line(r"\d+", plug_id)

    def why_not(self, name: str) -> str:
        """Return the header's line on an installed plug-in that is not active, likewise."""
        return self._line("-", name)

    def _line(self, bullet: str, name: str) -> str:
        lines = re.findall(rf"^ *{bullet} +{re.escape(name)} .*$", self.printed, re.MULTILINE)
        assert len(lines) <= 1, f"{name} is in the header twice:\n{self.printed}"
        return " ".join(lines[0].split()) if lines else ""


class Environment:
    """A scratch environment.

    Args:
        folder: where to make it.
        command: the interpreter that the tests start programs with.
        wheels: where the packages are built, for all environments.

    Attributes:
        command: the interpreter of the environment, for programs that import PyTorch.
    """

    def __init__(self, folder: pathlib.Path, command: list[str], wheels: pathlib.Path) -> None:
        self.folder = folder
        self._wheels = wheels
        venv.create(folder / "venv", symlinks=os.name != "nt")
        base = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        self.python = pathlib.Path(sysconfig.get_path("scripts", "venv", base), "python")
        self.command = [str(self.python), *command[1:]]
        self.site_packages = pathlib.Path(sysconfig.get_path("purelib", "venv", base))
        around = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        # A bare path would hide editable installations, which hang on .pth files of their own.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in around]
        (self.site_packages / "around.pth").write_text("".join(lines), encoding="utf-8")
        self._write_command()
        self.work = folder / "work"
        self.work.mkdir()

    def _write_command(self) -> None:
        """Make the ``helios`` command that pip has made around us here, too."""
        (command,) = importlib.metadata.entry_points(group="console_scripts", name="helios")
        source = f"import sys\nfrom {command.module} import {command.attr}\n"
        source += f"sys.exit({command.attr}())\n"
        self.python.with_name("helios").write_text(source, encoding="utf-8")

    def install(self, *packages: str) -> None:
        """Install packages from the folder ``packages``."""
        wheels = {
            HERE / "packages" / name: self._wheels / str(HERE / "packages" / name).lstrip(os.sep)
            for name in packages
        }
        unbuilt = {str(path): str(wheel) for path, wheel in wheels.items() if not wheel.exists()}
        self._call("-c", BUILD, stdin=json.dumps(unbuilt))
        files = [str(file) for wheel in wheels.values() for file in wheel.glob("*.whl")]
        self._call(*PIP, "install", "--no-index", "--no-deps", "--no-compile", *files)

    def install_project(self, *target: str) -> None:
        """Install a project from a folder, as ``pip install`` with these arguments would."""
        options = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
        self._call(*PIP, "install", *options, *target)

    def uninstall(self, *distributions: str) -> None:
        """Remove distributions again."""
        self._call(*PIP, "uninstall", "--yes", *distributions)

    def helios(self, *arguments: str, exit_code: int = 0, **environ: str) -> str:
        """Run the ``helios`` command, expect its exit code, and return what it prints."""
        command = str(self.python.with_name("helios"))
        return self._run(command, *arguments, environ=environ, exit_code=exit_code)

    def start(self, attempts: Mapping[str, Mapping[str, Any]]) -> dict[str, Outcome]:
        """Construct trainers and train, one after the other in one new process.

        Args:
            attempts: arguments of the trainer, by a name for the attempt. ``environ`` are
                environment variables; ``register`` names what to register later on. Plug-ins that
                are installed around us are always blocked.
        """
        blocked = {
            name: {**attempt, "block": [*attempt.get("block", ()), *_foreign_plugins()]}
            for name, attempt in attempts.items()
        }
        report = json.loads(self._run(str(HERE / "driver.py"), stdin=json.dumps(blocked)))
        return {
            name: Outcome(
                **{
                    **outcome,
                    "error": Fault.of(outcome["error"]),
                    "refused": [Fault.of(fault) for fault in outcome["refused"]],
                }
            )
            for name, outcome in report.items()
        }

    def module(self, *arguments: str) -> str:
        """Run a module that imports PyTorch, as ``python -m``, and return what it prints."""
        return self._run("-m", *arguments)

    def run(self, script: str, **environ: str) -> Any:
        """Run a script that prints JSON, and return that."""
        return json.loads(self._run("-c", script, environ=environ))

    def _run(self, *arguments: str, **options: Any) -> str:
        """Run a program that imports PyTorch."""
        return self._call(*arguments, command=self.command, **options)

    def _call(
        self,
        *arguments: str,
        command: list[str] | None = None,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
        exit_code: int = 0,
    ) -> str:
        """Run the interpreter on its own ground: nothing of our surroundings decides here."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        if "PYTHONPATH" in kept:  # may be relative to the folder that the tests run in
            folders = kept["PYTHONPATH"].split(os.pathsep)
            kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
        finished = subprocess.run(
            [*(command or [str(self.python)]), *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            cwd=self.work,
            env={**kept, **SET_VARIABLES, **(environ or {})},
            timeout=300,
        )
        assert finished.returncode == exit_code, (
            f"{arguments}:\n{finished.stdout}\n{finished.stderr}"
        )
        return finished.stdout


@pytest.fixture(scope="session")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory, python: list[str]
) -> Callable[..., Environment]:
    """Make environments with packages from the folder ``packages``."""
    wheels = tmp_path_factory.mktemp("wheels")

    def make(*packages: str) -> Environment:
        environment = Environment(tmp_path_factory.mktemp("environment"), python, wheels)
        if packages:
            environment.install(*packages)
        return environment

    return make


@pytest.fixture(scope="session")
def peaceful(make_environment: Callable[..., Environment]) -> Environment:
    """Return an environment whose plug-ins can all be active together; not to be changed."""
    return make_environment("recorder", "mixup", "shapes", "extras", "witness")


def _foreign_plugins() -> list[str]:
    """Return the plug-ins around us, apart from Helios's own, by their qualified names."""
    return [
        f"{entry_point.dist.name}:{entry_point.name}"
        for entry_point in importlib.metadata.entry_points(group="helios.plugins")
        if entry_point.dist is not None and entry_point.dist.name != "helios-trainer"
    ]
