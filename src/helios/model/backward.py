"""Helpers around a backward pass: gradients that it must not touch, and its errors."""

import torch


def set_aside(parameters: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """Take the gradients of parameters away that a loss is not for, and return them."""
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return kept


def run_backward(loss: torch.Tensor, retain_graph: bool) -> None:
    """Run the backward pass, and add to an error of PyTorch what to write in a model."""
    try:
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except RuntimeError as error:
        _explain(error)
        raise


def _explain(error: RuntimeError) -> None:
    """Add to an error of PyTorch what to write in a model."""
    if "retain_graph=True" in str(error):
        error.add_note(
            "If several optimizers step on one loss, call self.optimize(loss, [first, second])."
            " If two losses share a graph, pass retain_graph=True for the first one."
        )
    elif "modified by an inplace operation" in str(error):
        error.add_note(
            "If an earlier optimize() of this batch has taken a step, it has changed weights that"
            " this loss was computed with: compute this loss after that step."
        )
    elif "returned an invalid gradient" in str(error):
        error.add_note(
            "If the .data of a parameter has another shape now: change it between two epochs, or"
            " assign a new nn.Parameter and add it to the optimizer."
        )
