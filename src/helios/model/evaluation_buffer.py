"""The values that a model logs in an evaluation of one set, or of several with names."""

from helios.model.metrics import Metric, MetricBuffer, Number


class EvaluationBuffer(MetricBuffer):
    """The weighted means of values; those of a set with a name end with its name.

    Attributes:
        set_name: the name of the set that is evaluated; ``None`` if it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set_name: str | None = None

    def begin_set(self, name: str | None) -> None:
        """Log the following values for another set; ``None`` after the last one.

        A metric that accumulates a state is computed for the set that has ended, and reset.
        """
        if name != self.set_name:
            self.settle()
        self.set_name = name

    def add(self, name: str, value: Number, weight: Number = 1) -> None:
        """Add a value to the mean of its name in the current set."""
        super().add(self._full(name), value, weight)

    def add_metric(self, name: str, metric: Metric) -> None:
        """Compute a metric at the end of the current set, and then reset it."""
        super().add_metric(self._full(name), metric)

    def _full(self, name: str) -> str:
        return name if self.set_name is None else f"{name}/{self.set_name}"
