"""A run in one process is a group of one: it answers as a group of many does."""

import pytest
import torch

from helios.core import Alone, Group, Place


def test_alone_answers_with_what_it_is_given() -> None:
    group: Group = Alone()
    value = {"x": [1]}
    assert group.agree(True) is True
    assert group.agree(False) is False
    assert group.gather(value) == [value]
    assert group.broadcast(value) is value
    assert group.sum(1.5) == 1.5
    group.require_same("the plan", value)


def test_group_cannot_forget_an_answer() -> None:
    questions = {"agree", "gather", "sum", "broadcast", "require_same"}
    assert Group.__abstractmethods__ == questions
    with pytest.raises(TypeError, match="abstract"):
        Group()  # type: ignore[abstract]  # that is the point


def test_place() -> None:
    place = Place(torch.device("cuda", 1), rank=5, local_rank=1, world_size=8, local_world_size=4)
    assert place.is_distributed
    assert place.facts() == {
        "is_distributed": True,
        "map_loc": "cuda:1",
        "device": torch.device("cuda", 1),
        "rank": 1,
        "global_rank": 5,
        "world_size": 8,
    }
    assert not Place(torch.device("cpu")).is_distributed
    with pytest.raises(AttributeError):
        place.rank = 0  # type: ignore[misc]  # it is frozen
