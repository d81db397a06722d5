"""The rule of the verdict on problems that it was not made on; what happens in the long run is the measure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monitors.held_out import HORIZONS, METHODS, Case, Fate, Rows, cases, score
from steepest.monitors import AdamTypeMonitor
from steepest.results.convergence import Verdict


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_what_the_monitor_says(method: str) -> None:
    """The scoring of many seeds at once equals a monitor on each, on 300 steps with windows that are sampled."""
    rows, generator = 3, torch.Generator().manual_seed(0)
    start = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    whole = nn.Parameter(start.clone())
    parts = [nn.Parameter(start[k].clone()) for k in range(rows)]
    optimizer, alone = METHODS[method]([whole], 0.02), [METHODS[method]([p], 0.02) for p in parts]
    watched, monitors = Rows(optimizer, whole, dense=64), [AdamTypeMonitor(o, dense=64) for o in alone]
    for t in range(300):
        noise = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
        whole.grad = whole.detach() + noise
        loss = whole.detach().square().sum(1)
        watched.before()
        for group in (optimizer.param_groups[0], *(o.param_groups[0] for o in alone)):
            group["lr"] = 0.02 * (t + 1) ** -0.5
        optimizer.step()
        watched.after(loss)
        for k in range(rows):
            parts[k].grad = parts[k].detach() + noise[k]
            monitors[k].record_loss(float(loss[k]))
            alone[k].step()
    for got, monitor in zip(watched.reports(), monitors, strict=True):
        expected = monitor.report()
        assert (got.verdict, got.evidence) == (expected.verdict, expected.evidence)
        assert got.windows[-1].drift == pytest.approx(expected.windows[-1].drift, rel=1e-6)
        assert got.floor == pytest.approx(expected.floor, rel=1e-6)
        for a, b in ((got.ratio, expected.ratio), (got.gamma, expected.gamma)):
            assert a is not None and b is not None and a.value == pytest.approx(b.value, rel=1e-6)


def _wrong(case: Case, seeds: int | None) -> list[tuple[str, int, Fate, Verdict]]:
    found = score(case, seeds=seeds)
    return [
        (str(case), horizon, fate, report.verdict)
        for reports in (found.reports, found.silent)
        for horizon in HORIZONS
        for report, fate in zip(reports[horizon], found.fates, strict=True)
        if (report.verdict is Verdict.MET and fate in (Fate.AWAY, Fate.STAYS))
        or (report.verdict is Verdict.FAILED and fate is not Fate.AWAY)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Reddi, in turn", "Reddi, at random", "Chen, parabolas", "noisy quadratic", "logistic regression"])
def test_no_wrong_verdict(family: str) -> None:
    """Never "met" where a run does not come down, never "failed" where it does not move away: each fifth case of both later parts."""
    chosen = [c for part in (1, 2) for c in cases(part) if c.family == family][::5]
    assert chosen and [w for c in chosen for w in _wrong(c, None)] == []


def test_the_clear_cases() -> None:
    """A few seeds of cases whose end is clear, in seconds."""
    told = {}
    for case in (
        Case("Reddi, in turn", "C = 5 of 3", "Adam(0, .1)", "a / sqrt(t)", 0.1),
        Case("Reddi, in turn", "C = 10 of 3", "AMSGrad(0, .1)", "a / sqrt(t)", 0.3),
        Case("noisy quadratic", "1-d", "AdaFom(.9)", "a", 0.02),
    ):
        found = score(case, seeds=3, long=2047)
        told[case.method] = {r.verdict for r in found.reports[1023]}
    assert told == {"Adam(0, .1)": {Verdict.FAILED}, "AMSGrad(0, .1)": {Verdict.MET}, "AdaFom(.9)": {Verdict.NOT_GUARANTEED}}
