"""``Trainer(profile_plugins=True)``: what each hook of each plug-in costs."""

import json
import pathlib
from typing import Any

import pluggy
import pytest
from helpers import Make, files

from helios import Plugin, Trainer, hookimpl
from helios.errors import ConfigurationError
from helios.plugins.calls import profile
from helios.testing import TinyDataModule, TinyModel, equal

BATCHES = 12  # two epochs of TinyDataModule


class Counting(Plugin):
    def __init__(self, plug_id: str = "counting") -> None:
        super().__init__(plug_id)

    def setup(self) -> None: ...

    def on_training_batch_end(self) -> None: ...

    def on_validation_end(self) -> None: ...


class Around(Plugin):
    """Wraps the hook that the others implement."""

    def __init__(self) -> None:
        super().__init__("around")

    def setup(self) -> None: ...

    @hookimpl(wrapper=True)
    def on_training_batch_end(self) -> Any:
        return (yield)


def fit(make_trainer: Make, *plugins: object, **arguments: Any) -> tuple[Trainer, Any]:
    trainer = make_trainer(plugins=plugins, valid_frequency=1, **arguments)
    model = TinyModel()
    trainer.fit(model, TinyDataModule())
    return trainer, model.state_dict()


def test_json_beside_the_checkpoints(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    trainer, _ = fit(
        make_trainer,
        Counting(),
        Around(),
        Counting("idle"),
        run_root=tmp_path,
        profile_plugins=True,
    )
    trainer.test(TinyModel(), TinyDataModule())
    folder = tmp_path / "checkpoints" / "tiny"
    assert any(files(folder, "*.pth"))
    profile = json.loads((folder / "plugin-profile-fit.json").read_text())
    calls = {(cost["plugin"], cost["hook"]): cost["calls"] for cost in profile["hooks"]}
    assert calls == {
        ("counting", "setup"): 1,
        ("counting", "on_training_batch_end"): BATCHES,
        ("counting", "on_validation_end"): 2,
        ("around", "setup"): 1,
        ("around", "on_training_batch_end"): BATCHES,
        ("idle", "setup"): 1,
        ("idle", "on_training_batch_end"): BATCHES,
        ("idle", "on_validation_end"): 2,
    }
    for cost in profile["hooks"]:
        assert 0 < cost["total_seconds"] < profile["wall_seconds"]
        assert cost["mean_microseconds"] == pytest.approx(
            cost["total_seconds"] / cost["calls"] * 1e6
        )
        assert cost["share"] == pytest.approx(
            cost["total_seconds"] / profile["wall_seconds"], rel=1e-6
        )
    totals = [cost["total_seconds"] for cost in profile["hooks"]]
    assert totals == sorted(totals, reverse=True)
    tested = json.loads((folder / "plugin-profile-test.json").read_text())
    assert {cost["hook"] for cost in tested["hooks"]} == {"setup"}


def test_table_at_the_end(make_trainer: Make, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_trainer, Counting(), profile_plugins=True, print_banner=True)
    table = capsys.readouterr().out.partition("time in plug-ins, of ")[2].splitlines()
    assert table[1].split() == ["plug-in", "hook", "calls", "total", "s", "mean", "us", "share"]
    rows = {tuple(line.split()[:3]) for line in table[2:]}
    assert ("counting", "on_training_batch_end", str(BATCHES)) in rows
    assert all(line.split()[-1].endswith("%") for line in table[2:])


def test_a_profiled_run_is_the_same_run(make_trainer: Make) -> None:
    _, expected = fit(make_trainer, Counting(), Around())
    _, weights = fit(make_trainer, Counting(), Around(), profile_plugins=True)
    assert equal(weights, expected)


def test_without_it_the_plugins_own_functions_are_called(make_trainer: Make) -> None:
    counting = Counting()
    trainer, _ = fit(make_trainer, counting, Around())
    functions = [i.function for i in trainer.hooks.on_training_batch_end.get_hookimpls()]
    assert counting.on_training_batch_end in functions
    assert not any(hasattr(function, "__wrapped__") for function in functions)


class Failing(Counting):
    def on_training_batch_end(self) -> None:
        raise ZeroDivisionError


class FailingAround(Counting):
    @hookimpl(wrapper=True)
    def on_training_batch_end(self) -> Any:
        yield
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Failing, FailingAround])
def test_a_failed_run_is_profiled_and_attributed(
    make_trainer: Make, capsys: pytest.CaptureFixture[str], kind: type[Counting]
) -> None:
    plugins = [Around(), kind("guilty"), Counting("innocent")]
    with pytest.raises(ZeroDivisionError) as caught:
        fit(make_trainer, *plugins, profile_plugins=True, print_banner=True)
    assert "raised in on_training_batch_end of plug-in 'guilty'" in caught.value.__notes__[0]
    assert "time in plug-ins, of " in capsys.readouterr().out


def test_time_of_what_a_wrapper_wraps_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr("helios.plugins.calls.guards.perf_counter_ns", lambda: next(clock))
    manager = pluggy.PluginManager("helios")

    class Spec:
        @pluggy.HookspecMarker("helios")
        def moment(self) -> None: ...

    class Inner:
        @hookimpl
        def moment(self) -> None:
            next(clock)  # takes one tick

    class Outer:
        @hookimpl(wrapper=True)
        def moment(self) -> Any:
            return (yield)

    manager.add_hookspecs(Spec)
    manager.register(Inner(), "inner")
    manager.register(Outer(), "outer")
    costs = profile.PluginProfile()
    for implementation in manager.hook.moment.get_hookimpls():
        costs.watch(implementation, "moment")
    manager.hook.moment()
    seconds = {cost["plugin"]: cost["total_seconds"] for cost in costs.to_dict()["hooks"]}
    assert seconds == {"inner": 200e-9, "outer": 200e-9}


@pytest.mark.parametrize("value", [1, "yes", None])
def test_something_else_than_a_switch(make_trainer: Make, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"profile_plugins=.*: write True or False"):
        make_trainer(profile_plugins=value)


def test_a_report_that_fails_does_not_hide_the_error(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiny" / "plugin-profile-fit.json").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError):
        fit(make_trainer, Failing("guilty"), profile_plugins=True, chkpt_root=tmp_path)
    assert "could not be reported" in caplog.text
