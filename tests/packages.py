"""Distributions that tests write by hand, without an installation."""

import pathlib
import textwrap


def write_distribution(
    folder: pathlib.Path,
    name: str,
    version: str = "1.0",
    *,
    modules: dict[str, str] | None = None,
    offers: dict[str, str] | None = None,
    claims: str | None = None,
    group: str = "helios.plugins",
    record: bool = True,
) -> pathlib.Path:
    """Write a distribution into a folder, as pip would, and return the folder of its metadata.

    Args:
        folder: the folder, which stands in for ``site-packages``.
        name: the name of the folder of the metadata.
        version: the version in that name.
        modules: the text of each file, by its path.
        offers: the target of each entry point, by its name.
        claims: the text of METADATA, if it is not the honest one.
        group: the group of the entry points.
        record: false to leave out the list of files, as an editable installation does.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    for path, text in (modules or {}).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
    if claims is None:
        claims = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(claims, encoding="utf-8")
    if record:
        lines = [f"{path},," for path in modules or {}]
        (info / "RECORD").write_text("\n".join([*lines, ""]), encoding="utf-8")
    if offers:
        lines = [f"{plug_in} = {target}" for plug_in, target in offers.items()]
        text = "\n".join([f"[{group}]", *lines, ""])
        (info / "entry_points.txt").write_text(text, encoding="utf-8", newline="")
    return info


PLUG_IN = """
import helios
import sample_log

sample_log.events.append("{name} imported")


class Sample(helios.Plugin):
    def __init__(self):
        super().__init__("{name}")
        sample_log.events.append("{name} built")

    def setup(self):
        sample_log.events.append("{name} ran")
"""
"""A plug-in that leaves a trace in ``sample_log.events``."""
