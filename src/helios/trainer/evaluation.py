"""The runs that train nothing: they evaluate weights that exist."""

import pathlib

from helios.model.releases import call_with_flag
from helios.trainer import loops, parts, unused
from helios.trainer.run import Run
from helios.trainer.teardown import Teardown


class Evaluation(Run):
    """One ``test`` in one process."""

    def test(self, teardown: Teardown) -> None:
        """Test the newest checkpoint, the trained states, or the weights that the model loads."""
        report = self.job.reporter
        self._set_up(teardown, fast_init=True)
        report.warn(unused.unused_in_test(self.model, self.job.datamodule, self.hooks))
        self._find_files(self._restore_weights())
        report.doing = "testing"
        loops.test(self)
        report.show_stops(self.control.requests)

    def _restore_weights(self) -> pathlib.Path | None:
        """Restore the wanted checkpoint or the trained states, or let the model load weights.

        Returns:
            The path of the checkpoint, if there is one.
        """
        report, trained = self.job.reporter, self.job.trained
        path = self.checkpoints.begin_restore(self.job.wanted, compare_plans=False)
        if path is None and trained is not None:
            self.manager.load_state_dict(trained.plugins)
        self._complete_model()
        self.checkpoints.restore()
        if path is not None:
            report.show_restored(path, self.validations.story_of_weights())
            self.manager.hook.on_checkpoint_loaded(path=path, state=self.state)
        elif trained is None:
            self.model.load_for_testing()
        else:
            self.session.changes.load_for_test(trained.changes)
            call_with_flag(self.model.load_state_dict, trained.model, fast_init=True)
        return path

    def _parts(self) -> list[parts.Part]:
        return parts.parts_of_test(
            state=self.state,
            model=self.model,
            session=self.session,
            plugins=self.plugin_states,
            validations=self.validations,
            folder=self.job.folder,
        )
