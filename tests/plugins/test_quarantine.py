"""Observers that fail are switched off, rather than ending the run."""

import logging
import pathlib
from typing import Any

import pytest
from helpers import Fault, Make

from helios import Plugin, Trainer, hookimpl
from helios.plugins import HOOKS
from helios.testing import TinyDataModule, TinyModel, equal


class Observer(Plugin):
    """Notes what it is called for, and fails in one hook, from one call on."""

    critical = False
    __module__ = "elsewhere"  # finding its line in this file takes a while, in every plan

    def __init__(self, fails_in: str = "", at_call: int = 1) -> None:
        super().__init__("observer")
        self.fails_in, self.at_call = fails_in, at_call
        self.calls: list[str] = []

    def _note(self, hook: str) -> None:
        self.calls.append(hook)
        if hook == self.fails_in and self.calls.count(hook) >= self.at_call:
            raise Fault(f"in {hook}")

    def setup(self) -> None:
        self._note("setup")

    def state_dict(self) -> dict[str, Any]:
        self._note("state_dict")
        return {"calls": len(self.calls)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


PER_HOOK = [
    name
    for name, info in HOOKS.items()
    if not info.has_result and name not in ("setup", "configure_trainer", "configure_model")
]
for name in PER_HOOK:
    namespace: dict[str, Any] = {}
    exec(f"def {name}(self): self._note({name!r})", namespace)
    setattr(Observer, name, namespace[name])


class Other(Plugin):
    """Must be called as if nothing had happened."""

    def __init__(self) -> None:
        super().__init__("other")
        self.calls: list[str] = []

    def setup(self) -> None:
        self.calls.append("setup")

    def on_training_batch_end(self) -> None:
        self.calls.append("on_training_batch_end")

    def teardown(self) -> None:
        self.calls.append("teardown")


def fit(make_trainer: Make, *plugins: Plugin, **arguments: Any) -> tuple[Trainer, Any]:
    options = {"valid_frequency": 1, "print_frequency": 2, **arguments}
    trainer = make_trainer(plugins=plugins, **options)
    model = TinyModel()
    trainer.fit(model, TinyDataModule())
    return trainer, model.state_dict()


CALLED_IN_FIT = [
    *("setup", "on_training_start", "on_training_epoch_start", "on_training_batch_start"),
    *("step_context", "on_before_optimizer_step", "on_after_optimizer_step"),
    *("on_training_batch_end", "on_log", "on_training_epoch_end", "on_training_end"),
    *("on_validation_start", "on_validation_batch_end", "on_validation_end"),
    *("on_checkpoint_saved", "state_dict"),
]


@pytest.mark.parametrize("hook", CALLED_IN_FIT)
def test_failing_observer_is_off_for_the_rest_of_the_run(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    hook: str,
) -> None:
    _, expected = fit(make_trainer, Other())
    observer, other = Observer(fails_in=hook), Other()
    with caplog.at_level(logging.INFO, "helios"):
        trainer, weights = fit(make_trainer, observer, other, run_root=tmp_path, chkpt_frequency=1)
    assert equal(weights, expected)
    assert other.calls == ["setup", *["on_training_batch_end"] * 12, "teardown"]
    times = 2 if hook == "state_dict" else 1  # it is asked at each save, since it is no hook
    assert observer.calls.count(hook) == times
    after = observer.calls[observer.calls.index(hook) + 1 :]
    assert set(after) <= {"teardown", "state_dict"}
    assert ("teardown" in after) == (hook != "setup")  # nothing was set up, nothing to tear down
    quarantine = trainer.plugin_manager.quarantined["observer"]
    assert (quarantine.hook, str(quarantine.error)) == (hook, f"in {hook}")
    whole = [record for record in caplog.records if record.exc_info]
    assert len(whole) == times
    assert f"failed in {hook}, so Helios switches it off for the rest" in whole[0].getMessage()
    assert whole[0].exc_info is not None
    assert whole[0].exc_info[1] is quarantine.error


def test_the_end_of_the_run_reports_it(
    make_trainer: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(make_trainer, Observer(fails_in="on_log"), print_banner=True)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "plug-in 'observer' failed in on_log, so Helios switched it off for the rest of the run:"
        " Fault: in on_log"
    )


def test_hooks_that_nobody_else_implements_cost_nothing_any_more(
    make_trainer: Make,
) -> None:
    trainer, _ = fit(make_trainer, Observer(fails_in="on_training_start"), Other())
    assert trainer.hooks.on_before_optimizer_step is None
    assert trainer.hooks.on_training_batch_end is not None


def test_the_next_run_tries_again(make_trainer: Make) -> None:
    observer = Observer(fails_in="on_training_start")
    trainer, _ = fit(make_trainer, observer)
    observer.fails_in = ""
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.plugin_manager.quarantined == {}
    assert "on_training_end" in observer.calls


def test_failing_teardown_is_logged_only(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    fit(make_trainer, Observer(fails_in="teardown"))
    assert " failed in teardown, so Helios switches it off" in caplog.text


class Critical(Observer):
    critical = True


@pytest.mark.parametrize("hook", ["setup", "on_log", "on_training_batch_end", "state_dict"])
def test_critical_plugin_ends_the_run(
    make_trainer: Make, tmp_path: pathlib.Path, hook: str
) -> None:
    with pytest.raises(Fault, match=f"in {hook}"):
        fit(make_trainer, Critical(fails_in=hook), run_root=tmp_path)


class Processing(Observer):
    """An observer that also does what only one may do."""

    def process_training_batch(self, batch: Any) -> Any:
        self._note("process_training_batch")
        return batch


def test_hooks_of_kind_one_always_raise(make_trainer: Make) -> None:
    with pytest.raises(Fault) as caught:
        fit(make_trainer, Processing(fails_in="process_training_batch"))
    assert "process_training_batch of plug-in 'observer'" in caught.value.__notes__[-1]


class Interrupting(Observer):
    def on_training_batch_end(self) -> None:
        raise KeyboardInterrupt


def test_interrupts_pass(make_trainer: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(make_trainer, Interrupting())


class Expecting(Observer):
    def configure_trainer(self, trainer: Trainer) -> None:
        self._append_train_exceptions(Fault, trainer)


def test_expected_exceptions_pass(make_trainer: Make) -> None:
    with pytest.raises(Fault):
        fit(make_trainer, Expecting(fails_in="on_log"))


class Wrapping(Observer):
    @hookimpl(wrapper=True)
    def on_log(self) -> Any:
        result = yield
        self._note("on_log")
        return result


def test_wrapper_is_part_of_what_it_wraps(make_trainer: Make) -> None:
    with pytest.raises(Fault):
        fit(make_trainer, Wrapping(fails_in="on_log"))


class Remembering(Observer):
    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails, self.restored = fails, None

    def state_dict(self) -> dict[str, Any]:
        if self.fails:
            raise Fault
        return {"kept": 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict


def test_state_that_cannot_be_told_is_kept_as_it_was(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    last = Remembering(fails=False)
    for epochs, plugin in enumerate([Remembering(False), Remembering(True), last], start=1):
        fit(make_trainer, plugin, chkpt_root=tmp_path, total_steps=epochs)
    assert last.restored == {"kept": 1}
