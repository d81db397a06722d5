"""Chen et al. 2019: does the theorem for Adam-type methods still promise that the gradient vanishes?"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.errors import UsageError
from steepest.monitors.adam_type_verdict import judge
from steepest.monitors.effective_step import rule
from steepest.monitors.sketch import Share, Sketch, gather, gather_rows
from steepest.monitors.windows import Closed, Sampling, Sums
from steepest.results.convergence import AdamTypeReport, Assumption


class AdamTypeMonitor:
    """Watches an Adam-type optimizer and says what the theorem says of it.

        monitor = AdamTypeMonitor(optimizer)
        ...  # train as ever
        monitor.report()

    For ``x_{t+1} = x_t - a_t m_t / sqrt(v_t)`` with ``|g_t| <= H``, theorem 3.1 of the source says

        E sum_t a_t <grad f, grad f / sqrt(v_t)> <= E[C1 A + C2 B + C3 B'] + C4
        A = sum |a_t g_t / sqrt(v_t)|^2,   B = sum |s_t - s_{t-1}|_1,   B' = sum |s_t - s_{t-1}|_2^2,   s_t = a_t / sqrt(v_t)

    so that ``min_t E|grad f(x_t)|^2 = O(s1 / s2)`` with s1 the order of the right side and s2 that of the sum of ``gamma_t``, the least
    effective step that gradients within H could have led to. The exponents of both come from increments over doubling windows of
    steps: the cumulative ratio would fall for Reddi's diverging Adam too. Training is bit-equal with and without the monitor.
    Coordinates which have had no gradient yet have not moved and are left out. Of methods whose second moment forgets (all but
    AMSGrad, Adagrad, AdaFom, AdaDelay) the condition is never said to be met: their B grows like the sum of gamma sooner or later.

    Cost: a few gathers per tensor in the steps that are looked at, all of the first ``dense`` and then about ``dense`` a doubling.

    Args:
        optimizer: Adam, AdamW, AMSGrad, NAdam, RAdam, Adamax, RMSprop, Adagrad, AdaFom or AdaDelay (delays are taken to be 0), in any
            of their implementations (foreach, fused, capturable), with any groups, complex parameters, ``maximize``, under a GradScaler.
        coordinates: size of the random sketch; smaller models are taken whole.
        dense: steps looked at in a window; a power of two.
        smoothness: L of the gradient, for the floor; 0 is the most that the theorem could promise.
        attach: by hooks on the optimizer; else call ``before_step`` and ``after_step`` around each step.
        clipped: say so where gradients are clipped, which the optimizer cannot see.

    Raises:
        UsageError: for an optimizer that is not of this type, or options out of range.

    Source: X. Chen, S. Liu, R. Sun, M. Hong, On the convergence of a class of Adam-type algorithms for non-convex optimization, ICLR 2019,
    theorem 3.1 and corollaries 3.1 and 3.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        coordinates: int = 512,
        dense: int = 256,
        smoothness: float = 0.0,
        clipped: bool = False,
        attach: bool = True,
    ) -> None:
        if coordinates < 1 or dense < 16 or dense & (dense - 1) or not 0.0 <= smoothness < float("inf"):
            raise UsageError(
                f"coordinates {coordinates}, dense {dense}, smoothness {smoothness}: at least 1, a power of two from 16, finite and from 0"
            )
        self.rule = rule(optimizer)
        self.method = type(optimizer).__name__
        self.coordinates, self.sampling, self.smoothness = coordinates, Sampling(dense), smoothness
        self.steps = 0
        self.closed: list[Closed] = []
        self.assumptions: set[Assumption] = {Assumption.CLIPPING} if clipped else set()
        self.forgets = any(self.rule.forgets(g) for g in optimizer.param_groups)
        self.momentum = 0.0
        self._optimizer = weakref.ref(optimizer)
        self._sketch: Sketch | None = None
        self._sums: Sums | None = None
        self._before: Tensor | None = None
        self._after: Tensor | None = None
        self._effective: Tensor | None = None
        self._rates: list[float] | None = None
        self._first_rates: list[float] | None = None
        self._memory: list[Any] | None = None
        self._step_of_effective = -1
        me = weakref.WeakMethod(self.before_step), weakref.WeakMethod(self.after_step)
        self._handles = (
            (optimizer.register_step_pre_hook(lambda *_: _call(me[0])), optimizer.register_step_post_hook(lambda *_: _call(me[1])))
            if attach
            else ()
        )

    def record_loss(self, value: float) -> None:
        """A loss at the present parameters, best of the whole objective, for the evidence; may come in any step or in none."""
        if self._sums is not None:
            self._sums.losses.append(float(value))

    def detach(self) -> None:
        """Stop watching; the report stays."""
        for handle in self._handles:
            handle.remove()

    def report(self) -> AdamTypeReport:
        """What the theorem says of the complete windows so far."""
        scale = 1.0 if self._sketch is None else self._sketch.scale
        windows = tuple(w.read(scale) for w in self.closed)
        largest = float(self._largest.max()) if self._sketch is not None else 0.0
        assumptions = set(self.assumptions)
        if self._sketch is not None and bool(self._projected):
            assumptions.add(Assumption.PROJECTION)
        if self._rates is not None and self._rates == self._first_rates and not self.rule.falls:
            assumptions.add(Assumption.CONSTANT_RATE)
        if self._sketch is not None and self._sketch.size < self._sketch.total:
            assumptions.add(Assumption.SKETCH)
        return judge(
            self.method,
            self.steps,
            windows,
            assumptions,
            forgets=self.forgets,
            largest=largest,
            momentum=self.momentum,
            smoothness=self.smoothness,
        )

    @torch.no_grad()
    def before_step(self) -> None:
        """The optimizer is about to step; for those who do not attach."""
        optimizer = self._optimizer()
        assert optimizer is not None
        self.steps += 1
        if self._sketch is None:
            self._begin(optimizer)
        if not self.sampling.takes(self.steps) or self._sketch is None:
            return
        if _skips(optimizer):
            self._before = None
            return
        pairs = self._pairs(optimizer)
        x = torch.cat([gather(shares, lambda p: p) for _, shares in pairs])
        if self._step_of_effective == self.steps - 1 and self._after is not None:
            self._projected |= (x != self._after).any()
        else:
            self._effective = self._effective_step(optimizer, self._rates)
        self._before = x

    @torch.no_grad()
    def after_step(self) -> None:
        """The optimizer has stepped; for those who do not attach."""
        optimizer = self._optimizer()
        assert optimizer is not None
        rates = [float(g["lr"]) for g in optimizer.param_groups]
        if self._first_rates is None:
            self._first_rates = rates
            self._look(optimizer)
        if self._sketch is not None and self.sampling.takes(self.steps) and self._before is not None:
            self._take(optimizer)
        self._rates = rates
        if self._sums is not None and self.steps + 1 == 2 * self._sums.first:
            self.closed.append(self._sums.close())
            self._sums = Sums(self.steps + 1, self._sums.coordinates, self._sums.device)

    def _begin(self, optimizer: Optimizer) -> None:
        groups = [[p for p in g["params"] if p.requires_grad] for g in optimizer.param_groups]
        sketch = Sketch.of(groups, self.coordinates)
        if not sketch.size:
            return
        self._sketch = sketch
        device = next(share for shares in sketch.shares for share in shares).parameter.device
        self._largest = torch.zeros(sketch.size, dtype=torch.float64, device=device)
        self._projected = torch.zeros((), dtype=torch.bool, device=device)
        self._sums = Sums(1, sketch.size, device)

    def _pairs(self, optimizer: Optimizer) -> list[tuple[dict[str, Any], tuple[Share, ...]]]:
        assert self._sketch is not None
        return [(g, shares) for g, shares in zip(optimizer.param_groups, self._sketch.shares, strict=False) if shares]

    def _effective_step(self, optimizer: Optimizer, rates: list[float] | None) -> Tensor | None:
        """s_t as the state and the given rates have it, ``[coordinates]``; None before the first step."""
        assert self._sketch is not None
        parts = []
        for index, (group, shares) in enumerate(zip(optimizer.param_groups, self._sketch.shares, strict=False)):
            if not shares:
                continue
            t = _time(optimizer, shares)
            if t < 1.0:
                return None
            used = group if rates is None else {**group, "lr": rates[index]}
            v = gather(shares, lambda p, group=group: self.rule.moment(group, optimizer.state.get(p, {})))
            parts.append(self.rule.step(used, v, t))
        return torch.cat(parts)

    def _take(self, optimizer: Optimizer) -> None:
        assert self._sums is not None and self._before is not None
        found, used, start = [], [], 0
        for group, shares in self._pairs(optimizer):
            t = _time(optimizer, shares)
            if t < 1.0:
                return
            # A fused method under a GradScaler leaves its gradients divided by the scale.
            after, g, v = gather_rows(shares, lambda p: p, _gradient, lambda p, g=group: self.rule.moment(g, optimizer.state.get(p, {})))
            before = self._before[start : start + len(after)]
            start += len(after)
            decay = float(group.get("weight_decay", 0.0))
            g = -g if group.get("maximize") else g
            move = after - before
            if decay and group.get("decoupled_weight_decay"):
                move = move + float(group["lr"]) * decay * before
            elif decay:
                g = g + decay * before
            found.append((after, g, move, self.rule.step(group, v, t)))
            used.append((group, t))
        x, g, move, effective = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*found, strict=True))
        seen = self._largest > 0.0
        self._largest = torch.maximum(self._largest, g.abs())
        h = self._largest.max()
        least = [self.rule.least(group, h, t) for group, t in used]
        change = torch.zeros_like(g) if self._effective is None else torch.where(seen, effective - self._effective, 0.0)
        first = torch.where(g != 0.0, effective * g, 0.0)
        lowest = least[0] if len(least) == 1 else torch.stack(least).min()
        terms = torch.stack([first @ first, change.abs().sum(), change @ change, lowest])
        self._sums.add(self.steps, terms, g, move)
        self._effective, self._after, self._step_of_effective = effective, x, self.steps
        memory = [_memory(group) for group in optimizer.param_groups]
        if self._memory is not None and memory != self._memory:
            self.assumptions.add(Assumption.CHANGED_OPTIONS)
        self._memory = memory

    def _look(self, optimizer: Optimizer) -> None:
        """What the options say of the theorem's assumptions."""
        found = self.assumptions
        if self.forgets:
            found.add(Assumption.MOVING_AVERAGE)
        if self.rule.corrected:
            found.add(Assumption.BIAS_CORRECTION)
        for group in optimizer.param_groups:
            if group.get("weight_decay"):
                found.add(Assumption.DECOUPLED_DECAY if group.get("decoupled_weight_decay") else Assumption.COUPLED_DECAY)
            if group.get("momentum"):
                found.add(Assumption.MOMENTUM)
            self.momentum = max(self.momentum, float(group["betas"][0]) if "betas" in group else float(group.get("beta1", 0.0)))


def _call(method: weakref.WeakMethod) -> None:
    found = method()
    if found is not None:
        found()


def _skips(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has found infinities and a fused step will do nothing."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _gradient(parameter: Tensor) -> Tensor | None:
    gradient = parameter.grad
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def _memory(group: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(group.get(k) for k in ("betas", "beta1", "alpha", "momentum"))


def _time(optimizer: Optimizer, shares: tuple[Share, ...]) -> float:
    """T of the latest step, 0 before the first."""
    return max((float(optimizer.state[s.parameter].get("step", 0.0)) for s in shares if s.parameter in optimizer.state), default=0.0)
