import os
import pathlib
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLUGINS", "BLOCK_PLUGINS", "DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(f"HELIOS_{name}", raising=False)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A cluster on this machine, whose workers find the modules of the tests."""
    folders = [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables})
    yield
    ray.shutdown()
