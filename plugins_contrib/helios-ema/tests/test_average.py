"""The average of one network, without a trainer."""

import copy
import pickle

import pytest
import torch
from helios_ema import AveragedNetwork
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helios.testing import equal

NARROW = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *NARROW])
def test_small_steps_are_not_lost(dtype: torch.dtype) -> None:
    network = nn.Linear(4, 2).to(dtype)
    average = AveragedNetwork(network, 0.999)
    average.update_parameters(network)
    start = network.weight.detach().double().clone()
    with torch.no_grad():
        network.weight += 0.1
    distance = network.weight.detach().double() - start
    for _ in range(3000):
        average.update_parameters(network)
    share = (average.module.weight.detach().double() - start) / distance
    assert share.sub(1 - 0.999**3000).abs().max() < 1e-3
    assert average.module.weight.dtype == (dtype if dtype not in NARROW else torch.float32)
    assert average.n_averaged == 3001


def test_average_of_a_checkpoint_with_narrow_averages_is_wide() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).bfloat16()
    old = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    old.update_parameters(network)
    average = AveragedNetwork(network, 0.5)
    average.take(dict(old.state_dict()))
    assert average.n_averaged == 1
    assert average.module[0].weight.dtype == torch.float32
    assert equal(average.module[0].weight.bfloat16(), old.module[0].weight)


def test_network_that_moves_keeps_its_averages() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    average = AveragedNetwork(network, 0.5)
    average.update_parameters(network)
    with torch.no_grad():
        network[0].weight += 1
        network[1].running_mean += 1
    network.double()  # new statistics in the old layer
    average.update_parameters(network)
    assert average.n_averaged == 2
    assert average.module[1].running_mean.dtype == torch.float64
    assert (average.module[1].running_mean == 0.5).all()


# The copy.


def test_the_copy_follows_the_averages() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    network.register_buffer("bank", torch.zeros(1))
    average = AveragedNetwork(network, 0.5)
    module = average.module
    for value in (1.0, 2.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network.bank.fill_(value)
            network[1].num_batches_tracked += 1
        average.update_parameters(network)
    assert average.module is module
    assert (module[0].weight == 1.5).all()
    assert (module.bank, module[1].num_batches_tracked) == (2, 2)
    network.bank = torch.zeros(3)
    average.update_parameters(network)
    assert average.module.bank.shape == (3,)


def test_the_copy_does_not_change_the_averages() -> None:
    network = nn.Linear(4, 2)
    average = AveragedNetwork(network, 0.5)
    average.update_parameters(network)
    average.module.half()
    average.update_parameters(network)
    assert average.state_dict()["module.weight"].dtype == torch.float32


def test_tied_weights_stay_tied() -> None:
    network = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    network[1].weight = network[0].weight
    module = AveragedNetwork(network, 0.5).module
    assert module[0].weight is module[1].weight


def test_averages_survive_pickling_and_copying() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    average = AveragedNetwork(network, 0.5)
    average.update_parameters(network)
    assert average.module is not network
    for make in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, other_network = make((average, network))
        with torch.no_grad():
            other_network[0].weight += 1
        other.update_parameters(other_network)
        assert other.n_averaged == 2
        assert torch.allclose(other.module[0].weight, network[0].weight + 0.5)
