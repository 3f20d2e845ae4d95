"""The ground floor: registries, random numbers, distributed facts, the training state."""

from helios.core.cuda import DisableCuDNNBenchmarkContext, requires_cuda_support
from helios.core.facts import RunFacts
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
    "AverageTimer",
    "ChdirContext",
    "DisableCuDNNBenchmarkContext",
    "Registry",
    "RunFacts",
    "TrainingState",
    "TrainingUnit",
    "convert_to_list",
    "get_from_optional",
    "requires_cuda_support",
    "safe_torch_load",
    "update_all_registries",
]
