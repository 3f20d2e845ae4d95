"""Find the largest batch size that fits into memory, before training."""

import contextlib
import copy
from typing import Any

import torch

from helios import CUDAPlugin, Model, Plugin, Trainer


class BatchSizeFinderPlugin(Plugin):
    """Doubles ``datamodule.batch_size`` as long as a short training of copies succeeds.

    The data module reads it in ``setup``. A resumed run needs the batches of the first one, so it
    reads the size from a file in ``run_root``.
    """

    changes_results = True

    def __init__(self, largest: int = 8, steps: int = 2) -> None:
        super().__init__("batch-size-finder")
        self.largest = largest
        self.steps = steps

    def setup(self) -> None:
        """Do nothing; the size is found before the run."""

    def configure_trainer(self, trainer: Trainer) -> None:
        """Store the trainer, which knows the data when the model is configured."""
        self._owner = trainer

    def configure_model(self, model: Model) -> None:
        """Find the size, unless an earlier process of the run has found it."""
        data: Any = self._owner.datamodule
        root = self._owner.run_root
        file = None if root is None else root / f"{model.save_name}-batch-size.txt"
        if file is not None and file.exists():
            data.batch_size = int(file.read_text(encoding="utf-8"))
            return
        while data.batch_size * 2 <= self.largest and self._fits(data.batch_size * 2, model):
            data.batch_size *= 2
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(data.batch_size), encoding="utf-8")

    def _fits(self, size: int, model: Model) -> bool:
        data: Any
        model, data = copy.deepcopy((model, self._owner.datamodule))
        data.batch_size = size
        on_cpu = self._owner.device.type == "cpu"
        plugins = [] if on_cpu else [CUDAPlugin()]
        arguments: Any = {"plugins": plugins, "autoload": False, "print_banner": False}
        trial = Trainer("", "iteration", self.steps, use_cpu=on_cpu, **arguments)
        trial.train_exceptions.append(torch.OutOfMemoryError)  # so that it is not logged
        with contextlib.suppress(torch.OutOfMemoryError):
            trial.fit(model, data)
            return True
        return False
