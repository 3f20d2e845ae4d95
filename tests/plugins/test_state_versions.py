"""States whose form has changed: the version, its migration, and what cannot be read."""

from typing import Any

import pytest
from helpers import Keeping, Make, files, read

from helios import Plugin
from helios.errors import CheckpointError, InvalidPluginError
from helios.testing import TinyDataModule, TinyModel


class Second(Keeping):
    """Counts in steps; the first version counted batches."""

    state_version = 2
    seen: tuple[Any, ...] = ()

    def migrate_state(self, state_dict: dict[str, Any], version: int) -> dict[str, Any]:
        self.seen = (state_dict, version)
        return {"steps": state_dict["batches"] // 4}


class Third(Second):
    state_version = 3


FIRST, SECOND = {"batches": 12}, {"steps": 3}


def fit(make_trainer: Make, root: Any, steps: int, *plugins: Any) -> Any:
    """Train, and return the states and the versions in the newest checkpoint."""
    make_trainer(total_steps=steps, plugins=plugins, run_root=root).fit(
        TinyModel(), TinyDataModule()
    )
    payload = read(max(files(root, "**/*.pth"), key=lambda path: path.stat().st_mtime_ns))
    return payload["plugins"][0], payload["plugin_versions"]


def test_an_older_state_is_migrated_once(make_trainer: Make, tmp_path: Any) -> None:
    assert fit(make_trainer, tmp_path, 1, Keeping(FIRST)) == ({"keeping": FIRST}, {})
    tested = Second({})
    make_trainer(plugins=[tested], run_root=tmp_path).test(TinyModel(), TinyDataModule())
    assert (tested.state, tested.seen) == (SECOND, (FIRST, 1))
    second = Second({})
    assert fit(make_trainer, tmp_path, 2, second) == ({"keeping": SECOND}, {"keeping": 2})
    assert (second.state, second.seen) == (SECOND, (FIRST, 1))
    again = Second({})
    fit(make_trainer, tmp_path, 3, again)
    assert (again.state, again.seen) == (SECOND, ())
    third = Third({})
    third.migrate_state = lambda state_dict, version: {"version": version}  # type: ignore[method-assign]
    fit(make_trainer, tmp_path, 4, third)
    assert third.state == {"version": 2}


def test_a_state_under_a_former_id_is_migrated(make_trainer: Make, tmp_path: Any) -> None:
    class Renamed(Third):
        former_ids = ("keeping",)

    fit(make_trainer, tmp_path, 1, Second(SECOND))
    renamed = Renamed({})
    renamed._plug_id = "new"
    renamed.migrate_state = lambda state_dict, version: {"version": version}  # type: ignore[method-assign]
    assert fit(make_trainer, tmp_path, 2, renamed) == ({"new": {"version": 2}}, {"new": 3})


@pytest.mark.parametrize("reading", [Keeping, Second])
def test_a_newer_state_is_an_error_that_says_so(
    make_trainer: Make, tmp_path: Any, reading: type[Keeping]
) -> None:
    fit(make_trainer, tmp_path, 1, Third(SECOND))
    with pytest.raises(CheckpointError) as caught:
        fit(make_trainer, tmp_path, 2, reading({}))
    own = getattr(reading, "state_version", 1)
    message = str(caught.value)
    assert message.startswith("the checkpoint contains a state of plug-in 'keeping' (not installed")
    assert f"in version 3, but this release of the plug-in reads versions up to {own}" in message
    assert "install the release that wrote it" in message


def test_an_absent_plugin_keeps_the_version_of_its_state(make_trainer: Make, tmp_path: Any) -> None:
    fit(make_trainer, tmp_path, 1, Second(SECOND))
    assert fit(make_trainer, tmp_path, 2) == ({"keeping": SECOND}, {"keeping": 2})
    back = Second({})
    fit(make_trainer, tmp_path, 3, back)
    assert (back.state, back.seen) == (SECOND, ())


def test_an_observer_that_cannot_read_a_state_leaves_it_as_it_was(
    make_trainer: Make, tmp_path: Any
) -> None:
    class Observer(Second):
        critical = False

    fit(make_trainer, tmp_path, 1, Third(SECOND))
    assert fit(make_trainer, tmp_path, 2, Observer({})) == ({"keeping": SECOND}, {"keeping": 3})
    assert fit(make_trainer, tmp_path, 3, Third({})) == ({"keeping": SECOND}, {"keeping": 3})


def test_an_observer_that_fails_to_save_keeps_the_migrated_state(
    make_trainer: Make, tmp_path: Any
) -> None:
    class Observer(Second):
        critical = False

        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("lost")

    fit(make_trainer, tmp_path, 1, Keeping(FIRST))
    assert fit(make_trainer, tmp_path, 2, Observer({})) == ({"keeping": SECOND}, {"keeping": 2})


def test_the_states_of_this_process_need_no_migration(make_trainer: Make) -> None:
    plugin, model = Second(SECOND), TinyModel()
    trainer = make_trainer(plugins=[plugin])
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert (plugin.state, plugin.seen) == (SECOND, ())


class Unable(Keeping):
    state_version = 2


class Forgetful(Unable):
    def migrate_state(self, state_dict: dict[str, Any], version: int) -> Any:
        state_dict["steps"] = 3


def test_a_migration_that_is_missing_or_returns_nothing(make_trainer: Make, tmp_path: Any) -> None:
    fit(make_trainer, tmp_path, 1, Keeping(FIRST))
    told = r"Unable has no migrate_state\(state_dict, version\).* version 1: add the method"
    with pytest.raises(InvalidPluginError, match=told):
        fit(make_trainer, tmp_path, 2, Unable({}))
    told = r"'keeping' .* returned None from migrate_state: return the state .* version 2"
    with pytest.raises(InvalidPluginError, match=told):
        fit(make_trainer, tmp_path, 2, Forgetful({}))


def migrate(self: Any, state_dict: dict[str, Any], version: int) -> dict[str, Any]:
    return state_dict


WRONG = [
    ({"state_version": "2"}, "state_version is '2': write a whole number from 1 on"),
    ({"state_version": True}, "state_version is True: write a whole number from 1 on"),
    ({"state_version": 0}, "state_version is 0: write a whole number from 1 on"),
    ({"migrate_state": migrate}, "migrate_state would never be called, because state_version is 1"),
    ({"state_versoin": 2}, "state_versoin = 2 has no effect. Did you mean 'state_version'?"),
    ({"migrate_states": migrate}, "Helios never calls migrate_states. Did you mean 'migrate_st"),
    (
        {"state_version": 2, "migrate_state": lambda self, state_dict: state_dict},
        "migrate_state has other arguments than Helios passes: write migrate_state(state_dict,",
    ),
]


@pytest.mark.parametrize(("members", "told"), WRONG, ids=[told[:40] for _, told in WRONG])
def test_a_wrong_declaration_is_refused(make_trainer: Make, members: Any, told: str) -> None:
    plugin: Plugin = type("Wrong", (Keeping,), {**members, "__module__": "elsewhere"})({})
    with pytest.raises(InvalidPluginError) as caught:
        make_trainer(plugins=[plugin])
    assert told in str(caught.value)
