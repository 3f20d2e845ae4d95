"""``fit`` twice, ``fit`` then ``test``, two trainers, one data module: nothing grows."""

import logging
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import pytest

from helios import Trainer
from helios.plugins.metrics_file import MetricsFilePlugin
from helios.plugins.preemption import PreemptionPlugin
from helios.testing import TinyDataModule, TinyModel

Make = Callable[..., Trainer]


class Phased(TinyDataModule):
    """Adds its second phase in ``setup``, which each run calls again."""

    def setup(self) -> None:
        super().setup()
        assert self.train_dataset is not None
        self._add_train_phase(self.train_dataset, {"batch_size": 4})


class PhasedModel(TinyModel):
    def should_advance_dataset_phase(self) -> bool:
        return True


def size_of_everything(
    root: pathlib.Path, trainers: list[Trainer], model: TinyModel, data: TinyDataModule
) -> dict[str, Any]:
    """Return what would be larger, if something were left behind by each run."""
    return {
        "files": sorted(str(path.relative_to(root)) for path in root.rglob("*")),
        "log handlers": len(logging.getLogger("helios").handlers),
        "signal handlers": [signal.getsignal(number) for number in PreemptionPlugin.signals],
        "phases": len(data._train_phases),
        "configuration": [len(vars(t)["_configured_by"]) for t in trainers],
        "configuration of the model": len(vars(model)["_configured_by"]),
        "plug-ins": [list(trainer.plugins) for trainer in trainers],
        "in pluggy": [len(t.plugin_manager.get_plugins()) for t in trainers],
        "left out": [len(trainer.plugin_manager.inactive) for trainer in trainers],
        "hooks of the model": sorted(vars(model)),
    }


@pytest.mark.parametrize("runs", ["fit", "fit test", "fit test fit"])
def test_further_runs_leave_nothing_behind(
    make_trainer: Make, tmp_path: pathlib.Path, runs: str
) -> None:
    model, data = PhasedModel(), Phased()
    trainers = [
        make_trainer(
            valid_frequency=1,
            print_frequency=4,
            run_root=tmp_path / str(number),
            plugins=[MetricsFilePlugin(), PreemptionPlugin()],
        )
        for number in range(2)
    ]

    def go() -> dict[str, Any]:
        for trainer in trainers:
            for run in runs.split():
                getattr(trainer, run)(model, data)
        return size_of_everything(tmp_path, trainers, model, data)

    first = go()
    assert first["phases"] == 2
    assert [go() for _ in range(3)] == [first] * 3
