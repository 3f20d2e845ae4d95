"""The plug-in that averages the weights while training, and lends them to evaluation."""

import logging
from typing import TYPE_CHECKING, Any

from helios import Plugin, TrainingState
from helios.errors import ConfigurationError
from helios_ema.average import AveragedNetwork, split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_logger = logging.getLogger("helios.ema")  # below "helios", so that the log of the run has it


class EMAPlugin(Plugin):
    """Keeps an exponential moving average of every network; validation and testing use it.

    After each training batch that completes an optimizer step, ``average = decay * average +
    (1 - decay) * weights``, beginning with the weights after the first step. The averages are in
    place during validation and testing, and the trained weights are put back at their end.
    Checkpoints hold both.

    Args:
        decay: the share of the average that a step keeps; 0 or more, and less than 1. The
            average reaches back over some ``1 / (1 - decay)`` steps.

    Raises:
        ConfigurationError: ``decay`` is not such a number.

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
                f"EMAPlugin(decay={decay!r}): decay is the share of the average that a step keeps,"
                " a number from 0 up to, but not including, 1: write decay=0.999 to average over"
                " some 1000 steps, decay=0.99 for 100."
            )
        self.decay = decay
        self._averages: dict[str, AveragedNetwork] = {}
        self._networks: dict[str, torch.nn.Module] = {}
        self._restored: dict[str, Any] = {}
        self._has_stepped = False
        self._trained: list[tuple[Tensor, Tensor]] = []

    @property
    def averages(self) -> dict[str, AveragedNetwork]:
        """The averages by the name of the model's attribute, once a run has started."""
        return self._averages

    def setup(self) -> None:
        """Forget what an earlier run restored; its averages stay, for the trainer to keep."""
        self._restored = {}
        self._has_stepped = False

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by the name of their network."""
        return {name: average.state_dict() for name, average in self._averages.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the averages until the run starts; there may be nothing yet to put them into."""
        self._restored = state_dict

    # Averaging.

    def on_training_start(self) -> None:
        """Begin with the restored averages, or with new ones."""
        self._averages = self._build(dict(self.trainer.model.networks()))

    def on_after_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Note the step: a batch may have several, of several optimizers."""
        self._has_stepped = True

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Take the weights into the averages if the batch has changed them."""
        if self._has_stepped:
            self._has_stepped = False
            for name, average in self._averages.items():
                average.update_parameters(self._networks[name])

    def on_training_end(self) -> None:
        """Put the trained weights back if a validation was left; say so if nothing was averaged."""
        self._swap_out()
        is_empty = any(average.n_averaged == 0 for average in self._averages.values())
        if is_empty and self.trainer.state.running_iter:
            _logger.warning(
                "plug-in 'ema' has seen no optimizer step, so it has averaged nothing: let the"
                " model take its steps through self.optimize(loss, optimizer)."
            )

    # Evaluation.

    def on_validation_start(self, validation_cycle: int) -> None:
        """Put the averages into the networks."""
        self._swap_in()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Put the trained weights back."""
        self._swap_out()

    def on_testing_start(self) -> None:
        """Put the restored averages into the networks; without any, there is nothing to do."""
        networks = dict(self.trainer.model.networks())
        self._averages = self._build({n: net for n, net in networks.items() if n in self._restored})
        self._swap_in()

    def on_testing_end(self) -> None:
        """Put the trained weights back."""
        self._swap_out()

    def teardown(self) -> None:
        """Put the trained weights back if the run has failed in between."""
        self._swap_out()

    def _build(self, networks: "dict[str, torch.nn.Module]") -> dict[str, AveragedNetwork]:
        self._networks = networks
        averages = {}
        for name, network in networks.items():
            if split(network)[0]:  # losses and metrics are modules too, without any weights
                averages[name] = AveragedNetwork(network, self.decay)
                if name in self._restored:
                    averages[name].load_state_dict(self._restored[name])
        self._restored = {}
        return averages

    def _swap_in(self) -> None:
        pairs = [
            pair
            for name, average in self._averages.items()
            if average.n_averaged > 0
            for pair in zip(split(self._networks[name])[0], split(average.module)[0], strict=True)
        ]
        # All are saved before the first is replaced: networks may share weights.
        self._trained = [(weight, weight.clone()) for weight, _ in pairs]
        for weight, average in pairs:
            weight.copy_(average)

    def _swap_out(self) -> None:
        for weight, trained in self._trained:
            weight.copy_(trained)
        self._trained = []
