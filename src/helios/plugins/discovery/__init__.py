"""Find plug-ins: the metadata of distributions, the registry, and the origin of code."""
