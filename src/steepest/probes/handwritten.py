"""Losses written by hand, read from the graph of the loss as if ``torch.nn.functional`` had been called."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from steepest.probes.autograd import terms
from steepest.probes.events import Backward, Criterion

NAMES = {"squared_error": "mse_loss", "absolute_error": "l1_loss", "log_probability": "cross_entropy"}
POINTWISE = ("squared_error", "absolute_error", "mse_loss", "l1_loss")
_read: WeakKeyDictionary[Backward, Criterion | None] = WeakKeyDictionary()


def handwritten(event: Backward) -> Criterion | None:
    """The criterion behind a backward pass of a sampled window in which no loss function was seen; None where the graph does not tell.

    Its value is that of the whole loss. Costs one walk of the graph, shared by all probes.
    """
    if not event.sampled or any(c.grad for c in event.criteria):
        return None
    if event not in _read:
        _read[event] = _criterion(event)
    return _read[event]


def _criterion(event: Backward) -> Criterion | None:
    term = next((t for t in terms(event) if t.prediction is not None and t.target is not None and t.name != "unknown"), None)
    if term is None or term.prediction is None or term.target is None or not term.target.ndim:
        return None
    prediction = shape = term.prediction
    target = term.target.detach()
    # A factor of log p that is no label (an advantage, a weight) says nothing about the task.
    if term.name == "log_probability" and target.is_floating_point() and target.shape != prediction.shape:
        return None
    # The residual has the shape to which both were broadcast.
    residual = next((s for s in term.shapes[1:2] if s), ()) if term.name in POINTWISE else ()
    wide = term.name in POINTWISE and residual != tuple(shape.shape) and len(residual) >= 1
    return Criterion(
        event.step,
        event.sampled,
        NAMES.get(term.name, term.name),
        prediction,
        target,
        event.loss,
        tuple(prediction.shape),
        residual if wide else tuple(target.shape),
        target.dtype,
        {},
        event.value,
        True,
        not term.activations,
        True,
    )
