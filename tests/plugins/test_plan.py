"""The plan as text, dictionary and digest; and what is gathered from arguments and environment."""

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make

from helios import Plugin
from helios.errors import ConfigurationError, UnknownNameError
from helios.plugins import PluginPlan
from helios.plugins.activation.selection import (
    BLOCK_VARIABLE,
    DISABLE_VARIABLE,
    PLUGINS_VARIABLE,
    Selection,
)
from helios.plugins.discovery.provenance import origin_of
from helios.plugins.plans.plan import Inactive, PlanEntry
from helios.testing import TinyDataModule, TinyModel

EMA = PlanEntry("ema", "helios-ema", "1.2", "installed", ("setup", "on_log"), ())
MIXUP = PlanEntry(
    "mixup",
    "",
    "",
    "passed in Trainer(plugins=...)",
    ("setup", "process_training_batch"),
    ("training_batch",),
    summary="Mixes pairs of samples.",
    changes_results=True,
)
OLD = Inactive("old-mixup", "helios-mixup", "0.3", "conflicts with 'mixup'")
PLAN = PluginPlan((EMA, MIXUP), (OLD,))
EMPTY = PluginPlan((), ())


# Text.


def test_text_shows_all_of_it_in_order() -> None:
    first, *rows = PLAN.as_text().splitlines()
    assert first == f"2 active plug-ins (plan {PLAN.digest})"
    assert [re.split(r"  +", row.strip()) for row in rows] == [
        ["1", "ema", "helios-ema 1.2", "installed"],
        [
            "2",
            "mixup",
            "(not installed)",
            "passed in Trainer(plugins=...)",
            "changes results: Mixes pairs of samples.",
        ],
        ["installed, but not active"],
        ["-", "old-mixup", "helios-mixup 0.3", "conflicts with 'mixup'"],
    ]


def test_text_is_aligned_and_has_no_trailing_space() -> None:
    rows = PLAN.as_text().splitlines()
    assert rows[1].index("helios-ema") == rows[2].index("(not installed)")
    assert rows[1].index("installed", 25) == rows[2].index("passed in")
    assert all(row == row.rstrip() for row in rows)


def test_text_of_one_and_of_none() -> None:
    assert PluginPlan((EMA,), ()).as_text().startswith("1 active plug-in (plan ")
    assert EMPTY.as_text() == f"0 active plug-ins (plan {EMPTY.digest})"


def test_header_of_a_run_holds_the_plan(
    make_trainer: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(print_banner=True)
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.plan.as_text() in capsys.readouterr().out


def test_names_cannot_forge_lines_of_the_header() -> None:
    forged = PlanEntry("a\n  2  b", "helios-\x1b[2Ka", "1.0\r\u2028\u202e", "installed\x85", (), ())
    plan = PluginPlan((forged, EMA), (dataclasses.replace(OLD, name="old\x0bname"),), "/x\ny")
    lines = plan.as_text().splitlines()
    assert len(lines) == 6
    assert "\\n  2  b" in lines[1]
    assert "helios-\\x1b[2Ka 1.0\\r\\u2028\\u202e" in lines[1]
    assert "old\\x0bname" in lines[4]
    assert all(line.isprintable() for line in lines)


# Dictionary and JSON.


def test_dictionary() -> None:
    assert PLAN.to_dict() == {
        "format": 2,
        "digest": PLAN.digest,
        "active": [
            {
                "id": "ema",
                "distribution": "helios-ema",
                "version": "1.2",
                "reason": "installed",
                "hooks": ["setup", "on_log"],
                "claims": [],
                "order": [],
                "configuration": {},
                "implementation": "",
                "summary": "",
                "changes_results": False,
            },
            {
                "id": "mixup",
                "distribution": "",
                "version": "",
                "reason": "passed in Trainer(plugins=...)",
                "hooks": ["setup", "process_training_batch"],
                "claims": ["training_batch"],
                "order": [],
                "configuration": {},
                "implementation": "",
                "summary": "Mixes pairs of samples.",
                "changes_results": True,
            },
        ],
        "inactive": [
            {
                "name": "old-mixup",
                "distribution": "helios-mixup",
                "version": "0.3",
                "reason": "conflicts with 'mixup'",
            }
        ],
        "configured_in": "",
    }


def test_dictionary_is_plain_enough_for_checkpoints(tmp_path: Any) -> None:
    torch.save(PLAN.to_dict(), tmp_path / "plan.pt")
    assert torch.load(tmp_path / "plan.pt", weights_only=True) == PLAN.to_dict()


def test_json() -> None:
    assert json.loads(PLAN.to_json()) == PLAN.to_dict()
    assert PLAN.to_json().endswith("}\n")


# Digest.


def test_digest_is_short_and_stable() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", PLAN.digest)
    assert PLAN.digest == PluginPlan((EMA, MIXUP), (OLD,)).digest


CHANGES = {
    "order": (MIXUP, EMA),
    "one less": (EMA,),
    "none": (),
    "id": (dataclasses.replace(EMA, id="ema2"), MIXUP),
    "version": (dataclasses.replace(EMA, version="1.3"), MIXUP),
    "distribution": (dataclasses.replace(EMA, distribution="helios-ema-fork"), MIXUP),
    "hooks": (dataclasses.replace(EMA, hooks=("setup",)), MIXUP),
    "configuration": (dataclasses.replace(EMA, configuration={"decay": 0.9}), MIXUP),
    "class": (dataclasses.replace(EMA, implementation="helios_ema:Other"), MIXUP),
    "order of hooks": (dataclasses.replace(EMA, hooks=("on_log", "setup")), MIXUP),
}


@pytest.mark.parametrize("active", CHANGES.values(), ids=CHANGES)
def test_digest_changes_with_what_runs(active: tuple[PlanEntry, ...]) -> None:
    assert PluginPlan(active, (OLD,)).digest != PLAN.digest


def test_digests_of_the_changes_differ_among_themselves() -> None:
    assert len({PluginPlan(active, ()).digest for active in CHANGES.values()}) == len(CHANGES)


def test_digest_does_not_change_with_words_or_what_is_inactive() -> None:
    other = dataclasses.replace(
        EMA, reason="named in HELIOS_PLUGINS", summary="Averages.", changes_results=True
    )
    assert PluginPlan((other, MIXUP), (OLD,)).digest == PLAN.digest
    assert PluginPlan((EMA, MIXUP), ()).digest == PLAN.digest


# The plan of a run.


class Named(Plugin):
    def __init__(self, plug_id: str) -> None:
        super().__init__(plug_id)

    def setup(self) -> None:
        pass

    def process_testing_batch(self, batch: Any) -> Any:
        return batch


class Quiet(Named):
    process_testing_batch = Plugin.process_testing_batch  # the default, thus no implementation


def test_plan_is_fixed_at_launch(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[Quiet("b"), Named("a")])
    assert trainer.plan == EMPTY
    trainer.fit(TinyModel(), TinyDataModule())
    assert [(entry.id, entry.hooks, entry.claims) for entry in trainer.plan.active] == [
        ("b", ("setup",), ()),
        ("a", ("setup", "process_testing_batch"), ("testing_batch",)),
    ]
    assert {entry.reason for entry in trainer.plan.active} == {"passed in Trainer(plugins=...)"}
    assert {entry.distribution for entry in trainer.plan.active} == {""}
    with pytest.raises(dataclasses.FrozenInstanceError):
        trainer.plan.active = ()  # type: ignore[misc]


def test_plans_of_equal_trainers_have_equal_digests(make_trainer: Make) -> None:
    digests = []
    for names in ("ab", "ab", "ba"):
        trainer = make_trainer(plugins=[Named(names[0]), Quiet(names[1])])
        trainer.fit(TinyModel(), TinyDataModule())
        digests.append(trainer.plan.digest)
    assert digests[0] == digests[1] != digests[2]


def test_origin_of_an_instance_is_its_distribution_however_it_was_installed() -> None:
    from helios import __version__
    from helios.plugins.builtin.metrics_file import MetricsFilePlugin

    origin = origin_of(MetricsFilePlugin(), None)
    assert (origin.distribution, origin.version) == ("helios-trainer", __version__)
    assert origin.implementation == "helios.plugins.builtin.metrics_file:MetricsFilePlugin"


def test_plan_says_what_is_installed_but_not_active(make_trainer: Make) -> None:
    trainer = make_trainer(block=["progress"])
    trainer.fit(TinyModel(), TinyDataModule())
    reasons = {inactive.name: inactive.reason for inactive in trainer.plan.inactive}
    assert reasons["progress"] == "blocked by Trainer(block=...)"
    assert reasons["metrics-file"] == "autoloading is off"


# Selection.gather: arguments.


def gather(environ: dict[str, str] | None = None, **arguments: Any) -> Selection:
    given = {"plugins": (), "autoload": True, "block": (), "on_load_error": "raise", **arguments}
    return Selection.gather(**given, environ=environ or {})


@pytest.mark.parametrize("argument", ["plugins", "block", "autoload"])
def test_one_string_instead_of_a_list(argument: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        gather(**{argument: "ema"})
    assert f"Trainer({argument}='ema') is a single string" in str(caught.value)
    assert f"{argument}=['ema']" in str(caught.value)


@pytest.mark.parametrize("autoload", [None, 1, 0, 2.5, {"ema": True}, object()])
def test_wrong_autoload(autoload: Any) -> None:
    with pytest.raises(ConfigurationError, match="True, False, or a list of names"):
        gather(autoload=autoload)


@pytest.mark.parametrize("on_load_error", ["ignore", None, True])
def test_wrong_on_load_error(on_load_error: Any) -> None:
    with pytest.raises(ConfigurationError, match="'raise' or 'skip'"):
        gather(on_load_error=on_load_error)


@pytest.mark.parametrize("argument", ["plugins", "block"])
@pytest.mark.parametrize(
    "value",
    [None, 3, Named("alone"), {"ema": {}}],
    ids=["None", "number", "plug-in", "dictionary"],
)
def test_something_else_instead_of_a_list(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"Trainer\({argument}=.*list"):
        gather(**{argument: value})


def test_arguments_are_kept_with_their_source() -> None:
    instance = Named("mine")
    selection = gather(plugins=[instance, "ema", ("mixup", {"alpha": 1})], block=["old"])
    source = "Trainer(plugins=...)"
    assert selection.explicit == (
        (instance, source),
        ("ema", source),
        (("mixup", {"alpha": 1}), source),
    )
    assert selection.blocked == {"old": "Trainer(block=...)"}
    assert selection.autoload is True


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_allow_list_may_be_any_collection(kind: Callable[[list[str]], Any]) -> None:
    assert gather(autoload=kind(["ema"])).autoload == ("ema",)


def test_autoload_false() -> None:
    assert gather(autoload=False).autoload is False


# Selection.gather: environment.


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (" ", []),
        (",", []),
        ("ema", ["ema"]),
        ("ema,mixup", ["ema", "mixup"]),
        (" ema , mixup ,, ", ["ema", "mixup"]),
        ("helios-ema:ema", ["helios-ema:ema"]),
    ],
)
def test_names_in_the_environment(text: str, names: list[str]) -> None:
    selection = gather({PLUGINS_VARIABLE: text, BLOCK_VARIABLE: text})
    assert selection.explicit == tuple((name, "HELIOS_PLUGINS") for name in names)
    assert selection.blocked == dict.fromkeys(names, "HELIOS_BLOCK_PLUGINS")


def test_environment_adds_to_arguments() -> None:
    selection = gather(
        {PLUGINS_VARIABLE: "ema", BLOCK_VARIABLE: "old"}, plugins=["mixup"], block=["older"]
    )
    assert [request for request, _ in selection.explicit] == ["mixup", "ema"]
    assert list(selection.blocked) == ["older", "old"]


@pytest.mark.parametrize("autoload", [True, ["ema"], False])
@pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes", " 1 "])
def test_environment_disables_autoloading(value: str, autoload: Any) -> None:
    assert gather({DISABLE_VARIABLE: value}, autoload=autoload).autoload is False


@pytest.mark.parametrize("value", ["", " ", "0", "false", "False", "no"])
def test_environment_leaves_autoloading_on(value: str) -> None:
    assert gather({DISABLE_VARIABLE: value}).autoload is True
    assert gather({DISABLE_VARIABLE: value}, autoload=["ema"]).autoload == ("ema",)


def test_the_environment_of_the_process_is_read(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "metrics-file, progress")
    monkeypatch.setenv(BLOCK_VARIABLE, "metrics-file")
    assert list(make_trainer().plugins) == ["progress"]


# What a trainer makes of it.


def test_unknown_name_says_where_it_was_written(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_trainer(plugins=["progres"])
    assert "no plug-in is called 'progres' (named in Trainer(plugins=...))" in str(caught.value)
    assert "Did you mean 'progress'?" in str(caught.value)
    monkeypatch.delenv(DISABLE_VARIABLE)
    with pytest.raises(UnknownNameError, match=r"named in Trainer\(autoload=\[\.\.\.\]\)"):
        make_trainer(autoload=["progres"])
    monkeypatch.setenv(PLUGINS_VARIABLE, "progres")
    with pytest.raises(UnknownNameError, match="named in HELIOS_PLUGINS"):
        make_trainer()


@pytest.mark.parametrize("request_", [("progress",), ("progress", 3), (3, {}), ()], ids=repr)
def test_malformed_pair(make_trainer: Make, request_: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'\("ema", \{"decay": 0\.99\}\)'):
        make_trainer(plugins=[request_])


def test_block_of_something_unknown_is_an_error(make_trainer: Make) -> None:
    with pytest.raises(UnknownNameError, match=r"'progres'.*Did you mean 'progress'"):
        make_trainer(block=["progres"])


def test_block_of_something_unknown_outside_of_the_code_is_a_warning(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOS_BLOCK_PLUGINS", "progres")
    with pytest.warns(UserWarning, match="'progres'.*Did you mean 'progress'"):
        make_trainer()


def test_order_is_that_of_the_arguments_then_the_environment(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "preemption")
    trainer = make_trainer(plugins=[Named("b"), "progress", Quiet("a")])
    assert list(trainer.plugins) == ["b", "progress", "a", "preemption"]


@pytest.mark.parametrize(
    "spelling", ["metrics-file", "Metrics_File", "helios-trainer:metrics.file"]
)
def test_names_are_canonical_everywhere(make_trainer: Make, spelling: str) -> None:
    assert list(make_trainer(plugins=[spelling]).plugins) == ["metrics-file"]
    assert list(make_trainer(plugins=["metrics-file"], block=[spelling]).plugins) == []
