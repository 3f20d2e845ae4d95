"""What the README says can be copied."""

import ast
import dataclasses
import enum
import inspect
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from pages import blocks, page

import helios
from helios.core import Placed, Ranked
from helios.plugins import HOOKS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = pathlib.Path(sys.executable).parent


def defaults(text: str) -> dict[str, object]:
    """Return the names and defaults that tables with these two columns show."""
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)
    return {name: ast.literal_eval(default) for name, default in rows}


def signature(function: object) -> dict[str, object]:
    """Return the names and defaults of arguments."""
    parameters = inspect.signature(function).parameters.values()
    plain = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    return {n: d.value if isinstance(d, enum.Enum) else d for n, d in plain.items()}


def public(kind: type) -> list[tuple[str, object]]:
    """Return the methods and properties that a class adds, by name."""
    return [(name, member) for name, member in vars(kind).items() if not name.startswith("_")]


def call(method: object) -> str:
    """Return how a method is called: its name, its arguments and their defaults."""
    arguments = list(inspect.signature(method).parameters.values())[1:]
    bare = [argument.replace(annotation=inspect.Parameter.empty) for argument in arguments]
    return f"{method.__name__}{inspect.Signature(bare)}"


def test_the_example_is_the_demo() -> None:
    demo = (ROOT / "src/helios/cli/demo.py").read_text(encoding="utf-8")
    assert blocks("python", README)[0] == demo.split('"""\n\n', 1)[1]


def test_the_example_is_short() -> None:
    assert len(blocks("python", README)[0].splitlines()) < 100


def test_the_example_in_thirty_lines_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("helios_ema", reason="helios-ema is not installed")
    program = blocks("python", README)[1]
    assert len([line for line in program.splitlines() if line.strip()]) <= 30
    monkeypatch.chdir(tmp_path)
    shorter = program.replace("total_steps=100", "total_steps=3")
    assert shorter != program
    namespace: dict[str, Any] = {}
    exec(compile(shorter, "README.md", "exec"), namespace)
    trainer, model = namespace["trainer"], namespace["model"]
    assert "ema" in trainer.plugins
    assert trainer.early_stop_cycles == 5
    assert capsys.readouterr().out.splitlines()[-1] == str(model.metrics["accuracy"])
    assert "(best)" in pathlib.Path("runs/digits/helios.log").read_text(encoding="utf-8")


def test_the_plug_in_example_runs() -> None:
    namespace: dict[str, object] = {}
    exec(compile(blocks("python", README)[2], "README.md", "exec"), namespace)
    from helios.testing import TinyDataModule, TinyModel

    trainer = namespace["trainer"]
    trainer.total_steps = 4
    trainer.fit(TinyModel(), TinyDataModule())
    assert "heartbeat" in trainer.plugins


def test_the_example_of_the_training_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    exec(compile(blocks("python", page("training"))[0], "docs/training.md", "exec"), namespace)
    assert namespace["state"].global_iteration > 8
    assert namespace["trainer"].model.metrics["best"] < 0.1
    (prediction,) = [each for each in blocks("python", page("training")) if ".predict(" in each]
    exec(compile(prediction, "docs/training.md", "exec"), namespace)


def test_the_training_page_has_each_argument_of_a_trainer() -> None:
    described = defaults(page("training").partition("\n## Trainer\n")[2])
    assert described == signature(helios.Trainer)


def test_the_training_page_has_each_field_of_the_loader_parameters() -> None:
    described = defaults(page("training").partition("| `DataLoaderParams`")[2].partition("##")[0])
    assert described == signature(helios.DataLoaderParams)


def test_the_training_page_has_each_method_of_a_model() -> None:
    section = page("training").partition("\n## Model\n")[2].partition("\n## DataModule\n")[0]
    described = re.findall(r"`(\w+\([^`]*\))`", section)
    for name, member in public(helios.Model):
        if inspect.isfunction(member):
            named = "|".join(described)
            assert call(member) in described, f"{call(member)} is not in {named}"
        else:
            assert f"| `{name}` |" in section


def test_the_training_page_has_each_counter_of_a_run() -> None:
    section = page("training").partition("\n### TrainingState\n")[2]
    described = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(described) == sorted(
        field.name for field in dataclasses.fields(helios.TrainingState)
    )


def test_the_page_of_hooks_explains_each_argument() -> None:
    section = page("hooks").partition("\n## The arguments\n")[2].partition("\n## ")[0]
    described = re.findall(r"^- `(\w+)`:", section, re.MULTILINE)
    assert sorted(described) == sorted({name for hook in HOOKS.values() for name in hook.arguments})


def test_the_page_of_hooks_has_what_a_plug_in_finds_on_itself() -> None:
    described = re.findall(r"^- `self\.(\w+)`:", page("hooks"), re.MULTILINE)
    known = [name for name, _ in public(Placed) + public(Ranked)]
    assert sorted(described) == sorted(["trainer", *known])


def test_commands_run(tmp_path: pathlib.Path) -> None:
    commands = [line for block in blocks("console", README) for line in block.splitlines()]
    mine = [command for command in commands if re.match(r"(\w+=\S+ )*helios ", command)]
    assert len(mine) == 3
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HELIOS_")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    for command in mine:
        if command == "helios demo":
            continue  # tests/test_demo.py runs it, interrupted and whole
        result = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    assert "ema  helios-ema 0.1.0  blocked by HELIOS_BLOCK_PLUGINS" in " ".join(
        re.sub(r" {2,}", "  ", result.stdout).split("\n")
    )


def test_installation_is_that_of_the_packages() -> None:
    install = next(line for line in README.splitlines() if line.startswith("pip install --con"))
    for target in install.split()[4:]:
        folder = ROOT / target.strip("'").removesuffix("[demo]")
        assert (folder / "pyproject.toml").is_file(), target


def test_links_lead_somewhere() -> None:
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for path in paths:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"
