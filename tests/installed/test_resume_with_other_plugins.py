"""A run goes on although other plug-ins are installed than when it was saved."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import contextlib, io, json, logging, pathlib, sys
import helios
from helios.testing import TinyDataModule, TinyModel

def go_on(project="", **arguments):
    pathlib.Path("pyproject.toml").write_text(project)
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setLevel(logging.WARNING)
    logging.getLogger("helios").addHandler(handler)
    error = None
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = helios.Trainer(use_cpu=True, run_root="run", print_banner=False,
                                 valid_frequency=1, **arguments)
        try:
            trainer.fit(TinyModel(), TinyDataModule())
        except helios.errors.HeliosError as raised:
            error = f"{type(raised).__name__}: {raised}"
    logging.getLogger("helios").removeHandler(handler)
    seen = next((p.seen for p in trainer.plugins.values() if hasattr(p, "seen")), None)
    epoch = trainer.state.global_epoch
    return {"log": log.getvalue(), "error": error, "seen": seen, "epoch": epoch}

json.dump([go_on(**arguments) for arguments in json.loads(ARGUMENTS)], sys.stdout)
"""
BATCHES = 6  # of an epoch of TinyDataModule
ALLOWED = ["warm-up", "mix-up"]


def go_on(environment: Any, *steps: dict[str, Any]) -> list[dict[str, Any]]:
    """Continue the run of an environment in a new process: each step trains up to an epoch."""
    arguments = json.dumps([{"autoload": [], **step} for step in steps])
    reports: list[dict[str, Any]] = environment.run(f"ARGUMENTS = {arguments!r}\n{SCRIPT}")
    for step, report in zip(steps, reports, strict=True):
        assert report["error"] or report["epoch"] == step["total_steps"]
    return reports


def lines(report: dict[str, Any]) -> list[str]:
    """Return the lines of the difference that a report shows."""
    text = report["error"] or report["log"]
    return [line.strip() for line in text.splitlines() if line[:4].strip() in ("-", "+", "~", ">")]


def newer(package: str, version: str, folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of a package in another version."""
    source = pathlib.Path(__file__).parent / "packages" / package
    shutil.copytree(source, folder / package)
    metadata = folder / package / "pyproject.toml"
    text = metadata.read_text(encoding="utf-8")
    old = next(line for line in text.splitlines() if line.startswith("version = "))
    metadata.write_text(text.replace(old, f'version = "{version}"'), encoding="utf-8")
    return folder / package


def test_missing_added_changed_and_back_again(
    make_environment: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    environment = make_environment("schedule", "mixup")
    first, same = go_on(
        environment,
        {"total_steps": 1, "autoload": ["warm-up"]},
        {"total_steps": 2, "autoload": ["warm-up"]},
    )
    assert (first["log"], first["seen"]) == ("", BATCHES)
    assert (same["log"], same["seen"]) == ("", 2 * BATCHES)

    environment.uninstall("sample-schedule")
    refused, warned, ignored = go_on(
        environment,
        {"total_steps": 3, "resume_plugins": "strict"},
        {"total_steps": 3, "autoload": ["mix-up"]},
        {"total_steps": 4, "resume_plugins": "ignore"},  # saves without it, but with its state
    )
    missing = "- 'warm-up' (sample-schedule 1.4) is no longer active; checkpoints keep its state,"
    assert refused["error"].startswith("PlanDriftError: the plug-ins are not those of the check")
    assert 'Trainer(resume_plugins="warn")' in refused["error"]
    assert lines(refused) == [missing + " if it has any"]
    assert lines(warned) == [
        missing + " if it has any",
        "+ 'mix-up' (sample-mixup 2.0.1) is newly active",
    ]
    assert (ignored["log"], ignored["error"]) == ("", None)

    environment.install(str(newer("schedule", "2.0", tmp_path)))
    (back,) = go_on(environment, {"total_steps": 5, "autoload": ALLOWED})
    assert lines(back) == [
        "+ 'mix-up' (sample-mixup 2.0.1) is newly active",
        "+ 'warm-up' (sample-schedule 2.0) is newly active",
    ]
    assert back["seen"] == 3 * BATCHES  # two epochs before it was uninstalled, and this one

    environment.install("schedule")
    (changed,) = go_on(environment, {"total_steps": 6, "autoload": ALLOWED})
    assert lines(changed) == ["~ 'warm-up' changed from sample-schedule 2.0 to sample-schedule 1.4"]
    assert changed["seen"] == 4 * BATCHES


def test_renamed(make_environment: Callable[..., Any]) -> None:
    renaming = '[tool.helios.plugins.warm-up]\nplug_id = "ramp"\n'
    _, renamed, accepted, back = go_on(
        make_environment("schedule"),
        {"total_steps": 1, "plugins": ["warm-up"]},
        {"total_steps": 2, "plugins": ["warm-up"], "project": renaming},
        {
            "total_steps": 3,
            "plugins": ["warm-up"],
            "project": renaming,
            "resume_plugins": "strict",
        },
        {"total_steps": 4, "plugins": ["warm-up"]},
    )
    assert lines(renamed) == [
        "> 'warm-up' is now called 'ramp' (sample-schedule 1.4); checkpoints keep its state under"
        " 'warm-up'"
    ]
    assert accepted["error"] is None  # the newest checkpoint knows the new name
    assert lines(back) == [
        "> 'ramp' is now called 'warm-up' (sample-schedule 1.4); checkpoints keep its state under"
        " 'ramp'"
    ]
    assert back["seen"] == 2 * BATCHES  # its own state came back, of the first epoch


@pytest.mark.parametrize("value", ["loud", None])
def test_policy_that_does_not_exist(value: Any) -> None:
    from helios import Trainer
    from helios.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="write 'strict', 'warn', 'ignore'"):
        Trainer(total_steps=1, use_cpu=True, resume_plugins=value)
