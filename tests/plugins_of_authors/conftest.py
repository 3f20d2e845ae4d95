"""The fixtures that the tests of this folder share."""

import pytest


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach servers of this machine directly."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
