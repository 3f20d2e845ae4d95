"""Reports on a run: the active plug-ins, errors and their origins, and the cost of plug-ins."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from helios.core import Place, TrainingState
from helios.errors import printable
from helios.model import Model
from helios.plugins import PluginManager, PluginPlan
from helios.plugins.calls import profile
from helios.plugins.registration.attribution import call_in_traceback
from helios.trainer.control import StopRequest
from helios.trainer.expected import is_exception_type
from helios.trainer.hyper_parameters import model_story

if TYPE_CHECKING:
    import pathlib

_logger = logging.getLogger("helios")


class Reporter:
    """Reports on a run: in the log, on the terminal, in notes on errors, and to plug-ins.

    Args:
        manager: the plug-ins.
        model: the model.
        state: the progress of the run.
        prints: ``True`` to write to the terminal as well as to the log.

    Attributes:
        is_silent: ``True`` in a process with a rank above 0: rank 0 says what all would say.
        process: this process among several, in words; empty for one.
        doing: the current action of the run on the model, for messages.
        failures: the observers that have failed in any process, in words; ``None`` if this process
            knows only its own.
        profile: the cost of plug-ins, if it is measured.
        profile_folder: the folder for the profile, if the run has one.
    """

    def __init__(
        self, manager: PluginManager, model: Model, state: TrainingState, prints: bool
    ) -> None:
        self._manager = manager
        self._model = model
        self._state = state
        self._prints = prints
        self._failure: BaseException | None = None
        self.is_silent = False
        self.process = ""
        self.doing = "setting up"
        self.failures: list[str] | None = None
        self.profile: profile.PluginProfile | None = None
        self.profile_folder: pathlib.Path | None = None

    def show_header(self, place: Place, plan: PluginPlan) -> None:
        """Show the header of a run: its versions, its device and its plug-ins."""
        import helios

        ranks = f" of {place.world_size} ranks" if place.is_distributed else ""
        device = f"{place.device}{ranks}"
        versions = f"Helios {helios.__version__} on {device}, torch {torch.__version__}"
        parts = (versions, model_story(self._model), plan.as_text())
        header = "\n".join(filter(None, parts))
        self._tell(self._model.append_to_banner(header), logging.INFO)

    def show_restored(self, path: "pathlib.Path", validated: str) -> None:
        """Show the checkpoint that a run resumes from or tests, and its validation."""
        state = self._state
        facts = [f"epoch {state.global_epoch}", f"iteration {state.current_iteration}"]
        self._tell(f"restored {path}: {', '.join(filter(None, [*facts, validated]))}", logging.INFO)

    def show(self, text: str) -> None:
        """Show a line about the run."""
        self._tell(text, logging.INFO)

    def show_used_folder(self, plan: "pathlib.Path") -> None:
        """Say that the files of other runs stay as they are."""
        self._tell(
            f"{plan.parent} has files of another run, which are kept: those of this run have the"
            f" number of {plan.name} in their names",
            logging.INFO,
        )

    def show_nothing_to_train(self, reason: str) -> None:
        """Say that a run that is started again is over.

        Args:
            reason: why, and how to train longer.
        """
        self._tell(f"nothing to train: the run is over, because {reason}", logging.INFO)

    def show_stops(self, requests: list[StopRequest]) -> None:
        """Show the reasons of an early stop, if any."""
        for request in requests:
            story = printable(f"stopped: {request.reason} (requested by {request.author})")
            if request.is_shown and not self.is_silent:
                _logger.info("%s", story)
            else:
                self._tell(story, logging.INFO)

    def warn(self, texts: Iterable[str]) -> None:
        """Warn about what the user wrote and the run will not use."""
        for text in () if self.is_silent else texts:
            _logger.warning("%s", text)

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Report another action in messages; after an error, the action stays the reported one."""
        before, self.doing = self.doing, doing
        yield
        self.doing = before

    @contextlib.contextmanager
    def errors(self, expected: list[type[Exception]]) -> Iterator[None]:
        """Add a note to an error, log it, and report it to the plug-ins.

        Args:
            expected: the exception types that are not logged as errors.
        """
        try:
            yield
        except BaseException as error:
            if error is not self._failure:  # reported already, inside launch
                self._failure = error
                self._add_note(error)
                kinds = tuple(filter(is_exception_type, expected))
                is_fault = isinstance(error, Exception) and not isinstance(error, kinds)
                if is_fault and _logger.hasHandlers():  # otherwise Python would show it twice
                    _logger.error("the run has failed", exc_info=error)
                self._tell_plugins(error)
            raise

    def accept(self, error: BaseException) -> None:
        """Pass an error on as it is, because another process has reported it."""
        self._failure = error

    @contextlib.contextmanager
    def accounts(self, name: str) -> Iterator[None]:
        """Report at the end which plug-ins failed, and the cost of all plug-ins.

        Args:
            name: ``"fit"`` or ``"test"``, for the name of the profile's file.
        """
        try:
            yield
        finally:
            try:
                self._show_accounts(name)
            except OSError:  # a full disk or a closed terminal must not hide the run's own end
                _logger.exception("the failures and costs of plug-ins could not be reported")

    def _show_accounts(self, name: str) -> None:
        known = self.failures
        for failure in self.own_failures() if known is None else () if self.is_silent else known:
            self._tell(failure, logging.WARNING)
        if self.profile is not None:
            costs = self.profile.to_dict()
            self._tell(profile.as_text(costs), logging.INFO)
            folder = self.profile_folder
            if (
                folder is not None and folder.is_dir() and not self.is_silent
            ):  # it is missing if it could not be created
                path = folder / f"plugin-profile-{name}.json"
                path.write_text(profile.as_json(costs), encoding="utf-8")

    def own_failures(self) -> list[str]:
        """Return the observers that have failed in this process, in words."""
        quarantined = self._manager.quarantined.values()
        return [": ".join(filter(None, [self.process, str(each)])) for each in quarantined]

    def _tell(self, text: str, level: int) -> None:
        if self.is_silent and level < logging.WARNING:
            return
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

    def position(self) -> str:
        """Return the current action and the position in training, in words."""
        state = self._state
        where = f"{self.doing} {self._model.save_name!r}"
        if state.global_iteration:
            where += (
                f": epoch {state.global_epoch}, batch {state.dataset_iter} of it,"
                f" iteration {state.current_iteration}"
            )
        return where

    def _add_note(self, error: BaseException) -> None:
        where = f"Helios was {self.position()}"
        call = call_in_traceback(self._manager, error)
        if call is not None:
            where += f"; raised in {call.hook} of plug-in {self._manager.describe(call.plug_id)}"
        if self.process:
            where += f"; on {self.process}"
        error.add_note(where)
