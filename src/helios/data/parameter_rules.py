"""The kinds of the parameters of data loaders, as a table."""

import multiprocessing
from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Any, get_args

from helios.core import rules
from helios.core.rng import LARGEST_SEED
from helios.data.seeds import Seeding

_SEED = "write a whole number from 0 to 2**64 - 1, or leave it out."

SEED_RULE = {"random_seed": rules.optional(rules.whole(_SEED, 0, LARGEST_SEED))}
"""The rule of ``random_seed``."""


_LONGEST_TIMEOUT = 2_147_483
"""The seconds that a queue can wait: it counts milliseconds in 32 bits."""


def _is_time(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= _LONGEST_TIMEOUT:
        return None
    return f"write a number of seconds up to {_LONGEST_TIMEOUT}, or 0 to wait for ever."


def _is_worker_function(value: Any) -> str | None:
    return None if callable(value) else "pass a function that takes the number of a worker."


def _is_start_method(value: Any) -> str | None:
    methods = multiprocessing.get_all_start_methods()
    if isinstance(value, BaseContext) or (isinstance(value, str) and value in methods):
        return None
    return f"write {', '.join(map(repr, methods))}, or pass a context of multiprocessing."


RULES: Mapping[str, rules.Rule] = {
    **dict.fromkeys(
        ("shuffle", "pin_memory", "drop_last", "persistent_workers", "in_order"), rules.switch
    ),
    **dict.fromkeys(("is_distributed", "replay"), rules.optional(rules.switch)),
    "batch_size": rules.optional(rules.whole("write a whole number of samples, at least 1.", 1)),
    "num_workers": rules.whole("write a whole number of processes, at least 0.", 0),
    "prefetch_factor": rules.optional(
        rules.whole("write a whole number of batches, at least 1.", 1)
    ),
    "collate_fn": rules.optional(rules.function),
    "seeding": rules.choice(*get_args(Seeding)),
    "timeout": _is_time,
    "worker_init_fn": rules.optional(_is_worker_function),
    "multiprocessing_context": rules.optional(_is_start_method),
}
"""The rules by parameter. What depends on the dataset is checked when a loader is created."""
