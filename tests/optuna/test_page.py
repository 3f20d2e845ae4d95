"""The examples of docs/optuna.md, which readers copy."""

import pathlib
import re
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
from searches import Scoring, States

import helios.plugins.optuna
from helios.testing import TinyDataModule

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "optuna.md"


class Classifier(Scoring):
    """Stands in for the model of the page."""

    def __init__(self, lr: float, width: int) -> None:
        super().__init__(lr)

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["accuracy"] = self.metrics["score"]


@pytest.mark.filterwarnings("ignore")  # of Optuna's experimental parts
def test_the_examples_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"Classifier": Classifier, "Digits": TinyDataModule}
    counts = []
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block.replace("n_trials=30", "n_trials=3"), str(PAGE), "exec"), namespace)
        states = [trial.state for trial in namespace["study"].trials]
        assert set(states) <= {States.COMPLETE, States.PRUNED}
        counts.append(len(states))
    assert counts == [3, 2, 2]
    assert (tmp_path / "search" / "trial-2").is_dir()
    assert (tmp_path / "samplers" / "sampler_trial-1.pkl").exists()
    study = namespace["create_or_load_study"](
        storage="sqlite:///study.db", study_name="digits", load_if_exists=True
    )
    assert isinstance(study, optuna.Study)


def test_the_page_names_each_public_function() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in helios.plugins.optuna.__all__ if name not in text] == []
