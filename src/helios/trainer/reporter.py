"""What a run tells of itself: what is active, what went wrong and where, and what it has cost."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from helios.core import Place, TrainingState
from helios.model import Model
from helios.plugins import PluginManager, PluginPlan, profile
from helios.plugins.attribution import call_in_traceback
from helios.trainer.control import StopRequest

if TYPE_CHECKING:
    import pathlib

_logger = logging.getLogger("helios")


class Reporter:
    """Speaks for a run: in the log, on the terminal, in notes on errors, and to plug-ins.

    Args:
        manager: the plug-ins.
        model: the model.
        state: the position of the run.
        prints: whether to write on the terminal, besides the log.

    Attributes:
        doing: what the run is doing with the model, for messages.
        profile: what plug-ins cost, if that is measured.
        profile_folder: the folder for the profile, if there is one.
    """

    def __init__(
        self, manager: PluginManager, model: Model, state: TrainingState, prints: bool
    ) -> None:
        self._manager = manager
        self._model = model
        self._state = state
        self._prints = prints
        self._failure: BaseException | None = None
        self.doing = "setting up"
        self.profile: profile.PluginProfile | None = None
        self.profile_folder: pathlib.Path | None = None

    def show_header(self, place: Place, plan: PluginPlan) -> None:
        """Show what is going to run, and on what."""
        import helios

        versions = f"Helios {helios.__version__} on {place.device}, torch {torch.__version__}"
        header = f"{versions}\n{plan.as_text()}"
        self._tell(self._model.append_to_banner(header), logging.INFO)

    def show_restored(self, path: "pathlib.Path") -> None:
        """Say from where a run goes on."""
        state = self._state
        self._tell(
            f"restored {path}: epoch {state.global_epoch}, iteration {state.current_iteration}",
            logging.INFO,
        )

    def show_stops(self, requests: list[StopRequest]) -> None:
        """Say why the run has ended before its time, if it has."""
        for request in requests:
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
        for quarantine in self._manager.quarantined.values():
            self._tell(str(quarantine), logging.WARNING)
        if self.profile is not None:
            costs = self.profile.to_dict()
            self._tell(profile.as_text(costs), logging.INFO)
            folder = self.profile_folder
            if folder is not None and folder.is_dir():  # or it could not be made
                path = folder / f"plugin-profile-{name}.json"
                path.write_text(profile.as_json(costs), encoding="utf-8")

    def _tell(self, text: str, level: int) -> None:
        _logger.log(level, "%s", text)
        if self._prints:
            print(text, flush=True)

    def _tell_plugins(self, error: BaseException) -> None:
        manager, state = self._manager, self._state
        for row in manager.rows.values():
            try:
                manager.call_one(row, "on_exception", error=error, state=state)
            except (Exception, SystemExit):
                _logger.exception("on_exception of plug-in %r has failed", row.id)

    def _add_note(self, error: BaseException) -> None:
        state = self._state
        where = f"Helios was {self.doing} {self._model.save_name!r}"
        if state.global_iteration:
            where += (
                f": epoch {state.global_epoch}, batch {state.dataset_iter} of it,"
                f" iteration {state.current_iteration}"
            )
        call = call_in_traceback(self._manager, error)
        if call is not None:
            where += f"; raised in {call.hook} of plug-in {self._manager.describe(call.plug_id)}"
        error.add_note(where)
