"""The weights of a model, which only a step of all virtual ranks may change."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from helios.core import Group
from helios.errors import ConfigurationError
from helios.model import alike, gradients, stateful

if TYPE_CHECKING:
    from helios.model.model import Model


class Weights:
    """The parameters of the networks, those outside of networks, and their changes.

    Args:
        model: the model.

    Attributes:
        parameters: all of them, each once.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._named: dict[str, torch.Tensor] = {}
        self._before: list[int] = []
        self._values: dict[str, int] | None = None
        self._generators: dict[str, torch.Generator] = {}
        self._states: dict[str, torch.Tensor] = {}
        self.parameters: list[torch.Tensor] = []

    def search(self) -> None:
        """Find the parameters that the model has now."""
        self._named, self._generators = {}, {}
        for name, part in stateful.stateful_attributes(self._model):
            if isinstance(part, nn.Module):
                self._named |= dict(part.named_parameters(prefix=name))
            elif isinstance(part, stateful.ParameterState):
                self._named[name] = part.parameter
            elif isinstance(part, stateful.GeneratorState):
                self._generators[name] = part.generator
        self.parameters = list({id(each): each for each in self._named.values()}.values())

    def note(self, *, reads: bool) -> None:
        """Note the weights before the batch of a virtual rank.

        Args:
            reads: ``True`` to note their values, too. PyTorch does not count a change of ``.data``.
        """
        self._before = [each._version for each in self.parameters]  # noqa: SLF001 - no public name
        self._values = gradients.fingerprints(self._named.items()) if reads else None
        generators = self._generators.items() if reads else ()
        self._states = {name: each.get_state() for name, each in generators}

    def changed(self) -> str | None:
        """Return the name of a parameter that has changed since :meth:`note`, if one has."""
        now = [each._version for each in self.parameters]  # noqa: SLF001 - no public name
        if now != self._before:
            pairs = zip(self.parameters, self._before, now, strict=True)
            first = next(each for each, before, version in pairs if before != version)
            return next(name for name, each in self._named.items() if each is first)
        if self._values is None:
            return None
        values = gradients.fingerprints(self._named.items())
        return next((name for name, each in values.items() if each != self._values[name]), None)

    def require_unchanged(self, story: str, *, takes_step: bool) -> None:
        """Raise an error if a parameter or a generator has changed since :meth:`note`.

        Args:
            story: the beginning of the message.
            takes_step: ``True`` if the batch takes the step, which changes parameters.

        Raises:
            ConfigurationError: one has, or a generator of the model; the message names it.
        """
        for label, state in self._states.items():
            if not torch.equal(self._generators[label].get_state(), state):
                raise ConfigurationError(
                    f"{story} has drawn from the generator {type(self._model).__name__}.{label},"
                    " which all virtual ranks of a process share: draw from the default generators"
                    " of PyTorch, Python or NumPy, which belong to each virtual rank."
                )
        name = None if takes_step else self.changed()
        if name is not None:
            raise ConfigurationError(
                f"{story} has changed {type(self._model).__name__}.{name}, before the step is"
                " taken: change weights, and averages of weights, only if optimize() returns True."
            )

    def require_same(self, group: Group) -> None:
        """Raise an error if the processes have different weights.

        Raises:
            RanksDifferError: they have; the message names the first parameter.
        """
        self.search()
        alike.require_same_weights(group, type(self._model).__name__, self._named.items())
