"""The engine with which several ranks train a model, and the plug-in that may replace it."""

from typing import TYPE_CHECKING

from helios.core import rng
from helios.errors import ConfigurationError, PluginConflictError
from helios.model.optimizer_search import optimizers_in
from helios.model.rank_sums import RankSums
from helios.model.session import Session
from helios.plugins.discovery.metadata import canonical
from helios.trainer.inputs.batches import Batches
from helios.trainer.job import Job

if TYPE_CHECKING:
    from helios.model.parallel import Parallel
    from helios.trainer import Trainer

_CLAIM = "module"


def find_wrapper(trainer: "Trainer") -> str | None:
    """Return the id of the plug-in that distributes networks in place of Helios, if one does."""
    for row in trainer.plugin_manager.rows.values():
        if _CLAIM in map(canonical, getattr(row.plugin, "exclusives", ())):
            return row.id
    return None


def check_parallel(trainer: "Trainer") -> None:
    """Refuse to distribute networks in two ways.

    Raises:
        PluginConflictError: an argument and a plug-in want to do it.
        ConfigurationError: two arguments want to do it.
    """
    wrapper = find_wrapper(trainer)
    if trainer.virtual_ranks is not None:
        _check_virtual(trainer, wrapper)
    if trainer.parallel is not None and wrapper is not None:
        manager = trainer.plugin_manager
        raise PluginConflictError(
            f"Trainer(parallel={trainer.parallel!r}) and plug-in {manager.describe(wrapper)} both"
            f' distribute networks: the plug-in claims "{_CLAIM}". Remove the argument parallel, or'
            f" block the plug-in: Trainer(block=[{wrapper!r}])."
        )


def _check_virtual(trainer: "Trainer", wrapper: str | None) -> None:
    given = f"Trainer(virtual_ranks={trainer.virtual_ranks})"
    reduces = "adds up the gradients of all processes itself, in a fixed order"
    if trainer.parallel is not None:
        raise ConfigurationError(
            f"{given} contradicts parallel={trainer.parallel!r}, because it {reduces}: remove one"
            " of them."
        )
    if wrapper is not None:
        raise PluginConflictError(
            f"{given} {reduces}, but plug-in {trainer.plugin_manager.describe(wrapper)} distributes"
            f' networks: it claims "{_CLAIM}". Remove virtual_ranks, or block the plug-in:'
            f" Trainer(block=[{wrapper!r}])."
        )


def leave_to_rank_zero(job: Job) -> None:
    """Switch plug-ins off that only the process with rank 0 calls, in all others."""
    manager = job.trainer.plugin_manager
    for row in manager.rows.values() if job.place.rank > 0 else ():
        if getattr(row.plugin, "rank_zero_only", False) is True:
            manager.switch_off(row)
            manager.states.skipped.add(row.id)


def create_parallel(job: Job) -> "Parallel | None":
    """Return the engine of a run; ``None`` in one process, and with virtual ranks."""
    if not job.place.is_distributed or job.trainer.virtual_ranks is not None:
        return None
    from helios.model.parallel import Parallel  # imports much of torch.distributed

    trainer = job.trainer
    kind = None if find_wrapper(trainer) is not None else trainer.parallel or "ddp"
    return Parallel(job.model, job.place, job.group, kind)


def begin_parallel(job: Job, parallel: "Parallel | None") -> None:
    """Give all ranks the same weights and different random numbers; called after set-up."""
    if parallel is not None:
        found = optimizers_in(job.model)
        parallel.begin({id(optimizer): optimizer for _, optimizer in found}.values())
    if job.place.rank > 0 and job.trainer.virtual_ranks is None:
        rng.seed_rngs(rng.derive_seed(job.trainer.random_seed, job.place.rank))


def share_logs(job: Job, session: Session, batches: object) -> None:
    """Let what the model logs be summed over all ranks when it is read.

    With FSDP2, all ranks must evaluate equally many batches.
    """
    if isinstance(batches, Batches):
        batches.is_joint = job.place.is_distributed and job.trainer.parallel == "fsdp"
    if job.place.is_distributed and job.trainer.virtual_ranks is None:
        objects = session.metric_objects
        sums = RankSums(job.group, objects.find, objects.at)
        for log in (session.training_log, session.epoch_log, session.evaluation_log):
            log.ranks = sums
