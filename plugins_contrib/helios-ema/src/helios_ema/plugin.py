"""The plug-in that averages the weights, and evaluates the model with the averages."""

import logging
from typing import TYPE_CHECKING, Any

from helios import Plugin, TrainingState
from helios.errors import ConfigurationError
from helios_ema.average import AveragedNetwork, split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_logger = logging.getLogger(
    "helios.ema"
)  # a child of "helios", so its messages go to the log of the run


class EMAPlugin(Plugin):
    """Keeps an exponential moving average of every network, for validation and testing.

    The first average is a copy of the weights after the first optimizer step. After each later
    training batch with an optimizer step, ``average = decay * average + (1 - decay) * weights``.
    The networks contain the averages during validation and testing. Then the plug-in restores the
    trained weights. Checkpoints contain both.

    Args:
        decay: the fraction of the average that each step keeps, at least 0 and less than 1. The
            average covers about ``1 / (1 - decay)`` steps.

    Raises:
        ConfigurationError: ``decay`` is not a number in this range.

    Example:
        .. code-block:: python

            trainer = helios.Trainer(total_steps=10, plugins=[EMAPlugin(decay=0.99)])
            trainer.fit(model, data)
            shipped = trainer.plugins["ema"].averages["net"].module
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__("ema")
        is_number = isinstance(decay, int | float) and not isinstance(decay, bool)
        if not is_number or not 0 <= decay < 1:
            raise ConfigurationError(
                f"EMAPlugin(decay={decay!r}): decay is the fraction of the average that each step"
                " keeps, at least 0 and less than 1: write decay=0.999 to average over about 1000"
                " steps, or decay=0.99 for about 100."
            )
        self.decay = decay
        self._averages: dict[str, AveragedNetwork] = {}
        self._networks: dict[str, torch.nn.Module] = {}
        self._restored: dict[str, Any] = {}
        self._has_stepped = False
        self._trained: list[tuple[Tensor, Tensor]] = []

    @property
    def averages(self) -> dict[str, AveragedNetwork]:
        """The averages by the name of the model's attribute; empty before the first run."""
        return self._averages

    def setup(self) -> None:
        """Reset the restored state of an earlier run, but keep its averages for checkpoints."""
        self._restored = {}
        self._has_stepped = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each average, by the name of its network."""
        return {name: average.state_dict() for name, average in self._averages.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the averages until the run starts, because the networks may not exist yet."""
        self._restored = state_dict

    # Training.

    def on_training_start(self) -> None:
        """Create the averages, and restore the saved ones."""
        self._averages = self._build(dict(self.trainer.model.networks()))

    def on_after_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Record the step; a batch may have several steps by several optimizers."""
        self._has_stepped = True

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Update the averages if the batch has changed the weights."""
        if self._has_stepped:
            self._has_stepped = False
            for name, average in self._averages.items():
                average.update_parameters(self._networks[name])

    def on_training_end(self) -> None:
        """Restore the weights after an interrupted validation; warn if nothing was averaged."""
        self._restore_weights()
        is_empty = any(average.n_averaged == 0 for average in self._averages.values())
        if is_empty and self.trainer.state.running_iter:
            _logger.warning(
                "plug-in 'ema' saw no optimizer step, so it averaged nothing: let the model take"
                " its steps through self.optimize(loss, optimizer)."
            )

    # Evaluation.

    def on_validation_start(self, validation_cycle: int) -> None:
        """Copy the averages into the networks."""
        self._apply_averages()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Restore the trained weights."""
        self._restore_weights()

    def on_testing_start(self) -> None:
        """Copy the restored averages into the networks; without any, do nothing."""
        networks = dict(self.trainer.model.networks())
        self._averages = self._build({n: net for n, net in networks.items() if n in self._restored})
        self._apply_averages()

    def on_testing_end(self) -> None:
        """Restore the trained weights."""
        self._restore_weights()

    def teardown(self) -> None:
        """Restore the trained weights if the run failed during validation or testing."""
        self._restore_weights()

    def _build(self, networks: "dict[str, torch.nn.Module]") -> dict[str, AveragedNetwork]:
        self._networks = networks
        averages = {}
        for name, network in networks.items():
            if split(network)[0]:  # losses and metrics are also modules, but have no weights
                averages[name] = AveragedNetwork(network, self.decay)
                if name in self._restored:
                    averages[name].load_state_dict(self._restored[name])
        self._restored = {}
        return averages

    def _apply_averages(self) -> None:
        pairs = [
            pair
            for name, average in self._averages.items()
            if average.n_averaged > 0
            for pair in zip(split(self._networks[name])[0], split(average.module)[0], strict=True)
        ]
        # Networks may share weights, so save all weights before replacing the first one.
        self._trained = [(weight, weight.clone()) for weight, _ in pairs]
        for weight, average in pairs:
            weight.copy_(average)

    def _restore_weights(self) -> None:
        for weight, trained in self._trained:
            weight.copy_(trained)
        self._trained = []
