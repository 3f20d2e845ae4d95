"""The plain values of arguments: any value has one, and no value ends the program."""

from typing import Any

import torch

from helios.core.arguments import plain


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class Failing:
    """An object of a user whose attributes and texts raise errors."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __hash__(self) -> int:
        return 0


def test_values_that_contain_themselves() -> None:
    cyclic: list[Any] = []
    cyclic += [cyclic] * 100
    assert str(plain(cyclic)).count("<list>") > 100
    table: dict[str, Any] = {}
    table["table"] = table
    assert "<dict>" in str(plain(table))


def test_deep_values_end() -> None:
    assert str(plain(nested(5_000))) == "[" * 20 + "'<list>'" + "]" * 20
    assert plain(nested(5)) == nested(5)


def test_objects_that_fail_are_named() -> None:
    assert plain([Failing(), 1]) == ["<Failing>", 1]
    assert plain({Failing(), "text"}) == "<set>"


def test_common_values() -> None:
    assert plain((1, torch.float16, torch.tensor(2.5))) == [1, "torch.float16", 2.5]
    assert plain(torch.zeros(3)) == "<Tensor>"
