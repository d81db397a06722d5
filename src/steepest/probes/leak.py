"""Does the output for one sample depend on the other samples of its batch?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.probes.events import Forward
from steepest.probes.probe import Probe
from steepest.results.measured import Measured

LARGEST = 20_000_000


@dataclass(frozen=True)
class Leak(Measured):
    """The company of a sample.

    Args:
        change: the largest change of an output of one half of a batch when the other half was replaced, in standard deviations
            of all outputs.
        rows: the length of the batch.

    It is measured in evaluation mode, so batch normalisation does not count.
    """

    change: float
    rows: int


class LeakProbe(Probe):
    """Three forward passes of a copy, once in a run, in evaluation mode, with the states of all random generators kept."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.found: Leak | None = None
        self.tries = 0

    def on_forward(self, event: Forward) -> None:
        """Replace half of the batch and look at the other."""
        output = event.prediction
        if self.found is not None or self.tries >= 3 or not event.grad or not event.sampled or output is None or output.ndim < 1:
            return
        n = output.shape[0]
        batched = [x for x in event.inputs if x.ndim >= 1 and x.shape[0] == n]
        # With a second axis as long as the batch nobody can tell which of them is the batch.
        if n < 4 or not batched or len(batched) < len(event.inputs) or any(n in x.shape[1:2] for x in batched):
            return
        if sum(p.numel() for p in event.module.parameters()) > LARGEST:
            return
        self.tries += 1
        half = n // 2

        def later(x: Tensor) -> Tensor:
            y = x.detach().clone()
            y[half:] = x[: n - half].flip(0)
            return y

        def earlier(x: Tensor) -> Tensor:
            y = x.detach().clone()
            y[:half] = x[n - half :].flip(0)
            return y

        devices = sorted({x.get_device() for x in batched if x.is_cuda})
        model = copy.deepcopy(event.module).eval()

        def predict(change: Callable[[Tensor], Tensor]) -> Tensor | None:
            # Each pass begins at the same random state: a model that samples gets the same noise for the same place.
            with torch.random.fork_rng(devices):
                return _predict(model, event, change)

        before = predict(lambda x: x)
        # A recurrent net that takes the batch for time passes things on to later rows alone, so both halves are tried.
        changed = [(predict(later), slice(None, half)), (predict(earlier), slice(half, None))]
        if before is None or before.shape != output.shape:
            return
        spread = float(before.float().std(correction=0))
        change = max(float((after - before)[kept].abs().max()) for after, kept in changed if after is not None)
        if spread > 0 and change == change:
            self.found = Leak(change / spread, n)

    def finish(self) -> Leak | None:
        """The change, where it could be measured."""
        return self.found


def _predict(model: torch.nn.Module, event: Forward, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    from steepest.probes.events import prediction_of

    args = tuple(change(a) if isinstance(a, Tensor) else a for a in event.args)
    kwargs = {k: change(v) if isinstance(v, Tensor) else v for k, v in event.kwargs.items()}
    return prediction_of(model(*args, **kwargs))
