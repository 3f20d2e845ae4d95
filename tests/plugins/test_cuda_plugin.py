"""``CUDAPlugin``, as the API page that the project was founded on describes it."""

import collections
import inspect
from typing import Any, NamedTuple

import pytest
import torch
from helpers import OVERRIDES, Make

import helios.plugins as hlp
from helios import TrainingState
from helios.testing import TinyDataModule, TinyModel

META = torch.device("meta")
STATE = TrainingState()


# Most machines that run these tests have no CUDA device. The tests mock that hardware, by
# torch.cuda.is_available() alone while they construct the plug-in; it then moves batches to the
# device "meta", which shows that it moves them.


def make_cuda(monkeypatch: pytest.MonkeyPatch, kind: type[hlp.CUDAPlugin]) -> hlp.CUDAPlugin:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        return kind()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> hlp.CUDAPlugin:
    """A CUDA plug-in on the mock of a GPU."""
    plugin = make_cuda(monkeypatch, hlp.CUDAPlugin)
    plugin.device = META
    return plugin


def test_cuda_plugin_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA"):
        hlp.CUDAPlugin()


def test_cuda_plugin_on_the_page(cuda: hlp.CUDAPlugin) -> None:
    assert issubclass(hlp.CUDAPlugin, hlp.Plugin)
    assert hlp.CUDAPlugin.plugin_id == "cuda"
    assert cuda._plug_id == "cuda"
    assert cuda.setup() is None  # type: ignore[func-returns-value]
    # The page's constructor takes nothing.
    parameters = inspect.signature(hlp.CUDAPlugin).parameters.values()
    assert all(parameter.default is not parameter.empty for parameter in parameters)
    overrides = cuda.unique_overrides
    assert [getattr(overrides, flag) for flag in OVERRIDES] == [True, True, True, False]


def test_cuda_plugin_registers_itself_under_cuda(cuda: hlp.CUDAPlugin, make_trainer: Make) -> None:
    trainer = make_trainer()
    cuda.configure_trainer(trainer)
    assert dict(trainer.plugins) == {"cuda": cuda}


def test_cuda_plugin_registers_itself_by_keyword(cuda: hlp.CUDAPlugin, make_trainer: Make) -> None:
    trainer = make_trainer()
    cuda.configure_trainer(trainer=trainer)
    assert dict(trainer.plugins) == {"cuda": cuda}


def test_cuda_plugin_is_not_autoloaded() -> None:
    assert hlp.CUDAPlugin.autoload is False


class Pair(NamedTuple):
    left: Any
    right: Any


class Movable:
    """Not a container that anybody knows, but it can move."""

    def __init__(self, device: Any = "nowhere") -> None:
        self.device = device

    def to(self, device: torch.device) -> "Movable":
        return Movable(device)


class NotMovable:
    to = "an attribute that is no method"

    def __repr__(self) -> str:  # the same in every process, as the id of a test
        return "NotMovable()"


class Names(list[Any]):
    """A list of one's own."""


def tensor() -> torch.Tensor:
    return torch.zeros(2)


def move(plugin: hlp.CUDAPlugin, batch: Any) -> Any:
    return plugin.process_training_batch(batch=batch, state=STATE)


@pytest.mark.parametrize("method", ["training", "validation", "testing"])
def test_cuda_plugin_moves_a_tensor_in_each_phase(cuda: hlp.CUDAPlugin, method: str) -> None:
    process = getattr(cuda, f"process_{method}_batch")
    second = STATE if method == "training" else 0
    original = tensor()
    assert process(original, second).device == META
    assert original.device.type == "cpu"


def test_cuda_plugin_returns_a_tensor_that_is_there_already(cuda: hlp.CUDAPlugin) -> None:
    batch = torch.zeros(2, device=META)
    assert move(cuda, batch) is batch


@pytest.mark.parametrize(
    "batch",
    [
        [tensor(), "name", 3, None, tensor()],
        Names([tensor(), "name", 3, None, tensor()]),
    ],
    ids=["list", "subclass of list"],
)
def test_cuda_plugin_moves_a_list_in_place(cuda: hlp.CUDAPlugin, batch: list[Any]) -> None:
    assert move(cuda, batch) is batch
    assert [batch[0].device, batch[4].device] == [META, META]
    assert batch[1:4] == ["name", 3, None]


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_cuda_plugin_moves_a_dictionary_in_place(
    cuda: hlp.CUDAPlugin, kind: type[dict[str, Any]]
) -> None:
    batch = kind({"image": tensor(), "name": "cat", "label": tensor(), "none": None})
    assert move(cuda, batch) is batch
    assert list(batch) == ["image", "name", "label", "none"]
    assert [batch["image"].device, batch["label"].device] == [META, META]
    assert (batch["name"], batch["none"]) == ("cat", None)


def test_cuda_plugin_moves_a_tuple(cuda: hlp.CUDAPlugin) -> None:
    moved = move(cuda, (tensor(), "name", tensor()))
    assert type(moved) is tuple
    assert [moved[0].device, moved[1], moved[2].device] == [META, "name", META]


def test_cuda_plugin_keeps_a_named_tuple(cuda: hlp.CUDAPlugin) -> None:
    moved = move(cuda, Pair(left=tensor(), right="name"))
    assert type(moved) is Pair
    assert moved.left.device == META
    assert moved.right == "name"


def test_cuda_plugin_moves_what_is_nested(cuda: hlp.CUDAPlugin) -> None:
    inner = {"deep": [tensor()]}
    batch = [Pair(left=(tensor(), inner), right=[[tensor()]]), "name"]
    moved = move(cuda, batch)
    assert moved is batch
    assert moved[0].left[1] is inner
    assert inner["deep"][0].device == META
    assert moved[0].left[0].device == META
    assert moved[0].right[0][0].device == META


def test_cuda_plugin_moves_whatever_has_a_to_method(cuda: hlp.CUDAPlugin) -> None:
    assert move(cuda, Movable()).device == META
    moved = move(cuda, {"custom": Movable(), "packed": [Movable()]})
    assert moved["custom"].device == META
    assert moved["packed"][0].device == META


def test_cuda_plugin_moves_a_packed_sequence_as_a_whole(cuda: hlp.CUDAPlugin) -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    moved = move(cuda, [packed])[0]
    assert isinstance(moved, torch.nn.utils.rnn.PackedSequence)
    assert moved.data.device == META


def test_cuda_plugin_passes_other_elements_on(cuda: hlp.CUDAPlugin) -> None:
    others = ["text", 1, 2.5, None, {1, 2}, NotMovable(), b"bytes", object()]
    batch = [tensor(), *others]
    moved = move(cuda, batch)
    assert all(after is before for after, before in zip(moved[1:], others, strict=True))


NOTHING_TO_MOVE = [
    3,
    "text",
    [],
    {},
    (),
    ["text", 1],
    {"name": "cat"},
    [[None]],
    NotMovable(),
]


@pytest.mark.parametrize("batch", NOTHING_TO_MOVE, ids=repr)
@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
def test_cuda_plugin_refuses_a_batch_with_nothing_to_move(
    cuda: hlp.CUDAPlugin, phase: str, batch: Any
) -> None:
    process = getattr(cuda, f"process_{phase}_batch")
    with pytest.raises(RuntimeError) as caught:
        process(batch, STATE if phase == "training" else 0)
    message = str(caught.value)
    assert f"type {type(batch).__name__}" in message
    assert "_move_collection_to_device" in message


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
def test_cuda_plugin_passes_on_the_none_of_a_loader_without_a_batch(
    cuda: hlp.CUDAPlugin, phase: str
) -> None:
    process = getattr(cuda, f"process_{phase}_batch")
    assert process(None, STATE if phase == "training" else 0) is None


class InPlace(hlp.CUDAPlugin):
    """The example of the page, word for word: it changes the batch and returns nothing."""

    def _move_collection_to_device(self, batch: Any) -> Any:
        # Suppose our batch is a list:
        for i in range(len(batch)):
            batch[i] = batch[i].to(self.device)


class Replacing(hlp.CUDAPlugin):
    def _move_collection_to_device(self, batch: Any) -> Any:
        return {"wrapped": batch["inner"].to(self.device)}


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
def test_cuda_plugin_subclass_that_changes_the_batch_in_place(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    plugin = make_cuda(monkeypatch, InPlace)
    plugin.device = META
    batch = [tensor(), tensor()]
    moved = getattr(plugin, f"process_{phase}_batch")(batch, STATE if phase == "training" else 0)
    assert moved is batch
    assert [element.device for element in batch] == [META, META]


def test_cuda_plugin_subclass_that_returns_another_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = make_cuda(monkeypatch, Replacing)
    plugin.device = META
    moved = move(plugin, {"inner": tensor()})
    assert list(moved) == ["wrapped"]
    assert moved["wrapped"].device == META


class Counting(hlp.CUDAPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def _move_collection_to_device(self, batch: Any) -> Any:
        self.moved += 1
        return super()._move_collection_to_device(batch)


def test_cuda_plugin_is_given_its_device_and_every_batch_by_the_trainer(
    monkeypatch: pytest.MonkeyPatch, make_trainer: Make
) -> None:
    plugin = make_cuda(monkeypatch, Counting)
    trainer = make_trainer(total_steps=1, valid_frequency=1)
    plugin.configure_trainer(trainer)
    model, data = TinyModel(), TinyDataModule(train_size=10, batch_size=4, valid_size=8)
    trainer.fit(model, data)
    assert plugin.device == torch.device("cpu")
    assert plugin.moved == 3 + 3  # 10 by 4, and 8 by 3
    trainer.test(model, data)
    assert plugin.moved == 3 + 3 + 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a real CUDA device")
def test_cuda_plugin_on_a_real_device(make_trainer: Make) -> None:
    plugin = hlp.CUDAPlugin()
    trainer = make_trainer(total_steps=1, valid_frequency=1, use_cpu=False, plugins=[plugin])
    model = TinyModel()
    trainer.fit(model, TinyDataModule())
    assert plugin.device == torch.device("cuda", 0)
    assert {parameter.device for parameter in model.net.parameters()} == {plugin.device}
