"""Send the logged numbers to a server."""

import json
import logging
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor

from helios import Plugin, TrainingState

_logger = logging.getLogger("helios.remote-metrics")


class RemoteMetricsPlugin(Plugin):
    """Posts the numbers as JSON in a thread, so that training does not wait for the network.

    A resumed run sends the numbers after its checkpoint again, with the same step.

    Args:
        url: the address of the server.
        timeout: the time for one request, in seconds.
    """

    critical = False

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        super().__init__("remote-metrics")
        self.url = url
        self.timeout = timeout

    def setup(self) -> None:
        """Create the thread, which starts with the first numbers."""
        self._sender = ThreadPoolExecutor(max_workers=1)

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        """Queue a copy of the numbers."""
        if self.trainer.global_rank == 0:
            content = {"step": state.current_iteration, "phase": phase, "metrics": metrics}
            body = json.dumps(content).encode()
            self._sender.submit(self._post, body).add_done_callback(_report)

    def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, body, headers)
        urllib.request.urlopen(request, timeout=self.timeout).close()

    def teardown(self) -> None:
        """Wait until everything is sent."""
        self._sender.shutdown()


def _report(sent: Future[None]) -> None:
    if (error := sent.exception()) is not None:
        _logger.warning("numbers could not be sent: %s", error)
