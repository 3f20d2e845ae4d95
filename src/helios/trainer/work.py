"""The work of each process of a run: the ``target`` of launchers."""

import dataclasses
import functools

from helios.trainer.evaluation import Evaluation
from helios.trainer.job import Job, Outcome
from helios.trainer.launch.membership import joined
from helios.trainer.launch.same_plan import require_same_plan
from helios.trainer.launch.transport import pack_model, whole_tensors
from helios.trainer.parallelism import leave_to_rank_zero
from helios.trainer.process import only_run
from helios.trainer.run import Run
from helios.trainer.teardown import Teardown


def work(job: Job) -> Outcome:
    """Do all the work of one process, and return its result."""
    job.start()
    with joined(job):
        outcome = _work(job)
        if not job.is_at_home:
            whole = whole_tensors(job)
            if job.place.rank == 0:
                outcome = dataclasses.replace(outcome, model=pack_model(job, whole))
    return outcome


def _work(job: Job) -> Outcome:
    require_same_plan(job)
    leave_to_rank_zero(job)
    run = Run(job) if job.purpose == "fit" else Evaluation(job)
    # Twice: plug-ins must learn of an error before their teardown, which may fail, too.
    errors = functools.partial(job.reporter.errors, job.expected)
    with only_run(), run.lending(), errors(), Teardown() as teardown, errors():
        trained = predictions = None
        with job.guarded():
            if isinstance(run, Evaluation):
                predictions = run.evaluate(teardown)
            else:
                trained = run.fit(teardown)
            run.points.meet()  # hooks at the end may have requested something
            failures = job.group.gather(job.reporter.own_failures())
            job.reporter.failures = [each for part in failures for each in part]
        if job.control.final_error is not None:
            raise job.control.final_error
        job.reporter.doing = f"tearing down the {_NOUNS[job.purpose]} of"
    return job.outcome(trained, predictions)


_NOUNS = {
    "fit": "training",
    "validate": "validation",
    "test": "test",
    "predict": "prediction",
}
"""The names of runs in messages."""
