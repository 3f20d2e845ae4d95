"""What the README says can be copied."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = pathlib.Path(sys.executable).parent


def blocks(language: str, text: str = README) -> list[str]:
    """Return the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_example_is_the_demo() -> None:
    demo = (ROOT / "src/helios/cli/demo.py").read_text(encoding="utf-8")
    assert blocks("python")[0] == demo.split('"""\n\n', 1)[1]


def test_the_example_is_short() -> None:
    assert len(blocks("python")[0].splitlines()) < 100


def test_the_plug_in_example_runs() -> None:
    namespace: dict[str, object] = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), namespace)
    from helios.testing import TinyDataModule, TinyModel

    trainer = namespace["trainer"]
    trainer.total_steps = 4
    trainer.fit(TinyModel(), TinyDataModule())
    assert "heartbeat" in trainer.plugins


def test_the_example_of_the_plug_in_page_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    from helios.testing import check_conformance

    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    exec(compile(blocks("python", page)[0], "docs/plugins.md", "exec"), namespace)
    check_conformance(lambda: namespace["GradientNorm"](every=2))
    assert "gradient norm" in capsys.readouterr().out


def test_commands_run(tmp_path: pathlib.Path) -> None:
    commands = [line for block in blocks("console") for line in block.splitlines()]
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
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
