"""A trainer, a model and a data module from the command line or a configuration file."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from helios.data import DataModule
from helios.errors import ConfigurationError, HeliosError, nearest
from helios.model import Model
from helios.trainer.arguments import foreign
from helios.trainer.trainer import Trainer

_UNKNOWN = "unrecognized arguments: "


def from_command_line(
    model: Callable[..., Model],
    data: Callable[..., DataModule],
    arguments: Sequence[str] | None = None,
    **defaults: Any,
) -> tuple[Trainer, Model, DataModule]:
    """Create a trainer, a model and a data module from the options of a program.

    The options are ``--trainer.NAME``, ``--model.NAME`` and ``--data.NAME``, with the arguments of
    the constructors as names. ``--config FILE`` reads them from a file in YAML or JSON;
    ``--print_config`` prints such a file, and ``--help`` lists all options. If an option is wrong,
    the program ends with exit code 2 and a message that names it.

    Args:
        model: the class of the model, or a function that returns one; its annotations are the
            types of the options.
        data: the class of the data module, or a function that returns one.
        arguments: the options; those of the program by default.
        defaults: the arguments of the trainer if no option gives them.

    Returns:
        The trainer, the model and the data module.

    Raises:
        ConfigurationError: jsonargparse, which reads the options, is not installed.
    """
    parser = _create_parser(model, data)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        parser.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})
        created = parser.instantiate(parser.parse_args(given))
    except _argument_error() as error:
        _end(parser, str(error))
    except HeliosError as error:
        _end(parser, str(error))
    return created.trainer, _made(model, created, "model"), _made(data, created, "data")


def _made(create: Callable[..., Any], created: Any, name: str) -> Any:
    """Return an object that jsonargparse has created; call a function, which it does not."""
    found = getattr(created, name, None)
    if isinstance(create, type) and isinstance(found, create):
        return found
    return create(**({} if found is None else vars(found)))


def _create_parser(model: Any, data: Any) -> Any:
    try:
        import jsonargparse  # an extra
    except ImportError as error:
        raise ConfigurationError(
            "from_command_line() needs jsonargparse: pip install 'helios-trainer[cli]'"
        ) from error
    parser = jsonargparse.ArgumentParser(
        allow_abbrev=False,
        exit_on_error=False,
        usage="%(prog)s [--config FILE] [--trainer.NAME VALUE] [--model.NAME VALUE]"
        " [--data.NAME VALUE] ...",
    )
    parser.add_argument("--config", action="config", help="A file with options, in YAML or JSON.")
    for name, create in (("trainer", Trainer), ("model", model), ("data", data)):
        if isinstance(create, type):
            parser.add_class_arguments(create, name)
        else:
            parser.add_function_arguments(create, name)
    return parser


def _argument_error() -> type[Exception]:
    import argparse

    return argparse.ArgumentError


def _end(parser: Any, message: str) -> NoReturn:
    """End the program with a message that names the option."""
    message = message.strip()
    if _UNKNOWN in message:
        option = message.partition(_UNKNOWN)[2].split()[0].partition("=")[0]
        message += "." + _hint(parser, option)
    print(f"{parser.prog}: {message}", file=sys.stderr)
    print(f"For all options: {parser.prog} --help", file=sys.stderr)
    raise SystemExit(2)


def _hint(parser: Any, option: str) -> str:
    """Return what to write instead of an option that does not exist."""
    group, _, name = option.rpartition(".")
    if group == "--trainer" and name in foreign.ARGUMENTS:
        return f" This is a word of other trainers. Instead, {foreign.ARGUMENTS[name]}."
    known = [each for action in parser._actions for each in action.option_strings]  # noqa: SLF001 - no public list
    return nearest(option, [each for each in known if each.startswith(f"{group}.")] or known)
