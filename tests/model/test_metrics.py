"""Running means: what goes in, what comes out, and that it stays where it is."""

import copy
import math
from typing import Any

import pytest
import torch

from helios.model.metrics import MetricBuffer


def means(*values: Any) -> dict[str, float]:
    buffer = MetricBuffer()
    for value in values:
        buffer.add("x", value)
    return buffer.read()


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1.0], 1.0),
        ([1, 2], 1.5),
        ([torch.tensor(1.0), torch.tensor(2.0)], 1.5),
        ([1.0, torch.tensor(2.0)], 1.5),
        ([torch.tensor(1.0), 2.0], 1.5),
        ([torch.tensor([[3.0]]), torch.tensor([1.0])], 2.0),
        ([torch.tensor(3), torch.tensor(4)], 3.5),
        ([True, False], 0.5),
        ([torch.tensor(3.0, dtype=torch.float64), torch.tensor(4.0)], 3.5),
    ],
)
def test_means(values: list[Any], mean: float) -> None:
    result = means(*values)
    assert result == {"x": mean}
    assert type(result["x"]) is float


@pytest.mark.parametrize(
    ("value", "count", "mean"),
    [
        (torch.tensor(True), 4, 1.0),  # a sum of booleans is no number
        (torch.tensor(200, dtype=torch.uint8), 4, 200.0),  # wraps at 256
        (torch.tensor(100, dtype=torch.int8), 4, 100.0),
        (torch.tensor(1.0, dtype=torch.bfloat16), 1000, 1.0),  # stops growing at 256
        (torch.tensor(1.0, dtype=torch.float16), 3000, 1.0),  # stops growing at 2048
        (torch.tensor(60000.0, dtype=torch.float16), 4, 60000.0),  # would be infinite
    ],
)
def test_means_of_small_types(value: torch.Tensor, count: int, mean: float) -> None:
    assert means(*[value] * count) == {"x": mean}


def test_names_keep_their_order_and_their_counts() -> None:
    buffer = MetricBuffer()
    for name, value in [("b", 1.0), ("a", torch.tensor(2.0)), ("b", 3.0), ("c", 5)]:
        buffer.add(name, value)
    read = buffer.read()
    assert list(read) == ["b", "a", "c"]
    assert read == {"b": 2.0, "a": 2.0, "c": 5.0}


def test_reading_starts_again() -> None:
    buffer = MetricBuffer()
    assert buffer.read() == {}
    buffer.add("x", 1.0)
    assert buffer.read() == {"x": 1.0}
    assert buffer.read() == {}
    buffer.add("x", 3.0)
    assert buffer.read() == {"x": 3.0}


def test_clearing() -> None:
    buffer = MetricBuffer()
    buffer.add("x", 1.0)
    buffer.clear()
    assert buffer.read() == {}


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 3)])
def test_more_than_one_number(shape: tuple[int, ...]) -> None:
    buffer = MetricBuffer()
    buffer.add("x", 1.0)
    with pytest.raises(ValueError, match=r"log\('scores'\) got a tensor of shape .* log one numb"):
        buffer.add("scores", torch.zeros(shape))
    assert buffer.read() == {"x": 1.0}


def test_the_tensor_that_is_logged_is_not_changed_and_not_followed() -> None:
    buffer = MetricBuffer()
    value = torch.tensor(1.0)
    buffer.add("x", value)
    buffer.add("x", value)
    assert value.item() == 1.0
    changing = torch.tensor(1.0)
    buffer.add("y", changing)
    changing.fill_(100.0)  # as an optimizer or a reused buffer does
    assert buffer.read() == {"x": 1.0, "y": 1.0}


def test_no_graph_is_kept() -> None:
    buffer = MetricBuffer()
    weight = torch.tensor(2.0, requires_grad=True)
    for _ in range(3):
        buffer.add("x", weight * 2)
    (total,) = buffer.state_dict()["totals"].values()
    assert not total.requires_grad
    assert total.grad_fn is None
    assert buffer.read() == {"x": 4.0}


def test_values_that_are_no_numbers() -> None:
    assert math.isnan(means(float("nan"), 1.0)["x"])
    assert means(torch.tensor(math.inf), 1.0) == {"x": math.inf}


def test_state() -> None:
    buffer, restored = MetricBuffer(), MetricBuffer()
    for value in (torch.tensor(1.0), torch.tensor(2.0)):
        buffer.add("x", value)
    buffer.add("y", 5.0)
    state = copy.deepcopy(buffer.state_dict())
    restored.add("z", 1.0)
    restored.load_state_dict(state)
    for one in (buffer, restored):
        one.add("x", torch.tensor(6.0))
    assert buffer.read() == restored.read() == {"x": 3.0, "y": 5.0}


def test_state_is_not_changed_by_what_is_added_later() -> None:
    buffer = MetricBuffer()
    buffer.add("x", torch.tensor(1.0))
    state = buffer.state_dict()
    buffer.add("x", torch.tensor(9.0))
    buffer.add("y", 1.0)
    assert state["weights"] == {"x": 1}
    assert state["totals"]["x"].item() == 1.0
    restored = MetricBuffer()
    restored.load_state_dict(state)
    restored.add("x", torch.tensor(3.0))
    assert state["weights"] == {"x": 1}
    assert state["totals"]["x"].item() == 1.0


@pytest.mark.parametrize("value", ["0.5", None, [1.0]])
def test_what_is_no_value(value: Any) -> None:
    # refused where it is logged, not where it is read, many steps later
    with pytest.raises((TypeError, ValueError), match=r"log\('x'\)"):
        MetricBuffer().add("x", value)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_values_are_refused(dtype: torch.dtype) -> None:
    buffer, number = MetricBuffer(), torch.tensor(1 + 2j, dtype=dtype)
    with pytest.raises(TypeError, match=rf"log\('loss'\) got a value of type {dtype}: log a real"):
        buffer.add("loss", number)
    with pytest.raises(TypeError, match=r"log\('loss'\) got a complex: log a number"):
        buffer.add("loss", 1 + 2j)  # type: ignore[arg-type]  # on purpose
    assert buffer.read() == {}
    with pytest.raises(TypeError, match=rf"log\('loss'\) got a weight of type {dtype}: log a real"):
        buffer.add("loss", 1.0, weight=number)
    assert buffer.read() == {}
