"""Prints, for each situation, what a user is shown; run beside the packages that it needs."""

import contextlib
import io
import json
import logging
import os
import pathlib
import re
import sys
import traceback

import helios
from helios.testing import TinyDataModule, TinyModel

SITUATIONS = {}


def situation(function):
    SITUATIONS[function.__name__] = function
    return function


@contextlib.contextmanager
def set_variable(name, value="1"):
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def project_file(text):
    path = pathlib.Path("pyproject.toml")
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.unlink()


def trainer(**arguments):
    """Make a trainer that sees nothing but the sample packages that it names."""
    fixed = {"total_steps": 1, "valid_frequency": 1, "use_cpu": True, "print_banner": False}
    return helios.Trainer(**{**fixed, "autoload": False, **arguments})


def logged(run):
    """Return what a run says in the log, with tracebacks of the plug-ins."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    logging.getLogger("helios").addHandler(handler)
    try:
        run()
    finally:
        logging.getLogger("helios").removeHandler(handler)
    return stream.getvalue()


@situation
def conflict():
    trainer(autoload=["mix-up", "patchmix"])


@situation
def conflict_of_what_was_named():
    trainer(plugins=["mix-up", "patchmix"])


@situation
def several_problems():
    trainer(
        plugins=["recordr", ("warm-up", {"stepps": 3})],
        autoload=["mix-up", "patchmix", "sample-schedule>=2"],
    )


@situation
def cycle():
    with set_variable("SCHEDULE_HAS_A_CYCLE"):
        trainer(autoload=["sample-schedule"])


@situation
def unknown_name():
    trainer(plugins=["warm_upp"])


@situation
def unknown_name_in_the_project_file():
    with project_file('[tool.helios]\nenable = ["warm-up", "cooldown"]\n'):
        trainer()


@situation
def unknown_key_in_the_project_file():
    with project_file("[tool.helios]\nauto-load = false\n"):
        trainer()


@situation
def wrong_type_in_the_project_file():
    with project_file('[tool.helios.plugins.warm-up]\nsteps = "many"\n'):
        trainer(plugins=["warm-up"])


@situation
def unknown_argument_in_the_project_file():
    with project_file("[tool.helios.plugins.warm-up]\nstep = 3\n"):
        trainer(autoload=["warm-up"])


@situation
def wrong_type_in_python():
    trainer(plugins=[("warm-up", {"curve": "cubic"})])


@situation
def unmet_version():
    trainer(autoload=["sample-schedule>=2,<3"])


@situation
def load_failure():
    trainer(autoload=["broken"])


@situation
def quarantine():
    def run():
        with set_variable("OBSERVER_FAILS"):
            made = trainer(plugins=["observer", "warm-up"], run_root="quarantine")
            made.fit(TinyModel(), TinyDataModule())

    return logged(run)


@situation
def drift_on_resume():
    def first():
        trainer(plugins=["observer", ("warm-up", {"steps": 3}), "cool-down"], run_root="drift").fit(
            TinyModel(), TinyDataModule()
        )

    def second():
        trainer(plugins=["mix-up", ("warm-up", {"steps": 4})], run_root="drift", **more).fit(
            TinyModel(), TinyDataModule()
        )

    logged(first)
    more = {"total_steps": 2}
    return logged(second)


@situation
def drift_refused():
    arguments = {"run_root": "drift", "total_steps": 4, "resume_plugins": "strict"}
    renamed = ("warm-up", {"plug_id": "warming-up"})
    trainer(plugins=["mix-up", renamed], **arguments).fit(TinyModel(), TinyDataModule())


def shown(error):
    """Return an error as Python shows it, of the traceback only what belongs to plug-ins."""
    lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
    for frame in traceback.extract_tb(error.__traceback__):
        if pathlib.Path(frame.filename).name.startswith("sample_"):
            lines.append(f"  in {frame.filename}, line {frame.lineno}: {frame.line}")
    for each in getattr(error, "exceptions", ()):
        lines += ["", shown(each)]
    if error.__cause__ is not None:
        lines += ["", "caused by", shown(error.__cause__)]
    return "\n".join(lines)


def main():
    texts = {}
    for name, function in SITUATIONS.items():
        for module in [module for module in sys.modules if module.startswith("sample_")]:
            del sys.modules[module]
        with contextlib.redirect_stdout(io.StringIO()):  # plug-ins print what they do
            try:
                texts[name] = function()
            except Exception as error:
                texts[name] = shown(error)
    site_packages = next(path for path in sys.path if path.startswith(sys.prefix))
    home = str(pathlib.Path(helios.__file__).parent)
    for name, text in texts.items():
        text = text.replace(site_packages, "<site-packages>").replace(os.getcwd(), "<folder>")
        text = text.replace(home, "<helios>")
        # Where Helios itself stands in a traceback is nobody's business here.
        text = re.sub(r'  File "(?!<site-packages>/sample_)[^\n]*\n(    [^\n]*\n)*', "", text)
        texts[name] = re.sub(r"(metrics file|0x[0-9a-f]+)", "<address>", text)
    json.dump(texts, sys.stdout)


main()
