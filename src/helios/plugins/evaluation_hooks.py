"""The declarations of the hooks of validation, testing and prediction."""

from typing import Any

from helios.plugins.markers import hookspec, unique


class EvaluationSpec:
    """The hooks of runs, and of parts of runs, that train nothing."""

    # Validation.

    @hookspec
    def on_validation_start(self, validation_cycle: int) -> None:
        """Perform any necessary actions when validation starts.

        Args:
            validation_cycle: the validation cycle number, from 0.
        """

    @unique("validation_batch")
    def process_validation_batch(self, batch: Any, step: int) -> Any:
        """Process the validation batch, prior to the model's ``valid_step``.

        Args:
            batch: the batch that the loader returned.
            step: the number of the batch, from 0.

        Returns:
            The batch for the model.
        """
        return batch

    @hookspec
    def on_validation_batch_start(self, batch: Any, samples: int, step: int) -> None:
        """Called after ``process_validation_batch``, before the model's ``valid_step``.

        Args:
            batch: the batch that the model will receive.
            samples: the number of samples that the loader put into it.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_validation_batch_end(self, outputs: Any, batch: Any, samples: int, step: int) -> None:
        """Called after the model's ``valid_step``.

        Args:
            outputs: the return value of ``valid_step``.
            batch: the batch that the model received.
            samples: the number of samples that the loader put into it.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_validation_end(self, validation_cycle: int) -> None:
        """Perform any necessary actions when validation ends.

        Args:
            validation_cycle: the validation cycle number, from 0.
        """

    @hookspec
    def on_validation_results(
        self, metrics: dict[str, Any], improved: bool, validation_cycle: int
    ) -> None:
        """Called when the results of a validation are complete and judged.

        Args:
            metrics: ``model.metrics``, with the values that ``on_validation_end`` logged.
            improved: ``True`` if this validation is the best so far; early stopping counts others.
            validation_cycle: the validation cycle number, from 0.
        """

    # Testing.

    @hookspec
    def on_testing_start(self) -> None:
        """Perform any actions when testing starts."""

    @unique("testing_batch")
    def process_testing_batch(self, batch: Any, step: int) -> Any:
        """Process the testing batch, prior to the model's ``test_step``.

        Args:
            batch: the batch that the loader returned.
            step: the number of the batch, from 0.

        Returns:
            The batch for the model.
        """
        return batch

    @hookspec
    def on_testing_batch_start(self, batch: Any, samples: int, step: int) -> None:
        """Called after ``process_testing_batch``, before the model's ``test_step``.

        Args:
            batch: the batch that the model will receive.
            samples: the number of samples that the loader put into it.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_testing_batch_end(self, outputs: Any, batch: Any, samples: int, step: int) -> None:
        """Called after the model's ``test_step``.

        Args:
            outputs: the return value of ``test_step``.
            batch: the batch that the model received.
            samples: the number of samples that the loader put into it.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_testing_end(self) -> None:
        """Perform any actions when testing ends."""

    # Prediction.

    @hookspec
    def on_prediction_start(self) -> None:
        """Perform any actions when a prediction starts."""

    @unique("prediction_batch")
    def process_prediction_batch(self, batch: Any, step: int) -> Any:
        """Process the batch, prior to the model's ``predict_step``.

        Args:
            batch: the batch that the loader returned.
            step: the number of the batch, from 0.

        Returns:
            The batch for the model.
        """
        return batch

    @hookspec
    def on_prediction_batch_start(self, batch: Any, samples: int, step: int) -> None:
        """Called after ``process_prediction_batch``, before the model's ``predict_step``.

        Args:
            batch: the batch that the model will receive.
            samples: the number of samples that the loader put into it.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_prediction_batch_end(self, outputs: Any, batch: Any, samples: int, step: int) -> None:
        """Called after the model's ``predict_step``, for example to write the predictions.

        Args:
            outputs: the return value of ``predict_step``.
            batch: the batch that the model received.
            samples: the number of samples that the loader put into it.
            step: the number of the batch, from 0.
        """

    @hookspec
    def on_prediction_end(self) -> None:
        """Perform any actions when a prediction ends."""
