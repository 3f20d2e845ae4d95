"""New packages from ``helios plugins new`` to their first run, in an empty environment.

One has the name that users see first; the other follows docs/write-a-plugin.md, line by line.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from pages import blocks, page

ROOT = pathlib.Path(__file__).parents[2]
PAGE = page("write-a-plugin")
PAGE_PROJECT = "helios-largest-gradient"


class Story(NamedTuple):
    """The output of the commands.

    Attributes:
        environment: the environment, in which both packages are installed.
        begun: what the commands printed before the files of the page replaced those of the package.
        continued: what the other commands of the page printed after that.
    """

    environment: Any
    begun: list[str]
    continued: list[str]


def follow(environment: Any, commands: str) -> list[str]:
    """Run the commands of a block, and return what each of them prints."""
    return [_follow(environment, shlex.split(line)) for line in commands.splitlines()]


def _follow(environment: Any, words: list[str]) -> str:
    match words:
        case ["helios", *arguments]:
            # Plug-ins around us that take seconds to import.
            return environment.helios(*arguments, HELIOS_BLOCK_PLUGINS="tensorboard,ema")
        case ["pip", "install", *arguments]:
            # An editable installation would download what builds it.
            environment.install_project(*(each for each in arguments if each != "--editable"))
            return ""
        case ["python", "-m", *arguments]:
            return environment.module(*arguments, "-p", "no:cacheprovider")
    raise AssertionError(f"nobody knows how to run {words}")


def _block_after(sentence: str) -> str:
    """Return the first block of Python after a sentence of the page."""
    _, found, rest = PAGE.partition(sentence)
    assert found, sentence
    return blocks("python", rest)[0]


@pytest.fixture(scope="module")
def story(make_environment: Callable[..., Any]) -> Story:
    environment = make_environment()
    follow(environment, "helios plugins new helios-hello\npip install ./helios-hello")
    begin, end = blocks("console", PAGE)
    begun = follow(environment, begin)
    project = environment.work / PAGE_PROJECT
    (layout,) = blocks("text", PAGE)
    names = [line.split()[0] for line in layout.splitlines()[1:]]
    files = [
        path for path in project.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    assert sorted(names) == sorted(path.relative_to(project).as_posix() for path in files)
    assert blocks("toml", PAGE)[0] in (project / "pyproject.toml").read_text(encoding="utf-8")
    source = _block_after("Replace `src/helios_largest_gradient/__init__.py` by")
    tests = _block_after("Replace `tests/test_helios_largest_gradient.py` by")
    (project / "tests/test_helios_largest_gradient.py").write_text(tests, encoding="utf-8")
    for folder in (project / "src", environment.site_packages):
        (folder / "helios_largest_gradient/__init__.py").write_text(source, encoding="utf-8")
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    return Story(environment, begun, follow(environment, end))


def test_the_demo_shows_the_plug_ins_and_calls_a_hook(story: Story) -> None:
    header = " ".join(story.continued[-1].split())
    assert "hello helios-hello 0.1.0 installed Counts the epochs of training" in header
    assert f"largest-gradient {PAGE_PROJECT} 0.1.0 installed Logs the largest gradient" in header
    run = story.environment.work / "runs" / "demo"
    log = (run / "helios.log").read_text(encoding="utf-8")
    assert re.findall(r"\d epochs, \d+ batches", log) == ["1 epochs, 38 batches"]
    assert '"largest-gradient": ' in (run / "metrics.jsonl").read_text(encoding="utf-8")


def test_the_tests_of_new_packages_pass(story: Story) -> None:
    assert "3 passed" in story.begun[-1]
    assert "on_training_epoch_end" in story.begun[-2]
    printed = follow(story.environment, f"python -m pytest helios-hello {PAGE_PROJECT}")
    assert "6 passed" in printed[0]


def test_the_name_is_taken_now(story: Story) -> None:
    environment = story.environment
    shutil.move(environment.work / "helios-hello", environment.folder)
    environment.helios("plugins", "new", "helios-hello", exit_code=1)
    environment.helios("plugins", "new", "hello", exit_code=1)
    shutil.move(environment.folder / "helios-hello", environment.work)
    assert [path.name for path in environment.work.glob("*hello*")] == ["helios-hello"]


def test_linters_find_nothing(story: Story, tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "cache"
    if (ROOT / ".mypy_cache").is_dir():  # of make lint; without it, mypy reads all of PyTorch
        shutil.copytree(ROOT / ".mypy_cache", cache)
    mypy = ["mypy", "--cache-dir", str(cache), "--no-error-summary"]
    hello = story.environment.work / "helios-hello"
    for project in (hello, story.environment.work / PAGE_PROJECT):
        assert _problems(mypy, project) == []
        assert _problems(["ruff", "check", "--no-cache", "--output-format=concise"], project) == []
    source = hello / "src/helios_hello/__init__.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(f"{text}wrong: int = ''\n", encoding="utf-8")
    assert len(_problems(mypy, hello)) == 1
    source.write_text(text, encoding="utf-8")


def _problems(command: list[str], project: pathlib.Path) -> list[str]:
    """Return the lines of a linter about the files of a project, and not about Helios."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    return [line for line in result.stdout.splitlines() if line.startswith(("src", "tests"))]
