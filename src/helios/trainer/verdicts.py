"""The answers of a model to questions of the loops: yes or no."""

from helios.core.rules import shown
from helios.model import Model


def verdict(model: Model, method: str, answer: object) -> bool:
    """Return an answer as ``True`` or ``False``; ``None`` is ``False``.

    Args:
        model: the model.
        method: the name of the method that gave the answer.
        answer: the answer.

    Raises:
        TypeError: the answer is a text, or its truth value raises an error.
    """
    if isinstance(answer, bool):
        return answer
    try:
        if not isinstance(answer, str | bytes):
            return bool(answer)
        cause = None
    except Exception as error:
        cause = error
    raise TypeError(
        f"{type(model).__name__}.{method}() returned {shown(answer)}: return True or False."
    ) from cause
