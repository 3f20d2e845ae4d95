"""The preparation of a run: once, in the parent process, before launch."""

import dataclasses

from helios.plugins.calls.profile import PluginProfile
from helios.trainer.expected import check_expected
from helios.trainer.job import Job
from helios.trainer.parallelism import check_parallel
from helios.trainer.save_settings import SaveSettings


def prepare(job: Job) -> None:
    """Prepare the data, let the plug-ins configure trainer and model, and freeze the plan."""
    trainer, manager = job.trainer, job.trainer.plugin_manager
    if job.place.local_rank == 0:  # once on each node
        job.datamodule.prepare_data()
    job.group.agree(True)  # the others wait for the data
    known = -1
    while known != len(manager.rows):  # a plug-in may register others
        known = len(manager.rows)
        manager.recheck()  # pluggy cannot call what a plug-in may have become
        manager.arrange()
        manager.configure("configure_trainer", trainer)
    if trainer.device.type != job.place.device.type:  # a plug-in has chosen another one
        job.place = dataclasses.replace(job.place, device=trainer.device)
    check_parallel(trainer)
    manager.configure("configure_model", job.model)
    # Only now, because plug-ins may have changed the model's name in checkpoints.
    job.saves = SaveSettings.of(trainer, job.model, job.beginning)
    job.control.interruptible = trainer.interruptible
    if trainer.profile_plugins:
        job.reporter.profile = PluginProfile()
        job.reporter.profile_folder = job.saves.folder
    job.plan = manager.freeze(
        check_expected([*trainer.train_exceptions, *trainer.test_exceptions]),
        job.reporter.profile,
        str(trainer.configuration.path or ""),
    )
