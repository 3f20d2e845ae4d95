"""Everything that happens in ``fit``, in order: whole transcripts, with all arguments.

Each transcript is written by hand; a difference is either a fault or a decision.
"""

import inspect
import pathlib
from typing import Any

import pytest
from transcript import EveryMethod, Everything, Three, check, resume

from helios import DataModule, Model, TrainingState
from helios.plugins.hooks import HOOKS


def own_methods(kind: type) -> set[str]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, function in functions if not name.startswith("_")}


def test_nothing_is_left_out() -> None:
    written = {name for name in vars(Everything) if not name.startswith("_")}
    assert written == {*HOOKS, "state_dict", "load_state_dict"}
    helpers = {"networks", "prepare", "log", "optimize", "rename"}  # not called by the trainer
    assert {n for n in vars(EveryMethod) if not n.startswith("_")} == own_methods(Model) - helpers
    loaders = {"train_dataloader", "valid_dataloader", "test_dataloader"}
    helpers = loaders | {"get_train_steps_per_epoch", "run_setup", "find_set"}
    helpers |= {"of", "set_names", "named_dataloader", "ordered_dataloader"}
    assert {n for n in vars(Three) if not n.startswith("_")} == own_methods(DataModule) - helpers


def test_fit_in_epochs(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = parts(
        total_steps=2,
        valid_frequency=2,
        chkpt_frequency=1,
        print_frequency=2,
        accumulation_steps=2,
        chkpt_root=tmp_path,
    )
    trainer.fit(model, data)
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
        model.setup(False)
        plugin.prepare_module(<Linear>)
        plugin.on_model_ready(<EveryMethod>)
        plugin.on_training_start()
        model.on_training_start()
        model.train()
        plugin.on_training_epoch_start(epoch 0, batch 0, step 0)
        model.on_training_epoch_start(0)
        plugin.wrap_batches(<WholeEpoch>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 0, batch 0, step 0)
        plugin.on_training_batch_start([10.0]; 1; epoch 0, batch 0, step 0)
        model.on_training_batch_start(epoch 0, batch 0, step 0)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 0, batch 0, step 0)
        plugin.on_before_backward(<SGD>; epoch 0, batch 0, step 0)
        plugin.on_after_backward(<SGD>; epoch 0, batch 0, step 0)
        plugin.leave step('training')
        plugin.on_training_batch_end('accumulated'; [10.0]; 1; epoch 0, batch 0, step 0)
        model.on_training_batch_end(epoch 0, batch 0, step 0; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [2.0]; epoch 0, batch 1, step 1)
        plugin.on_training_batch_start([20.0]; 1; epoch 0, batch 1, step 1)
        model.on_training_batch_start(epoch 0, batch 1, step 1)
        plugin.enter step('training')
        model.train_step([20.0]; epoch 0, batch 1, step 1)
        plugin.on_before_backward(<SGD>; epoch 0, batch 1, step 1)
        plugin.on_after_backward(<SGD>; epoch 0, batch 1, step 1)
        plugin.on_before_optimizer_step(<SGD>; 15.0; epoch 0, batch 1, step 1)
        plugin.on_gradients_ready(<SGD>; 15.0; epoch 0, batch 1, step 1)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 1, step 1)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [20.0]; 1; epoch 0, batch 1, step 1)
        model.on_training_batch_end(epoch 0, batch 1, step 1; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [3.0]; epoch 0, batch 2, step 2)
        plugin.on_training_batch_start([30.0]; 1; epoch 0, batch 2, step 2)
        model.on_training_batch_start(epoch 0, batch 2, step 2)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 0, batch 2, step 2)
        plugin.on_before_backward(<SGD>; epoch 0, batch 2, step 2)
        plugin.on_after_backward(<SGD>; epoch 0, batch 2, step 2)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 0, batch 2, step 2)
        plugin.on_gradients_ready(<SGD>; 30.0; epoch 0, batch 2, step 2)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 2, step 2)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [30.0]; 1; epoch 0, batch 2, step 2)
        model.on_training_batch_end(epoch 0, batch 2, step 2; True)
        plugin.on_log({'mean': 20.0}; 'training'; epoch 0, batch 3, step 2)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 0, batch 3, step 2)
        model.on_training_epoch_end(0)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        model.append_metadata_to_chkpt_name('m_epoch_1_iter_2')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_1_iter_2_x; epoch 1, batch 0, step 2)
        plugin.on_training_epoch_start(epoch 1, batch 0, step 2)
        model.on_training_epoch_start(1)
        plugin.wrap_batches(<WholeEpoch>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 1, batch 0, step 2)
        plugin.on_training_batch_start([10.0]; 1; epoch 1, batch 0, step 2)
        model.on_training_batch_start(epoch 1, batch 0, step 2)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 1, batch 0, step 2)
        plugin.on_before_backward(<SGD>; epoch 1, batch 0, step 2)
        plugin.on_after_backward(<SGD>; epoch 1, batch 0, step 2)
        plugin.leave step('training')
        plugin.on_training_batch_end('accumulated'; [10.0]; 1; epoch 1, batch 0, step 2)
        model.on_training_batch_end(epoch 1, batch 0, step 2; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [2.0]; epoch 1, batch 1, step 3)
        plugin.on_training_batch_start([20.0]; 1; epoch 1, batch 1, step 3)
        model.on_training_batch_start(epoch 1, batch 1, step 3)
        plugin.enter step('training')
        model.train_step([20.0]; epoch 1, batch 1, step 3)
        plugin.on_before_backward(<SGD>; epoch 1, batch 1, step 3)
        plugin.on_after_backward(<SGD>; epoch 1, batch 1, step 3)
        plugin.on_before_optimizer_step(<SGD>; 15.0; epoch 1, batch 1, step 3)
        plugin.on_gradients_ready(<SGD>; 15.0; epoch 1, batch 1, step 3)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 1, batch 1, step 3)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [20.0]; 1; epoch 1, batch 1, step 3)
        model.on_training_batch_end(epoch 1, batch 1, step 3; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [3.0]; epoch 1, batch 2, step 4)
        plugin.on_training_batch_start([30.0]; 1; epoch 1, batch 2, step 4)
        model.on_training_batch_start(epoch 1, batch 2, step 4)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 1, batch 2, step 4)
        plugin.on_before_backward(<SGD>; epoch 1, batch 2, step 4)
        plugin.on_after_backward(<SGD>; epoch 1, batch 2, step 4)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 1, batch 2, step 4)
        plugin.on_gradients_ready(<SGD>; 30.0; epoch 1, batch 2, step 4)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 1, batch 2, step 4)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [30.0]; 1; epoch 1, batch 2, step 4)
        model.on_training_batch_end(epoch 1, batch 2, step 4; True)
        plugin.on_log({'mean': 20.0}; 'training'; epoch 1, batch 3, step 4)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.wrap_batches(<WholeEpoch>; 'validation')
        model.eval()
        plugin.on_validation_start(0)
        model.on_validation_start(0)
        plugin.process_validation_batch(batch [4.0]; 0)
        plugin.on_validation_batch_start([40.0]; 1; 0)
        model.on_validation_batch_start(0)
        plugin.enter step('validation')
        model.valid_step([40.0]; 0)
        plugin.leave step('validation')
        plugin.on_validation_batch_end('validated'; [40.0]; 1; 0)
        model.on_validation_batch_end(0)
        model.train()
        plugin.on_validation_end(0)
        model.on_validation_end(0)
        plugin.on_log({'valid': 40.0}; 'validation'; epoch 1, batch 3, step 4)
        model.have_metrics_improved({'valid': 40.0})
        plugin.on_validation_results({'valid': 40.0}; False; 0)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 1, batch 3, step 4)
        model.on_training_epoch_end(1)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        model.append_metadata_to_chkpt_name('m_epoch_2_iter_4')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_2_iter_4_x; epoch 2, batch 0, step 4)
        plugin.on_training_end()
        model.on_training_end()
        data.teardown()
        plugin.teardown()
        plugin.launched()
        """,
    )


def test_fit_in_iterations(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = parts(
        train_unit="iteration",
        total_steps=4,
        valid_frequency=4,
        chkpt_frequency=2,
        print_frequency=3,
        chkpt_root=tmp_path,
    )
    trainer.fit(model, data)
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
        model.setup(False)
        plugin.prepare_module(<Linear>)
        plugin.on_model_ready(<EveryMethod>)
        plugin.on_training_start()
        model.on_training_start()
        model.train()
        plugin.on_training_epoch_start(epoch 0, batch 0, step 0)
        model.on_training_epoch_start(0)
        plugin.wrap_batches(<WholeEpoch>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 0, batch 0, step 1)
        plugin.on_training_batch_start([10.0]; 1; epoch 0, batch 0, step 1)
        model.on_training_batch_start(epoch 0, batch 0, step 1)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 0, batch 0, step 1)
        plugin.on_before_backward(<SGD>; epoch 0, batch 0, step 1)
        plugin.on_after_backward(<SGD>; epoch 0, batch 0, step 1)
        plugin.on_before_optimizer_step(<SGD>; 10.0; epoch 0, batch 0, step 1)
        plugin.on_gradients_ready(<SGD>; 10.0; epoch 0, batch 0, step 1)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 0, step 1)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [10.0]; 1; epoch 0, batch 0, step 1)
        model.on_training_batch_end(epoch 0, batch 0, step 1; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [2.0]; epoch 0, batch 1, step 2)
        plugin.on_training_batch_start([20.0]; 1; epoch 0, batch 1, step 2)
        model.on_training_batch_start(epoch 0, batch 1, step 2)
        plugin.enter step('training')
        model.train_step([20.0]; epoch 0, batch 1, step 2)
        plugin.on_before_backward(<SGD>; epoch 0, batch 1, step 2)
        plugin.on_after_backward(<SGD>; epoch 0, batch 1, step 2)
        plugin.on_before_optimizer_step(<SGD>; 20.0; epoch 0, batch 1, step 2)
        plugin.on_gradients_ready(<SGD>; 20.0; epoch 0, batch 1, step 2)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 1, step 2)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [20.0]; 1; epoch 0, batch 1, step 2)
        model.on_training_batch_end(epoch 0, batch 1, step 2; False)
        plugin.should_training_stop()
        model.should_training_stop()
        model.append_metadata_to_chkpt_name('m_epoch_0_iter_2')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_0_iter_2_x; epoch 0, batch 2, step 2)
        plugin.process_training_batch(batch [3.0]; epoch 0, batch 2, step 3)
        plugin.on_training_batch_start([30.0]; 1; epoch 0, batch 2, step 3)
        model.on_training_batch_start(epoch 0, batch 2, step 3)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 0, batch 2, step 3)
        plugin.on_before_backward(<SGD>; epoch 0, batch 2, step 3)
        plugin.on_after_backward(<SGD>; epoch 0, batch 2, step 3)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 0, batch 2, step 3)
        plugin.on_gradients_ready(<SGD>; 30.0; epoch 0, batch 2, step 3)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 2, step 3)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [30.0]; 1; epoch 0, batch 2, step 3)
        model.on_training_batch_end(epoch 0, batch 2, step 3; True)
        plugin.on_log({'mean': 20.0}; 'training'; epoch 0, batch 3, step 3)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 0, batch 3, step 3)
        model.on_training_epoch_end(0)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        plugin.on_training_epoch_start(epoch 1, batch 0, step 3)
        model.on_training_epoch_start(1)
        plugin.wrap_batches(<WholeEpoch>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 1, batch 0, step 4)
        plugin.on_training_batch_start([10.0]; 1; epoch 1, batch 0, step 4)
        model.on_training_batch_start(epoch 1, batch 0, step 4)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 1, batch 0, step 4)
        plugin.on_before_backward(<SGD>; epoch 1, batch 0, step 4)
        plugin.on_after_backward(<SGD>; epoch 1, batch 0, step 4)
        plugin.on_before_optimizer_step(<SGD>; 10.0; epoch 1, batch 0, step 4)
        plugin.on_gradients_ready(<SGD>; 10.0; epoch 1, batch 0, step 4)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 1, batch 0, step 4)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [10.0]; 1; epoch 1, batch 0, step 4)
        model.on_training_batch_end(epoch 1, batch 0, step 4; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.wrap_batches(<WholeEpoch>; 'validation')
        model.eval()
        plugin.on_validation_start(0)
        model.on_validation_start(0)
        plugin.process_validation_batch(batch [4.0]; 0)
        plugin.on_validation_batch_start([40.0]; 1; 0)
        model.on_validation_batch_start(0)
        plugin.enter step('validation')
        model.valid_step([40.0]; 0)
        plugin.leave step('validation')
        plugin.on_validation_batch_end('validated'; [40.0]; 1; 0)
        model.on_validation_batch_end(0)
        model.train()
        plugin.on_validation_end(0)
        model.on_validation_end(0)
        plugin.on_log({'valid': 40.0}; 'validation'; epoch 1, batch 1, step 4)
        model.have_metrics_improved({'valid': 40.0})
        plugin.on_validation_results({'valid': 40.0}; False; 0)
        plugin.should_training_stop()
        model.should_training_stop()
        model.append_metadata_to_chkpt_name('m_epoch_1_iter_4')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_1_iter_4_x; epoch 1, batch 1, step 4)
        plugin.on_log({'mean': 10.0}; 'training'; epoch 1, batch 1, step 4)
        plugin.on_training_end()
        model.on_training_end()
        data.teardown()
        plugin.teardown()
        plugin.launched()
        """,
    )


def test_resumed_fit(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = resume(parts, tmp_path)
    trainer.fit(model, data)
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
        model.setup(False)
        plugin.prepare_module(<Linear>)
        plugin.load_state_dict(1)
        plugin.on_model_ready(<EveryMethod>)
        model.load_state_dict(('net', 'optimizer'); False)
        data.load_state_dict()
        plugin.on_checkpoint_loaded(m_epoch_0_iter_2_x; epoch 0, batch 2, step 2)
        plugin.on_training_start()
        model.on_training_start()
        model.train()
        plugin.wrap_batches(<WholeEpoch>; 'training')
        plugin.process_training_batch(batch [3.0]; epoch 0, batch 2, step 3)
        plugin.on_training_batch_start([30.0]; 1; epoch 0, batch 2, step 3)
        model.on_training_batch_start(epoch 0, batch 2, step 3)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 0, batch 2, step 3)
        plugin.on_before_backward(<SGD>; epoch 0, batch 2, step 3)
        plugin.on_after_backward(<SGD>; epoch 0, batch 2, step 3)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 0, batch 2, step 3)
        plugin.on_gradients_ready(<SGD>; 30.0; epoch 0, batch 2, step 3)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 2, step 3)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; [30.0]; 1; epoch 0, batch 2, step 3)
        model.on_training_batch_end(epoch 0, batch 2, step 3; True)
        plugin.on_log({'mean': 20.0}; 'training'; epoch 0, batch 3, step 3)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 0, batch 3, step 3)
        model.on_training_epoch_end(0)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        model.append_metadata_to_chkpt_name('m_epoch_1_iter_3')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_1_iter_3_x; epoch 1, batch 0, step 3)
        plugin.on_training_end()
        model.on_training_end()
        data.teardown()
        plugin.teardown()
        plugin.launched()
        """,
    )


def test_a_skipped_step(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, model, data, transcript = parts()
    plugin = trainer.plugins["everything"]
    written = plugin.on_gradients_ready

    def skip(optimizer: Any, state: TrainingState) -> None:
        written(optimizer, state)
        if state.current_iteration == 1:
            trainer.skip_step("too large")

    monkeypatch.setattr(plugin, "on_gradients_ready", skip)
    trainer.fit(model, data)
    lines = transcript.lines
    begin = lines.index("plugin.on_gradients_ready(<SGD>; 10.0; epoch 0, batch 0, step 1)")
    end = lines.index("plugin.on_gradients_ready(<SGD>; 20.0; epoch 0, batch 1, step 2)")
    assert lines[begin + 1 : begin + 3] == [
        "plugin.on_optimizer_step_skipped(<SGD>; 'too large'; epoch 0, batch 0, step 1)",
        "plugin.leave step('training')",
    ]
    assert lines[end + 1] == "plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 1, step 2)"


def test_failing_fit(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, model, data, transcript = parts()
    error = ValueError("in a step")

    def fail(batch: Any, state: TrainingState) -> None:
        raise error

    monkeypatch.setattr(model, "train_step", fail)
    with pytest.raises(ValueError, match="in a step"):
        trainer.fit(model, data)
    lines = transcript.lines
    begin = lines.index("plugin.enter step('training')")
    assert lines[begin:] == [
        "plugin.enter step('training')",
        "plugin.on_exception(ValueError('in a step'); epoch 0, batch 0, step 1)",
        "data.teardown()",
        "plugin.teardown()",
    ]
