"""The cluster of a run, and the resources that its workers wait for."""

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray
import ray.util

from helios.errors import ConfigurationError

_ray: Any = ray  # some of its functions have no types
_logger = logging.getLogger("helios.ray")
_SHORT = 5.0
"""The seconds that a run waits for resources before it says so."""
_LONG = 60.0
"""The seconds until it says so again."""


@contextlib.contextmanager
def connected(number: int, resources: Mapping[str, float], is_default: bool) -> Iterator[bool]:
    """Connect to the cluster that Ray finds, or start one here for as long as the run.

    Args:
        number: the number of workers.
        resources: the resources of each.
        is_default: ``True`` if the user has not asked for these resources. A cluster that is
            started here then has as many CPUs as the workers need, as ``Trainer(devices=...)``
            also starts more processes than the machine has CPUs.

    Yields:
        ``True`` if this function has started the cluster.
    """
    if ray.is_initialized():
        yield False
        return
    cpus = max(os.cpu_count() or 1, int(number * resources.get("CPU", 0))) if is_default else None
    is_own = True
    try:
        # Without the packages of ray[default], the dashboard cannot start: it only takes time.
        has_dashboard = importlib.util.find_spec("aiohttp_cors") is not None
        ray.init(num_cpus=cpus or os.cpu_count(), include_dashboard=has_dashboard)
    except ValueError:  # Ray refuses num_cpus for a cluster that exists
        is_own = False
        ray.init()
    try:
        yield is_own
    finally:
        ray.shutdown()


def await_resources(number: int, resources: Mapping[str, float], is_own: bool) -> None:
    """Wait until the cluster has the resources of all workers, and say what it waits for.

    Args:
        number: the number of workers.
        resources: the resources of each.
        is_own: ``True`` for a cluster that this process has started, which cannot grow.

    Raises:
        ConfigurationError: the cluster will never have the resources.
    """
    wanted = {name: number * amount for name, amount in resources.items() if amount}
    missing = {n: a for n, a in wanted.items() if _ray.cluster_resources().get(n, 0.0) < a}
    asks = f"RayLauncher asks for {number} workers with {_shown(resources)} each"
    if missing and is_own:
        have = {name: _ray.cluster_resources().get(name, 0.0) for name in missing}
        raise ConfigurationError(
            f"{asks}, but this machine has {_shown(have)}: ask for fewer workers or resources, or"
            " set the environment variable RAY_ADDRESS to the address of a larger cluster."
        )
    if not wanted:
        return
    # A placement group makes clusters grow that can.
    group = ray.util.placement_group([{n: a for n, a in resources.items() if a}] * number)
    try:
        begun = time.monotonic()
        while not group.wait(
            timeout_seconds=_SHORT if time.monotonic() < begun + _SHORT else _LONG
        ):
            total, free = _ray.cluster_resources(), _ray.available_resources()
            _logger.warning(
                "%s, and waits for them. The cluster has %s, of which %s is free. Training begins"
                " when other programs end or nodes join; Ctrl-C ends the program.",
                asks,
                _shown({name: total.get(name, 0.0) for name in wanted}),
                _shown({name: free.get(name, 0.0) for name in wanted}),
            )
    finally:
        ray.util.remove_placement_group(group)


def _shown(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
