"""The devices of a run, and with them the number of its processes on a node."""

import torch

from helios.core import rules
from helios.errors import ConfigurationError


def check_devices(
    use_cpu: bool | None, gpus: list[int] | None, devices: int | None
) -> tuple[torch.device, int | None, list[int] | None]:
    """Return the device of the first process, the number of processes, and the GPUs.

    The number and the GPUs are ``None`` if the user did not choose them.

    Raises:
        ConfigurationError: the arguments contradict each other, or name an unknown GPU.
        RuntimeError: a GPU is required, but none was found.
    """
    remedy = "write the number of processes, at least 1, or remove it."
    rules.check({"devices": devices}, {"devices": rules.optional(rules.whole(remedy, 1, 4096))})
    if use_cpu and gpus is not None:
        raise ConfigurationError(f"use_cpu=True contradicts gpus={gpus!r}: remove one of them.")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not available and (use_cpu is False or gpus is not None):
        asked = "use_cpu=False" if gpus is None else f"gpus={gpus!r}"
        message = f"{asked} asks for a GPU, but PyTorch finds none here: remove it to use the CPU."
        raise RuntimeError(message) if gpus is None else ConfigurationError(message)
    if use_cpu or not available:
        return torch.device("cpu"), devices, None
    if gpus is not None and (not gpus or not all(0 <= gpu < available for gpu in gpus)):
        raise ConfigurationError(
            f"gpus={gpus!r}: write numbers from 0 to {available - 1}, the visible GPUs."
        )
    if gpus is not None and len(set(gpus)) < len(gpus):
        raise ConfigurationError(f"gpus={gpus!r}: write each number once.")
    if gpus is not None and devices not in (None, len(gpus)):
        raise ConfigurationError(
            f"devices={devices} contradicts gpus={gpus!r}: remove devices, since one process trains"
            " on each GPU."
        )
    if devices is not None and devices > available and available > 1:
        raise ConfigurationError(
            f"devices={devices}, but PyTorch finds {available} GPUs here: write at most"
            f" {available}, or add use_cpu=True."
        )
    if devices is not None and gpus is None:
        gpus = list(range(devices))
    return torch.device("cuda", gpus[0] if gpus else 0), devices, gpus
