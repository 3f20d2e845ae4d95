"""The hooks are declared once; base class, documentation and the founding page must not drift."""

import inspect
import pathlib
import re
from typing import NamedTuple

import pytest

from helios.plugins import HOOKS, Plugin, PluginManager, PluginSpec

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "hooks.md"

FOUNDING = {
    "configure_trainer": ("trainer",),
    "configure_model": ("model",),
    "setup": (),
    "on_training_start": (),
    "process_training_batch": ("batch", "state"),
    "on_training_end": (),
    "on_validation_start": ("validation_cycle",),
    "process_validation_batch": ("batch", "step"),
    "on_validation_end": ("validation_cycle",),
    "should_training_stop": (),
    "on_testing_start": (),
    "process_testing_batch": ("batch", "step"),
    "on_testing_end": (),
}
"""The hooks of the API page that the project was founded on; they never change."""

OVERRIDES = {
    "process_training_batch": "training_batch",
    "process_validation_batch": "validation_batch",
    "process_testing_batch": "testing_batch",
    "should_training_stop": "should_training_stop",
}
"""The hooks that the fields of UniquePluginOverrides stand for."""

NOT_HOOKS = {"applies_to", "log", "state_dict", "load_state_dict", "migrate_state"}
"""Public methods of Plugin that are no hooks."""


class Row(NamedTuple):
    """A row of the documented table."""

    name: str
    arguments: tuple[str, ...]
    when: str
    kind: str


def documented() -> list[Row]:
    rows = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            name, arguments = cells[0].strip("`"), cells[1]
            assert arguments == "—" or "`" in arguments, line
            rows.append(
                Row(name, tuple(re.findall(r"`(\w+)`", arguments)), cells[2], cells[-1].strip("`"))
            )
    return rows


def spec_functions() -> dict[str, object]:
    kinds = [PluginSpec, *PluginSpec.__bases__]
    own = [{name: f for name, f in vars(kind).items() if name[0] != "_"} for kind in kinds]
    return {**own[2], **own[1], **own[0]}


def arguments_of(function: object) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[1:]  # type: ignore[arg-type]


# The single source.


def test_hooks_are_what_the_spec_declares() -> None:
    functions = spec_functions()
    assert list(HOOKS) == list(functions)
    for name, hook in HOOKS.items():
        assert hook.name == name
        assert hook.arguments == arguments_of(functions[name])


def test_every_function_of_the_spec_is_a_hook_of_pluggy() -> None:
    relay = PluginManager().hook
    for name, hook in HOOKS.items():
        spec = getattr(relay, name).spec
        assert spec is not None, f"{name} lacks @hookspec"
        assert tuple(spec.argnames) == hook.arguments
        assert bool(spec.opts["firstresult"]) == hook.has_result


def test_claims_are_distinct() -> None:
    claims = [hook.claim for hook in HOOKS.values() if hook.claim is not None]
    assert len(claims) == len(set(claims))


# The base class.


@pytest.mark.parametrize("name", HOOKS)
def test_plugin_has_a_method_for_each_hook(name: str) -> None:
    assert arguments_of(getattr(Plugin, name)) == HOOKS[name].arguments


def test_plugin_has_no_public_method_that_is_not_a_hook() -> None:
    methods = {
        name
        for name in dir(Plugin)
        if not name.startswith("_") and inspect.isroutine(inspect.getattr_static(Plugin, name))
    }
    assert methods - NOT_HOOKS == set(HOOKS)


# The founding page.


@pytest.mark.parametrize("name", FOUNDING)
def test_hook_of_the_founding_page(name: str) -> None:
    assert HOOKS[name].arguments == FOUNDING[name]
    assert HOOKS[name].claim == OVERRIDES.get(name)


# The documented table.


def test_document_lists_the_hooks_each_once() -> None:
    names = [row.name for row in documented()]
    assert names == list(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_document_describes_the_hook(name: str) -> None:
    rows = [row for row in documented() if row.name == name]
    assert len(rows) == 1
    assert rows[0].arguments == HOOKS[name].arguments
    claim = HOOKS[name].claim
    assert rows[0].kind == ("all" if claim is None else f"one: {claim}")
    assert len(rows[0].when) > 10


# The documented picture.


def pictured() -> list[str]:
    """Return the hooks in the picture of a run, in order."""
    text = DOCUMENT.read_text(encoding="utf-8")
    picture = text.partition("## The order of a run")[2].split("```")[1]
    return re.findall(r"^ *(\w+)", picture, re.MULTILINE)


def test_picture_shows_each_hook_once() -> None:
    assert sorted(pictured()) == sorted(HOOKS)


# The docstrings.


def documented_arguments(docstring: str) -> dict[str, str]:
    """Return the entries of the ``Args`` section of a docstring."""
    section = re.search(r"^Args:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return {}
    return dict(re.findall(r"^    (\w+): (.+)", section[1], re.MULTILINE))


@pytest.mark.parametrize("name", HOOKS)
def test_spec_has_a_docstring_with_an_entry_for_each_argument(name: str) -> None:
    docstring = inspect.getdoc(spec_functions()[name]) or ""
    summary = docstring.partition("\n")[0]
    assert summary.endswith(".")
    assert tuple(documented_arguments(docstring)) == HOOKS[name].arguments


@pytest.mark.parametrize("name", HOOKS)
def test_hook_that_returns_something_says_what(name: str) -> None:
    function = spec_functions()[name]
    returned = inspect.signature(function).return_annotation  # type: ignore[arg-type]
    docstring = inspect.getdoc(function) or ""
    assert returned is not inspect.Signature.empty
    assert (returned is not None) == ("Return" in docstring)
