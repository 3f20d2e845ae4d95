"""The virtual ranks of a process, and the sums of their gradients in a fixed order."""

from collections.abc import Sequence

import torch

from helios.core import Group, Place
from helios.core.tree import Span, Sum, tree_of
from helios.errors import ConfigurationError
from helios.model.evaluation_buffer import EvaluationBuffer
from helios.model.metrics import MetricBuffer
from helios.model.optimizers import Optimizers, Step
from helios.model.virtual.buffers import Buffers, Values
from helios.model.virtual.leaf import Leaf
from helios.model.virtual.reduction import Reduction, Total
from helios.model.virtual.weights import Weights


class VirtualRank:
    """The state of one virtual rank.

    Attributes:
        number: its number among all virtual ranks.
        is_last: ``True`` if it is the last one of its process.
        training_log: the values that it has logged in training since the last read.
        evaluation_log: the values that it has logged in the current validation or test.
        running_losses: its sums of losses, by name, since the last validation.
        leaf: its gradients in the current step.
        buffers: the buffers that it has changed in the current step.
    """

    def __init__(self, number: int, *, is_last: bool) -> None:
        self.number = number
        self.is_last = is_last
        self.training_log = MetricBuffer()
        self.evaluation_log = EvaluationBuffer()
        self.running_losses: dict[str, torch.Tensor] = {}
        self.leaf = Leaf()
        self.buffers: Values = {}


def local_ranks(count: int, place: Place) -> range:
    """Return the numbers of the virtual ranks of a process.

    Raises:
        ConfigurationError: the number of processes does not divide the number of virtual ranks.
    """
    if count % place.world_size:
        divisors = [str(number) for number in range(1, count + 1) if count % number == 0]
        raise ConfigurationError(
            f"Trainer(virtual_ranks={count}) in {place.world_size} processes: each needs the same"
            f" number of virtual ranks. Start {' or '.join(divisors)} processes."
        )
    own = count // place.world_size
    return range(place.rank * own, (place.rank + 1) * own)


class VirtualRanks:
    """The virtual ranks of a process: at any moment, the networks belong to one of them.

    Args:
        count: the number of virtual ranks of the run.
        place: the place of this process.
        group: the processes of the run.
        optimizers: the optimizers of the model.
        buffers: the buffers of the model.
        weights: the weights of the model.

    Attributes:
        count: the number of virtual ranks of the run.
        local: those of this process, which are neighbours.
    """

    def __init__(
        self,
        count: int,
        place: Place,
        group: Group,
        optimizers: Optimizers,
        buffers: Buffers,
        weights: Weights,
    ) -> None:
        numbers = local_ranks(count, place)
        self.count = count
        self.local = [VirtualRank(each, is_last=each == numbers[-1]) for each in numbers]
        self._block = (numbers.start, numbers.stop)
        self._tree = tree_of(count)
        self._optimizers = optimizers
        self._buffers = buffers
        self._weights = weights
        self._loaded = self.local[0]
        self._sums = self._new_sums()
        self._is_summed = False
        self._averaged: list[str] = []
        self._has_averaged = False
        self._group = group
        alone = place.world_size == 1
        self._reduction = None if alone else Reduction(count, place, group)

    def _new_sums(self) -> Sum[Leaf]:
        return Sum(self._tree, self._block, Leaf.add)

    # The steps.

    def begin_window(self) -> None:
        """Begin an accumulation window, whose batches make one step."""
        self._sums = self._new_sums()
        self._is_summed = self._has_averaged = False
        self._loaded = self.local[0]
        self._buffers.begin_step()

    def switch_to(self, rank: VirtualRank, *, is_complete: bool) -> None:
        """Give the networks to a virtual rank.

        Args:
            rank: the virtual rank.
            is_complete: ``True`` if this is the last batch of the window.
        """
        if rank is not self._loaded:
            self._park(is_complete=is_complete)
            self._load(rank)

    def _park(self, *, is_complete: bool) -> None:
        rank = self._loaded
        leaf = rank.leaf
        for optimizer in self._optimizers.known():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        leaf.gradients[parameter] = _require_dense(parameter.grad, optimizer)
                        parameter.grad = None
        for parameter in self._weights.parameters:
            if parameter.grad is not None:  # no optimizer steps it, so nobody adds it up
                parameter.grad = None
        for step in self._optimizers.pending():
            leaf.given[step] = 1
            step.losses = 0
            if step.weight is not None:
                weight = torch.as_tensor(step.weight, dtype=torch.float64)
                leaf.weights[step] = weight
                leaf.weighted[step] = 1
                step.weight = None
        rank.buffers.update(self._buffers.take_changed())
        if is_complete:
            self._sums.add((rank.number, rank.number + 1), leaf)
            rank.leaf = Leaf()

    def _load(self, rank: VirtualRank) -> None:
        leaf, rank.leaf = rank.leaf, Leaf()
        for parameter, gradient in leaf.gradients.items():
            parameter.grad = gradient
        for step, given in leaf.given.items():
            step.losses, step.weight = given, leaf.weights.get(step)
        self._buffers.put(rank.buffers)
        self._loaded = rank

    def end_window(self) -> None:
        """Check that nothing has trained on after the step.

        Raises:
            ConfigurationError: a buffer of the step has changed again.
        """
        name = self._buffers.changed_again(self._averaged)
        if name is not None:
            raise ConfigurationError(
                f"Trainer(virtual_ranks={self.count}): the buffer {name!r} has changed after the"
                " optimizer step, in the batch of one virtual rank: call optimize() after the last"
                " forward pass of train_step."
            )

    # The reduction.

    def pending(self) -> list[Step]:
        """Return the steps that are still to be taken, the same in all processes.

        Raises:
            ConfigurationError: the virtual ranks of other processes gave their losses for others.
        """
        self._sum_up()
        found = list({step: None for leaf in self._sums.nodes.values() for step in leaf.given})
        if self._reduction is None:
            return found
        known = self._optimizers.known()
        if len(known) == 1:  # then each window has one step
            return [] if self._has_averaged else found or [self._optimizers.step_of(known[0])]
        self.require_same(found)
        return found

    def require_same(self, steps: Sequence[Step]) -> None:
        """Raise an error if other processes are about to take other steps.

        A model with one optimizer needs no such message.
        """
        if self._reduction is None or len(self._optimizers.known()) < 2:
            return
        mine = " and ".join(map(str, steps))
        known = self._optimizers.known()
        numbers = [[known.index(each) for each in step.optimizers] for step in steps]
        others = self._group.gather((numbers, mine))
        differing = [
            f"{name or 'none'} on rank {rank}"
            for rank, (other, name) in enumerate(others)
            if other != numbers
        ]
        if differing:
            raise ConfigurationError(
                f"optimize() got losses for {mine or 'no optimizer'} from the virtual ranks of this"
                f" process, but for {', '.join(differing)}: give a loss for the same optimizer in"
                " each batch. If a batch has nothing to learn from, give its loss times 0."
            )

    def _sum_up(self) -> None:
        if not self._is_summed:
            self._park(is_complete=True)
            self._is_summed = True

    def reduce(self, step: Step, *, is_skipped: bool) -> tuple[bool, bool]:
        """Give a step the mean of the gradients of all virtual ranks.

        If the losses have weights, it gets the sum of the gradients, and the sum of the weights.
        All processes call this method at the same point.

        Args:
            step: the step.
            is_skipped: ``True`` if a plug-in in this process has asked to skip the step.

        Returns:
            Two values: ``True`` if a loss was given for the step; and ``True`` if a plug-in in any
            process has asked to skip it.

        Raises:
            ConfigurationError: only some virtual ranks gave a loss, or only some of the losses
                have weights.
        """
        self._sum_up()
        self.require_same([step])
        total = self._total(step, is_skipped=is_skipped)
        self._end_buffers(total.buffers)
        self._require_all(step, total)
        present = []
        for parameter, gradient in total.gradients.items():
            parameter.grad = gradient
            if gradient is not None:
                present.append(gradient)
        step.weight = total.weight
        if total.weight is None and present:
            torch._foreach_div_(present, self.count)
        return total.given > 0, total.is_skipped

    def _total(self, step: Step | None, *, is_skipped: bool = False) -> Total:
        names = [] if self._has_averaged else self._buffers.names
        changed = {name for rank in self.local for name in rank.buffers}
        if self._reduction is not None:
            return self._reduction.total(
                step,
                self._sums.nodes,
                is_skipped=is_skipped,
                names=names,
                changed=changed,
                sum_buffers=self._sum_of_buffers,
            )
        root = self._tree.root
        in_order = [name for name in names if name in changed]
        buffers = dict(zip(in_order, self._sum_of_buffers(in_order)[root], strict=True))
        if step is None:
            return Total({}, 0, 0, None, is_skipped, buffers)
        leaf = self._sums.nodes[root]
        return Total(
            {each: leaf.gradients.pop(each, None) for each in step.parameters},
            leaf.given.pop(step, 0),
            leaf.weighted.pop(step, 0),
            leaf.weights.pop(step, None),
            is_skipped,
            buffers,
        )

    def _require_all(self, step: Step, total: Total) -> None:
        if 0 < total.given < self.count:
            raise ConfigurationError(
                f"optimize({step}) got a loss from {total.given} of {self.count} virtual ranks:"
                " give one for each batch. If a batch has nothing to learn from, give its loss"
                " times 0."
            )
        if 0 < total.weighted < self.count:
            raise ConfigurationError(
                f"optimize({step}) got a weight from {total.weighted} of {self.count} virtual"
                " ranks: pass weight= for all losses of a step, or for none."
            )

    # The buffers.

    def average_buffers(self) -> None:
        """Give the buffers that virtual ranks have changed their values after the step."""
        if not self._has_averaged:
            self._sum_up()
            self._end_buffers(self._total(None).buffers)

    def _end_buffers(self, sums: dict[str, torch.Tensor]) -> None:
        if self._has_averaged:
            return
        self._has_averaged = True
        self._averaged = list(sums)
        for rank in self.local:
            rank.buffers = {}
        self._buffers.end_step(
            {
                name: value / self.count if _has_mean(value) else value
                for name, value in sums.items()
            }
        )

    def _sum_of_buffers(self, names: Sequence[str]) -> dict[Span, list[torch.Tensor]]:
        """Return the sums of buffers in this process; other types get those of virtual rank 0."""
        sums: Sum[list[torch.Tensor]] = Sum(self._tree, self._block, _add)
        begin = self._buffers.begin_values(names)
        for rank in self.local:
            values = []
            for name in names:
                value = rank.buffers.get(name, begin[name])
                is_own = _has_mean(value) or rank.number == 0
                values.append(value if is_own else torch.zeros_like(value))
            sums.add((rank.number, rank.number + 1), values)
        return sums.nodes


def _has_mean(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _add(ones: list[torch.Tensor], others: list[torch.Tensor]) -> list[torch.Tensor]:
    return [one + other for one, other in zip(ones, others, strict=True)]


def _require_dense(gradient: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    if gradient.layout is not torch.strided:
        raise ConfigurationError(
            f"Trainer(virtual_ranks=...) does not add up sparse gradients, and"
            f" {type(optimizer).__name__} has a parameter with one: create the nn.Embedding with"
            " sparse=False."
        )
    return gradient
