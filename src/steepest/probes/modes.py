"""Is the network in the right mode, and has batch normalisation enough values?"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from steepest.probes.events import Forward, ModuleCall
from steepest.probes.probe import Probe
from steepest.results.measured import Measured


@dataclass(frozen=True)
class Modes(Measured):
    """Modes of the calls of models that hold batch normalisation or dropout.

    Args:
        mode_matters: whether any model has batch normalisation with running statistics or dropout with p > 0.
        train_calls: calls with gradients; train_in_eval: of these, those in evaluation mode.
        eval_calls: calls without gradients; eval_in_train: of these, those in training mode; last_eval_in_train: whether the last
            of them was.
        batch_norms, dropouts: layers of each kind; largest_dropout: the largest p.
        bn_values: median number of values per channel from which batch normalisation estimates its statistics in training; 0 where none.
        bn_uses_running: share of batch normalisation calls with gradients that used running statistics.
        bn_drift: median |batch mean - running mean| / running std over channels, late in training; 0 where unknown.
    """

    mode_matters: bool
    train_calls: int
    train_in_eval: int
    eval_calls: int
    eval_in_train: int
    last_eval_in_train: bool
    batch_norms: int
    dropouts: int
    largest_dropout: float
    bn_values: float
    bn_uses_running: float
    bn_drift: float


class ModeProbe(Probe):
    """Counts calls; one look through the modules of a model at its first call; one mean per batch normalisation in sampled windows."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.kinds: dict[int, tuple[int, list[float], bool]] = {}
        self.counts = [0, 0, 0, 0]
        self.last = False
        self.values: list[int] = []
        self.running = [0, 0]
        self.drift: list[float] = []

    def on_forward(self, event: Forward) -> None:
        """The mode of a call."""
        if id(event.module) not in self.kinds:
            self.kinds[id(event.module)] = _kinds(event.module)
        if not self.kinds[id(event.module)][2]:
            return
        if event.grad:
            self.counts[0] += 1
            self.counts[1] += not event.training
        elif event.step:
            self.counts[2] += 1
            self.counts[3] += event.training
            self.last = event.training

    def on_module(self, event: ModuleCall) -> None:
        """Values per channel of a batch normalisation."""
        module: Any = event.module
        if not isinstance(module, _BatchNorm) or not event.grad or not event.args or not isinstance(event.args[0], Tensor):
            return
        x = event.args[0]
        self.running[0] += 1
        if not module.training and module.track_running_stats:
            self.running[1] += 1
        else:
            self.values.append(x.numel() // max(1, x.shape[1]))
        if module.running_mean is not None and module.running_var is not None and x.ndim >= 2 and x.shape[1] == module.running_mean.numel():
            mean = x.detach().float().mean(dim=[d for d in range(x.ndim) if d != 1])
            shift = (mean - module.running_mean).abs() / (module.running_var + module.eps).sqrt()
            self.drift.append(float(shift.median()))

    def finish(self) -> Modes | None:
        """The counts."""
        if not self.kinds:
            return None
        drops = [p for _, ps, _ in self.kinds.values() for p in ps]
        late = self.drift[-max(1, len(self.drift) // 4) :]
        train, in_eval, calls, in_train = self.counts
        return Modes(
            mode_matters=any(m for _, _, m in self.kinds.values()),
            train_calls=train,
            train_in_eval=in_eval,
            eval_calls=calls,
            eval_in_train=in_train,
            last_eval_in_train=self.last,
            batch_norms=sum(n for n, _, _ in self.kinds.values()),
            dropouts=len(drops),
            largest_dropout=max(drops, default=0.0),
            bn_values=float(median(self.values)) if self.values else 0.0,
            bn_uses_running=self.running[1] / self.running[0] if self.running[0] else 0.0,
            bn_drift=median(late) if late else 0.0,
        )


def _kinds(model: nn.Module) -> tuple[int, list[float], bool]:
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    drops = [float(m.p) for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    # Recurrent layers, attention and transformers carry their rate as a number.
    drops += [float(m.dropout) for m in model.modules() if isinstance(getattr(m, "dropout", None), float) and m.dropout > 0]  # pyright: ignore[reportArgumentType, reportOperatorIssue]
    return len(norms), drops, bool(drops) or any(m.track_running_stats for m in norms)
