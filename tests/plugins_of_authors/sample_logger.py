"""Write the first samples of each validation as images and text."""

import json
from typing import Any

import torch

from helios import Plugin


class SampleLoggerPlugin(Plugin):
    """Writes grey images, and a line about each, into the folder ``samples`` of the run.

    A validation that a resumed run repeats writes the same files again.

    Args:
        count: the number of samples of each validation.
    """

    def __init__(self, count: int = 2) -> None:
        super().__init__("sample-logger")
        self.count = count

    def setup(self) -> None:
        """Do nothing; the folder of the run is known when training starts."""
        self._cycle = 0

    def on_validation_start(self, validation_cycle: int) -> None:
        """Note the number of the validation, for the names of the files."""
        self._cycle = validation_cycle

    def on_validation_batch_end(self, outputs: Any, batch: Any, samples: int, step: int) -> None:
        """Write the first samples of the first batch."""
        if step > 0 or self.trainer.run_root is None or self.trainer.global_rank > 0:
            return
        folder = self.trainer.run_path("samples")
        folder.mkdir(exist_ok=True)
        lines = []
        for number in range(min(samples, self.count)):
            image = f"{self._cycle}-{number}.pgm"
            (folder / image).write_bytes(_as_image(batch[0][number]))
            lines.append(json.dumps({"image": image, "label": batch[1][number].item()}) + "\n")
        (folder / f"{self._cycle}.jsonl").write_text("".join(lines), encoding="utf-8")


def _as_image(sample: torch.Tensor) -> bytes:
    """Return a sample as a file in the format PGM; channels are below one another."""
    rows = sample.detach().float().reshape(-1, sample.shape[-1]).cpu()
    spread = (rows.max() - rows.min()).clamp(min=1e-9)
    grey = ((rows - rows.min()) / spread * 255).to(torch.uint8)
    return b"P5 %d %d 255\n" % (rows.shape[1], rows.shape[0]) + grey.numpy().tobytes()
