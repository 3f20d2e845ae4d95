"""Everything that happens in ``test``, in order: whole transcripts, with all arguments.

Each transcript is written by hand; a difference is either a fault or a decision.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from helpers import Make
from transcript import EveryMethod, Three, Transcript, check, resume

from helios import Plugin

TESTING = """
    plugin.wrap_batches(<WholeEpoch>; 'testing')
    plugin.on_testing_start()
    model.on_testing_start()
    model.eval()
    plugin.process_testing_batch(batch [5.0]; 0)
    plugin.on_testing_batch_start([50.0]; 1; 0)
    model.on_testing_batch_start(0)
    plugin.enter step('testing')
    model.test_step([50.0]; 0)
    plugin.leave step('testing')
    plugin.on_testing_batch_end('tested'; [50.0]; 1; 0)
    model.on_testing_batch_end(0)
    plugin.on_testing_end()
    model.on_testing_end()
    plugin.on_log({'tested': 50.0}; 'testing'; %s)
    data.teardown()
    plugin.teardown()
    plugin.launched()
"""


def test_test_without_a_checkpoint(parts: Any) -> None:
    trainer, model, data, transcript = parts()
    trainer.test(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(True)
        plugin.prepare_module(<Linear>)
        plugin.on_model_ready(<EveryMethod>)
        model.load_for_testing()
        """,
        TESTING % "epoch 0, batch 0, step 0",
    )


def test_test_of_a_checkpoint(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = resume(parts, tmp_path)
    trainer.test(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(True)
        plugin.prepare_module(<Linear>)
        plugin.load_state_dict(1)
        plugin.on_model_ready(<EveryMethod>)
        model.load_state_dict(('net', 'optimizer'); True)
        plugin.on_checkpoint_loaded(m_epoch_0_iter_2_x; epoch 0, batch 2, step 2)
        """,
        TESTING % "epoch 0, batch 2, step 2",
    )


def test_test_after_fit(parts: Any) -> None:
    trainer, model, data, transcript = parts(total_steps=1)
    trainer.fit(model, data)
    transcript.lines.clear()
    trainer.test(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(True)
        plugin.prepare_module(<Linear>)
        plugin.load_state_dict(1)
        plugin.on_model_ready(<EveryMethod>)
        model.load_state_dict(('net', 'optimizer'); True)
        """,
        TESTING % "epoch 1, batch 0, step 3",
    )


def test_plugins_in_order_before_the_model(make_trainer: Make) -> None:
    transcript = Transcript()

    class Named(Plugin):
        def __init__(self, plug_id: str) -> None:
            super().__init__(plug_id)
            self._write = transcript.of(plug_id)

        def setup(self) -> None:
            self._write("setup")

        @contextlib.contextmanager
        def _around(self, phase: str) -> Iterator[None]:
            self._write("enter", phase)
            yield
            self._write("leave", phase)

        def step_context(self, phase: str) -> Any:
            return self._around(phase) if phase == "testing" else None

        def on_testing_start(self) -> None:
            self._write("on_testing_start")

        def on_testing_end(self) -> None:
            self._write("on_testing_end")

        def teardown(self) -> None:
            self._write("teardown")

    trainer = make_trainer(plugins=[Named("first"), Named("second")])
    trainer.test(EveryMethod(transcript.of("model")), Three(transcript.of("data")))
    check(
        transcript,
        """
        data.prepare_data()
        model.append_to_banner('Helios')
        first.setup()
        second.setup()
        data.setup()
        model.setup(True)
        model.load_for_testing()
        first.on_testing_start()
        second.on_testing_start()
        model.on_testing_start()
        model.eval()
        model.on_testing_batch_start(0)
        first.enter('testing')
        second.enter('testing')
        model.test_step(batch [5.0]; 0)
        second.leave('testing')
        first.leave('testing')
        model.on_testing_batch_end(0)
        first.on_testing_end()
        second.on_testing_end()
        model.on_testing_end()
        data.teardown()
        second.teardown()
        first.teardown()
        """,
    )
