"""Names with line breaks and terminal escapes: no output shows them as they are."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Make, Named, notes_of

from helios import Plugin
from helios.cli import output
from helios.errors import HeliosError, PluginLoadError
from helios.testing import TinyDataModule, TinyModel

FORGED = "\x1b[2K\x1b[1A\r\n9  forged \u202e"


def forging(plug_id: str = "x", **members: Any) -> Plugin:
    """Return a plug-in all of whose names try to forge a line."""
    names = {"__qualname__": f"Q{FORGED}", "__module__": f"m{FORGED}", "__doc__": f"Doc {FORGED}"}
    kind = type(f"Kind({FORGED}", (Named,), {**names, **members})
    return kind(plug_id + FORGED)  # type: ignore[no-any-return]


def process(self: Any, batch: Any) -> Any:
    return batch


def fail(self: Any) -> None:
    raise ValueError(FORGED)


def stop(self: Any) -> None:
    self.trainer.request_stop(f"reason{FORGED}", author=f"author{FORGED}")


RUNS: dict[str, Callable[[], Any]] = {
    "start": forging,
    "conflict": lambda: [forging(name, process_training_batch=process) for name in "ab"],
    "one id": lambda: [forging(), forging()],
    "exclusive": lambda: [forging(name, exclusives=(f"gpu{FORGED}",)) for name in "ab"],
    "order": lambda: [
        forging("a", before=(f"b{FORGED}",)),
        forging("b", before=(f"a{FORGED}",)),
    ],
    "misspelt": lambda: forging(on_train_start=fail),
    "no value": lambda: forging(critical=FORGED),
    "class": lambda: type(forging()),
    "no plug-in": lambda: type(f"Kind{FORGED}", (), {})(),
    "unknown": lambda: f"name{FORGED}",
    "observer": lambda: forging(on_training_start=fail, critical=False),
    "launch": lambda: forging(launch=lambda self: None),
    "batches": lambda: forging(wrap_batches=lambda self, batches: []),
    "stop": lambda: forging(should_training_stop=lambda self: True),
    "request": lambda: forging(on_training_start=stop),
    "late": lambda: forging(on_training_start=lambda self: setattr(self, "on_log", fail)),
    "half of a state": lambda: forging(critical=False, state_dict=lambda self: {}),
}


@pytest.mark.parametrize("run", RUNS)
def test_no_line_is_forged(
    make_trainer: Make,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    run: str,
) -> None:
    plugins = RUNS[run]()
    told = []
    try:
        with caplog.at_level(logging.INFO, "helios"):
            trainer = make_trainer(
                plugins=plugins if isinstance(plugins, list) else [plugins], print_banner=True
            )
            told.append(repr(trainer.plugins))
            trainer.fit(TinyModel(), TinyDataModule())
    except HeliosError as error:
        told += [str(error), *notes_of(error)]
    told += [*caplog.messages, *capsys.readouterr()]
    assert any("forged" in text for text in told)
    for line in "\n".join(told).split("\n"):
        assert line.isprintable()
        assert not line.startswith("9  forged")


def test_unknown_name_to_block(make_trainer: Make) -> None:
    with pytest.raises(HeliosError) as caught:
        make_trainer(block=[f"name{FORGED}"])
    assert str(caught.value).isprintable()


def test_path_of_the_code(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "a\x1b[2K" / "plug.py"
    file.parent.mkdir()
    text = "import helios\nclass Mine(helios.Plugin):\n    def setup(self): ...\n"
    file.write_text(text)
    namespace: dict[str, Any] = {"__name__": "plug", "__file__": str(file)}
    exec(compile(text, str(file), "exec"), namespace)
    with pytest.raises(HeliosError) as caught:
        make_trainer(plugins=[namespace["Mine"]("a"), namespace["Mine"]("a")])
    assert "\x1b" not in str(caught.value)


def test_error_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    error = PluginLoadError("cannot import")
    error.__cause__ = ValueError(FORGED)
    with pytest.raises(Exception):  # noqa: B017, PT011 - typer's way to end a command
        output.fail("plugins show", error, as_json=False)
    told = capsys.readouterr().err
    assert all(line.isprintable() for line in told.splitlines())
    assert r"\x1b[2K" in told


def test_error_whose_text_and_notes_are_of_no_use() -> None:
    class Odd(Exception):
        __notes__ = 3

        def __str__(self) -> str:
            raise SystemExit

    facts = output.error_facts(Odd())
    assert facts["message"] == "(its text cannot be read: SystemExit)"
    assert facts["notes"] == []
