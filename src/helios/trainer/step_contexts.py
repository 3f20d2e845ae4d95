"""The context managers of plug-ins around a step of the model."""

import contextlib
from typing import Any, Literal


class StepContexts(contextlib.ExitStack):
    """The context managers around a step; they see its error, but cannot suppress it."""

    def __init__(self, contexts: list[contextlib.AbstractContextManager[Any]]) -> None:
        super().__init__()
        self._contexts = contexts

    def __enter__(self) -> "StepContexts":
        try:
            for context in self._contexts:
                self.enter_context(context)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Literal[False]:
        try:
            super().__exit__(kind, error, trace)
        except BaseException as other:
            if other is not error:
                raise
        if error is not None:
            error.__traceback__ = trace  # without the frames of those that it was thrown into
        return False
