"""The kinds of the parameters of data loaders, as a table."""

from collections.abc import Mapping
from typing import get_args

from helios.core import rules
from helios.core.rng import LARGEST_SEED
from helios.data.seeds import Seeding

_SEED = "write a whole number from 0 to 2**64 - 1, or leave it out."

SEED_RULE = {"random_seed": rules.optional(rules.whole(_SEED, 0, LARGEST_SEED))}
"""The rule of ``random_seed``."""

RULES: Mapping[str, rules.Rule] = {
    **dict.fromkeys(("shuffle", "pin_memory", "drop_last"), rules.switch),
    **dict.fromkeys(("is_distributed", "replay"), rules.optional(rules.switch)),
    "batch_size": rules.whole("write a whole number of samples, at least 1.", 1),
    "num_workers": rules.whole("write a whole number of processes, at least 0.", 0),
    "prefetch_factor": rules.optional(
        rules.whole("write a whole number of batches, at least 1.", 1)
    ),
    "collate_fn": rules.optional(rules.function),
    "seeding": rules.choice(*get_args(Seeding)),
}
"""The rules by parameter. What depends on the dataset is checked when a loader is created."""
