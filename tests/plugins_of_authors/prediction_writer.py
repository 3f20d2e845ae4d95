"""Write what the model returns for each test sample."""

import json
from typing import Any, TextIO

from helios import Plugin


class PredictionWriterPlugin(Plugin):
    """Writes a line for each batch of a test into ``predictions.jsonl`` of the run."""

    def __init__(self) -> None:
        super().__init__("prediction-writer")
        self._file: TextIO | None = None

    def setup(self) -> None:
        """Do nothing; the file is opened when a test starts."""

    def on_testing_start(self) -> None:
        """Open the file of this run."""
        if self.trainer.run_root is not None and self.trainer.global_rank == 0:
            self._file = self.trainer.run_path("predictions.jsonl").open("w", encoding="utf-8")

    def on_testing_batch_end(self, outputs: Any, batch: Any, samples: int, step: int) -> None:
        """Write the outputs beside the labels."""
        if self._file is not None:
            line = {"step": step, "samples": samples, "labels": batch[1].tolist()}
            self._file.write(json.dumps({**line, "outputs": outputs.tolist()}) + "\n")

    def teardown(self) -> None:
        """Close the file, also if the test has failed."""
        if self._file is not None:
            self._file.close()
            self._file = None
