"""The runs that train nothing: they evaluate weights that exist."""

import pathlib
from typing import Any, Literal

from helios.errors import ConfigurationError, StoppedError
from helios.model.releases import call_with_flag
from helios.trainer import loops, parts
from helios.trainer.arguments import unused
from helios.trainer.inputs.batches import Batches
from helios.trainer.predictions import Predictions, common_numbers
from helios.trainer.run import Run
from helios.trainer.teardown import Teardown


class Evaluation(Run):
    """One ``validate``, ``test`` or ``predict`` in one process."""

    def evaluate(self, teardown: Teardown) -> Any:
        """Evaluate the newest checkpoint, the trained states, or the weights that the model loads.

        Returns:
            The predictions, if they are collected.
        """
        report, purpose = self.job.reporter, self.job.purpose
        self._set_up(teardown, fast_init=True)
        if purpose != "predict":
            kind: Literal["valid", "test"] = "valid" if purpose == "validate" else "test"
            data = self.job.datamodule
            report.warn(unused.unused_in_evaluation(self.model, data, self.hooks, kind))
        self._find_files(self._restore_weights())
        predictions = None
        if purpose == "validate":
            report.doing = "validating"
            self.control.interruptible = True  # an urgent stop ends it; no later run repeats it
            loops.validate_alone(self)
        elif purpose == "test":
            report.doing = "testing"
            loops.test(self)
        else:
            report.doing = "predicting with"
            predictions = self._predict()
        report.show_stops(self.control.requests)
        return predictions

    def _predict(self) -> Any:
        prediction = self.job.prediction
        assert prediction is not None, "the job says what to predict"
        assert isinstance(self.batches, Batches), "virtual ranks do not predict"
        batches = self.batches.prediction(prediction.split)
        if batches is None:
            kind = prediction.split.value
            raise ConfigurationError(
                f"nothing is predicted, because {type(self.job.datamodule).__name__} has no {kind}"
                f" set: assign self._{kind}_dataset = self._create_dataset(...) in setup(), or pass"
                " another split."
            )
        names, group = self.batches.divided, self.group
        numbers = common_numbers(self.batches.numbers, names, group, self.place.rank)
        predictions = Predictions(prediction.writer, numbers)
        name_metrics = self.batches.begin_set

        def begin_set(name: str | None) -> None:
            name_metrics(name)
            predictions.begin_set(name)

        self.batches.begin_set = begin_set
        loops.predict(self, batches, predictions)
        if not predictions.is_complete and self.control.final_error is None:
            reasons = "; ".join(request.reason for request in self.control.requests)
            raise StoppedError(
                f"the prediction was stopped before it was complete: {reasons}. If it has a writer,"
                " that has received the first batches only."
            )
        return predictions.result(group, names) if predictions.is_complete else None

    def _restore_weights(self) -> pathlib.Path | None:
        """Restore the wanted checkpoint or the trained states, or let the model load weights.

        Returns:
            The path of the checkpoint, if there is one.
        """
        report, trained = self.job.reporter, self.job.trained
        path = self.checkpoints.begin_restore(self.job.wanted, compare_plans=False)
        if path is None and trained is not None:
            self.manager.load_state_dict(trained.plugins)
        self._complete_model()
        self.checkpoints.restore()
        if path is not None:
            report.show_restored(path, self.validations.story_of_weights())
            self.manager.hook.on_checkpoint_loaded(path=path, state=self.state)
        elif trained is None:
            self.model.load_for_testing()
        else:
            self.session.changes.load_for_test(trained.changes)
            call_with_flag(self.model.load_state_dict, trained.model, fast_init=True)
        return path

    def _parts(self) -> list[parts.Part]:
        return parts.parts_of_test(
            state=self.state,
            model=self.model,
            session=self.session,
            plugins=self.plugin_states,
            validations=self.validations,
            folder=self.job.folder,
            group=self.job.group,
            place=self.job.place,
        )
