"""Who wants a run to end, and why."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StopRequest:
    """A request to end training.

    Attributes:
        reason: why, in the words of who asked.
        author: the id of the plug-in that asked, or ``"the model"``, ``"the trainer"``, or
            ``"the user"``.
        urgent: a validation is not completed before.
        is_decided: the answer of ``should_training_stop``, which a resumed run keeps to.
    """

    reason: str
    author: str
    urgent: bool = False
    is_decided: bool = dataclasses.field(default=False, compare=False)
