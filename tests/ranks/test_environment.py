"""The environment tells the place of a process; wrong variables are refused by name."""

from collections.abc import Callable
from typing import Any

import pytest

from helios import Trainer
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel
from helios.trainer.launch.environment import Environment, local_place

RIGHT = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}


def test_environment_of_torchrun() -> None:
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert Environment.read(RIGHT | agent) == Environment(1, 2, 0, 1, "node-a", 29500, True)
    rest = {name: RIGHT[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert Environment.read(rest) == Environment(1, 2, None, None, "node-a", 29500, False)
    assert local_place(RIGHT) == (0, 1)
    assert local_place(rest) is None


@pytest.mark.parametrize(
    "variables", [{}, {"RANK": "0"}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}]
)
def test_one_process(variables: dict[str, str]) -> None:
    assert Environment.read(variables) is None


WRONG: list[tuple[dict[str, str | None], str]] = [
    ({"WORLD_SIZE": "abc"}, "WORLD_SIZE='abc' is not a whole number"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE='' is not a whole number"),
    ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0' is not a whole number"),
    ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2' is not a whole number"),
    ({"WORLD_SIZE": "0", "RANK": None}, "WORLD_SIZE=0 is below 1"),
    ({"WORLD_SIZE": None}, "RANK=1, but WORLD_SIZE is not set"),
    ({"WORLD_SIZE": "1"}, "RANK=1 is not below WORLD_SIZE=1"),
    ({"RANK": None}, "WORLD_SIZE=2, but RANK is not set"),
    ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ({"RANK": "one"}, "RANK='one' is not a whole number"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 is not below LOCAL_WORLD_SIZE=1"),
    ({"LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE=4 is above WORLD_SIZE=2"),
    ({"MASTER_ADDR": None}, "WORLD_SIZE=2, but MASTER_ADDR is not set"),
    ({"MASTER_PORT": None}, "WORLD_SIZE=2, but MASTER_PORT is not set"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT='http' is not a whole number"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not below 65536"),
]


@pytest.mark.parametrize(("changed", "problem"), WRONG)
def test_wrong_environment(changed: dict[str, str | None], problem: str) -> None:
    variables = {name: text for name, text in (RIGHT | changed).items() if text is not None}
    with pytest.raises(ConfigurationError) as error:
        Environment.read(variables)
    assert str(error.value).startswith(f"{problem} in the environment of this process.")
    assert "torchrun" in str(error.value)


def test_wrong_environment_is_refused_before_data_are_prepared(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unprepared(TinyDataModule):
        def prepare_data(self) -> Any:
            raise AssertionError("the environment comes first")

    monkeypatch.setenv("WORLD_SIZE", "abc")
    with pytest.raises(ConfigurationError, match="WORLD_SIZE='abc'"):
        make_trainer().fit(TinyModel(), Unprepared())
