"""Validate and test with an exponential moving average of the weights."""

from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helios import Model, Plugin


class EMAPlugin(Plugin):
    """Averages all weights after each optimizer step, which keeps ``decay`` of the average."""

    changes_results = True

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__("ema")
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def setup(self) -> None:
        """Begin each run without averages."""
        self._averages: dict[str, AveragedModel] = {}
        self._saved: dict[str, Any] = {}
        self._is_swapped = False

    def on_model_ready(self, model: Model) -> None:
        """Create the averages, with their state if the run resumes."""
        for name, network in model.networks():
            self._averages[name] = AveragedModel(network, multi_avg_fn=self._update)
            if name in self._saved:
                self._averages[name].load_state_dict(self._saved[name])

    def on_after_optimizer_step(self) -> None:
        """Average the weights; the steps of all optimizers count."""
        for name, network in self.trainer.model.networks():
            self._averages[name].update_parameters(network)

    def on_validation_start(self) -> None:
        """Exchange weights and averages, if a step was averaged."""
        self._is_swapped = not self._is_swapped
        for name, network in self.trainer.model.networks():
            average = self._averages[name]
            if average.n_averaged:
                for weight, other in zip(network.parameters(), average.parameters(), strict=True):
                    weight.data, other.data = other.data, weight.data

    on_validation_end = on_testing_start = on_testing_end = on_validation_start

    def teardown(self) -> None:
        """Restore the weights if a validation or a test has failed."""
        if self._is_swapped:
            self.on_validation_start()

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {name: average.state_dict() for name, average in self._averages.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the averages until the networks exist."""
        self._saved = state_dict
