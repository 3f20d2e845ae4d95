"""Registries, and filling them by importing a package."""

import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helios.core import Registry, update_all_registries
from helios.errors import ConfigurationError, RegistrationError, UnknownNameError


class Net:
    pass


def function() -> None:
    pass


@pytest.fixture
def nets() -> Registry:
    return Registry("net")


def test_empty(nets: Registry) -> None:
    assert str(nets) == "net"
    assert list(nets) == []
    assert len(nets.keys()) == 0
    assert "Net" not in nets


@pytest.mark.parametrize("obj", [Net, function])
def test_register_returns_the_object(nets: Registry, obj: Any) -> None:
    assert nets.register(obj) is obj
    assert nets.get(obj.__name__) is obj
    assert obj.__name__ in nets


def forms() -> dict[str, Callable[[Registry], Callable[[type], type]]]:
    return {
        "@registry": lambda registry: registry,
        "@registry.register": lambda registry: registry.register,
        "@registry.register()": lambda registry: registry.register(),
        "@registry()": lambda registry: registry(),
    }


@pytest.mark.parametrize("form", forms().values(), ids=forms())
def test_decorators(nets: Registry, form: Callable[[Registry], Any]) -> None:
    @form(nets)
    class Decorated:
        pass

    assert nets.get("Decorated") is Decorated
    assert isinstance(Decorated, type)


def test_suffix(nets: Registry) -> None:
    nets.register(Net, "v1")
    assert nets.register(suffix="v2")(Net) is Net
    assert list(nets.keys()) == ["Net_v1", "Net_v2"]
    assert "Net" not in nets
    with pytest.warns(UserWarning, match="no net is called 'Net'; using 'Net_v2' instead"):
        assert nets.get("Net", suffix="v2") is Net
    nets.register(Net)
    assert nets.get("Net", suffix="v2") is Net  # the plain name is there, so nothing is said


@pytest.mark.parametrize("suffix", [None, "v2"])
def test_name_that_is_taken(nets: Registry, suffix: str | None) -> None:
    nets.register(Net, suffix)

    class Other:
        pass

    Other.__name__ = "Net"
    for again in (Net, Other):
        with pytest.raises(RegistrationError) as caught:
            nets.register(again, suffix)
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, AssertionError)
        assert "suffix=" in str(caught.value)
        assert f"{Net.__module__}.Net" in str(caught.value)
    assert [obj for _, obj in nets] == [Net]


def test_object_without_a_name(nets: Registry) -> None:
    with pytest.raises(AttributeError, match="__name__"):
        nets.register(3)
    assert list(nets) == []


def test_unknown_name(nets: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"no net is called 'Net'\. Registered: none"):
        nets.get("Net")
    nets.register(Net)
    nets.register(function)
    with pytest.raises(UnknownNameError) as caught:
        nets.get("net")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == (
        "no net is called 'net'. Did you mean 'Net'? Registered: Net, function."
    )
    with pytest.raises(UnknownNameError):
        nets.get("missing", suffix="v2")


def test_views(nets: Registry) -> None:
    keys = nets.keys()
    nets.register(Net)
    nets.register(function)
    assert list(keys) == ["Net", "function"]
    assert len(keys) == 2
    assert list(nets) == [("Net", Net), ("function", function)]


def test_registries_are_independent(nets: Registry) -> None:
    nets.register(Net)
    assert "Net" not in Registry("net")


# update_all_registries, on real packages. Each has its own name, since modules stay imported.


@pytest.fixture
def package(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., pathlib.Path]]:
    """Write a package that can be imported, and forget it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)

    def write(files: dict[str, str], under: str = "") -> pathlib.Path:
        root = tmp_path / under / request.node.name.partition("[")[0]
        for name, text in {"__init__.py": "", **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return root

    yield write
    for name in set(sys.modules) - modules:
        del sys.modules[name]


NETS = "from helios.core import Registry\nNET_REGISTRY = Registry('net')\n"


def uses(prefix: str) -> str:
    return f"from {prefix}.registry import NET_REGISTRY as NETS\n"


WAYS = {
    "decorator": "@NETS.register\nclass Net: ...\n",
    "indented": "if True:\n    @NETS.register\n    class Net: ...\n",
    "call of the decorator": "@NETS.register()\nclass Net: ...\n",
    "suffix": "@NETS.register(suffix='v2')\nclass Net: ...\n",
    "plain call": "class Net: ...\nNETS.register(Net)\n",
    "the registry itself": "@NETS\nclass Net: ...\n",
    "nested": "def make():\n    class Net: ...\n    return NETS.register(Net)\nmake()\n",
}


@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_module_that_registers_is_imported(package: Callable[..., pathlib.Path], text: str) -> None:
    name = "test_module_that_registers_is_imported"
    root = package({"registry.py": NETS, "nets.py": uses(name) + text, "other.py": "x = 1\n"})
    update_all_registries(root)
    registry = sys.modules[f"{name}.registry"].NET_REGISTRY
    assert len(registry.keys()) == 1
    assert f"{name}.other" not in sys.modules


def test_subpackages_are_searched(package: Callable[..., pathlib.Path]) -> None:
    name = "test_subpackages_are_searched"
    text = uses(name)
    root = package(
        {
            "registry.py": NETS,
            "a.py": text + "@NETS.register\nclass A: ...\n",
            "sub/__init__.py": text + "@NETS.register\nclass Sub: ...\n",
            "sub/b.py": text + "@NETS.register\nclass B: ...\n",
            "sub/deep/__init__.py": "",
            "sub/deep/c.py": text + "@NETS.register\nclass C: ...\n",
        }
    )
    update_all_registries(root, recurse=False)
    registry = sys.modules[f"{name}.registry"].NET_REGISTRY
    assert set(registry.keys()) == {"A"}
    update_all_registries(root)
    assert set(registry.keys()) == {"A", "Sub", "B", "C"}
    update_all_registries(str(root))  # what is imported stays imported
    assert set(registry.keys()) == {"A", "Sub", "B", "C"}


def test_package_inside_another(
    package: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
    name = "test_package_inside_another"
    prefix = f"outer.inner.{name}"
    root = package(
        {"registry.py": NETS, "nets.py": uses(prefix) + "@NETS.register\nclass Net: ...\n"},
        under="outer/inner",
    )
    update_all_registries(root, import_prefix="outer.inner")
    assert list(sys.modules[f"{prefix}.registry"].NET_REGISTRY.keys()) == ["Net"]


def test_hidden_folders_are_left_alone(package: Callable[..., pathlib.Path]) -> None:
    """Notebooks keep copies of the files that they show in ``.ipynb_checkpoints``."""
    name = "test_hidden_folders_are_left_alone"
    text = uses(name) + "@NETS.register\nclass Net: ...\n"
    root = package(
        {
            "registry.py": NETS,
            "nets.py": text,
            ".ipynb_checkpoints/nets-checkpoint.py": text,
        }
    )
    update_all_registries(root)
    assert list(sys.modules[f"{name}.registry"].NET_REGISTRY.keys()) == ["Net"]


def test_failing_import_is_not_hidden(package: Callable[..., pathlib.Path]) -> None:
    root = package({"bad.py": "# .register\nraise OSError('broken')\n"})
    with pytest.raises(OSError, match="broken"):
        update_all_registries(root)


@pytest.mark.parametrize("kind", ["missing", "file", "folder"])
def test_root_that_is_no_package(tmp_path: pathlib.Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("")
    elif kind == "folder":
        root.mkdir()
    with pytest.raises(ConfigurationError, match=r"not a package.*__init__\.py") as caught:
        update_all_registries(root)
    assert str(root) in str(caught.value)
