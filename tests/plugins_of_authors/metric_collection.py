"""Compute metrics of torchmetrics for each validation and test, whatever the model."""

from typing import TYPE_CHECKING, Any

from helios import Plugin

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class MetricCollectionPlugin(Plugin):
    """Updates metrics with what the model returns for each batch, and logs them at the end.

    Nothing remains between two validations, so the plug-in needs no state.

    Args:
        metrics: the metrics, which compare the outputs with ``batch[1]``.
    """

    def __init__(self, metrics: "MetricCollection") -> None:
        super().__init__("metric-collection")
        self._metrics = metrics

    def setup(self) -> None:
        """Move the metrics to the device."""
        self._metrics.to(self.device)

    def on_validation_start(self) -> None:
        """Forget the batches of a validation that was interrupted."""
        self._metrics.reset()

    def on_validation_batch_end(self, outputs: Any, batch: Any) -> None:
        """Add a batch."""
        self._metrics.update(outputs, batch[1])

    def on_validation_end(self) -> None:
        """Log the values; the trainer enters them into ``model.metrics``."""
        for name, value in self._metrics.compute().items():
            self.log(name, value)

    on_testing_start = on_validation_start
    on_testing_batch_end = on_validation_batch_end
    on_testing_end = on_validation_end
