"""What a run tells of itself: what is active, what went wrong and where, and what it has cost."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from helios.plugins import profiling
from helios.plugins.attribution import call_in_traceback

if TYPE_CHECKING:
    import pathlib

    from helios.trainer.run import Run

_logger = logging.getLogger("helios")


class Reporter:
    """Speaks for a run: in the log, on the terminal, in notes on errors, and to plug-ins.

    Args:
        run: what is reported on.

    Attributes:
        doing: what the run is doing with the model, for messages.
        profile: what plug-ins cost, if that is measured.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._failure: BaseException | None = None
        self.doing = "setting up"
        self.profile: profiling.PluginProfile | None = None

    def show_header(self) -> None:
        """Show what is going to run, and on what."""
        import helios

        trainer = self._run.trainer
        versions = f"Helios {helios.__version__} on {trainer.device}, torch {torch.__version__}"
        header = f"{versions}\n{trainer.plan.as_text()}"
        self._tell(self._run.model.append_to_banner(header), logging.INFO)

    def show_restored(self, path: "pathlib.Path") -> None:
        """Say from where a run goes on."""
        state = self._run.state
        self._tell(
            f"restored {path}: epoch {state.global_epoch}, iteration {state.current_iteration}",
            logging.INFO,
        )

    def show_stop(self) -> None:
        """Say why the run has ended before its time, if it has."""
        for request in self._run.trainer.stop_requests:
            self._tell(f"stopped: {request.reason} (asked for by {request.author})", logging.INFO)

    @contextlib.contextmanager
    def errors(self, expected: list[type[Exception]]) -> Iterator[None]:
        """Tell the error itself, the log and the plug-ins what went wrong, and where.

        Args:
            expected: types of exceptions that are not logged as faults.
        """
        try:
            yield
        except BaseException as error:
            if error is not self._failure:  # launching and running both report
                self._failure = error
                self._add_note(error)
                is_fault = isinstance(error, Exception) and not isinstance(error, tuple(expected))
                if is_fault and _logger.hasHandlers():  # or Python would show it twice
                    _logger.error("the run has failed", exc_info=error)
                self._tell_plugins(error)
            raise

    @contextlib.contextmanager
    def accounts(self, name: str) -> Iterator[None]:
        """Say at the end which plug-ins have failed, and what all of them have cost.

        Args:
            name: ``"fit"`` or ``"test"``, for the file beside the checkpoints.
        """
        try:
            yield
        finally:
            try:
                self._show_accounts(name)
            except OSError:  # a full disk, a closed terminal: not to hide how the run has ended
                _logger.exception("what plug-ins have done and cost could not be reported")

    def _show_accounts(self, name: str) -> None:
        for quarantine in self._run.manager.quarantined.values():
            self._tell(str(quarantine), logging.WARNING)
        if self.profile is not None:
            costs = self.profile.to_dict()
            self._tell(profiling.as_text(costs), logging.INFO)
            folder = self._run.checkpoints.folder
            if folder is not None and folder.is_dir():  # or it could not be made
                path = folder / f"plugin-profile-{name}.json"
                path.write_text(profiling.as_json(costs), encoding="utf-8")

    def _tell(self, text: str, level: int) -> None:
        _logger.log(level, "%s", text)
        if self._run.trainer.print_banner:
            print(text, flush=True)

    def _tell_plugins(self, error: BaseException) -> None:
        manager, state = self._run.manager, self._run.state
        for row in manager.rows.values():
            try:
                manager.call_one(row, "on_exception", error=error, state=state)
            except (Exception, SystemExit):
                _logger.exception("on_exception of plug-in %r has failed", row.id)

    def _add_note(self, error: BaseException) -> None:
        run, state = self._run, self._run.state
        where = f"Helios was {self.doing} {run.model.save_name!r}"
        if state.global_iteration:
            where += (
                f": epoch {state.global_epoch}, batch {state.dataset_iter} of it,"
                f" iteration {state.current_iteration}"
            )
        call = call_in_traceback(run.manager, error)
        if call is not None:
            where += f"; raised in {call.hook} of plug-in {run.manager.describe(call.plug_id)}"
        error.add_note(where)
