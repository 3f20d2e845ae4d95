"""The guilty pair among twenty plug-ins, each installed from a package of its own."""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

NUMBER = 20
# One run with all and one with none; for each of the two, ceil(log2(20)) = 5 to find it, and one to
# see whether it was the last; one to see that the first is necessary.
PROMISE = 2 + 2 * 5 + 2 + 1

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sample-{name}"
version = "0.{number}"

[project.entry-points."helios.plugins"]
{name} = "sample_{module}:Member"
"""
MEMBER = """
import helios

class Member(helios.Plugin):
    def __init__(self):
        super().__init__("{name}")

    def setup(self):
        pass

    def on_before_optimizer_step(self, optimizer, state):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        {body}
"""
# Neither does harm without the other. No pair takes more runs than this one.
GUILTY = {
    "member-14": "for gradient in gradients: gradient.zero_()",
    "member-20": "self.scale = 1 / sum(gradient.abs().sum().item() for gradient in gradients)",
}
TRAINING = """
import helios
from helios.testing import TinyDataModule, TinyModel

trainer = helios.Trainer(train_unit="iteration", total_steps=2, use_cpu=True)
trainer.fit(TinyModel(), TinyDataModule(valid_size=0))
"""


@pytest.fixture(scope="module")
def crowd(make_environment: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an environment with twenty plug-ins from twenty distributions."""
    root = tmp_path_factory.mktemp("crowd")
    return make_environment(*(_package(root, number) for number in range(1, NUMBER + 1)))


def _package(root: pathlib.Path, number: int) -> str:
    name, module = f"member-{number:02}", f"member_{number:02}"
    folder = root / name
    folder.mkdir()
    project = PROJECT.format(name=name, module=module, number=number)
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    source = MEMBER.format(name=name, body=GUILTY.get(name, "pass"))
    (folder / f"sample_{module}.py").write_text(source, encoding="utf-8")
    return str(folder)


def test_guilty_pair_is_found_in_as_many_runs_as_halving_promises(crowd: Any) -> None:
    # Block everything else that is installed, Helios's own plug-ins included.
    around = importlib.metadata.entry_points(group="helios.plugins")
    blocked = ",".join(f"{point.dist.name}:{point.name}" for point in around if point.dist)
    printed = crowd.helios(
        *("plugins", "bisect", "--json", "--", *crowd.command, "-c", TRAINING),
        HELIOS_BLOCK_PLUGINS=blocked,
    )
    report = json.loads(printed)
    assert len(report["candidates"]) == NUMBER
    assert report["verdict"] == "found"
    assert report["culprits"] == [
        {
            "name": name,
            "distribution": f"sample-{name}",
            "version": f"0.{name[-2:]}",
            "block": f"sample-{name}:{name}",
        }
        for name in GUILTY
    ]
    assert report["promised_runs"] == PROMISE
    assert len(report["runs"]) <= PROMISE
    # The search followed this fault, and not another one.
    assert "ZeroDivisionError" in report["output"]
    assert "member-20" in report["output"]


def test_what_cannot_be_active_is_no_candidate(peaceful: Any) -> None:
    script = "import os, sys; sys.exit('sample-mixup:mix-up' not in os.environ[sys.argv[1]])"
    command = (str(peaceful.python), "-I", "-S", "-c", script, "HELIOS_BLOCK_PLUGINS")
    report = json.loads(
        peaceful.helios(
            *("plugins", "bisect", "--json", "--", *command), HELIOS_BLOCK_PLUGINS="witness"
        )
    )
    assert [culprit["block"] for culprit in report["culprits"]] == ["sample-mixup:mix-up"]
    assert "sample-extras:content" in report["candidates"]
    assert "sample-extras:needy" not in report["candidates"]  # lacks a requirement
    assert "sample-witness:witness" not in report["candidates"]
