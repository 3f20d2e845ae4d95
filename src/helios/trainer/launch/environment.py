"""The environment variables by which ``torchrun`` and others tell a process its place."""

import dataclasses
import os
from collections.abc import Mapping

from helios.core.rules import shown
from helios.errors import ConfigurationError

_REMEDY = (
    "Start the processes with torchrun, which sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,"
    " MASTER_ADDR and MASTER_PORT; or unset these variables to train in one process."
)


@dataclasses.dataclass(frozen=True)
class Environment:
    """The place of a process among several, as its environment says.

    Attributes:
        rank: the number of this process among all.
        world_size: the number of processes.
        local_rank: the number of this process on its node, if the environment says so.
        local_world_size: the number of processes on this node, if the environment says so.
        address: the host of the store through which the processes meet.
        port: the port of this store.
        has_store: ``True`` if the launcher has started the store.
    """

    rank: int
    world_size: int
    local_rank: int | None
    local_world_size: int | None
    address: str
    port: int
    has_store: bool

    @classmethod
    def read(cls, variables: Mapping[str, str] = os.environ) -> "Environment | None":
        """Return what the environment says; ``None`` for a single process.

        Raises:
            ConfigurationError: a variable is missing or wrong; the message names it.
        """
        world_size = _number(variables, "WORLD_SIZE", smallest=1)
        rank = _number(variables, "RANK", below=world_size, bound="WORLD_SIZE")
        if world_size is None:
            if rank:
                raise _error(f"RANK={rank}, but WORLD_SIZE is not set")
            return None
        local_world_size = _number(variables, "LOCAL_WORLD_SIZE", smallest=1)
        local_rank = _number(
            variables, "LOCAL_RANK", below=local_world_size, bound="LOCAL_WORLD_SIZE"
        )
        if world_size == 1:
            return None
        if rank is None:
            raise _error(f"WORLD_SIZE={world_size}, but RANK is not set")
        if local_world_size is not None and local_world_size > world_size:
            raise _error(f"LOCAL_WORLD_SIZE={local_world_size} is above WORLD_SIZE={world_size}")
        port = _number(variables, "MASTER_PORT", smallest=1, below=2**16)
        address = variables.get("MASTER_ADDR")
        if not address or port is None:
            missing = "MASTER_PORT" if address else "MASTER_ADDR"
            raise _error(f"WORLD_SIZE={world_size}, but {missing} is not set")
        return cls(
            rank,
            world_size,
            local_rank,
            local_world_size,
            address,
            port,
            variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )


def local_place(variables: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return the local rank and the local world size, if the environment has both.

    Raises:
        ConfigurationError: one of them is wrong; the message names it.
    """
    size = _number(variables, "LOCAL_WORLD_SIZE", smallest=1)
    rank = _number(variables, "LOCAL_RANK", below=size, bound="LOCAL_WORLD_SIZE")
    return None if rank is None or size is None else (rank, size)


def _number(
    variables: Mapping[str, str],
    name: str,
    smallest: int = 0,
    below: int | None = None,
    bound: str = "",
) -> int | None:
    text = variables.get(name)
    if text is None:
        return None
    if not (text.strip().isascii() and text.strip().isdigit()) or len(text) > 18:
        raise _error(f"{name}={shown(text)} is not a whole number")
    value = int(text)
    if value < smallest:
        raise _error(f"{name}={value} is below {smallest}")
    if below is not None and value >= below:
        raise _error(f"{name}={value} is not below {f'{bound}={below}' if bound else below}")
    return value


def _error(problem: str) -> ConfigurationError:
    return ConfigurationError(f"{problem} in the environment of this process. {_REMEDY}")
