import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

_QUICK = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
"""Ray looks at its workers more often, and starts fewer processes."""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLUGINS", "BLOCK_PLUGINS", "DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(f"HELIOS_{name}", raising=False)
    for name, value in _QUICK.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The address of a cluster that another program has started, with ``ray start --head``."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        log = pathlib.Path(folder, "log")
        command = [
            *(str(pathlib.Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *("--port=0", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"),
            "--disable-usage-stats",
        ]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        try:
            yield _address(process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # ray stop would take 30 seconds
            process.wait()


def _address(process: "subprocess.Popen[bytes]", log: pathlib.Path) -> str:
    end = time.monotonic() + 120
    while True:
        found = re.search(r"ray start --address='([\d.:]+)'", log.read_text())
        if found is not None:
            return found[1]
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)


@pytest.fixture
def cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that this program connects to, and does not shut down."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
