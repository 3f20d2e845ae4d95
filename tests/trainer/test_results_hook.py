"""The results of validations, and the phase of logged values, which plug-ins receive."""

from typing import Any

from helpers import Make, Named

from helios import Trainer
from helios.testing import TinyDataModule, TinyModel


class Judged(TinyModel):
    """Improves in every second validation, and logs at the end of each."""

    def on_validation_end(self, validation_cycle: int) -> None:
        self.log("late", float(validation_cycle))

    def have_metrics_improved(self) -> bool:
        return self.metrics["late"] % 2 == 0

    def on_training_epoch_end(self, current_epoch: int) -> None:
        self.log("epoch", 1.0)


class Results(Named):
    """Notes the results of validations, and the phases of logged values."""

    def __init__(self) -> None:
        super().__init__("results")
        self._results: list[Any] = []
        self._phases: list[Any] = []

    def on_validation_results(
        self, metrics: dict[str, Any], improved: bool, validation_cycle: int
    ) -> None:
        assert metrics is self.trainer.model.metrics
        self._results.append((sorted(metrics), metrics["late"], improved, validation_cycle))

    def on_log(self, phase: str, metrics: dict[str, float]) -> None:
        self._phases.append((phase, sorted(metrics)))


def trained(make_trainer: Make, **arguments: Any) -> tuple[Trainer, Results]:
    plugin = Results()
    trainer = make_trainer(
        plugins=[plugin], total_steps=2, valid_frequency=1, print_frequency=4, **arguments
    )
    trainer.fit(Judged(), TinyDataModule())
    return trainer, plugin


def test_results_are_complete_and_judged(make_trainer: Make) -> None:
    _, plugin = trained(make_trainer)
    names = ["accuracy", "late"]
    assert plugin._results == [(names, 0.0, True, 0), (names, 1.0, False, 1)]


def test_the_metric_of_the_trainer_decides(make_trainer: Make) -> None:
    plugin = Results()
    trainer = make_trainer(plugins=[plugin], valid_frequency=1, best=("late", "max"))

    class Plain(TinyModel):
        on_validation_end = Judged.on_validation_end

    trainer.fit(Plain(), TinyDataModule())
    assert [improved for _, _, improved, _ in plugin._results] == [True, True]


def test_values_come_with_their_phase(make_trainer: Make) -> None:
    trainer, plugin = trained(make_trainer)
    validation = ("validation", ["accuracy", "late"])
    epoch = ("training", ["epoch"])
    steps = ("training", ["loss"])
    assert plugin._phases == [steps, validation, epoch, steps, steps, validation, epoch]
    trainer.test(Judged(), TinyDataModule())
    assert plugin._phases[-1] == ("testing", ["accuracy"])


def test_an_interrupted_validation_has_no_results(make_trainer: Make) -> None:
    class Stopping(Results):
        def on_validation_batch_start(self, step: int) -> None:
            self.trainer.request_stop("enough", urgent=True)

    plugin = Stopping()
    trainer = make_trainer(plugins=[plugin], valid_frequency=1, max_time=1000.0)
    trainer.fit(Judged(), TinyDataModule())
    assert not plugin._results
    assert trainer.stop_requests


def test_a_plugin_logs_as_the_model_does(make_trainer: Make) -> None:
    class Logging(Named):
        def on_training_batch_end(self, samples: int) -> None:
            self.log("samples", float(samples))

        def on_validation_batch_end(self, step: int) -> None:
            self.log("step", step)

    seen: dict[str, dict[str, float]] = {}

    class Reading(Named):
        def on_log(self, metrics: dict[str, float], phase: str) -> None:
            seen[phase] = metrics

    trainer = make_trainer(
        plugins=[Logging("logging"), Reading("reading")], total_steps=1, valid_frequency=1
    )
    trainer.fit(TinyModel(), TinyDataModule())
    assert seen["training"]["samples"] == (5 * 4 * 4 + 2 * 2) / 22  # weighted by the samples
    assert seen["validation"]["step"] == (0 * 3 + 1 * 3 + 2 * 2) / 8
    assert trainer.model.metrics["step"] == seen["validation"]["step"]
