"""The session of a run with virtual ranks."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from helios.core import Group
from helios.core.generators import KeptStates
from helios.errors import ConfigurationError
from helios.model.metrics import MetricBuffer
from helios.model.optimizers import Step
from helios.model.session import Session
from helios.model.virtual.buffers import Buffers
from helios.model.virtual.coverage import require_alike, require_covered
from helios.model.virtual.log import VirtualLog
from helios.model.virtual.ranks import VirtualRank, VirtualRanks
from helios.model.virtual.streams import Streams
from helios.model.virtual.weights import Weights

if TYPE_CHECKING:
    from helios.model.model import Model

_TRAINING, _STEP, _EVALUATION = 1, 2, 3  # what draws random numbers


class VirtualSession(Session):
    """A session in which virtual ranks train one after the other.

    A step is taken when the last virtual rank of a process has given its loss. Processes wait for
    one another only there.

    Args:
        count: the number of virtual ranks.
        seed: the seed of the run.
        model: the model.
        group: the processes of the run.
        arguments: the arguments of :class:`~helios.model.session.Session`.
        keywords: its keyword arguments.
    """

    def __init__(
        self, count: int, seed: int, model: "Model", group: Group, *arguments: Any, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        place = self.place
        self._model = model
        self._group = group
        self._buffers = Buffers(model)
        self._weights = Weights(model)
        self.ranks = VirtualRanks(
            count, place, group, self.optimizers, self._buffers, self._weights
        )
        local = self.ranks.local
        self.training_log = VirtualLog([rank.training_log for rank in local], group)
        self.evaluation_log = VirtualLog([rank.evaluation_log for rank in local], group)
        self.epoch_log = VirtualLog([], group)
        self._log = self.training_log
        self._shown = local[0]
        self._streams = Streams(seed, place.device)
        self._outer_streams, self._streams_of_rank = KeptStates(), KeptStates()
        self._rank: VirtualRank | None = None
        self._is_between_windows = True
        self._has_begun = self._has_given = self._is_stepping = False
        self._is_first = True
        self._has_extras, self._is_bare = True, False  # so that each step goes through _take()
        self._watch = register_optimizer_step_pre_hook(self._refuse_step_by_hand)

    def close(self) -> None:
        """Release the optimizers of the model. Called at the end of the run."""
        self._watch.remove()
        super().close()

    @property
    def set_name(self) -> str | None:
        """The name of the validation or test set of the current batch, if it has one."""
        log = self.evaluation_log if self._rank is None else self._rank.evaluation_log
        return log.set_name

    # The virtual ranks, one after the other.

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """Train on a batch of each virtual rank of this process, and take the step if it is due."""
        if self._is_between_windows:
            if not self._has_begun:
                require_covered(self._model)
                require_alike(self._model, self._group)
            if self._state.dataset_iter == 0 or not self._has_begun:
                self._buffers.search()
                self._weights.search()
            self._is_first, self._has_begun = not self._has_begun, True
            self.ranks.begin_window()
        self._is_between_windows = self._window.is_complete
        with self._streams.apart(self._outer_streams):
            yield
            if self._is_first:
                self._buffers.require_known()
            if self._window.is_complete:
                self._end_step()
        first = self.ranks.local[0]
        if not self._window.is_complete:
            self.ranks.switch_to(first, is_complete=False)
        self._show_losses(first)

    @contextlib.contextmanager
    def training_rank(self, rank: VirtualRank) -> Iterator[None]:
        """Let a virtual rank train: with its own random numbers, gradients and buffers."""
        is_complete = self._window.is_complete
        self.ranks.switch_to(rank, is_complete=is_complete)
        self._show_losses(rank)
        self._streams.seed(_TRAINING, rank.number, self._state.global_iteration)
        takes_step = rank.is_last and is_complete
        rates = None if takes_step else self._rates()
        is_watched = self._is_first or not takes_step
        if is_watched:
            self._weights.note(reads=self._is_first)
        self._has_given = False
        with self._owned_by(rank, rank.training_log):
            yield
        story = (
            f"Trainer(virtual_ranks={self.ranks.count}): the batch of virtual rank {rank.number}"
        )
        if rates and rates != self._rates():  # the first batch finds the optimizers
            raise ConfigurationError(
                f"{story} has changed a learning rate, before the step is taken: call a scheduler"
                " only if optimize() returns True."
            )
        if is_watched:
            self._weights.require_unchanged(story, takes_step=takes_step)

    @contextlib.contextmanager
    def evaluating_rank(self, rank: VirtualRank, *numbers: int) -> Iterator[None]:
        """Let a virtual rank evaluate a batch, with its own random numbers.

        Args:
            rank: the virtual rank.
            numbers: the numbers that tell this batch from all others.
        """
        with self._streams.apart(self._outer_streams):
            self._streams.seed(_EVALUATION, rank.number, *numbers)
            with self._owned_by(rank, rank.evaluation_log):
                yield

    @contextlib.contextmanager
    def _owned_by(self, rank: VirtualRank, log: MetricBuffer) -> Iterator[None]:
        outer, self._log, self._rank = self._log, log, rank
        try:
            yield
        finally:
            self._log, self._rank = outer, None

    def _show_losses(self, rank: VirtualRank) -> None:
        """Let the model see the running losses of one virtual rank."""
        if rank is self._shown:
            return
        self._store_losses()
        self.running_losses.clear()
        self.running_losses.update(rank.running_losses)
        self._shown = rank

    def _store_losses(self) -> None:
        if not self.running_losses:  # the model has cleared them, as those of all ranks
            for each in self.ranks.local:
                each.running_losses = {}
        self._shown.running_losses = dict(self.running_losses)

    def _rates(self) -> list[Any]:
        known = self.optimizers.known()
        return [group.get("lr") for optimizer in known for group in optimizer.param_groups]

    def _log_metric(self, name: str, value: Any, weight: Any) -> None:
        raise ConfigurationError(
            f"Trainer(virtual_ranks={self.ranks.count}): log({name!r}) got a"
            f" {type(value).__name__}, which the virtual ranks of a process share, so its value"
            " would depend on the number of processes: log numbers, with the number of samples"
            " that they are means of as their weight."
        )

    def require_same_weights(self) -> None:
        """Raise an error if the processes have different weights."""
        if self.place.is_distributed:
            self._weights.require_same(self._group)

    # What a checkpoint keeps.

    def logs_of_ranks(self) -> list[dict[str, Any]]:
        """Return what each virtual rank of the run has logged. All processes call it."""
        self._store_losses()
        own = [
            {"logged": rank.training_log.state_dict(), "running_losses": dict(rank.running_losses)}
            for rank in self.ranks.local
        ]
        return [state for process in self._group.gather(own) for state in process]

    def load_logs_of_ranks(self, states: list[dict[str, Any]]) -> None:
        """Restore what :meth:`logs_of_ranks` returned."""
        for rank in self.ranks.local:
            rank.training_log.load_state_dict(states[rank.number]["logged"])
            rank.running_losses = dict(states[rank.number]["running_losses"])
        self.running_losses.clear()
        self.running_losses.update(self._shown.running_losses)

    # The steps.

    def optimize(
        self, loss: torch.Tensor, optimizer: Any, *, retain_graph: bool, **arguments: Any
    ) -> bool:
        """Run the backward pass, and take a step for all virtual ranks if it is due."""
        if self._rank is not None:
            if self._has_given:
                raise ConfigurationError(
                    f"Trainer(virtual_ranks={self.ranks.count}): train_step has called optimize()"
                    " twice, but all virtual ranks compute their losses with the weights before the"
                    " step: pass the sum of the losses and a list of the optimizers to one call, or"
                    " use another optimizer in another batch."
                )
            self._has_given = True
        return super().optimize(loss, optimizer, retain_graph=retain_graph, **arguments)

    def _take(self, step: Step, *, is_reached: bool = True) -> bool:
        """Take a step if this is the last virtual rank of the process."""
        if self._rank is not None and not self._rank.is_last:
            return False
        return self._take_together(step)

    def _take_together(self, step: Step) -> bool:
        rank, log = self._rank, self._log
        with self._streams.apart(self._streams_of_rank):
            self._streams.seed(_STEP, self.ranks.count, self._state.global_iteration)
            is_given, is_skipped = self.ranks.reduce(step, is_skipped=step in self._skipped)
            if is_skipped:
                self._skipped.setdefault(step, "a plug-in of another process has skipped it")
                self._has_extras = True  # this process may have no plug-in that looks at steps
            if not is_given:
                return False
            self._rank, self._log, self._is_stepping = None, self.training_log, True
            try:
                return super()._take(step, is_reached=True)
            finally:
                self._rank, self._log, self._is_stepping = rank, log, False

    def end_window(self) -> None:
        """Do nothing: the last batch has taken all steps."""

    def _end_step(self) -> None:
        """Take the steps that the last virtual rank has not taken."""
        with self.precision.outside:
            for step in self.ranks.pending():
                self._take_together(step)
        self.ranks.average_buffers()
        self.ranks.end_window()

    def _refuse_step_by_hand(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._rank is None or self._is_stepping:
            return
        name = self.optimizers.name_of(optimizer)
        if name:
            raise ConfigurationError(
                f"Trainer(virtual_ranks={self.ranks.count}): train_step takes a step of"
                f" {type(optimizer).__name__} ({name}) by hand, with the gradients of virtual rank"
                f" {self._rank.number} alone: call self.optimize(loss, self.{name}) instead."
            )
