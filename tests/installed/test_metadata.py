"""Damaged or half removed metadata keeps nobody from training."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from helios.plugins.discovery.entry_points import discover

OFFER = b"[helios.plugins]\nghost = sample_ghost:Ghost\n"


def metadata(name: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: 6.6\n".encode()


DAMAGES: dict[str, dict[str, bytes]] = {
    # An interrupted removal leaves such a folder.
    "sample_bare-6.6.dist-info": {"entry_points.txt": OFFER},
    "sample_empty-6.6.dist-info": {"METADATA": b"", "entry_points.txt": OFFER},
    "sample_nameless-6.6.dist-info": {
        "METADATA": b"Metadata-Version: 2.1\nVersion: 6.6\n",
        "entry_points.txt": OFFER,
    },
    "sample_binary-6.6.dist-info": {
        "METADATA": metadata("sample-binary"),
        "entry_points.txt": OFFER + b"\xff\xfe\x00 = \xff\n",
    },
    "sample_garbled-6.6.dist-info": {
        "METADATA": metadata("sample-garbled"),
        "entry_points.txt": b"[helios.plugins]\nthis is no entry point\n",
    },
    "sample_senseless-6.6.dist-info": {
        "METADATA": metadata("sample-senseless"),
        "entry_points.txt": b"[helios.plugins]\nghost = not a module!\n",
    },
    "sample_unrequired-6.6.dist-info": {
        "METADATA": metadata("sample-unrequired") + b"Requires-Dist: ]]what[[\n",
        "entry_points.txt": b"[helios.plugins]\nghost = sample_ghost:Ghost [extra]\n",
    },
}
HARMLESS: dict[str, dict[str, bytes]] = {
    "sample_hollow-6.6.dist-info": {},
    "sample_unclosed-6.6.dist-info": {
        "METADATA": metadata("sample-unclosed"),
        "entry_points.txt": b"[helios.plugins\nghost = sample_ghost:Ghost\n",
    },
    "sample_stranger-6.6.dist-info": {
        "METADATA": b"\xff\xfe",
        "entry_points.txt": b"[console_scripts]\nstranger = stranger:main\n",
    },
}


@pytest.fixture(scope="module")
def outcome(make_environment: Callable[..., Any]) -> Any:
    environment = make_environment("recorder")
    for folder, files in {**DAMAGES, **HARMLESS}.items():
        write(environment.site_packages / folder, files)
    (environment.site_packages / "sample_file-6.6.dist-info").write_bytes(b"not a folder")
    return environment.start({"start": {}})["start"]


def write(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_what_is_whole_is_still_active(outcome: Any) -> None:
    assert outcome.error is None
    assert "recorder.on_training_end" in outcome.calls
    assert "sample-recorder 1.2.3" in outcome.why_active("recorder")


def test_nothing_is_offered_that_is_damaged(outcome: Any) -> None:
    assert "ghost" not in outcome.printed


@pytest.mark.parametrize("folder", DAMAGES)
def test_damage_is_reported_with_its_place(outcome: Any, folder: str) -> None:
    reports = [line for line in outcome.log.splitlines() if "so it is skipped" in line]
    assert any(folder in line for line in reports), "\n".join(reports)


def test_each_damage_is_reported_once(outcome: Any) -> None:
    reports = [line for line in outcome.log.splitlines() if "so it is skipped" in line]
    assert len(reports) == len(DAMAGES)


def test_of_two_versions_the_one_that_would_be_imported_counts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer version offers no plug-in any more; the older one comes later on the path."""
    for version, entry_points in (
        ("1.0", b"[helios.plugins]\nretired = sample_retired:Retired\n"),
        ("2.0", b"[console_scripts]\nretired = sample_retired:main\n"),
    ):
        text = metadata("sample-retired").replace(b"6.6", version.encode())
        write(
            tmp_path / version / f"sample_retired-{version}.dist-info",
            {"METADATA": text, "entry_points.txt": entry_points},
        )
    monkeypatch.syspath_prepend(tmp_path / "1.0")
    assert "1.0" in [r.version for r in discover() if r.distribution == "sample-retired"]
    monkeypatch.syspath_prepend(tmp_path / "2.0")
    assert [r for r in discover() if r.distribution == "sample-retired"] == []
