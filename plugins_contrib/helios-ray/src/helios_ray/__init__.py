"""Train in the workers of a Ray cluster."""

from helios_ray.launcher import RayLauncher

__all__ = ["RayLauncher"]
__version__ = "0.1.0"
