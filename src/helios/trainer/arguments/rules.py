"""The kinds of a trainer's arguments, as a table."""

from collections.abc import Mapping
from typing import Any

from helios.core import rules

_TRUE_OR_FALSE = (
    "enable_cudnn_benchmark",
    "enable_deterministic",
    "enable_progress_bar",
    "print_banner",
    "profile_plugins",
    "async_checkpoints",
)


def _gpus(value: Any) -> str | None:
    is_list = isinstance(value, list | tuple) and all(
        isinstance(item, int) and not isinstance(item, bool) for item in value
    )
    return None if is_list else "write a list of numbers, such as [0]."


def _dotted(value: Any) -> str | None:
    is_name = isinstance(value, str) and (
        not value or all(part.isidentifier() for part in value.split("."))
    )
    return None if is_name else "write the dotted name of a package, such as 'project.models'."


def _requests(argument: str, of: str, *, strings: bool, may_be_bool: bool = False) -> rules.Rule:
    """Accept a list of names; the plug-ins themselves are checked when they are used."""

    def rule(value: Any) -> str | None:
        if isinstance(value, str):
            return f"this is a single string: write a list, {argument}=[{rules.shown(value)}]."
        is_list = isinstance(value, list | tuple | set | frozenset)
        if is_list and strings:
            is_list = all(isinstance(item, str) for item in value)
        is_right = is_list or (may_be_bool and isinstance(value, bool))
        return None if is_right else f"write {of}."

    return rule


RULES: Mapping[str, rules.Rule] = {
    **dict.fromkeys(_TRUE_OR_FALSE, rules.switch),
    "run_name": rules.file_name,
    "use_cpu": rules.optional(rules.switch),
    "gpus": rules.optional(_gpus),
    "run_root": rules.optional(rules.folder),
    "chkpt_root": rules.optional(rules.folder),
    "src_root": rules.optional(rules.folder),
    "import_prefix": _dotted,
    "parallel": rules.optional(rules.choice("ddp", "fsdp")),
    "on_load_error": rules.choice("raise", "skip"),
    "plugins": _requests("plugins", "a list of names, or of plug-ins", strings=False),
    "block": _requests("block", "a list of names", strings=True),
    "autoload": _requests(
        "autoload", "True, False, or a list of names", strings=True, may_be_bool=True
    ),
}
"""The rules by argument. ``settings.py`` checks the others, and what depends on two of them."""
