"""The plug-in that averages the weights, and evaluates the model with the averages."""

import logging
from typing import TYPE_CHECKING, Any

from helios import Plugin, TrainingState
from helios.errors import ConfigurationError
from helios_ema.average import Average, AveragedNetwork

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_logger = logging.getLogger(
    "helios.ema"
)  # a child of "helios", so its messages go to the log of the run


class EMAPlugin(Plugin):
    """Keeps an exponential moving average of every network, and evaluates with it.

    The first average is a copy of the weights after the first optimizer step. After each later
    training batch with an optimizer step, ``average = decay * average + (1 - decay) * weights``, in
    float32 or wider. The networks contain the averages during evaluations. Then the
    plug-in restores the trained weights. Checkpoints contain both.

    If the model creates, replaces or extends a network during the run, the plug-in averages the new
    weights from their first step on, and the log says so. A lazy layer is averaged after its first
    batch.

    Args:
        decay: the fraction of the average that each step keeps, at least 0 and less than 1. The
            average covers about ``1 / (1 - decay)`` steps.
        warmup: ``True`` to keep less of it in the first steps, so that the first weights are soon
            forgotten: ``(1 + n) / (10 + n)`` in step ``n``, up to ``decay``.

    Raises:
        ConfigurationError: ``decay`` is not a number in this range, or ``warmup`` is no bool.

    Example:
        .. code-block:: python

            trainer = helios.Trainer(total_steps=10, plugins=[EMAPlugin(decay=0.99)])
            trainer.fit(model, data)
            shipped = trainer.plugins["ema"].averages["net"].module
    """

    summary = "validation and testing use averages of the weights"
    changes_results = True
    exclusives = ("weights-of-evaluations",)

    def __init__(self, decay: float = 0.99, warmup: bool = False) -> None:
        super().__init__("ema")
        is_number = isinstance(decay, int | float) and not isinstance(decay, bool)
        if not is_number or not 0 <= decay < 1:
            raise ConfigurationError(
                f"EMAPlugin(decay={decay!r}): decay is the fraction of the average that each step"
                " keeps, at least 0 and less than 1: write decay=0.999 to average over about 1000"
                " steps, or decay=0.99 for about 100."
            )
        if not isinstance(warmup, bool):
            raise ConfigurationError(f"EMAPlugin(warmup={warmup!r}): write True or False.")
        self.decay = decay
        self.warmup = warmup
        self._averages: dict[str, AveragedNetwork] = {}
        self._networks: dict[str, nn.Module] = {}
        self._restored: dict[str, dict[str, Any]] = {}
        self._is_training = False
        self._has_stepped = False
        self._has_averaged = False
        self._trained: list[tuple[Average, Tensor]] = []

    @property
    def averages(self) -> dict[str, AveragedNetwork]:
        """The averages by the name of the model's attribute; empty before the first run."""
        return self._averages

    def setup(self) -> None:
        """Reset the state of an earlier run, but keep its averages for checkpoints."""
        self._restored = {}
        self._is_training = self._has_stepped = self._has_averaged = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each average, by the name of its network."""
        if self._is_training:
            self._follow()  # the checkpoint may hold other networks than the last step had
        return {
            **self._restored,
            **{name: average.state_dict() for name, average in self._averages.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the averages until the run starts, because the networks may not exist yet."""
        self._restored = {name: dict(state) for name, state in state_dict.items()}

    # Training.

    def on_training_start(self) -> None:
        """Create the averages, and restore the saved ones."""
        self._averages = {}
        self._is_training = True
        self._follow()
        self._has_averaged = any(average.n_averaged for average in self._averages.values())

    def on_after_optimizer_step(
        self, optimizer: "torch.optim.Optimizer", state: TrainingState
    ) -> None:
        """Record the step; a batch may have several steps by several optimizers."""
        self._has_stepped = True

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        """Update the averages if the batch has changed the weights."""
        if self._has_stepped:
            self._has_stepped = False
            self._follow()
            self._forget_restored()
            if self._has_averaged:
                self._report_new(state.current_iteration)
            for average in self._averages.values():
                average.update()
            self._has_averaged = True

    def on_training_end(self) -> None:
        """Restore the weights after an interrupted validation; warn if nothing was averaged."""
        self._restore_weights()
        if self._averages and not self._has_averaged and self.trainer.state.running_iter:
            _logger.warning(
                "plug-in 'ema' saw no optimizer step, so it averaged nothing: let the model take"
                " its steps through self.optimize(loss, optimizer)."
            )

    # Evaluation.

    def on_validation_start(self, validation_cycle: int) -> None:
        """Copy the averages into the networks."""
        if self._is_training:
            self._follow()
            self._apply_averages()
        else:
            self._apply_restored()

    def on_validation_end(self, validation_cycle: int) -> None:
        """Restore the trained weights."""
        self._restore_weights()

    def on_testing_start(self) -> None:
        """Copy the restored averages into the networks; without any, do nothing."""
        self._apply_restored()

    def on_testing_end(self) -> None:
        """Restore the trained weights."""
        self._restore_weights()

    def on_prediction_start(self) -> None:
        """Copy the restored averages into the networks; without any, do nothing."""
        self._apply_restored()

    def on_prediction_end(self) -> None:
        """Restore the trained weights."""
        self._restore_weights()

    def _apply_restored(self) -> None:
        self._averages = {}
        networks = self.trainer.model.networks()
        self._follow({name: net for name, net in networks if name in self._restored})
        self._forget_restored()
        self._apply_averages()

    def teardown(self) -> None:
        """Restore the trained weights if the run failed during an evaluation."""
        self._restore_weights()
        self._is_training = False

    # The networks.

    def _follow(self, networks: "dict[str, nn.Module] | None" = None) -> None:
        """Give each network of the model its average, as far as the model still has its tensors."""
        self._networks = dict(self.trainer.model.networks()) if networks is None else networks
        averages = {}
        for name, network in self._networks.items():
            saved = self._restored.get(name)
            others = () if saved else tuple(self._averages.values())
            average = self._averages.get(name)
            if average is None:
                average = AveragedNetwork(network, self.decay, others, warmup=self.warmup)
            else:
                average.follow(network, others)
            if saved:
                average.take(saved)
            if average.averages:  # losses and metrics are also modules, but have no weights
                averages[name] = average
        self._averages = averages

    def _report_new(self, iteration: int) -> None:
        for name, network in self._averages.items():
            new = [key for key, average in network.averages.items() if not average.has_started]
            if new:
                _logger.info(
                    "plug-in 'ema' averages %d tensors of %r only from iteration %d on: %s",
                    len(new),
                    name,
                    iteration,
                    ", ".join(new) if len(new) < 4 else f"{new[0]} ... {new[-1]}",
                )

    def _forget_restored(self) -> None:
        """Name the restored averages that fit no network: a later network is another one."""
        unused = []
        for name, state in self._restored.items():
            network = self._networks.get(name)
            # Release 0.1 saved the buffers that are not averaged, too.
            present = network.state_dict().keys() if network is not None else ()
            averaged = self._averages[name].averages if name in self._averages else {}
            tensors = [key.removeprefix("module.") for key in state if key != "n_averaged"]
            unused += [f"{name}.{t}" for t in tensors if t in averaged or t not in present]
        if unused:
            _logger.warning(
                "plug-in 'ema' restored averages that do not fit the networks of the model, and"
                " drops them: %s",
                ", ".join(unused),
            )
        self._restored = {}

    def _apply_averages(self) -> None:
        started = [
            average
            for network in self._averages.values()
            for average in network.averages.values()
            if average.has_started
        ]
        # Networks may share weights, so save all weights before replacing the first one.
        self._trained = [(average, average.weight.clone()) for average in started]
        for average in started:
            average.weight.copy_(average.tensor)

    def _restore_weights(self) -> None:
        # The model may have moved a network since, so this asks for the present tensors.
        for average, trained in self._trained:
            average.weight.copy_(trained)
        self._trained = []
