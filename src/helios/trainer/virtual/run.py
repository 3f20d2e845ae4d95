"""The objects of a run that differ if it has virtual ranks."""

import functools
from collections.abc import Callable
from typing import Any

from helios.model.session import Session
from helios.model.virtual.session import VirtualSession
from helios.trainer.inputs.batches import Batches
from helios.trainer.job import Job
from helios.trainer.virtual.batches import CreateBatches, VirtualBatches
from helios.trainer.virtual.steps import (
    HooksOfRounds,
    RequireBatch,
    StepContext,
    VirtualSteps,
)


def _count(job: Job) -> int | None:
    """Return the number of virtual ranks; predictions come in the order of the samples."""
    return None if job.purpose == "predict" else job.trainer.virtual_ranks


def batches_of(job: Job, create: CreateBatches) -> Batches | VirtualBatches:
    """Return the batches of a run: those of its process, or of the virtual ranks in it."""
    count = _count(job)
    if count is None:
        return create(place=job.place, group=job.group)
    return VirtualBatches(count, job.datamodule, job.state, job.place, job.group, create)


def session_class(job: Job) -> Callable[..., Session]:
    """Return the class of the session of a run."""
    count = _count(job)
    if count is None:
        return Session
    arguments: tuple[Any, ...] = (count, job.trainer.random_seed, job.model, job.group)
    return functools.partial(VirtualSession, *arguments)


def steps_of(
    job: Job,
    session: Session,
    batches: Batches | VirtualBatches,
    step_context: StepContext,
    require_batch: RequireBatch,
) -> tuple[Any, Any]:
    """Return the object whose steps the loops call, and the hooks that they call for a batch."""
    trainer, hooks = job.trainer, job.trainer.hooks
    if not isinstance(session, VirtualSession) or not isinstance(batches, VirtualBatches):
        return job.model, hooks
    batches.log_sets_of(session.ranks.local)
    steps = VirtualSteps(
        job.model,
        hooks,
        session,
        job.state,
        job.window,
        trainer.print_frequency,
        step_context,
        require_batch,
    )
    return steps, HooksOfRounds(hooks)
