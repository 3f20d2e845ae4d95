"""Conflicts: two plug-ins that claim the same, also by flags that are set late, or autoloaded."""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import pytest
from helpers import OVERRIDES, Make, Named, assert_refused, register

import helios
from helios import Plugin, Trainer, hookimpl
from helios.errors import PluginConflictError, RegistrationError
from helios.plugins import HOOKS, PLUGIN_REGISTRY, PluginManager
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.testing import TinyDataModule, TinyModel


def returning_batch(self: Any, batch: Any) -> Any:
    return batch


IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "training_batch": ("process_training_batch", returning_batch),
    "validation_batch": ("process_validation_batch", returning_batch),
    "testing_batch": ("process_testing_batch", returning_batch),
    "prediction_batch": ("process_prediction_batch", returning_batch),
    "should_training_stop": ("should_training_stop", lambda self: False),
    "batches": ("wrap_batches", lambda self, batches: batches),
    "launch": ("launch", lambda self, target: target()),
}
"""For each claim of a hook: the hook, and a method that implements it."""


class Declaring(Named):
    """Claims without implementing."""

    __module__ = "elsewhere"


class Implementing(Named):
    """Claims by implementing."""

    __module__ = "elsewhere"


class Naming(Named):
    """Claims in ``exclusives``."""

    __module__ = "elsewhere"


def declaring(claim: str, plug_id: str) -> Plugin:
    plugin = Declaring(plug_id)
    setattr(plugin.unique_overrides, claim, True)
    return plugin


def implementing(claim: str, plug_id: str) -> Plugin:
    hook, function = IMPLEMENTATIONS[claim]
    return type("Implementing", (Implementing,), {hook: function, "__module__": "elsewhere"})(
        plug_id
    )


def naming(claim: str, plug_id: str) -> Plugin:
    return type("Naming", (Naming,), {"exclusives": (claim,), "__module__": "elsewhere"})(plug_id)


def implementing_object(claim: str, plug_id: str) -> Any:
    hook, function = IMPLEMENTATIONS[claim]
    marked = hookimpl(types.FunctionType(function.__code__, globals()))
    return type("Implementing", (), {hook: marked, "__module__": "elsewhere"})()


WAYS = {"declaring": declaring, "implementing": implementing, "naming": naming}

CONFLICTS = [
    (claim, one, other)
    for claims, ways in [
        (OVERRIDES, ("declaring", "implementing", "naming")),
        (("batches", "launch", "prediction_batch"), ("implementing", "naming")),
        (("anything at all", "module"), ("naming",)),
    ]
    for claim in claims
    for one in ways
    for other in ways
]


def test_the_table_of_conflicts_covers_every_claim() -> None:
    claims = {hook.name: hook.claim for hook in HOOKS.values() if hook.claim is not None}
    assert {hook: claim for claim, (hook, _) in IMPLEMENTATIONS.items()} == claims


def how(way: str, claim: str) -> str:
    return {
        "declaring": f"unique_overrides.{claim} is set",
        "implementing": f"implements {IMPLEMENTATIONS.get(claim, ('',))[0]}",
        "naming": f"exclusives names {claim!r}",
    }[way]


@pytest.mark.parametrize(("claim", "one", "other"), CONFLICTS)
def test_conflict(trainer: Trainer, claim: str, one: str, other: str) -> None:
    trainer.register_plugin(WAYS[one](claim, "alpha"))
    trainer.plugin_manager.arrange()
    newcomer = WAYS[other](claim, "beta")
    error = assert_refused(trainer, lambda: register(trainer, newcomer), PluginConflictError)
    assert isinstance(error, ValueError)
    message = str(error)
    assert f"claim {claim!r}" in message
    assert re.search(rf"'alpha' from .*: {re.escape(how(one, claim))}", message)
    assert re.search(rf"'beta' from .*: {re.escape(how(other, claim))}", message)
    assert "Trainer(block=['beta'])" in message
    assert 'HELIOS_BLOCK_PLUGINS=alpha, or block = ["alpha"] in [tool.helios]' in message
    assert "registered by trainer.register_plugin()" in message


@pytest.mark.parametrize("claim", IMPLEMENTATIONS)
def test_conflict_between_a_plugin_and_an_object(trainer: Trainer, claim: str) -> None:
    trainer.register_plugin(implementing_object(claim, "alpha"), "alpha")
    trainer.plugin_manager.arrange()
    newcomer = implementing(claim, "beta")
    assert_refused(trainer, lambda: register(trainer, newcomer), PluginConflictError)


@pytest.mark.parametrize(
    ("one", "other"),
    [(one, other) for one in IMPLEMENTATIONS for other in IMPLEMENTATIONS if one != other],
)
def test_different_claims_do_not_conflict(trainer: Trainer, one: str, other: str) -> None:
    trainer.register_plugin(implementing(one, "alpha"))
    trainer.register_plugin(implementing(other, "beta"))
    assert list(trainer.plugins)[2:] == ["alpha", "beta"]


class Alpha(Named):
    def process_training_batch(self, batch: Any) -> Any:
        return batch


class Beta(Named):
    def process_training_batch(self, batch: Any) -> Any:
        return batch


def record(name: str) -> EntryPointRecord:
    return EntryPointRecord(name, f"{name}:Plugin", f"helios-{name}", "1.2", "/somewhere")


def test_conflict_names_distributions_versions_and_sources(trainer: Trainer) -> None:
    manager = trainer.plugin_manager
    manager.register(Alpha("alpha"), record=record("alpha"))
    with pytest.raises(PluginConflictError) as caught:
        manager.register(Beta("beta"), record=record("beta"))
    message = str(caught.value)
    for kind, name in ((Alpha, "alpha"), (Beta, "beta")):
        assert f"{name!r} from helios-{name} 1.2: implements process_training_batch" in message
        assert f"{__file__}:{inspect.getsourcelines(kind)[1]}" in message


def test_conflict_of_several_claims_names_them_all(trainer: Trainer) -> None:
    one, other = Named("one"), Named("other")
    for plugin in (one, other):
        plugin.unique_overrides.training_batch = True
        plugin.unique_overrides.testing_batch = True
    trainer.register_plugin(one)
    with pytest.raises(PluginConflictError, match="'training_batch', 'testing_batch'"):
        trainer.register_plugin(other)


class WrappingBatch(Named):
    @hookimpl(wrapper=True)
    def process_training_batch(self, batch: Any) -> Any:
        return (yield)


def test_wrapper_of_a_unique_hook_claims_nothing(trainer: Trainer) -> None:
    trainer.register_plugin(Alpha("alpha"))
    trainer.register_plugin(WrappingBatch("wrapping"))
    trainer.register_plugin(WrappingBatch("wrapping too"))
    assert trainer.plugin_manager.rows["wrapping"].claims == {}


def test_subclass_that_inherits_an_implementation_claims_it_too(trainer: Trainer) -> None:
    class Child(Alpha):
        pass

    trainer.register_plugin(Alpha("alpha"))
    with pytest.raises(PluginConflictError):
        trainer.register_plugin(Child("child"))


def test_assigning_a_table_with_a_conflict(trainer: Trainer) -> None:
    def assign_conflict() -> None:
        trainer.plugins = {  # type: ignore[assignment]
            "one": declaring("training_batch", "one"),
            "two": declaring("training_batch", "two"),
        }

    assert_refused(trainer, assign_conflict, PluginConflictError)


# Flags that are set after registration.


def test_flag_set_after_registration_is_found_by_validate_plugins(trainer: Trainer) -> None:
    trainer._validate_plugins()
    trainer.plugins["first"].unique_overrides.testing_batch = True
    trainer._validate_plugins()
    trainer.plugins["second"].unique_overrides.testing_batch = True
    before = list(trainer.plugins)
    with pytest.raises(PluginConflictError, match="'testing_batch'"):
        trainer._validate_plugins()
    assert list(trainer.plugins) == before


class Starting(Named):
    started = False

    def setup(self) -> None:
        self.started = True


def test_flag_set_after_registration_is_found_at_launch(make_trainer: Make) -> None:
    one, other = Starting("one"), Starting("other")
    trainer = make_trainer(plugins=[one, other])
    one.unique_overrides.should_training_stop = True
    other.unique_overrides.should_training_stop = True
    for run in (trainer.fit, trainer.test):
        with pytest.raises(PluginConflictError, match="'should_training_stop'"):
            run(TinyModel(), TinyDataModule())
    assert not one.started
    other.unique_overrides.should_training_stop = False
    trainer.fit(TinyModel(), TinyDataModule())
    assert one.started


class SettingItsFlagLate(Starting):
    def configure_trainer(self, trainer: Any) -> None:
        self.unique_overrides.training_batch = True


def test_flag_set_in_configure_trainer_is_found_at_launch(make_trainer: Make) -> None:
    one, other = SettingItsFlagLate("one"), SettingItsFlagLate("other")
    with pytest.raises(PluginConflictError, match="'training_batch'"):
        make_trainer(plugins=[one, other]).fit(TinyModel(), TinyDataModule())
    assert not one.started


def test_method_set_after_registration_is_called(make_trainer: Make) -> None:
    plugin, calls = Named(), []
    trainer = make_trainer(plugins=[plugin])
    plugin.on_training_start = lambda: calls.append("start")  # type: ignore[method-assign]
    trainer.fit(TinyModel(), TinyDataModule())
    assert calls == ["start"]


class SettingInSetup(Starting):
    def setup(self) -> None:
        super().setup()
        self.unique_overrides.training_batch = True


class SettingAtTheStart(Starting):
    def on_training_start(self) -> None:
        self.unique_overrides.training_batch = True


@pytest.mark.parametrize("kind", [SettingInSetup, SettingAtTheStart])
def test_flag_set_after_the_plan_is_frozen_is_found_before_the_first_batch(
    make_trainer: Make, kind: type[Plugin]
) -> None:
    model, alone = TinyModel(), kind("alone")
    make_trainer(plugins=[alone, Named("other")]).fit(TinyModel(), TinyDataModule())
    trainer = make_trainer(plugins=[kind("one"), Alpha("other")])
    with pytest.raises(PluginConflictError) as caught:
        trainer.fit(model, TinyDataModule())
    assert trainer.state.global_iteration == 0
    message = str(caught.value)
    assert "'one' from no distribution: unique_overrides.training_batch is set since" in message
    assert "'other' from no distribution: implements process_training_batch" in message


def test_flag_set_in_setup_is_found_before_a_test(make_trainer: Make) -> None:
    with pytest.raises(PluginConflictError, match="'training_batch'"):
        make_trainer(plugins=[SettingInSetup("one"), Alpha("other")]).test(
            TinyModel(), TinyDataModule()
        )


# Spelling, and facts for programs.


@pytest.mark.parametrize(
    ("one", "other"),
    [("gpu-0", "GPU_0"), ("Launch", "launch"), ("training_batch", "Training-Batch")],
)
def test_exclusives_are_compared_in_their_canonical_form(
    trainer: Trainer, one: str, other: str
) -> None:
    trainer.register_plugin(naming(one, "alpha"))
    with pytest.raises(PluginConflictError) as caught:
        trainer.register_plugin(naming(other, "beta"))
    assert f"claim {one!r}" in str(caught.value)
    assert f"exclusives names {other!r}" in str(caught.value)


def test_exclusive_in_another_spelling_conflicts_with_an_implementation(trainer: Trainer) -> None:
    trainer.register_plugin(naming("Training-Batch", "alpha"))
    with pytest.raises(PluginConflictError, match=r"'beta' from .*: implements process_"):
        trainer.register_plugin(Beta("beta"))


def test_conflict_has_fields(trainer: Trainer) -> None:
    manager = trainer.plugin_manager
    manager.register(Alpha("alpha"), record=record("alpha"))
    with pytest.raises(PluginConflictError) as caught:
        manager.register(Beta("beta"))
    assert caught.value.claims == ("training_batch",)
    alpha, beta = caught.value.plugins
    assert (alpha.id, alpha.distribution, alpha.version) == ("alpha", "helios-alpha", "1.2")
    assert (beta.id, beta.distribution, beta.version) == ("beta", "", "")
    assert alpha.claims == {"training_batch": "implements process_training_batch"}


def test_two_classes_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {})
    PLUGIN_REGISTRY.register(Alpha)
    with pytest.raises(RegistrationError) as caught:
        PLUGIN_REGISTRY.register(type("Alpha", (Named,), {"__module__": "helios.plugins"}))
    ours = f"helios-trainer {helios.__version__}"
    assert f"contains {__name__}.Alpha (not installed, {__file__}:" in str(caught.value)
    assert f"cannot register helios.plugins.Alpha ({ours}, " in str(caught.value)


def test_names_cannot_forge_lines_of_a_message(trainer: Trainer) -> None:
    forged = dataclasses.replace(record("alpha"), version="1.2\n  'x' from \x1b[2K")
    trainer.plugin_manager.register(Alpha("alpha"), record=forged)
    with pytest.raises(PluginConflictError) as caught:
        trainer.register_plugin(Beta("beta"))
    assert "helios-alpha 1.2\\n  'x' from \\x1b[2K: implements" in str(caught.value)


# Explicit and autoloaded.


@pytest.mark.parametrize("explicit_first", [True, False])
def test_explicit_plugin_beats_an_autoloaded_one(explicit_first: bool) -> None:
    manager = PluginManager()
    wanted, found = Alpha("wanted"), Beta("found")
    registrations = [
        lambda: manager.register(wanted, reason="named in Trainer(plugins=...)"),
        lambda: manager.register(found, explicit=False, record=record("found")),
    ]
    for register_one in registrations if explicit_first else registrations[::-1]:
        register_one()
    assert list(manager.rows) == ["wanted"]
    (inactive,) = manager.inactive
    assert (inactive.name, inactive.distribution, inactive.version) == (
        "found",
        "helios-found",
        "1.2",
    )
    assert "'wanted'" in inactive.reason
    assert "named in Trainer(plugins=...)" in inactive.reason
    assert manager.freeze().inactive == (inactive,)


def test_explicit_plugin_beats_an_autoloaded_one_of_the_same_id() -> None:
    manager = PluginManager()
    wanted = Named("same")
    manager.register(Named("same"), explicit=False)
    manager.register(wanted)
    assert [row.plugin for row in manager.rows.values()] == [wanted]
    assert [inactive.name for inactive in manager.inactive] == ["same"]


def test_two_autoloaded_plugins_in_conflict_are_an_error(trainer: Trainer) -> None:
    manager = trainer.plugin_manager
    manager.register(Alpha("alpha"), explicit=False)
    manager.arrange()
    newcomer = Beta("beta")
    error = assert_refused(
        trainer, lambda: manager.register(newcomer, explicit=False), PluginConflictError
    )
    assert "Trainer(plugins=['beta'])" in str(error)


def test_flag_set_later_makes_an_autoloaded_plugin_step_aside(make_trainer: Make) -> None:
    trainer, wanted, found = make_trainer(), Named("wanted"), Named("found")
    trainer.plugin_manager.register(found, explicit=False)
    trainer.register_plugin(wanted)
    assert list(trainer.plugins) == ["found", "wanted"]
    wanted.unique_overrides.testing_batch = found.unique_overrides.testing_batch = True
    trainer._validate_plugins()
    assert list(trainer.plugins) == ["wanted"]
    assert trainer.plugin_manager.inactive[-1].name == "found"
    assert "'wanted'" in trainer.plugin_manager.inactive[-1].reason
