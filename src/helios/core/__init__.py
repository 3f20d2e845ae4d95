"""The basis: registries, random numbers, the training state, and the place of a process."""

from helios.core.cuda import DisableCuDNNBenchmarkContext, requires_cuda_support
from helios.core.group import Alone, Group, Ranks
from helios.core.place import Place, Placed, Ranked
from helios.core.registry import Registry, update_all_registries
from helios.core.state import TrainingState, TrainingUnit
from helios.core.utils import (
    AverageTimer,
    ChdirContext,
    convert_to_list,
    get_from_optional,
    safe_torch_load,
)

__all__ = [
    "Alone",
    "AverageTimer",
    "ChdirContext",
    "DisableCuDNNBenchmarkContext",
    "Group",
    "Place",
    "Placed",
    "Ranked",
    "Ranks",
    "Registry",
    "TrainingState",
    "TrainingUnit",
    "convert_to_list",
    "get_from_optional",
    "requires_cuda_support",
    "safe_torch_load",
    "update_all_registries",
]
