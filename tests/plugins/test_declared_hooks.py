"""The hooks that plug-ins declare for other plug-ins."""

import pickle
import types
from typing import Any

import pytest
from helpers import Make, Named, UserError, notes_of, table

import helios
from helios import Trainer, hookimpl, hookspec
from helios.errors import InvalidPluginError, PluginConflictError
from helios.plugins import PluginManager
from helios.testing import TinyDataModule, TinyModel


class Hooks:
    """The hooks of Sweep."""

    @hookspec
    def on_point(self, point: int, loss: float) -> Any:
        """Called at each point."""

    @hookspec(firstresult=True)
    def choose_point(self, points: list[int]) -> int | None:
        """Return the next point."""


class Sweep(Named):
    """A plug-in that calls hooks of its own."""

    hookspecs: Any = Hooks

    def __init__(self, plug_id: str = "sweep") -> None:
        super().__init__(plug_id)
        self.results: list[Any] = []

    def on_training_epoch_end(self) -> None:
        hook = self.trainer.plugin_manager.hook
        point = hook.choose_point(points=[1, 2])
        self.results.append((point, hook.on_point(point=point, loss=0.5)))


class Listener(Named):
    """A plug-in that implements them."""

    def __init__(self, plug_id: str = "listener") -> None:
        super().__init__(plug_id)

    @hookimpl
    def on_point(self, point: int) -> str:
        return f"{self.plug_id} at {point}"

    @hookimpl
    def choose_point(self, points: list[int]) -> int:
        return points[-1]


def fit(trainer: Trainer) -> Trainer:
    return trainer.fit(TinyModel(), TinyDataModule()) and trainer


def refusal(*plugins: Any, kind: type[Exception] = InvalidPluginError) -> str:
    """Return the message with which a manager refuses the last plug-in, and changes nothing."""
    manager = PluginManager()
    for plugin in plugins[:-1]:
        manager.register(plugin)
    before = table(manager)
    with pytest.raises(kind) as caught:
        manager.register(plugins[-1])
    assert table(manager) == before
    return str(caught.value)


# Calls.


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_hooks_are_called_in_the_order_of_the_plan(make_trainer: Make, order: Any) -> None:
    class Last(Listener):
        after = ("first",)

    sweep = Sweep()
    plugins = [sweep, Listener("first"), Last("last")]
    fit(make_trainer(plugins=plugins[order], total_steps=1))
    assert sweep.results == [(2, ["first at 2", "last at 2"])]


def test_a_hook_that_nobody_implements(make_trainer: Make) -> None:
    sweep = Sweep()
    fit(make_trainer(plugins=[sweep], total_steps=1))
    assert sweep.results == [(None, [])]


def test_a_module_and_an_object_may_implement_it(make_trainer: Make) -> None:
    module = types.ModuleType("listening")
    exec("import helios\n@helios.hookimpl\ndef on_point(loss): return loss", vars(module))
    sweep = Sweep()
    fit(make_trainer(plugins=[module, sweep], total_steps=1))
    assert sweep.results == [(None, [0.5])]


def test_wrappers_and_tryfirst_hold(make_trainer: Make) -> None:
    class Wrapping(Named):
        @hookimpl(wrapper=True)
        def on_point(self) -> Any:
            return [*(yield), "wrapped"]

    class Early(Listener):
        @hookimpl(tryfirst=True)
        def on_point(self) -> str:
            return "early"

    sweep = Sweep()
    plugins = [Wrapping("wrapping"), Listener(), Early("early"), sweep]
    fit(make_trainer(plugins=plugins, total_steps=1))
    assert sweep.results == [(2, ["early", "listener at 2", "wrapped"])]


def test_the_plan_lists_them(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[Sweep(), Listener()])
    entries = {entry.id: entry for entry in trainer.plugin_manager.freeze().active}
    assert entries["listener"].hooks == ("setup", "choose_point", "on_point")
    assert entries["sweep"].hooks == ("setup", "on_training_epoch_end")


def test_several_runs_and_trainers(make_trainer: Make) -> None:
    sweep, listener = Sweep(), Listener()
    trainer = make_trainer(plugins=[sweep, listener], total_steps=1)
    fit(trainer)
    trainer.register_plugin(Listener("second"))
    fit(trainer)
    del trainer.plugins["listener"]
    del trainer.plugins["second"]
    fit(trainer)
    fit(make_trainer(plugins=[sweep, listener], total_steps=1))
    one, both, none, again = sweep.results
    assert one == again == (2, ["listener at 2"])
    assert both == (2, ["listener at 2", "second at 2"])
    assert none == (None, [])


def test_two_plugins_of_one_class_share_the_hooks(make_trainer: Make) -> None:
    first, second = Sweep("first"), Sweep("second")
    fit(make_trainer(plugins=[first, second, Listener()], total_steps=1))
    assert first.results == second.results == [(2, ["listener at 2"])]


def test_a_plugin_that_registers_another(make_trainer: Make) -> None:
    class Brings(Named):
        def configure_trainer(self, trainer: Trainer) -> None:
            trainer.register_plugin(sweep)
            trainer.register_plugin(Listener())

    sweep = Sweep()
    fit(make_trainer(plugins=[Brings("brings")], total_steps=1))
    assert sweep.results == [(2, ["listener at 2"])]


def test_the_table_of_another_process_has_the_hooks() -> None:
    manager = PluginManager()
    manager.register(Sweep())
    manager.register(Listener())
    manager.freeze()
    copy = pickle.loads(pickle.dumps(manager))
    assert copy.hook.on_point(point=3, loss=1.0) == ["listener at 3"]


# Failures.


class Failing(Named):
    def __init__(self) -> None:
        super().__init__("failing")

    @hookimpl
    def on_point(self) -> None:
        raise UserError("no")


def test_an_error_names_the_implementation(make_trainer: Make) -> None:
    with pytest.raises(UserError) as caught:
        fit(make_trainer(plugins=[Sweep(), Failing()]))
    assert any("'failing'" in note and "on_point" in note for note in notes_of(caught.value))


def test_an_observer_that_fails_is_switched_off(make_trainer: Make) -> None:
    class Observer(Failing):
        critical = False

    sweep = Sweep()
    trainer = fit(make_trainer(plugins=[sweep, Observer(), Listener()], total_steps=2))
    assert sweep.results == [(2, ["listener at 2"])] * 2
    assert trainer.plugin_manager.quarantined["failing"].hook == "on_point"


def test_the_profile_counts_them(make_trainer: Make, capsys: pytest.CaptureFixture[str]) -> None:
    plugins = [Sweep(), Listener()]
    fit(make_trainer(plugins=plugins, profile_plugins=True, print_banner=True))
    table = capsys.readouterr().out.partition("time in plug-ins, of ")[2].splitlines()
    assert ["listener", "on_point", "2"] in [line.split()[:3] for line in table]


# What registration refuses.


def test_a_hook_that_nobody_declares() -> None:
    message = refusal(Listener())
    assert "plug-in 'listener' (" in message
    assert "choose_point is not a hook, so it would never be called." in message
    assert "mark it with @helios.hookimpl, and use that plug-in, too" in message


def test_a_misspelt_hook_gets_the_nearest_name_of_all() -> None:
    class Misspelt(Named):
        @hookimpl
        def on_pont(self) -> None: ...

    message = refusal(Sweep(), Misspelt("misspelt"))
    assert "on_pont is not a hook, so it would never be called. Did you mean 'on_point'" in message


def test_a_method_without_a_marker() -> None:
    class Unmarked(Named):
        def on_point(self) -> None: ...

    assert "mark it with @helios.hookimpl" in refusal(Sweep(), Unmarked("unmarked"))


def test_a_method_of_ones_own_with_the_name_gives_a_warning(make_trainer: Make) -> None:
    class Own(Named):
        def choose_point(self) -> None: ...

    with pytest.warns(UserWarning, match="choose_point has the name of a hook of another plug-in"):
        make_trainer(plugins=[Sweep(), Own("own")])


def test_an_optional_hook_needs_nobody(make_trainer: Make) -> None:
    class Optional(Named):
        @hookimpl(optionalhook=True)
        def on_point(self) -> str:
            return "optional"

    fit(make_trainer(plugins=[Optional("optional")], total_steps=1))
    sweep = Sweep()
    fit(make_trainer(plugins=[Optional("optional"), sweep], total_steps=1))
    assert sweep.results == [(None, ["optional"])]


def test_a_wrong_argument_is_refused_as_for_other_hooks() -> None:
    class Wrong(Named):
        @hookimpl
        def on_point(self, points: int) -> None: ...

    message = refusal(Sweep(), Wrong("wrong"))
    assert "takes an argument 'points', which the hook does not have. Did you mean 'po" in message
    assert "Arguments of on_point: point, loss." in message


def test_removing_the_declaring_plugin_is_found_at_the_launch(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[Sweep(), Listener()])
    del trainer.plugins["sweep"]
    with pytest.raises(InvalidPluginError, match="choose_point is not a hook"):
        fit(trainer)


def test_autoloaded_plugins_without_the_declaring_one() -> None:
    manager = PluginManager()
    row = manager.candidate(Listener(), None, "installed", explicit=False)
    with pytest.raises(InvalidPluginError):
        manager.resolve([row])
    kept, inactive = manager.resolve([row], skip=True)
    assert not kept
    assert inactive[0].reason.startswith("FAILED TO LOAD: InvalidPluginError: plug-in 'listener'")


def test_two_plugins_that_declare_a_hook_differently() -> None:
    class Other:
        @hookspec
        def on_point(self, place: str) -> None: ...

    class Rival(Sweep):
        hookspecs = (Other,)

    message = refusal(Sweep(), Rival("rival"), kind=PluginConflictError)
    assert "two plug-ins declare the hook on_point in different ways:" in message
    assert "'sweep'  (" in message
    assert "'rival'  (" in message
    assert "Trainer(block=['sweep']) or Trainer(block=['rival'])" in message


class Empty: ...


class Unmarked:
    @hookspec
    def on_point(self) -> None: ...

    def on_other(self) -> None: ...


class Taken:
    @hookspec
    def on_log(self) -> None: ...


class TakenByPlugin:
    @hookspec
    def state_dict(self) -> None: ...


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Empty, "in which pluggy finds no hook"),
        ("hooks", "hookspecs contains 'hooks', in which pluggy finds no hook"),
        (Unmarked, "the function on_other, which is not marked: write @helios.hookspec above it"),
        (Taken, "hookspecs declares on_log, which every plug-in has already"),
        (TakenByPlugin, "hookspecs declares state_dict, which every plug-in has already"),
    ],
)
def test_what_declares_no_hooks(declared: Any, message: str) -> None:
    class Wrong(Sweep):
        hookspecs = declared

    text = refusal(Wrong())
    assert "plug-in 'sweep' (" in text
    assert message in text


def test_a_misspelt_declaration() -> None:
    class Wrong(helios.Plugin):
        hookspec = Hooks

        def setup(self) -> None: ...

    assert "Did you mean 'hookspecs'?" in refusal(Wrong("wrong"))
