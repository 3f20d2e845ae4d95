"""The loops: training, validation, testing, prediction.

This module calls every hook of a loop, in the order in which the calls are written. A hook is
``None``, and is skipped, if no plug-in implements it.
"""

import math
from typing import TYPE_CHECKING, Any

import torch

from helios.core import TrainingUnit
from helios.core.rng import preserved_rng_state
from helios.errors import InvalidPluginError
from helios.trainer.predictions import Predictions
from helios.trainer.verdicts import verdict

if TYPE_CHECKING:
    from helios.trainer.run import Run


def train(run: "Run") -> None:
    """Train until the last step, early stopping, or a request to stop."""
    trainer, model, hooks, state = run.trainer, run.model, run.hooks, run.state
    control, in_epochs = run.control, trainer.train_unit is TrainingUnit.EPOCH
    is_first = run.is_validation_first()
    if control.validation_due or is_first:  # a stop interrupted it, or nothing is trained yet
        control.validation_due = False
        control.ask("a validation")
        if is_first:
            validate_and_save(run, validates=True, saves=False)
        else:
            complete_step(run)
    # A checkpoint may be saved after the last batch, but before the end of its epoch.
    while not control.validation_due and (
        not control.is_finished() or state.dataset_iter == run.batches.per_epoch
    ):
        if state.dataset_iter == 0:
            if hooks.on_training_epoch_start is not None:
                hooks.on_training_epoch_start(state=state)
            model.on_training_epoch_start(state.global_epoch)

        if not train_epoch(run):
            break

        control.validation_due = in_epochs and (
            control.take("a validation") or is_due(trainer.valid_frequency, state.global_epoch + 1)
        )
        if control.validation_due and not validate(run):
            break
        with run.session.logging_to(run.results.epoch_log):
            if hooks.on_training_epoch_end is not None:
                hooks.on_training_epoch_end(state=state)
            model.on_training_epoch_end(state.global_epoch)
        run.end_epoch()
        state.global_epoch += 1
        state.dataset_iter = 0
        answer = model.should_advance_dataset_phase()
        if run.group.broadcast(verdict(model, "should_advance_dataset_phase", answer)):
            run.batches.advance_phase()
        run.points.meet()  # hooks at the end of the epoch may have requested something
        is_due_here = in_epochs and (
            is_due(trainer.chkpt_frequency, state.global_epoch) or run.must_keep_best()
        )
        if control.take("a checkpoint") or control.save_due or is_due_here:
            control.save_due = False
            save(run)
    run.control.end_early(run.validations.story_of_end)
    run.checkpoints.save_if_changed()


def train_epoch(run: "Run") -> bool:
    """Train on the batches of the epoch that have not been consumed yet.

    A stop takes effect after a complete optimizer step, so that no gradients are lost. If a
    validation is due after that step, it comes first, unless the stop is urgent.

    Returns:
        ``True`` if the epoch is complete and no validation was interrupted.
    """
    model, hooks, state, timer = run.step_model, run.step_hooks, run.state, run.timer
    session, window, control, batches = run.session, run.window, run.control, run.batches
    in_contexts, may_stop = run.has_step_contexts, run.may_stop
    print_frequency, due = run.trainer.print_frequency or math.inf, next_due(run)
    session.optimizers.hold_nodes()
    for batch in batches.training():
        if window.is_complete:  # the previous batch completed it: this one begins another
            session.optimizers.drop_gradients()
        if window.accumulates:
            window.add_batch(state.dataset_iter, batches.per_epoch)
        state.global_iteration += 1
        state.running_iter += 1
        state.current_iteration += window.is_complete
        session.batch = state.dataset_iter
        if hooks.process_training_batch is not None:
            loaded, batch = batch, hooks.process_training_batch(batch=batch, state=state)
            require_batch(run, batch, loaded, "process_training_batch")
        if hooks.on_training_batch_start is not None:
            hooks.on_training_batch_start(batch=batch, samples=session.samples, state=state)
        model.on_training_batch_start(state)
        if in_contexts:
            with run.step_context("training"):
                outputs = model.train_step(batch, state)
        else:
            outputs = model.train_step(batch, state)
        if window.size > 1 and window.is_complete:
            session.end_window()
        if hooks.on_training_batch_end is not None:
            hooks.on_training_batch_end(
                outputs=outputs, batch=batch, samples=session.samples, state=state
            )
        should_log = window.is_complete and state.current_iteration % print_frequency == 0
        model.on_training_batch_end(state, should_log=should_log)
        session.batch = None
        state.dataset_iter += 1
        state.average_iter_time = timer.record()
        if should_log:
            run.results.log_training()
        if may_stop:
            run.should_stop()
        if window.is_complete and (state.current_iteration >= due or control.is_asked):
            if run.is_first_window:
                run.check_first_steps(outputs)
            if not complete_step(run):
                return is_whole_epoch(run)
            due = next_due(run)
    return True


def is_whole_epoch(run: "Run") -> bool:
    """Return whether an epoch in which training ends is complete, and its validation, too."""
    return run.state.dataset_iter == run.batches.per_epoch and not run.control.validation_due


def next_due(run: "Run") -> int | float:
    """Return the optimizer step after which a validation, a save or the end is due.

    With epochs as the training unit, all of these come at the end of an epoch.
    """
    trainer, step = run.trainer, run.state.current_iteration
    if run.is_first_window:
        return step + 1
    if trainer.train_unit is TrainingUnit.EPOCH:
        return math.inf
    frequencies = filter(None, (trainer.valid_frequency, trainer.chkpt_frequency))
    next_steps = [step - step % frequency + frequency for frequency in frequencies]
    return min(run.control.total_steps, *next_steps, math.inf)


def is_decisive(run: "Run") -> bool:
    """Return whether something follows this step that needs the requests of all ranks."""
    trainer, state = run.trainer, run.state
    if run.control.is_asked or state.dataset_iter == run.batches.per_epoch:
        return True
    return trainer.train_unit is TrainingUnit.ITERATION and (
        is_due(trainer.valid_frequency, state.current_iteration)
        or is_due(trainer.chkpt_frequency, state.current_iteration)
        or state.current_iteration >= run.control.total_steps
    )


def complete_step(run: "Run") -> bool:
    """Validate and save after an optimizer step, if it is due or requested.

    Returns:
        ``False`` if training ends here.
    """
    trainer, control, state = run.trainer, run.control, run.state
    if trainer.train_unit is TrainingUnit.EPOCH:
        if control.is_asked and state.dataset_iter != run.batches.per_epoch:
            validate_and_save(run, validates=False, saves=False)
        return not control.requests
    validates = is_due(trainer.valid_frequency, state.current_iteration)
    saves = is_due(trainer.chkpt_frequency, state.current_iteration)
    if validates or saves or control.is_asked:
        validate_and_save(run, validates=validates, saves=saves)
    return not control.is_finished()


def validate_and_save(run: "Run", *, validates: bool, saves: bool) -> None:
    """Validate, and then save; requests count, too.

    After the last batch of an epoch, the save waits for the end of the epoch, so that one moment
    does not get two checkpoints. The end of a stream is not known yet.
    """
    control = run.control
    control.validation_due = validates = control.take("a validation") or validates
    if validates and not validate(run):
        return
    if control.take("a checkpoint") or saves or (validates and run.must_keep_best()):
        if run.state.dataset_iter == run.batches.per_epoch:
            control.save_due = True
        else:
            save(run)


def save(run: "Run") -> None:
    """Save a checkpoint, after which hooks may request something."""
    run.checkpoints.save()
    run.points.meet()


def validate(run: "Run") -> bool:
    """Validate once, without changing the random numbers of training.

    An urgent stop interrupts the validation, which stays due. Its changes so far are not saved,
    because a resumed run repeats the validation from its beginning.

    Returns:
        ``True`` if the validation is complete.
    """
    model, hooks, state = run.model, run.hooks, run.state
    cycle = state.validation_cycles
    if run.points.must_leave():
        return False
    if run.control.interruptible:
        run.checkpoints.keep()
    with run.job.reporter.busy("validating"), preserved_rng_state():
        batches = run.batches.validation()
        if batches is not None:
            with run.session.evaluating(run.batches.evaluation_size):
                is_complete = _validate_batches(run, batches, cycle)
            if not is_complete:
                model.train()
                return False
            run.results.log_evaluation("validation")
        improved = run.validations.judge()
        if hooks.on_validation_results is not None:
            hooks.on_validation_results(
                metrics=model.metrics, improved=improved, validation_cycle=cycle
            )
    state.early_stop_count = 0 if improved else state.early_stop_count + 1
    state.validation_cycles += 1
    run.control.validation_due = False
    run.checkpoints.discard()
    run.should_stop()
    return True


def _validate_batches(run: "Run", batches: Any, cycle: int) -> bool:
    model, hooks, session = run.step_model, run.step_hooks, run.session
    model.eval()
    if hooks.on_validation_start is not None:
        hooks.on_validation_start(validation_cycle=cycle)
    model.on_validation_start(cycle)
    session.share_buffers()
    with torch.no_grad():
        for step, batch in enumerate(batches):
            session.batch = step
            if hooks.process_validation_batch is not None:
                loaded, batch = batch, hooks.process_validation_batch(batch=batch, step=step)
                require_batch(run, batch, loaded, "process_validation_batch")
            if hooks.on_validation_batch_start is not None:
                hooks.on_validation_batch_start(batch=batch, samples=session.samples, step=step)
            model.on_validation_batch_start(step)
            with run.step_context("validation"):
                outputs = model.valid_step(batch, step)
            if hooks.on_validation_batch_end is not None:
                hooks.on_validation_batch_end(
                    outputs=outputs, batch=batch, samples=session.samples, step=step
                )
            model.on_validation_batch_end(step)
            if run.points.must_leave(step):
                return False
    session.batch = None
    if not run.points.has_validated():
        return False
    run.results.enter()
    model.train()
    if hooks.on_validation_end is not None:
        hooks.on_validation_end(validation_cycle=cycle)
    model.on_validation_end(cycle)
    return True


def test(run: "Run") -> None:
    """Test once. A request to stop interrupts the test, which then has no results."""
    batches = run.batches.testing()
    if batches is not None:
        with run.session.evaluating(run.batches.evaluation_size):
            is_complete = _test_batches(run, batches)
        if is_complete:
            run.results.log_evaluation("testing")


def _test_batches(run: "Run", batches: Any) -> bool:
    model, hooks, session = run.step_model, run.step_hooks, run.session
    if hooks.on_testing_start is not None:
        hooks.on_testing_start()
    model.on_testing_start()
    session.share_buffers()
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(batches):
            session.batch = step
            if hooks.process_testing_batch is not None:
                loaded, batch = batch, hooks.process_testing_batch(batch=batch, step=step)
                require_batch(run, batch, loaded, "process_testing_batch")
            if hooks.on_testing_batch_start is not None:
                hooks.on_testing_batch_start(batch=batch, samples=session.samples, step=step)
            model.on_testing_batch_start(step)
            with run.step_context("testing"):
                outputs = model.test_step(batch, step)
            if hooks.on_testing_batch_end is not None:
                hooks.on_testing_batch_end(
                    outputs=outputs, batch=batch, samples=session.samples, step=step
                )
            model.on_testing_batch_end(step)
            if run.points.must_stop(step):
                return False
    session.batch = None
    if not run.points.has_tested():
        return False
    run.results.enter()
    if hooks.on_testing_end is not None:
        hooks.on_testing_end()
    model.on_testing_end()
    return True


def validate_alone(run: "Run") -> None:
    """Validate once, for a run that does not train: nothing judges the results."""
    batches = run.batches.validation()
    if batches is not None:
        with run.session.evaluating(run.batches.evaluation_size):
            is_complete = _validate_batches(run, batches, run.state.validation_cycles)
        run.model.eval()
        if is_complete:
            run.results.log_evaluation("validation")


def predict(run: "Run", batches: Any, predictions: Predictions) -> None:
    """Predict once. A request to stop interrupts it."""
    with run.session.evaluating(run.batches.evaluation_size):
        predictions.is_complete = _predict_batches(run, batches, predictions)
    if predictions.is_complete:
        run.results.log_evaluation("prediction")


def _predict_batches(run: "Run", batches: Any, predictions: Predictions) -> bool:
    model, hooks, session = run.model, run.hooks, run.session
    if hooks.on_prediction_start is not None:
        hooks.on_prediction_start()
    session.share_buffers()
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(batches):
            session.batch = step
            if hooks.process_prediction_batch is not None:
                loaded, batch = batch, hooks.process_prediction_batch(batch=batch, step=step)
                require_batch(run, batch, loaded, "process_prediction_batch")
            if hooks.on_prediction_batch_start is not None:
                hooks.on_prediction_batch_start(batch=batch, samples=session.samples, step=step)
            with run.step_context("prediction"):
                outputs = model.predict_step(batch, step)
            predictions.add(outputs, step)
            if hooks.on_prediction_batch_end is not None:
                hooks.on_prediction_batch_end(
                    outputs=outputs, batch=batch, samples=session.samples, step=step
                )
            if run.points.must_stop(step):
                return False
    if not run.points.has_tested():
        return False
    session.batch = None
    if hooks.on_prediction_end is not None:
        hooks.on_prediction_end()
    return True


def is_due(frequency: float | None, count: int) -> bool:
    """Return whether an action is due that happens once every ``frequency`` counts."""
    return frequency is not None and count % frequency == 0


def require_batch(run: "Run", batch: Any, loaded: Any, hook: str) -> None:
    """Raise an error if a hook returned no batch although the loader loaded one."""
    if batch is None and loaded is not None:
        plugin = run.manager.describe(run.manager.claimant(hook))
        raise InvalidPluginError(
            f"plug-in {plugin} returned None from {hook}: return the batch, changed or not."
        )
