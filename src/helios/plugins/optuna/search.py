"""The short way to tune: a search that resumes wherever it was cut."""

import concurrent.futures
import contextlib
import logging
import multiprocessing
import pathlib
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from helios.checkpoints.lock import FolderLock
from helios.errors import ConfigurationError, StudyError
from helios.plugins.optuna import journal, studies, summary, trials, worker

_logger = logging.getLogger(__name__)

_DEATHS = 3
"""So many times, the search goes on after a process has died."""


def tune(
    model: Callable[..., Any],
    data: Any,
    space: Mapping[str, Any],
    n_trials: int,
    *,
    trainer: Callable[..., Any],
    metric_name: str,
    root: str | pathlib.Path,
    direction: str = "minimize",
    processes: int = 1,
    sampler: Callable[..., Any] | None = None,
    pruner: Any = None,
    seed: int = 0,
    storage: Any = None,
    study_name: str = "study",
    verbose: bool = True,
    n_jobs: int = 1,
) -> Any:
    """Search for the best hyperparameters, and return the study.

    Call the function again after a crash: trials that were cut resume from their checkpoints, if
    the trainer saves any. With one process, the result is then that of a search that was not cut.

    Args:
        model: called with the parameters of a trial as keyword arguments; returns the model.
        data: the data module, or a function like ``model`` that returns it.
        space: Optuna's distributions by the names of the parameters.
        n_trials: the number of trials that end without an error, in all calls together.
        trainer: called with ``run_root``, the folder of a trial; returns the trainer. Usually
            ``functools.partial(helios.Trainer, total_steps=..., valid_frequency=...)``.
        metric_name: the entry of ``model.metrics`` to optimize.
        root: the folder of the search. One search at a time can use it.
        direction: ``"minimize"`` or ``"maximize"``.
        processes: the number of processes that train. If there are several, the other arguments
            must be picklable, so functions must be at the top level of a module.
        sampler: called with ``seed``, once for each parameter of each trial, so that processes and
            restarts do not change what is suggested; by default ``optuna.samplers.TPESampler``.
        pruner: the pruner; by default that of Optuna.
        seed: the seed of the suggestions.
        storage: the storage; by default a ``JournalStorage`` in ``root``.
        study_name: the name of the study.
        verbose: whether to show a progress bar, and a table of the best trials at the end.
        n_jobs: refused, because Optuna's jobs are threads.

    Raises:
        ConfigurationError: an argument is invalid.
        StudyError: another search is using the folder or the study, or processes keep dying.

    Example:
        .. code-block:: python

            study = tune(
                Classifier,
                Digits(),
                {"lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)},
                n_trials=30,
                trainer=functools.partial(
                    helios.Trainer, total_steps=10, valid_frequency=1, chkpt_frequency=1
                ),
                metric_name="accuracy",
                direction="maximize",
                root="search",
                processes=2,
            )
    """
    import optuna

    _check(space, n_trials, processes, sampler, n_jobs)
    folder = pathlib.Path(root).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_search_in(folder):
        if storage is None:
            storage = journal.open_journal(folder)
        storage = studies.storage_of({"storage": storage})
        study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            load_if_exists=True,
            direction=direction,  # type: ignore[arg-type]  # Optuna checks it
            pruner=pruner,
        )
        _claim(study, folder)
        job = worker.Job(
            model, data, trainer, metric_name, folder, storage, study_name, study.pruner
        )
        make_sampler = sampler or optuna.samplers.TPESampler
        search = _Search(study, job, space, n_trials, make_sampler, seed)
        with summary.progress(study, n_trials, verbose) as search.on_trial_end:
            if processes == 1:
                search.run_here()
            else:
                search.run_in(processes)
        summary.write_plots(study, folder / "plots")
    if verbose:
        summary.print_best(study)
    return study


class _Search:
    """The trials of a search that are left.

    Args:
        study: the study.
        job: the work of each trial.
        space: the distributions of the parameters.
        n_trials: the number of trials that end without an error.
        make_sampler: returns a sampler for a seed.
        seed: the seed of the suggestions.
    """

    def __init__(
        self,
        study: Any,
        job: worker.Job,
        space: Mapping[str, Any],
        n_trials: int,
        make_sampler: Callable[..., Any],
        seed: int,
    ) -> None:
        self.on_trial_end: Callable[[], None] = lambda: None
        self._study = study
        self._job = job
        self._space = space
        self._n_trials = n_trials
        self._make_sampler = make_sampler
        self._seed = seed
        self._started: set[int] = set()  # in this process, and not ended
        self._error: BaseException | None = None

    def run_here(self) -> None:
        """Train in this process, one trial after the other."""
        for number in iter(self._next, None):
            try:
                value = self._job.train(number)
            except Exception as error:
                self._fail(number, error)
            else:
                self._tell(number, value)
        self._raise()

    def run_in(self, processes: int) -> None:
        """Train in several processes; replace those that die."""
        _check_picklable(self._job, processes)
        if studies.is_sqlite(self._job.storage):
            studies.warn_of_sqlite(_logger)
        for _ in range(_DEATHS):
            try:
                self._run_in_pool(processes)
            except BrokenProcessPool:
                cut, self._started = sorted(self._started), set()
                _logger.warning(
                    "Optuna plug-in: a process of the search has died; a system does that if memory"
                    " is short. The trials %s resume from their checkpoints.",
                    cut,
                )
            else:
                self._raise()
                return
        raise StudyError(
            f"processes of the search have died {_DEATHS} times, the last time in trials {cut}."
            " If the machine has too little memory, pass fewer processes. Call tune() again to"
            " resume."
        )

    def _run_in_pool(self, processes: int) -> None:
        context = _process_context()
        with concurrent.futures.ProcessPoolExecutor(
            processes, context, initializer=worker.receive, initargs=(self._job,)
        ) as pool:
            running: dict[concurrent.futures.Future[float | None], int] = {}
            while True:
                while len(running) < processes and (number := self._next()) is not None:
                    running[pool.submit(worker.train, number)] = number
                if not running:
                    return
                ended, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                broken = [each for each in ended if isinstance(each.exception(), BrokenProcessPool)]
                for future in ended - set(broken):
                    error = future.exception()
                    if error is None:
                        self._tell(running.pop(future), future.result())
                    else:
                        self._fail(running.pop(future), error)
                if broken:
                    broken[0].result()

    def _next(self) -> int | None:
        """Return the number of a trial to train, with its parameters; ``None`` if all are done."""
        known = self._study.get_trials(deepcopy=False)
        states = trials.states()
        running = [trial.number for trial in known if trial.state == states.RUNNING]
        if self._error is not None:
            return None
        number = next((each for each in running if each not in self._started), None)
        if number is None:
            ended = [t for t in known if t.state in (states.COMPLETE, states.PRUNED)]
            if len(ended) + len(running) >= self._n_trials:
                return None
            waiting = (trial.number for trial in known if trial.state == states.WAITING)
            number = next(waiting, len(known))
            self._seed_sampler(number)
            number = int(self._study.ask().number)
        self._suggest(number)
        self._started.add(number)
        return number

    def _suggest(self, number: int) -> None:
        """Suggest the parameters of a trial that it does not have yet."""
        self._seed_sampler(number)
        trial = trials.open_trial(self._study, self._job.storage, number)
        for name, distribution in self._space.items():
            self._seed_sampler(number, name)
            trials.suggest(trial, name, distribution)

    def _seed_sampler(self, number: int, name: str = "") -> None:
        """Give the study a sampler that depends on nothing but the trial and the parameter."""
        sequence = np.random.SeedSequence([self._seed, number, *name.encode()])
        self._study.sampler = self._make_sampler(seed=int(sequence.generate_state(1)[0]))

    def _tell(self, number: int, value: float | None) -> None:
        if value is None:
            self._study.tell(number, state=trials.states().PRUNED)
        else:
            self._study.tell(number, value)
        self._started.discard(number)
        self.on_trial_end()

    def _fail(self, number: int, error: BaseException) -> None:
        """Record that a trial has failed; the search ends when the others have."""
        self._study.tell(number, state=trials.states().FAIL)
        self._started.discard(number)
        parameters = self._study.get_trials(deepcopy=False)[number].params
        error.add_note(f"in trial {number} of the search, with the parameters {parameters}")
        self._error = self._error or error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _check(
    space: Mapping[str, Any], n_trials: int, processes: int, sampler: Any, n_jobs: int
) -> None:
    import optuna

    if trials.is_one_of_several():
        raise ConfigurationError(
            "tune() searches from one process, but a launcher has started this one as one of"
            " several: start the program without torchrun. To train each trial on several ranks,"
            " pass trainer=functools.partial(helios.Trainer, devices=2, ...)."
        )
    if n_jobs != 1:
        raise ConfigurationError(
            f"tune(n_jobs={n_jobs}) would train in threads of one process, which draw from the same"
            f" random number generators, so no result would be exact. Pass processes={n_jobs}."
        )
    for name, count in (("n_trials", n_trials), ("processes", processes)):
        if not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"tune({name}={count!r}) must be an integer of at least 1.")
    for name, distribution in space.items():
        if not isinstance(distribution, optuna.distributions.BaseDistribution):
            raise ConfigurationError(
                f"tune(space=...): {name!r} is {distribution!r}. Write a distribution, such as"
                " optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)."
            )
    if isinstance(sampler, optuna.samplers.BaseSampler):
        kind = type(sampler).__name__
        raise ConfigurationError(
            f"tune(sampler={kind}(...)) is one sampler, but each trial needs its own seed. Pass the"
            f" class, or a function: sampler=lambda seed: {kind}(seed=seed)."
        )


def _check_picklable(job: worker.Job, processes: int) -> None:
    import optuna

    if isinstance(job.storage, optuna.storages.InMemoryStorage):
        raise ConfigurationError(
            f"tune(processes={processes}) needs a storage that all processes can reach. Leave out"
            " storage, or pass a JournalStorage or the URL of a PostgreSQL database."
        )
    try:
        pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"tune(processes={processes}) sends its arguments to other processes, but {error}."
            " Define classes and functions at the top level of a module, and use functools.partial"
            " in place of lambda."
        ) from error


def _process_context() -> Any:
    """Return the way to start processes; one that uses a GPU cannot be forked itself."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])  # so PyTorch is imported once
    return context


@contextlib.contextmanager
def _only_search_in(folder: pathlib.Path) -> Iterator[None]:
    lock = FolderLock(folder)
    try:
        lock.acquire()
    except ConfigurationError as error:
        raise StudyError(
            f"another search is running in {folder}. Wait until it has ended, or pass another root."
            " To train in several processes, pass processes=2."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _claim(study: Any, folder: pathlib.Path) -> None:
    """Make a study that of a folder, so that no search resumes the running trials of another."""
    path = folder / "search.key"
    with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        file.write(secrets.token_hex(8))
    key = path.read_text(encoding="utf-8")
    if study.user_attrs.get("helios.search", key) != key:
        raise StudyError(
            f"the study {study.study_name!r} belongs to a search in another folder than {folder}."
            " Pass that folder as root, or another study_name."
        )
    study.set_user_attr("helios.search", key)
