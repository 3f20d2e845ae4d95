"""Plain state: what a checkpoint may hold, and what is refused when it is saved."""

import collections
import enum
import pathlib
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import Keeping, names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helios.checkpoints import storage
from helios.checkpoints.shards import Shards
from helios.core import TrainingState
from helios.errors import CheckpointError
from helios.testing import TinyModel, equal


class Color(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: int


class MyDict(dict[str, Any]):
    pass


class MyInt(int):
    pass


IMPURE = {
    # where, and what -> the entry named
    "enum": (Color.RED, "test_checkpoint_plain.Color"),
    "object": (random.Random(0), "random.Random"),
    "namedtuple": (Point(1), "test_checkpoint_plain.Point"),
    "dict subclass": (MyDict(), "test_checkpoint_plain.MyDict"),
    "int subclass": (MyInt(1), "test_checkpoint_plain.MyInt"),
    "numpy array": (np.zeros(1), "numpy.ndarray"),
    "numpy number": (np.float64(1.0), "numpy.float64"),
    "path": (pathlib.PurePosixPath("x"), "pathlib.PurePosixPath"),
    "function": (len, "builtins.builtin_function_or_method"),
    "class": (TinyModel, "abc.ABCMeta"),
}


@pytest.mark.parametrize("what", IMPURE)
def test_state_that_is_not_plain_is_refused(fit: Any, folder: pathlib.Path, what: str) -> None:
    value, kind = IMPURE[what]
    with pytest.raises(CheckpointError) as caught:
        fit(plugins=[Keeping({"a": [0, {"b": value}]})])
    message = str(caught.value)
    assert "['plugins'][0]['keeping']['a'][1]['b']" in message
    assert kind in message
    assert "State must be plain" in message
    assert names(folder) == []


def test_key_that_is_not_plain_is_refused(fit: Any) -> None:
    with pytest.raises(CheckpointError, match=r"\['keeping'\]\['a'\], key <Color\.RED: 1>"):
        fit(plugins=[Keeping({"a": {Color.RED: 1}})])


def test_state_of_the_model_is_checked(fit: Any) -> None:
    class Impure(TinyModel):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "mode": Color.RED}

    with pytest.raises(CheckpointError, match=r"\['model'\]\['mode'\]: it is a .*Color"):
        fit(Impure())


def test_numpy_numbers_can_be_logged(fit: Any, folder: pathlib.Path) -> None:
    # a float to every function that takes one; it must not end a run at its first save
    class Logging(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.log("score", np.float64(0.5))
            self.log("single", np.float32(0.5))
            return super().train_step(batch, state)

        def valid_step(self, batch: Any, step: int) -> Any:
            self.log("valid score", np.float64(0.25))

    model, _ = fit(Logging(), print_frequency=4, valid_frequency=1)
    assert model.metrics == {"valid score": 0.25}
    assert names(folder) == ["tiny_epoch_1_iter_6.pth"]


TENSORS = st.sampled_from(
    [
        torch.arange(4),
        torch.tensor(1.5),
        torch.zeros(0),
        torch.ones(2, 2, dtype=torch.bfloat16),
        torch.tensor([True]),
        torch.tensor([1 + 2j]),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(min_size=1)
    | st.sampled_from([torch.float32, torch.device("cpu"), torch.Size([2, 3])])
    | TENSORS
)
KEYS = st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.none()
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(collections.OrderedDict)
        | st.dictionaries(KEYS, st.integers(0, 9)).map(collections.Counter)
        | st.sets(st.integers() | st.text("ab"))
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=PLAIN)
def test_what_can_be_saved_can_be_loaded(tmp_path: pathlib.Path, state: Any) -> None:
    storage.save({"state": state}, tmp_path / "x.pth")
    assert equal(storage.load(tmp_path / "x.pth")["state"], state)


@pytest.mark.parametrize("state", [b"", 2**5000], ids=["no bytes", "huge number"])
def test_what_cannot_be_loaded_is_refused_when_saved(tmp_path: pathlib.Path, state: Any) -> None:
    # plain in Python's eyes, but not in those of torch.load(weights_only=True)
    try:
        storage.save({"state": state}, tmp_path / "x.pth")
    except CheckpointError as error:
        assert "['state']" in str(error)  # noqa: PT017 - saving it properly is as good
    else:
        assert storage.load(tmp_path / "x.pth")["state"] == state


def test_divided_tensor_in_a_state_without_an_end() -> None:
    divided = torch.zeros(2)
    divided.device_mesh = None  # type: ignore[attr-defined]  # stands in for a tensor of FSDP2
    state: list[Any] = [divided]
    state.append(state)
    with pytest.raises(
        CheckpointError, match=r"entry \['plugins'\]\['mine'\]\[1\]: it contains it"
    ):
        Shards().take({"mine": state}, "plugins", None)
