"""Packages that try to run although nobody selected them, or to pass for another.

docs/threats.md lists the ways; each has a test here.
"""

import logging
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Make
from packages import PLUG_IN, write_distribution

from helios import PLUGIN_REGISTRY, Trainer
from helios.errors import (
    AmbiguousPluginError,
    HeliosError,
    InvalidPluginError,
    PluginLoadError,
    UnknownNameError,
)
from helios.plugins.activation.selection import DISABLE_VARIABLE
from helios.plugins.discovery.entry_points import survey

Write = Callable[..., pathlib.Path]
ESCAPE = "\x1b[2K\x1b[1A"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The acts of the packages; their modules are forgotten afterwards."""
    log = types.ModuleType("sample_log")
    log.events = []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sample_log", log)
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", dict(PLUGIN_REGISTRY._objects))
    before = set(sys.modules)
    yield log.events  # type: ignore[attr-defined]
    for module in set(sys.modules) - before:
        if module.startswith(("good", "evil")):
            del sys.modules[module]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, events: list[str]) -> Write:
    """Return a function that writes a distribution into a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(DISABLE_VARIABLE)

    def write_here(name: str, version: str = "1.0", **more: Any) -> pathlib.Path:
        return write_distribution(tmp_path, name, version, **more)

    return write_here


@pytest.fixture
def good(write: Write) -> pathlib.Path:
    """The honest distribution good-tools, which offers the plug-in good."""
    return write(
        "good-tools",
        "3.0",
        modules={"good.py": PLUG_IN.format(name="good")},
        offers={"good": "good:Sample"},
    )


def evil(write: Write, text: str = PLUG_IN.format(name="evil"), **offers: str) -> pathlib.Path:
    """Write a distribution that is after something."""
    return write(
        "evil-tools",
        modules={"evil.py": text},
        offers={name.replace("_", "-"): target for name, target in offers.items()},
    )


def start(make_trainer: Make, **arguments: Any) -> Trainer:
    """Return a trainer that blocks the plug-ins around this test."""
    ours = ("good-tools", "evil-tools")
    foreign = [r.qualified_name for r in PLUGIN_REGISTRY.records() if r.distribution not in ours]
    return make_trainer(**{**arguments, "block": [*foreign, *arguments.get("block", ())]})


def ran(events: list[str], name: str = "evil") -> bool:
    return any(event.startswith(name) for event in events)


# In the place of a distribution.


def test_entry_point_with_the_name_of_an_allowed_distribution(
    make_trainer: Make, write: Write, good: pathlib.Path, events: list[str]
) -> None:
    evil(write, good_tools="evil:Sample")
    trainer = start(make_trainer, autoload=["good-tools"])
    assert list(trainer.plugins) == ["good"]
    assert not ran(events)
    with pytest.raises(AmbiguousPluginError, match=r"'good-tools' is the name of a distribution"):
        start(make_trainer, autoload=False, plugins=["good-tools"])
    assert not ran(events)


@pytest.mark.parametrize("argument", ["autoload", "plugins"])
def test_entry_point_with_the_name_of_a_distribution_that_is_not_installed(
    make_trainer: Make, write: Write, events: list[str], argument: str
) -> None:
    evil(write, helios_good="evil:Sample")
    with pytest.raises(AmbiguousPluginError, match=r"Write 'evil-tools:helios-good'"):
        start(make_trainer, **{"autoload": False, argument: ["helios-good"]})
    assert not ran(events)
    trainer = start(make_trainer, autoload=["evil-tools:helios-good"])
    assert list(trainer.plugins) == ["evil"]


LIES = {
    "another name": "Name: good-tools\nVersion: 9.9\n",
    "an escape in the name": f"Name: evil{ESCAPE}tools\nVersion: 1.0\n",
    "letters of another alphabet": "Name: g\u043e\u043ed-tools\nVersion: 1.0\n",
    "an escape in the version": f"Name: evil-tools\nVersion: 1.0{ESCAPE}\n",
    "no name": "Version: 1.0\n",
}


@pytest.mark.parametrize("claims", LIES.values(), ids=LIES)
def test_metadata_that_lies(
    make_trainer: Make,
    write: Write,
    good: pathlib.Path,
    events: list[str],
    caplog: pytest.LogCaptureFixture,
    claims: str,
) -> None:
    place = write(
        "evil-tools",
        modules={"evil.py": PLUG_IN.format(name="evil")},
        offers={"evil": "evil:Sample"},
        claims=f"Metadata-Version: 2.1\n{claims}",
    )
    with caplog.at_level(logging.ERROR):
        trainer = start(make_trainer)
    assert list(trainer.plugins) == ["good"]
    assert not ran(events)
    assert f"cannot read the metadata of {place}, so it is skipped" in caplog.text
    assert "\x1b" not in caplog.text
    plan = trainer.plugin_manager.freeze()
    assert [(entry.distribution, entry.version) for entry in plan.active] == [("good-tools", "3.0")]
    assert "evil" not in plan.as_text()


def test_metadata_that_lies_in_another_folder(
    make_trainer: Make,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    events: list[str],
) -> None:
    folder = tmp_path / "more"
    place = write_distribution(
        folder,
        "evil-tools",
        modules={"evil.py": PLUG_IN.format(name="evil")},
        offers={"evil": "evil:Sample"},
        claims="Metadata-Version: 2.1\nName: good-tools\nVersion: 9.9\n",
    )
    monkeypatch.syspath_prepend(folder)
    assert not list(start(make_trainer).plugins)
    with pytest.raises(UnknownNameError):
        start(make_trainer, autoload=["good-tools"])
    assert not ran(events)
    damages = [damage for damage in survey()[1] if damage.place == str(place)]
    assert "claims the Name 'good-tools', but belongs to" in str(damages[0].error)


def test_second_metadata_of_an_honest_name(
    make_trainer: Make, write: Write, good: pathlib.Path, events: list[str]
) -> None:
    write(
        "good-tools",
        "9.9",
        modules={"evil.py": PLUG_IN.format(name="evil")},
        offers={"evil": "evil:Sample"},
    )
    records, damages = survey()
    assert len([record for record in records if record.distribution == "good-tools"]) == 1
    (damage,) = damages
    assert "in the same folder" in str(damage.error)


@pytest.mark.parametrize(
    "line",
    [
        f"evil{ESCAPE} = evil:Sample",
        "good-tools:good = evil:Sample",
        "evil,good = evil:Sample",
        f"evil = evil:Sample [{ESCAPE}]",
        "evil = evil:Sample\nEvil = evil:Other",
    ],
)
def test_entry_point_that_cannot_be_named_or_shown(
    make_trainer: Make, write: Write, good: pathlib.Path, events: list[str], line: str
) -> None:
    place = evil(write, evil="evil:Sample")
    (place / "entry_points.txt").write_text(f"[helios.plugins]\n{line}\n", newline="")
    PLUGIN_REGISTRY.refresh()
    trainer = start(make_trainer)
    assert list(trainer.plugins) == ["good"]
    assert not ran(events)
    assert [damage.place for damage in survey()[1]] == [str(place)]


# In the place of a plug-in.


def test_decorator_with_the_name_of_an_installed_plug_in(
    make_trainer: Make, write: Write, good: pathlib.Path, events: list[str]
) -> None:
    text = PLUG_IN.format(name="evil") + (
        "\n@helios.PLUGIN_REGISTRY\nclass good(Sample): ..."
        "\n@helios.PLUGIN_REGISTRY\nclass progress(Sample): ..."
        "\nprogress.__name__ = 'good-tools:good'\nhelios.PLUGIN_REGISTRY.register(progress)"
    )
    evil(write, text, evil="evil:Sample")
    start(make_trainer, autoload=["evil-tools"])
    events.clear()
    for name in ("good", "progress"):
        with pytest.raises(AmbiguousPluginError, match=rf"a plug-in called '{name}'") as caught:
            make_trainer(autoload=False, plugins=[name])
        assert "evil-tools 1.0, registered in " in str(caught.value)
    trainer = start(make_trainer, autoload=False, plugins=["good-tools:good"])
    assert list(trainer.plugins) == ["good"]
    assert not ran(events)


def test_entry_point_with_the_code_of_another_distribution(
    make_trainer: Make, write: Write, good: pathlib.Path
) -> None:
    evil(write, mine="good:Sample")
    trainer = start(make_trainer, autoload=["evil-tools"])
    (entry,) = trainer.plugin_manager.freeze().active
    assert entry.distribution == "evil-tools"
    assert entry.reason == "in the allow-list; its code is from good-tools 3.0"


def test_entry_point_with_the_code_of_a_blocked_distribution(
    make_trainer: Make, write: Write, good: pathlib.Path, events: list[str]
) -> None:
    evil(write, mine="good:Sample")
    trainer = start(make_trainer, block=["good-tools"])
    assert list(trainer.plugins) == []
    assert events == []
    reasons = {i.name: i.reason for i in trainer.plugin_manager.inactive}
    assert reasons["mine"] == "blocked by Trainer(block=...)"


# Objects that are no plug-ins.

FOREIGN = {
    "sys:exit": "sys is a module of Python",
    "time:sleep": "time is a module of Python",
    "os:abort": "os is a module of Python",
    "ensurepip:bootstrap": "ensurepip is a module of Python",
    "antigravity": "antigravity is a module of Python",
    "__main__:main": "__main__ is a module of Python",
    "helios.cli:main": "helios.cli is a module of Helios",
    "helios.plugins.plugin:CUDAPlugin": "helios.plugins.plugin is a module of Helios",
}
OWN = {
    "sleep": ("from time import sleep", "time.sleep is a function of Python itself"),
    "Queue": ("from queue import Queue", "the class queue.Queue has no hooks"),
    "number": ("number = 42", "42 is not a plug-in"),
    "gone": ("", "AttributeError: module 'evil' has no attribute 'gone'"),
    "thing": ("raise SystemExit('bye')", "could not be imported: SystemExit: bye"),
    "stop": ("class Stop(BaseException): ...\nraise Stop", "could not be imported: Stop: "),
    "quiet": (
        "class Quiet(Exception):\n    def __str__(self): raise SystemExit\nraise Quiet",
        "could not be imported: Quiet: (its text cannot be read: SystemExit)",
    ),
    "loud": (f"raise ValueError({ESCAPE!r})", "ValueError: \\x1b[2K\\x1b[1A"),
    "factory": ("def factory(): raise SystemExit(3)", "could not be built: SystemExit: 3"),
    "nothing": ("def nothing(): return None", "None is not a plug-in"),
    "nameless": (
        "class Nameless:\n    __signature__ = 3\n    def __call__(self): ...\n"
        "nameless = Nameless()",
        "Python does not know the arguments of",
    ),
    "Exits": (
        "import helios\nclass Exits(helios.Plugin):\n"
        "    def __init__(self): raise SystemExit(3)\n    def setup(self): ...",
        "could not be built: SystemExit: 3",
    ),
    "Asks": (
        "import helios\nclass Asks(helios.Plugin):\n    def setup(self): ...\n"
        "    @classmethod\n    def applies_to(cls, trainer): raise SystemExit(3)",
        "failed in applies_to: SystemExit: 3",
    ),
    "Hides": (
        "import helios\nclass Hides(helios.Plugin):\n    def __init__(self): ...\n"
        "    def setup(self): ...\n    @property\n    def plug_id(self): raise SystemExit(3)",
        "is not valid: SystemExit: 3",
    ),
}
TARGETS = {
    **{target: ("", message) for target, message in FOREIGN.items()},
    **{f"evil:{name}": given for name, given in OWN.items()},
}


@pytest.mark.parametrize("target", TARGETS)
def test_entry_point_that_names_no_plug_in(
    make_trainer: Make, write: Write, good: pathlib.Path, target: str
) -> None:
    text, message = TARGETS[target]
    evil(write, text, evil=target)
    with pytest.raises(HeliosError) as caught:
        start(make_trainer)
    assert isinstance(caught.value, PluginLoadError | InvalidPluginError)
    for part in (message, "evil-tools 1.0", f"evil = {target}", "Trainer(block=['evil'])"):
        assert part in str(caught.value)
    assert "\x1b" not in str(caught.value)
    trainer = start(make_trainer, on_load_error="skip")
    assert list(trainer.plugins) == ["good"]
    reasons = {i.name: i.reason for i in trainer.plugin_manager.inactive}
    assert reasons["evil"].startswith("FAILED TO LOAD: ")
    assert "\x1b" not in reasons["evil"]


@pytest.mark.parametrize("target", TARGETS)
def test_named_entry_point_that_names_no_plug_in(
    make_trainer: Make, write: Write, target: str
) -> None:
    text, message = TARGETS[target]
    evil(write, text, evil=target)
    if "applies_to" in message:
        return  # nobody asks a plug-in that is named
    with pytest.raises(HeliosError) as caught:
        start(make_trainer, autoload=False, plugins=["evil"])
    told = message.replace("could not be built", "wanted to end the process")
    for part in (told, "evil-tools 1.0", "Trainer(block=['evil'])"):
        assert part in str(caught.value)


def test_object_that_can_be_called_is_the_plug_in(make_trainer: Make, write: Write) -> None:
    text = (
        "import helios\nclass Thing:\n    @helios.hookimpl\n    def setup(self): ...\n"
        "    def __call__(self): raise SystemExit\nthing = Thing()"
    )
    evil(write, text, evil="evil:thing")
    assert list(start(make_trainer).plugins) == ["evil"]


def test_decorated_class_that_ends_the_process(make_trainer: Make, events: list[str]) -> None:
    import helios

    class Leaving(helios.Plugin):
        def __init__(self) -> None:
            raise SystemExit(3)

        def setup(self) -> None: ...

    PLUGIN_REGISTRY.register(Leaving)
    PLUGIN_REGISTRY.register(int)
    with pytest.raises(PluginLoadError, match=r"'Leaving', named in Trainer\(plugins=\.\.\.\)"):
        make_trainer(plugins=["Leaving"])
    with pytest.raises(InvalidPluginError, match=r"the class builtins\.int has no hooks"):
        make_trainer(plugins=["int"])


@pytest.mark.parametrize("name", [None, 3, ["good"], b"good"])
def test_names_that_are_no_strings(make_trainer: Make, name: Any) -> None:
    from helios import create_plugin
    from helios.errors import ConfigurationError

    with pytest.raises(UnknownNameError, match="write the name as a string"):
        create_plugin(name)
    for argument in ("block", "autoload"):
        with pytest.raises(ConfigurationError, match=rf"{argument}=\[.*write .*name"):
            make_trainer(**{argument: [name]})
    is_list = isinstance(name, list)  # in a file, a pair of a name and arguments is a list
    with pytest.raises(ConfigurationError if is_list else InvalidPluginError):
        make_trainer(plugins=[name])
    trainer = make_trainer()
    with pytest.raises(InvalidPluginError, match="the id of a plug-in is a string"):
        trainer.plugins[name] = object()
    with pytest.raises(InvalidPluginError, match="assign a dictionary from ids to plug-ins"):
        trainer.plugins = [name]  # type: ignore[assignment]


@pytest.mark.parametrize("separator", [";", " ", "; ", "\n", "\t"])
def test_blocked_names_without_commas(
    make_trainer: Make,
    good: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[str],
    separator: str,
) -> None:
    monkeypatch.setenv("HELIOS_BLOCK_PLUGINS", f"good-tools{separator}progress")
    with pytest.raises(UnknownNameError, match="write a comma between their names"):
        start(make_trainer)
