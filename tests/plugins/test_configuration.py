"""``[tool.helios]`` in ``pyproject.toml``, and keyword arguments held against constructors."""

import datetime
import enum
import inspect
import math
import pathlib
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from helpers import Make, notes_of
from packages import write_distribution
from typer.testing import CliRunner

from helios import PLUGIN_REGISTRY, Plugin
from helios.cli.app import app
from helios.errors import (
    ConfigurationError,
    InvalidPluginError,
    PluginLoadError,
    PluginProblems,
    UnknownNameError,
)
from helios.plugins.activation.arguments import check_arguments, missing_arguments, read_arguments
from helios.plugins.activation.selection import Selection
from helios.plugins.discovery.configuration import Configuration, read_configuration, setting

if TYPE_CHECKING:
    from nowhere import Imagined


@pytest.fixture
def project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the project's file, and go there."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")

    return write


class Sized(Plugin):
    """Takes arguments of many kinds."""

    def __init__(
        self,
        size: int = 1,
        rate: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.99),
        folder: pathlib.Path | None = None,
        names: list[str] | None = None,
        plug_id: str = "sized",
    ) -> None:
        super().__init__(plug_id)
        self.given = (size, rate, betas, folder, names)

    def setup(self) -> None: ...


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the plug-in of this page, for one test."""
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {**PLUGIN_REGISTRY._objects, "Sized": Sized})


# The file.


def test_without_a_file_nothing_is_said(project: Any) -> None:
    assert read_configuration() == Configuration()


def test_everything_that_a_file_can_say(project: Any, tmp_path: pathlib.Path) -> None:
    project(
        '[tool.helios]\nenable = ["preemption"]\nautoload = ["ema>=0.1"]\nblock = ["old"]\n'
        "[tool.helios.plugins.ema]\ndecay = 0.9\n"
    )
    assert read_configuration() == Configuration(
        path=tmp_path / "pyproject.toml",
        enable=("preemption",),
        autoload=("ema>=0.1",),
        block=("old",),
        plugins={"ema": {"decay": 0.9}},
    )


def test_the_nearest_file_with_the_table_counts(
    project: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("[tool.helios]\nautoload = false\n")
    inner = tmp_path / "package" / "module"
    inner.mkdir(parents=True)
    (tmp_path / "package" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.chdir(inner)
    assert read_configuration().path == tmp_path / "pyproject.toml"
    (inner / "pyproject.toml").write_text("[tool]\nhelios.autoload = true\n")
    assert read_configuration().path == inner / "pyproject.toml"
    assert read_configuration().autoload is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool]\nhelios = 3\n", r"tool\.helios in .*pyproject.toml is 3: write a table"),
        ("[tool.helios]\nblok = []\n", r"tool\.helios\.blok in .* Did you mean 'block'\?"),
        ("[tool.helios]\nblock = 'ema'\n", r"\.block in .* is 'ema': write a list of names"),
        ("[tool.helios]\nenable = [3]\n", r"\.enable in .* is \[3\]: write a list of names"),
        ("[tool.helios]\nautoload = 'no'\n", r"is 'no': write true, false, or a list of names"),
        (
            "[tool.helios]\nplugins = ['ema']\n",
            r"\.plugins in .*for a name without arguments, use enable",
        ),
        ("[tool.helios.plugins]\nema = 0.9\n", r"\.plugins in .* write a table of keyword"),
        ("[tool.helios\n", r"pyproject.toml is not valid TOML: "),
    ],
)
def test_what_cannot_be_meant_is_refused(
    project: Any, make_trainer: Make, text: str, message: str
) -> None:
    project(text)
    with pytest.raises(ConfigurationError, match=message):
        make_trainer()


def test_a_broken_file_of_somebody_else_is_passed_over(project: Any) -> None:
    project("[project\nname = 'x'\n")
    assert read_configuration() == Configuration()


def test_a_file_that_is_not_text_is_refused(project: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff[tool.helios]")
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml is not valid TOML"):
        read_configuration()


# Precedence.


def gather(file: dict[str, Any], environ: dict[str, str], **arguments: Any) -> Selection:
    given = {"plugins": (), "autoload": True, "block": (), "on_load_error": "raise", **arguments}
    path = pathlib.Path("pyproject.toml")
    return Selection.gather(**given, environ=environ, configured=Configuration(path, **file))


def test_what_is_wanted_and_blocked_adds_up() -> None:
    selection = gather(
        {"enable": ("c",), "block": ("x", "z")},
        {"HELIOS_PLUGINS": "b", "HELIOS_BLOCK_PLUGINS": "y,z"},
        plugins=["a"],
        block=["x"],
    )
    assert selection.explicit == (
        ("a", "Trainer(plugins=...)"),
        ("b", "HELIOS_PLUGINS"),
        ("c", "tool.helios.enable in pyproject.toml"),
    )
    assert selection.blocked == {
        "x": "Trainer(block=...)",
        "y": "HELIOS_BLOCK_PLUGINS",
        "z": "HELIOS_BLOCK_PLUGINS",
    }


@pytest.mark.parametrize(
    ("argument", "file", "off", "expected"),
    [
        (True, None, False, True),
        (True, True, False, True),
        (True, False, False, False),
        (True, ("a",), False, ("a",)),
        (False, True, False, False),
        (["b"], False, False, ("b",)),
        (["b"], ("a",), False, ("b",)),
        (True, ("a",), True, False),
        (["b"], ("a",), True, False),
    ],
)
def test_autoloading_is_narrowed(argument: Any, file: Any, off: bool, expected: Any) -> None:
    environ = {"HELIOS_DISABLE_PLUGIN_AUTOLOAD": "1"} if off else {}
    assert gather({"autoload": file}, environ, autoload=argument).autoload == expected


def test_the_header_names_the_file(
    project: Any, tmp_path: pathlib.Path, make_trainer: Make
) -> None:
    from helios.testing import TinyDataModule, TinyModel

    project('[tool.helios]\nenable = ["progress"]\n')
    trainer = make_trainer(total_steps=1)
    trainer.fit(TinyModel(), TinyDataModule())
    file = tmp_path / "pyproject.toml"
    assert f"configured by [tool.helios] in {file}" in trainer.plan.as_text()
    assert f"named in tool.helios.enable in {file}" in trainer.plan.as_text()


# Keyword arguments.


@pytest.mark.usefixtures("registered")
def test_arguments_of_the_file_are_used_and_planned(project: Any, make_trainer: Make) -> None:
    project(
        "[tool.helios.plugins.Sized]\nsize = 3\nrate = 1\nbetas = [0.5, 1]\n"
        'folder = "somewhere"\nnames = ["a"]\n'
    )
    trainer = make_trainer(plugins=["Sized"])
    sized = trainer.plugins["sized"]
    assert sized.given == (3, 1.0, (0.5, 1.0), pathlib.Path("somewhere"), ["a"])
    (entry,) = trainer.plugin_manager.freeze().to_dict()["active"]
    assert entry["configuration"]["size"] == 3
    assert entry["configuration"]["betas"] == [0.5, 1.0]


@pytest.mark.usefixtures("registered")
def test_arguments_in_python_win_one_by_one(project: Any, make_trainer: Make) -> None:
    project("[tool.helios.plugins.sized]\nsize = 3\nrate = 0.1\n")
    trainer = make_trainer(plugins=[("Sized", {"size": 4})])
    assert trainer.plugins["sized"].given[:2] == (4, 0.1)


@pytest.mark.usefixtures("registered")
def test_arguments_for_an_instance_are_reported_as_unused(
    project: Any, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    project("[tool.helios.plugins.sized]\nsize = 3\n")
    assert make_trainer(plugins=[Sized()]).plugins["sized"].given[0] == 1
    assert "tool.helios.plugins.sized in " in caplog.text
    assert "has no effect, because 'sized' was passed as an instance" in caplog.text


def test_arguments_for_nobody_are_refused(project: Any, make_trainer: Make) -> None:
    project("[tool.helios.plugins.progres]\nsize = 3\n")
    with pytest.raises(UnknownNameError) as caught:
        make_trainer()
    assert "named in tool.helios.plugins.progres in " in str(caught.value)
    assert "Did you mean 'progress'?" in str(caught.value)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sise = 3", "tool.helios.plugins.Sized.sise in {file}: Sized has no argument 'sise'."),
        (
            'size = "3"',
            "tool.helios.plugins.Sized.size in {file} is '3', but the expected type is int",
        ),
        (
            "size = 2.5",
            "tool.helios.plugins.Sized.size in {file} is 2.5, but the expected type is int",
        ),
        (
            "size = true",
            "tool.helios.plugins.Sized.size in {file} is True, but the expected type is int",
        ),
        (
            "rate = true",
            "tool.helios.plugins.Sized.rate in {file} is True, but the expected type is float",
        ),
        ("betas = [1.0]", "is [1.0], but the expected type is tuple[float, float]"),
        ("folder = 3", "is 3, but the expected type is pathlib.Path | None"),
        ('names = "a"', "is 'a', but the expected type is list[str] | None"),
    ],
)
def test_arguments_that_do_not_fit(
    project: Any, tmp_path: pathlib.Path, make_trainer: Make, line: str, message: str
) -> None:
    project(f"[tool.helios.plugins.Sized]\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(plugins=["Sized"])
    assert message.format(file=tmp_path / "pyproject.toml") in str(caught.value)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sise": 3}, "sise of 'Sized' in Trainer(plugins=...): Sized has no argument 'sise'. Did"),
        (
            {"size": "3"},
            "size of 'Sized' in Trainer(plugins=...) is '3', but the expected type is int",
        ),
        ({"betas": [0.9, 0.99]}, "is [0.9, 0.99], but the expected type is tuple[float, float]"),
    ],
)
def test_arguments_in_python_that_do_not_fit(
    make_trainer: Make, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(plugins=[("Sized", arguments)])
    assert message in str(caught.value)


class Needy(Plugin):
    def __init__(self, trial: object, metric_name: str) -> None:
        super().__init__("needy")

    def setup(self) -> None: ...


def test_arguments_that_are_missing(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {"Needy": Needy})
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(plugins=[("Needy", {"metric_name": "accuracy"})])
    assert "'Needy', named in Trainer(plugins=...), requires arguments (trial)" in str(caught.value)
    assert "or write them below [tool.helios.plugins.Needy] in pyproject.toml." in str(caught.value)
    assert "pass an instance" in str(caught.value)


class Shade(enum.Enum):
    DARK = "dark"


def test_types_that_a_file_does_not_have() -> None:
    def factory(day: datetime.date, shade: Shade, rate: float, anything, *, at: Any = 0): ...  # type: ignore[no-untyped-def]  # on purpose

    given = {
        "day": datetime.date(2026, 1, 2),
        "shade": "dark",
        "rate": math.inf,
        "anything": {"a": [1]},
    }
    assert read_arguments(factory, given, str) == {**given, "shade": Shade.DARK}


def test_objects_are_passed_as_they_are() -> None:
    def factory(net: torch.nn.Module, sizes: list[int], more: "Imagined") -> None: ...

    given = {"net": torch.nn.Linear(1, 1), "sizes": [1], "more": object()}
    check_arguments(factory, given, str)
    with pytest.raises(
        ConfigurationError, match=r"^net is 3, but the expected type is torch.*Module"
    ):
        check_arguments(factory, {"net": 3}, str)


def test_open_arguments_are_open() -> None:
    def factory(size: int, **others: Any) -> None: ...

    check_arguments(factory, {"size": 1, "more": 2}, str)
    assert missing_arguments(factory, {}) == ["size"]
    assert missing_arguments(factory, {"size": 1}) == []


def test_something_that_takes_no_arguments(
    project: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import helios

    class Object:
        @helios.hookimpl
        def setup(self) -> None: ...

    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {"thing": Object()})
    with pytest.raises(InvalidPluginError, match="takes no arguments: remove them"):
        make_trainer(plugins=[("thing", {"size": 1})])


def test_everything_wrong_is_reported_at_once(project: Any, make_trainer: Make) -> None:
    project("[tool.helios.plugins.nobody]\nsize = 3\n")
    with pytest.raises(PluginProblems) as caught:
        make_trainer(plugins=["nothing", ("progress", {"size": 1}), 3])
    assert [type(problem).__name__ for problem in caught.value.exceptions] == [
        "UnknownNameError",
        "ConfigurationError",
        "InvalidPluginError",
        "UnknownNameError",
    ]
    assert str(caught.value).startswith("the plug-ins have 4 problems:\n  1. no plug-in")
    assert isinstance(caught.value, ValueError)


# Where a wrong value comes from.


class Strict(Plugin):
    """Refuses what its annotation allows."""

    def __init__(self, share: float = 0.5, sign: int = 1) -> None:
        super().__init__("strict")
        if not 0 < share < 1:
            raise ValueError("the share is between 0 and 1")

    def setup(self) -> None: ...


def notes_from_file(trainer_arguments: dict[str, Any], make_trainer: Make) -> list[str]:
    with pytest.raises((ValueError, PluginLoadError)) as caught:
        make_trainer(**trainer_arguments)
    return [note for note in notes_of(caught.value) if "pyproject.toml" in note]


def test_an_error_of_a_constructor_names_the_file(
    project: Any, make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {"Strict": Strict})
    project("[tool.helios.plugins.Strict]\nshare = 2.0\nsign = 3\n")
    place = f"tool.helios.plugins.Strict in {tmp_path / 'pyproject.toml'}"
    notes = notes_from_file({"plugins": ["Strict"]}, make_trainer)
    assert notes == [f"with arguments from {place}: share, sign"]
    project("[tool.helios]\n")
    assert notes_from_file({"plugins": [("Strict", {"share": 2.0})]}, make_trainer) == []


def test_an_error_of_an_installed_constructor_names_the_file(
    project: Any, make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = inspect.getsource(Strict)
    modules = {"strict_module.py": f"from helios import Plugin\n\n\n{text}"}
    offers = {"strict": "strict_module:Strict"}
    write_distribution(tmp_path / "site", "strict-tools", modules=modules, offers=offers)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    project("[tool.helios.plugins.strict]\nshare = 2.0\n")
    place = f"tool.helios.plugins.strict in {tmp_path / 'pyproject.toml'}"
    notes = notes_from_file({"autoload": ["strict"]}, make_trainer)
    assert notes == [f"with arguments from {place}: share"]
    with pytest.raises(PluginLoadError, match=r'block = \["strict"\] +in \[tool.helios\]'):
        make_trainer(autoload=["strict"])
    result = CliRunner().invoke(app, ["plugins", "show", "strict"])
    assert f"it could not be built with arguments from {place}" in " ".join(result.output.split())


def test_names_in_remedies_are_toml() -> None:
    names = ["a:b", 'x"y', "é", "\x1b[2K", "\u202e"]
    line = setting("block", names)
    assert tomllib.loads(line) == {"block": names}
    assert line.isprintable()
