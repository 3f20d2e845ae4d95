"""Plug-ins that require others, found when they are registered."""

from typing import Any

import pytest
from helpers import Make, Named

from helios.errors import InvalidPluginError, UnmetRequirementError
from helios.plugins import PluginManager


class Needy(Named):
    requires = ("base",)

    def __init__(self, plug_id: str = "needy") -> None:
        super().__init__(plug_id)


class Needier(Named):
    requires = ("needy",)

    def __init__(self) -> None:
        super().__init__("needier")


def ids(manager: PluginManager) -> list[str]:
    return list(manager.rows)


def test_a_requirement_that_is_not_active_is_an_error(make_trainer: Make) -> None:
    with pytest.raises(UnmetRequirementError) as caught:
        make_trainer(plugins=[Needy()])
    text = str(caught.value)
    assert "plug-in 'needy' (" in text
    assert "test_requirements.py:" in text
    assert "requires base, which is not active." in text
    assert "name it in Trainer(plugins=[...])" in text


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_plugins_of_one_trainer_may_come_in_any_order(make_trainer: Make, order: Any) -> None:
    trainer = make_trainer(plugins=[Needier(), Needy(), Named("Base")][order])
    assert len(trainer.plugins) == 3  # base is the same id in canonical form


def test_one_by_one_the_required_plugin_comes_first() -> None:
    manager = PluginManager()
    with pytest.raises(UnmetRequirementError):
        manager.register(Needy())
    assert ids(manager) == []
    manager.register(Named("base"))
    manager.register(Needy())
    manager.unregister(name="base")
    with pytest.raises(UnmetRequirementError):
        manager.recheck()  # as a launch does


def test_autoloaded_plugins_step_aside_with_those_that_need_them() -> None:
    manager = PluginManager()
    rows = [
        manager.candidate(plugin, None, "installed", explicit=False)
        for plugin in (Needy(), Needier(), Named("other"))
    ]
    manager.enter(*manager.resolve(rows))
    assert ids(manager) == ["other"]
    assert [(each.name, each.reason) for each in manager.inactive] == [
        ("needy", "requires base, which is not active"),
        ("needier", "requires needy, which is not active"),
    ]


def test_the_version_counts() -> None:
    class Later(Named):
        requires = ("progress>=1000",)

    manager = PluginManager()
    from helios.plugins.builtin.progress import ProgressPlugin

    manager.register(ProgressPlugin())
    with pytest.raises(UnmetRequirementError, match=r"requires progress>=1000, but progress \d"):
        manager.register(Later())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base>>1", r'such as "ema>=0\.1"'),
        (">=1", r'such as "ema>=0\.1"'),
        ("", r"requires is \(''?,\): write a tuple of strings"),
    ],
)
def test_what_is_no_requirement_is_refused(text: str, message: str) -> None:
    class Wrong(Named):
        requires = (text,)

    manager = PluginManager()
    with pytest.raises(InvalidPluginError, match=message):
        manager.register(Wrong())
