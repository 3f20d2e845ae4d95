"""The effects of the plug-ins that measure, log, write and send."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch
from helpers import Logs, Make, files
from plugins_of_authors.device_monitor import DeviceMonitorPlugin
from plugins_of_authors.learning_rate_monitor import LearningRateMonitorPlugin
from plugins_of_authors.metric_collection import MetricCollectionPlugin
from plugins_of_authors.profiler import ProfilerPlugin
from plugins_of_authors.remote_metrics import RemoteMetricsPlugin
from plugins_of_authors.sample_logger import SampleLoggerPlugin
from variants import TinyModelWithLogits

from helios import CUDAPlugin
from helios.testing import TinyDataModule, TinyModel


def test_the_rate_of_each_step_is_logged(make_trainer: Make) -> None:
    logs = Logs()
    make_trainer(plugins=[LearningRateMonitorPlugin(), logs], print_frequency=1).fit(
        TinyModel(), TinyDataModule()
    )
    rates = [metrics["optimizer/0/lr"] for _, _, metrics in logs.calls]
    assert rates == pytest.approx([0.05 * 0.9 ** (step // 3) for step in range(12)])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_load_of_the_device_is_logged_with_training(make_trainer: Make, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a real CUDA device")
    logs, is_on_cpu = Logs(), device == "cpu"
    trainer = make_trainer(
        plugins=[DeviceMonitorPlugin(), logs, *([] if is_on_cpu else [CUDAPlugin()])],
        use_cpu=is_on_cpu,
        valid_frequency=1,
    )
    trainer.fit(TinyModel(), TinyDataModule())
    seen = [metrics for _, _, metrics in logs.calls if "loss" in metrics]
    assert len(seen) == 2
    assert all(metrics["cpu/busy_cores"] > 0 for metrics in seen)
    assert all(metrics.get("gpu/peak_gib", 0) > 0 for metrics in seen) != is_on_cpu


def test_a_trace_names_the_recorded_steps(make_trainer: Make, tmp_path: Any) -> None:
    make_trainer(plugins=[ProfilerPlugin(skip=1)], run_root=tmp_path).fit(
        TinyModel(), TinyDataModule()
    )
    events = json.loads((tmp_path / "trace-4.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event["name"] for event in events]
    assert names.count("helios training step") == 2
    assert "aten::linear" in names


def test_the_first_samples_of_each_validation_are_written(
    make_trainer: Make, tmp_path: Any
) -> None:
    data = TinyDataModule()
    make_trainer(plugins=[SampleLoggerPlugin()], valid_frequency=1, run_root=tmp_path).fit(
        TinyModel(), data
    )
    folder = tmp_path / "samples"
    names = {f"{cycle}{end}" for cycle in (0, 1) for end in ("-0.pgm", "-1.pgm", ".jsonl")}
    assert {path.name for path in files(folder)} == names
    features, label = data.valid_dataset[1]
    header, grey = (folder / "1-1.pgm").read_bytes().split(b"\n", 1)
    assert header == b"P5 4 1 255"
    assert grey[features.argmin()] == 0
    assert grey[features.argmax()] == 255
    line = json.loads((folder / "1.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert line == {"image": "1-1.pgm", "label": label.item()}


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    """The address of a server, and the contents that it has received."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/run", received
        server.shutdown()
        thread.join()


def test_a_server_receives_what_loggers_do(
    make_trainer: Make, server: tuple[str, list[Any]]
) -> None:
    logs, (url, received) = Logs(), server
    make_trainer(plugins=[RemoteMetricsPlugin(url), logs], valid_frequency=1).fit(
        TinyModel(), TinyDataModule()
    )
    assert [each["phase"] for each in received] == ["validation", "training"] * 2
    contents = [(each["step"], each["metrics"]) for each in received]
    assert contents == [(step, metrics) for step, _, metrics in logs.calls]


def test_a_run_completes_without_the_server(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as reserved:  # nobody listens
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        trainer = make_trainer(plugins=[RemoteMetricsPlugin(url)])
        trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.is_complete
    assert caplog.text.count("numbers could not be sent") == 2


def test_metrics_of_torchmetrics_are_those_of_the_model(make_trainer: Make) -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=2)
    plugin = MetricCollectionPlugin(torchmetrics.MetricCollection({"same": accuracy}))
    trainer, model = make_trainer(plugins=[plugin], valid_frequency=1), TinyModelWithLogits()
    trainer.fit(model, TinyDataModule())
    validated = dict(model.metrics)
    trainer.test(model, TinyDataModule())
    for metrics in (validated, model.metrics):
        assert metrics["same"] == pytest.approx(metrics["accuracy"])
